"""A Ray of one's own: started for one run on this machine, gone with it."""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distaug.spec.job import JobSpec
from distaug.store.place import Place

__all__ = ["ADDRESS", "STOP_WITHIN_S", "connected", "goes_on", "prepare_environment", "submitted"]

ADDRESS = "RAY_API_SERVER_ADDRESS"
"""Ray's variable for the address of a cluster's dashboard."""
STOP_WITHIN_S = 90
"""How long a stopped job has to save before it is killed."""
_OBJECT_STORE_BYTES = 100_000_000


def submitted() -> bool:
    """Say whether this process is the entry point of a job submitted to a cluster."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def goes_on(run: Place | str) -> str:
    """Say how a run goes on that ended too early.

    Args:
        run: Its folder or name.
    """
    how = "submitted again under its name, it" if submitted() else f"`distaug resume {run}`"
    return f"{how} goes on from the last checkpoint"


def prepare_environment(job: JobSpec) -> None:
    """Set what Ray reads from the environment; must come before the first `import ray`."""
    for name, value in {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
        # The controller's poll period: at the default of 2 s every report waits up to 2 s.
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
        "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": str(int(job.cluster.collective_timeout_s)),
        "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": str(int(job.cluster.collective_timeout_s)),
        # On a cluster the room is there before a group is started; should it be gone, it is waited for anew.
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "30" if submitted() else str(int(60 * job.cluster.start_timeout_min)),
        # The driver looks out for nodes that are being taken away, and the workers leave by themselves.
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
        # Workers stay in the working directory of the submission.
        "RAY_CHDIR_TO_TRIAL_DIR": "0",
        # The ranks choose their GPUs themselves also where Ray gave none.
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }.items():
        os.environ.setdefault(name, value)
    if not submitted():
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
        os.environ.pop("RAY_ADDRESS", None)


@contextmanager
def connected(job: JobSpec, cpus: int, gpus: int) -> Iterator[None]:
    """Join the cluster that this process was submitted to, or else start a Ray of one's own on loopback.

    A Ray that happens to run on this machine is never joined.

    Args:
        job: The job; its `cluster.env` becomes the environment of the workers.
        cpus: Cores that the private Ray has to give.
        gpus: GPUs that it has to give.
    """
    before = dict(os.environ)
    prepare_environment(job)
    import ray

    if submitted():
        env = {"env_vars": dict(job.cluster.env)}
        ray.init(address="auto", runtime_env=env, log_to_driver=False, logging_level=logging.ERROR)
        try:
            yield
        finally:
            ray.shutdown()
            os.environ.clear()
            os.environ.update(before)
        return
    # Short, because Ray puts sockets below it, whose paths may have 107 bytes.
    folder = tempfile.mkdtemp(prefix="distaug-ray-", dir="/tmp")
    # Inherited by all that the private Ray starts. As Ray's runtime environment it would cost time: the processes that
    # Ray has ready could not be used.
    os.environ.update({"PYTHONPATH": _python_path(), **job.cluster.env})
    try:
        ray.init(
            address="local",
            num_cpus=cpus,
            num_gpus=gpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=_OBJECT_STORE_BYTES,
            _temp_dir=folder,
            _node_ip_address="127.0.0.1",
        )
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
        os.environ.clear()
        os.environ.update(before)


def _python_path() -> str:
    """Let workers import what the user's own directory holds, e.g. the factory of a model."""
    return os.pathsep.join(p for p in (str(Path.cwd()), os.environ.get("PYTHONPATH", "")) if p)

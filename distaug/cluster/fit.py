"""The driver of a run: trains and compresses on Ray Train's workers, owns screen and signals, returns the result."""

import importlib
import importlib.util
import os
import tempfile
import threading
import uuid
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from distaug.cluster.private import submitted
from distaug.cluster.session import Session, signals
from distaug.errors import ClusterError, DistaugError, InterruptedRunError, JobError
from distaug.spec.compress import CompressSpec
from distaug.spec.conflicts import check
from distaug.spec.job import JobSpec
from distaug.spec.load import dump_job
from distaug.store.records import Result
from distaug.store.rundir import RunDir, RunLock
from distaug.store.stages import Stages
from distaug.telemetry.screen import Screen
from distaug.train.claim import claim
from distaug.train.device import available_cores, gpu_problem, usable_gpus

if TYPE_CHECKING:
    from distaug.cluster.hub import News

__all__ = ["compress", "resume", "run"]

_LOOK_EVERY_S = 0.2
_GRACE_S = 60.0
"""Longest wait for the workers to save and leave after a signal."""
_COMPRESSORS = ("onnx", "onnxruntime", "onnxscript", "torch_pruning")


def run(job: JobSpec, *, workers: int | None = None, show_progress: bool = True) -> Result:
    """Train and compress a job through Ray Train, or go on with its run, or return the result of a finished one.

    Args:
        job: The job.
        workers: Overrides `cluster.workers`.
        show_progress: Show a bar (on a terminal) or lines on standard error.

    Returns:
        The result, as in the run's result.json.

    Raises:
        DistaugError: The tree in `distaug.errors`; InterruptedRunError after SIGINT or SIGTERM, with the state saved.
    """
    if workers is not None:
        job = job.model_copy(update={"cluster": job.cluster.model_copy(update={"workers": workers})})
    check(job)
    if job.compress is not None:
        _check_installed()
    run_dir, job, result = claim(job)
    screen = Screen(job.name, show=show_progress)
    if result is not None:
        screen.line(f"run {job.name!r} has finished before; to train it anew give another --name")
        if job.compress is None:
            return result
    with RunLock(run_dir), screen, Session(job, run_dir, screen) as session:
        if result is None:
            result = _drive(job, run_dir, session)
        session.judged(result)
        if job.compress is None:
            _report(run_dir, screen)
        else:
            result = _compress(job, run_dir, result, session)
        session.board.end(result.state)
        return result


def resume(name: str, *, workers: int | None = None, show_progress: bool = True) -> Result:
    """Go on with a run from its newest checkpoint; see `run`.

    Args:
        name: Path of a run folder, or a name below ./runs.
        workers: Overrides `cluster.workers`.
        show_progress: Show a bar (on a terminal) or lines on standard error.
    """
    found = RunDir.find(name)
    job = found.load_job()
    job = job.model_copy(update={"name": found.name, "runs_dir": str(found.runs_dir)})
    return run(job, workers=workers, show_progress=show_progress)


def compress(name: str, *, show_progress: bool = True) -> Result:
    """Compress the model of a finished run, as its job says or else with the defaults; see `run`.

    Args:
        name: Path of a run folder, or a name below ./runs.
        show_progress: Show a bar (on a terminal) or lines on standard error.

    Raises:
        ArtifactError: Nothing passed the gate; what was measured is kept.
        StorageError: The run has not finished.
    """
    _check_installed()
    run_dir = RunDir.find(name)
    job, result = run_dir.load_job(), Result.read(run_dir.result_file)
    job = job.model_copy(update={"compress": job.compress or CompressSpec()})
    check(job)
    screen = Screen(job.name, show=show_progress)
    with RunLock(run_dir), screen, Session(job, run_dir, screen) as session:
        session.judged(result)
        result = _compress(job, run_dir, result, session)
        session.board.end(result.state)
        return result


def _check_installed() -> None:
    if missing := [name for name in _COMPRESSORS if importlib.util.find_spec(name) is None]:
        raise JobError(f"compress: {', '.join(missing)} not installed: pip install 'distaug[compress]'")


def _compress(job: JobSpec, run_dir: RunDir, result: Result, session: Session) -> Result:
    from distaug.compress import stage
    from distaug.report.compression import draw

    stored = run_dir.load_job()
    if stored.compress != job.compress:  # the one part of a run's job that may change
        run_dir.save_job(stored.model_copy(update={"compress": job.compress}))
    # What was decided when the training started is in the run's own job alone.
    _, job, _ = claim(job)
    session.board.compressing = True
    try:
        stage.compress(job, run_dir, partial(_finetune, session), session.screen.line, session.board.stage)
    finally:
        # What the gate refuses is written down as well.
        stages = Stages.read(run_dir.compressed)
        if stages is not None and stages.done:
            result = replace(result, artifacts=[asdict(row) for row in stages.rows])
            result.write(run_dir.result_file)
            draw(run_dir.compressed)
            _report(run_dir, session.screen)
    return result


def _report(run_dir: RunDir, screen: Screen) -> None:
    """Write the run's page; what is wrong with it does not make the run another one."""
    from distaug.report.run import write_report

    try:
        screen.line(f"report: {write_report(run_dir)}")
    except InterruptedRunError:
        raise
    except Exception as error:
        screen.line(f"no report: {error or type(error).__name__}; `distaug report {run_dir.root} --debug` says more")


def _finetune(session: Session, job: JobSpec) -> Result:
    """Train the job of a stage, from wherever its run folder says it is."""
    run_dir, job, result = claim(job)
    if result is not None:
        return result
    with RunLock(run_dir):
        return _drive(job, run_dir, session)


def _scale(job: JobSpec, screen: Screen) -> tuple[int | tuple[int, int], int, int]:
    """Return the number of workers (or its range), and the cores and GPUs of each.

    Raises:
        ClusterError: This machine cannot give what the job asks for at least.
    """
    asked, wanted = job.cluster.workers, job.cluster.gpus_per_worker
    gpus = 0 if wanted == 0 else usable_gpus()
    if wanted != 0 and (problem := gpu_problem()):
        raise ClusterError(problem)
    if wanted == 1 and not gpus and not submitted():
        raise ClusterError("cluster.gpus_per_worker: 1 asks for GPUs and this machine has none that torch can use")
    least, most = asked if isinstance(asked, tuple) else (1, max(1, gpus)) if asked == "auto" else (asked, asked)
    if gpus and most > gpus and not submitted():
        if isinstance(asked, tuple) and least > gpus:
            raise ClusterError(f"cluster.workers: {list(asked)} asks for {least} GPUs or more, this machine has {gpus}")
        screen.line(f"{most} workers were asked for and there are {gpus} GPUs: {gpus} workers do the work of all")
        least, most = min(least, gpus), gpus
    elif asked == "auto":
        least = most
    threads = job.cluster.cpus_per_worker
    cores = max(1, available_cores() // most) if threads == "auto" else threads
    return (most if least == most else (least, most)), cores, int(gpus > 0)


def _drive(job: JobSpec, run_dir: RunDir, session: Session) -> Result:
    screen = session.screen
    workers, cores, gpus = _scale(job, screen)
    most = workers[1] if isinstance(workers, tuple) else workers
    stops: list[int] = []
    # What the workers' code imports takes two seconds, in which Ray can start; none of it imports ray.
    threading.Thread(target=importlib.import_module, args=("distaug.train.loop",), daemon=True).start()
    with ExitStack() as handlers:
        handlers.enter_context(signals(lambda: stops.append(1)))
        session.connect(job, cpus=most * cores, gpus=most * gpus)
        handlers.enter_context(
            signals(lambda: stops.append(1))
        )  # once more, because Ray puts some of its own in place when it starts
        import ray

        from distaug.cluster.hub import Hub

        hub: Any = ray.remote(num_cpus=0, max_restarts=0)(Hub).remote()
        failures: list[BaseException] = []
        thread = threading.Thread(target=_fit, args=(job, hub, workers, cores, gpus, failures), name="fit", daemon=True)
        thread.start()
        asked_at: float | None = None
        while True:
            alive = thread.is_alive()
            news: News = ray.get(hub.look.remote())
            session.show(news)
            if news.error is not None:
                raise news.error
            if news.result is not None and not alive:
                return news.result
            if not alive:
                raise _explain(failures, run_dir, session.run_dir)
            if stops and asked_at is None:
                asked_at = monotonic()
                screen.line("stopping: saving the state")
                hub.request_stop.remote()
            if asked_at is not None and (len(stops) > 1 or monotonic() - asked_at > _GRACE_S):
                raise InterruptedRunError(
                    "left without waiting for the workers; "
                    f"`distaug resume {session.run_dir.root}` goes on from the last checkpoint"
                )
            sleep(_LOOK_EVERY_S)


def _fit(
    job: JobSpec,
    hub: Any,
    workers: int | tuple[int, int],
    cores: int,
    gpus: int,
    failures: list[BaseException],
) -> None:
    """Run Ray Train's `fit`, which blocks, in a thread of its own, so that the main one keeps signals and screen."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from distaug.cluster.worker import work

    backend = job.cluster.backend if job.cluster.backend != "auto" else "nccl" if gpus else "gloo"
    try:
        with tempfile.TemporaryDirectory(prefix="distaug-scratch-", ignore_cleanup_errors=True) as scratch:
            scaling: dict[str, Any] = {
                "num_workers": workers,
                "use_gpu": gpus > 0,
                "resources_per_worker": {"CPU": cores} | ({"GPU": gpus} if gpus else {}),
                "accelerator_type": job.cluster.accelerator,
                "label_selector": dict(job.cluster.node_labels) or None,
            }
            retries: dict[str, Any] = {
                "max_failures": job.cluster.retries,
                "max_preemption_failures": job.cluster.preemption_retries,
            }
            TorchTrainer(
                work,
                train_loop_config={"job": dump_job(job), "hub": hub, "folder": os.getcwd()},
                scaling_config=ScalingConfig(**scaling),
                run_config=RunConfig(
                    # Ray resumes a run of the same name; the checkpoints are ours, so each attempt gets a fresh one.
                    name=f"{job.name}-{uuid.uuid4().hex[:8]}",
                    storage_path=scratch,
                    failure_config=FailureConfig(**retries),
                ),
                torch_config=TorchConfig(backend=backend, timeout_s=int(job.cluster.collective_timeout_s)),
            ).fit()
    except BaseException as error:
        failures.append(error)


def _explain(failures: list[BaseException], run_dir: RunDir, whole: RunDir) -> DistaugError:
    from distaug.cluster.worker import explain

    failure = failures[0] if failures else None
    if failure is None:
        return ClusterError(f"the workers left without a result; logs are in {run_dir.logs}")
    return explain(getattr(failure, "worker_failures", None) or {0: failure}, run_dir, whole)

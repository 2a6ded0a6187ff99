"""A group of workers: one run of Ray Train, from its start to whatever ends it."""

import os
import tempfile
import threading
import uuid
from collections.abc import Callable
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from distaug.cluster.private import goes_on, submitted
from distaug.cluster.scale import Scale
from distaug.cluster.session import Session
from distaug.errors import ClusterError, InterruptedRunError
from distaug.spec.job import JobSpec
from distaug.spec.load import dump_job
from distaug.store.checkpoint import versions
from distaug.store.records import Result
from distaug.store.rundir import RunDir
from distaug.store.whole import write_whole

if TYPE_CHECKING:
    from distaug.cluster.hub import News

__all__ = ["Group"]

_LOOK_EVERY_S = 0.2
_GRACE_S = 60.0
"""Longest wait for the workers to save and leave after a signal."""
_LEAVE_WITHIN_S = 10.0
"""Longest wait for them to leave after an error; one that met it alone leaves the others waiting for it."""


class Group:
    """Workers that train a job together; they begin at once.

    Args:
        job: The job.
        run_dir: Its run folder.
        session: Shows what happens.
        workers: How many they are.
        scale: What each of them takes.
        retries: How often Ray Train starts them again by itself.

    Raises:
        StorageError: The run folder is not writable.
    """

    def __init__(
        self, job: JobSpec, run_dir: RunDir, session: Session, *, workers: int, scale: Scale, retries: int
    ) -> None:
        import ray

        from distaug.cluster.hub import Hub

        self.workers = workers
        self._job, self._run_dir, self._session = job, run_dir, session
        # Beside the driver, since other nodes may go.
        here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
        self._hub: Any = ray.remote(num_cpus=0, max_restarts=0, label_selector=here)(Hub).remote()
        # Every worker has to find it in the run folder. No node has ever looked for this name, so that no cache of a
        # network file system says it is absent.
        self._token = run_dir.root / f".shared-{uuid.uuid4().hex}.tmp"  # which the next lock clears away
        write_whole(self._token, b"")  # and not in a run that another driver has followed us in
        self._failures: list[BaseException] = []
        self.nodes: dict[int, tuple[str, str]] = {}
        """Id and name of each rank's node, once a rank has begun."""
        self._thread = threading.Thread(target=self._fit, args=(scale, retries), name="fit", daemon=True)
        self._thread.start()

    @property
    def failed(self) -> bool:
        """Whether it was lost, rather than left."""
        return bool(self._failures)

    @property
    def crowded_out(self) -> bool:
        """Whether the room that there was for it was gone before it could begin."""
        from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

        return any(
            isinstance(getattr(failure, "controller_failure", None), WorkerGroupStartupTimeoutError)
            for failure in self._failures
        )

    def watch(self, stops: list[int], look: Callable[["News"], bool] = lambda news: False) -> Result | None:
        """Show what happens until the workers are gone, and ask them to save and leave when there is a reason.

        Args:
            stops: One entry a signal.
            look: Gets the news; says whether the workers are to save and leave, for another group to go on.

        Returns:
            The result; None when there is none yet.

        Raises:
            DistaugError: What ended the training; InterruptedRunError after a signal.
        """
        try:
            return self._watch(stops, look)
        finally:
            self._token.unlink(missing_ok=True)

    def _watch(self, stops: list[int], look: Callable[["News"], bool]) -> Result | None:
        import ray

        began, leave_at, moving = monotonic(), None, False
        limit = 60 * self._job.cluster.start_timeout_min
        while True:
            alive = self._thread.is_alive()
            news: News = ray.get(self._hub.look.remote())
            self._session.show(news)
            self.nodes = news.nodes
            left = moving and not stops and isinstance(news.error, InterruptedRunError)
            if news.error is not None and not left:
                # The workers leave by themselves; Ray does not bear to be left while a thread waits for them.
                self._thread.join(_LEAVE_WITHIN_S)
                raise news.error
            if not alive:
                return news.result
            if not self.nodes and monotonic() - began > limit:
                raise ClusterError(
                    f"no worker began within cluster.start_timeout_min = {limit / 60:g}; Ray's logs may say why"
                )
            if stops and leave_at is None:
                leave_at = monotonic() + _GRACE_S
                self._session.screen.line("stopping: saving the state")
                self._hub.request_stop.remote()
            elif leave_at is None and not moving and look(news):
                moving = True
                self._hub.request_stop.remote()
            if leave_at is not None and (len(stops) > 1 or monotonic() > leave_at):
                raise InterruptedRunError(
                    f"left without waiting for the workers; {goes_on(self._session.run_dir.root)}"
                )
            sleep(_LOOK_EVERY_S)

    def causes(self) -> list[str]:
        """Return what ended which rank, a line each; those that are left fail first, for want of the lost ones."""
        from distaug.cluster.nodes import names
        from distaug.cluster.worker import cause, causes

        if not self._failures:
            return []
        failure = self._failures[0]
        ranks = getattr(failure, "worker_failures", None)
        if ranks:
            return causes(ranks, self.nodes)
        return [cause(getattr(failure, "controller_failure", failure), names())]

    def explain(self) -> ClusterError:
        """Return what ended it as an error that names ranks, causes and logs."""
        logs = self._run_dir.logs
        if not self._failures:
            return ClusterError(f"the workers left without a result; logs are in {logs}")
        lines = "".join(f"\n  {line}" for line in self.causes())
        return ClusterError(
            f"the workers failed more often than `cluster.retries` allows:{lines}"
            f"\nlogs are in {logs}; {goes_on(self._session.run_dir.name)}"
        )

    def _fit(self, scale: Scale, retries: int) -> None:
        """Run Ray Train's `fit`, which blocks, in a thread of its own: the main one keeps signals and screen."""
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        from distaug.cluster.worker import work

        job, asked = self._job, self._job.cluster
        config = {
            "job": dump_job(job),
            "runs_dir": str(self._run_dir.runs_dir),
            "hub": self._hub,
            "folder": os.getcwd(),
            "token": self._token.name,
            "lock": self._run_dir.lock(),
            "driver": None if submitted() else os.getpid(),
            "versions": versions(),
        }
        scaling: dict[str, Any] = {
            "num_workers": self.workers,
            "use_gpu": scale.gpus > 0,
            "resources_per_worker": scale.share,
            "accelerator_type": asked.accelerator if submitted() else None,
            "label_selector": dict(asked.node_labels) or None if submitted() else None,
        }
        # The second limit is for groups that cannot start, which Ray Train tries again without end by default.
        limits: dict[str, Any] = {"max_failures": retries, "controller_failure_limit": retries}
        backend = asked.backend if asked.backend != "auto" else "nccl" if scale.gpus else "gloo"
        try:
            with tempfile.TemporaryDirectory(prefix="distaug-scratch-", ignore_cleanup_errors=True) as scratch:
                TorchTrainer(
                    work,
                    train_loop_config=config,
                    scaling_config=ScalingConfig(**scaling),
                    run_config=RunConfig(
                        # Ray resumes a run of the same name; the checkpoints are ours, so each group gets a fresh one.
                        name=f"{job.name}-{uuid.uuid4().hex[:8]}",
                        storage_path=scratch,
                        failure_config=FailureConfig(**limits),
                    ),
                    torch_config=TorchConfig(backend=backend, timeout_s=int(asked.collective_timeout_s)),
                ).fit()
        except BaseException as error:
            self._failures.append(error)

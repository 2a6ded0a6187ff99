"""What the driver holds for a whole run: a Ray for all its trainings, the signals, and whatever shows the run."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Self

from distaug.cluster.private import connected, submitted
from distaug.errors import InterruptedRunError
from distaug.spec.job import JobSpec
from distaug.store.records import Result
from distaug.store.rundir import RunDir
from distaug.telemetry.board import Board
from distaug.telemetry.exporter import serve
from distaug.telemetry.screen import Screen
from distaug.telemetry.tensorboard import TensorBoard, check_installed

if TYPE_CHECKING:
    from distaug.cluster.hub import News

__all__ = ["Connection", "Interrupt", "Session", "signals"]


class Interrupt(KeyboardInterrupt):
    """A signal, in the middle of whatever is going on; no `Exception`, since exporters and others go on after those."""


class Connection:
    """One Ray for any number of trainings and runs, begun when the first of them needs it; to be closed."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._asked: tuple[object, ...] | None = None
        self._cpus = self._gpus = 0

    def need(self, job: JobSpec, cpus: int, gpus: int) -> None:
        """Be connected with a Ray that has the job's environment and limits, and so many cores and GPUs for workers."""
        asked = (job.cluster.env, job.cluster.start_timeout_min, job.cluster.collective_timeout_s)
        if self._asked == asked and cpus <= self._cpus and gpus <= self._gpus:
            return
        self.close()
        self._stack.enter_context(connected(job, cpus, gpus))
        self._asked, self._cpus, self._gpus = asked, cpus, gpus

    def close(self) -> None:
        """Leave Ray."""
        self._asked = None
        self._stack.close()


class Session:
    """Trains any number of jobs for one run, and shows what happens.

    Args:
        job: The run's job.
        run_dir: The run that all of it is for.
        screen: Shows it to a person; `board` to Prometheus.
        ray: What it is trained on.
    """

    def __init__(self, job: JobSpec, run_dir: RunDir, screen: Screen, ray: Connection) -> None:
        self.run_dir, self.screen = run_dir, screen
        self.board = Board(run_dir.name)
        self._job, self._ray = job, ray
        self._stack = ExitStack()
        self._tensorboard: TensorBoard | None = None
        self._mirrored = False

    def __enter__(self) -> Self:
        """Hold the signals and begin to serve the metrics."""
        metrics, run = self._job.metrics, self.run_dir
        with ExitStack() as stack:
            stack.enter_context(signals(self._interrupt))
            # A submitted job's metrics go the cluster's way, through Ray's node endpoints.
            if not submitted():
                runs_dir = run.runs_dir
                announcement = runs_dir / "targets" / f"{run.name}.json" if isinstance(runs_dir, Path) else None
                stack.enter_context(serve(self.board, metrics, announcement, self.screen.line))
            if metrics.tensorboard and isinstance(run.root, Path):
                check_installed()
                self._tensorboard = TensorBoard(run.root / "tensorboard", self.screen.line)
                stack.callback(self._tensorboard.close)
            self._stack = stack.pop_all()
        return self

    def _interrupt(self) -> None:
        raise Interrupt

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End whatever was begun for this run."""
        if error is not None:
            self.board.end("interrupted" if isinstance(error, InterruptedRunError | Interrupt) else "failed")
        self._stack.close()
        if isinstance(error, Interrupt):
            raise InterruptedRunError("stopped between two trainings; the same command goes on from there") from None

    def connect(self, job: JobSpec, cpus: int, gpus: int) -> None:
        """Be connected with a Ray that has so many cores and GPUs for the workers."""
        self._ray.need(job, cpus, gpus)
        if submitted() and not self._mirrored:
            from distaug.cluster.mirror import mirrored

            self._stack.enter_context(mirrored(self.board))
            self._mirrored = True

    def judged(self, result: Result) -> None:
        """Show the accuracy of the chosen model."""
        best, test = result.best or {}, result.test or {}
        self.board.judged(best.get("top1"), test.get("top1"))

    def show(self, news: "News") -> None:
        """Show what happened since the last look."""
        for message in news.lines:
            self.screen.line(message)
        self.board.take(news.ranks)
        if news.ranks and news.ranks[0].rank == 0 and news.ranks[0].progress is not None:
            self.screen.update(news.ranks[0].progress, self.board.images_per_second)
        for record in news.records:
            self.screen.record(record)
            self.board.record(record)
            if self._tensorboard is not None and not self.board.compressing:
                self._tensorboard.record(record)


@contextmanager
def signals(act: Callable[[], None]) -> Iterator[None]:
    """Act on SIGINT and SIGTERM instead of dying of them, where this is the main thread."""

    def note(number: int, frame: FrameType | None) -> None:
        act()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

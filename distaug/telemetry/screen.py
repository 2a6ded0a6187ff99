"""What a person sees while a training runs: a live bar on a terminal, plain lines elsewhere."""

import sys
from time import monotonic
from types import TracebackType
from typing import Self

from rich import progress
from rich.console import Console

from distaug.store.records import EpochRecord
from distaug.telemetry.progress import Progress

__all__ = ["Screen"]

_PLAIN_EVERY_S = 30.0


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _numbers(place: Progress, images_per_second: float | None) -> str:
    if not images_per_second:
        return f"loss {place.loss:.4f}"
    left = (place.epochs * place.steps - place.steps_done) * place.global_batch / images_per_second
    return f"{images_per_second:,.0f} images/s  loss {place.loss:.4f}  {_duration(left)} left"


class Screen:
    """Shows a run: epoch, step, images/s, loss and the time left.

    Args:
        name: Name of the run.
        show: Whether to show anything.
    """

    def __init__(self, name: str, *, show: bool = True) -> None:
        self._console = Console(file=sys.stderr, quiet=not show, soft_wrap=True, highlight=False)
        self._live = show and self._console.is_terminal
        self._bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[numbers]}"),
            progress.TimeElapsedColumn(),
            console=self._console,
            disable=not self._live,
        )
        self._task: progress.TaskID | None = None
        self._name = name
        self._shown_at = monotonic()

    def __enter__(self) -> Self:
        """Start the bar."""
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the bar."""
        self._bar.stop()

    def line(self, message: str) -> None:
        """Print a line for the user, above the bar."""
        self._console.print(message, markup=False)

    def update(self, place: Progress, images_per_second: float | None) -> None:
        """Show where the training is, and how fast it is if that is known."""
        now = monotonic()
        numbers = _numbers(place, images_per_second)
        if self._live:
            self._draw(place, numbers)
        elif place.step and now - self._shown_at >= _PLAIN_EVERY_S:
            self._shown_at = now
            self.line(f"epoch {place.epoch + 1}/{place.epochs} step {place.step}/{place.steps}  {numbers}")

    def record(self, record: EpochRecord) -> None:
        """Print the numbers of a finished epoch."""
        self._shown_at = monotonic()
        val = "" if record.top1 is None else f"  val loss {record.val_loss:.4f}  top1 {100 * record.top1:.2f} %"
        self.line(
            f"epoch {record.epoch + 1:3}  train loss {record.train_loss:.4f}{val}  "
            f"{record.images_per_second:,.0f} images/s  {record.seconds:.1f} s"
        )

    def _draw(self, place: Progress, numbers: str) -> None:
        phase = "" if place.phase == "train" else f" {place.phase}"
        what = f"{self._name} epoch {place.epoch + 1}/{place.epochs}{phase}"
        if self._task is None:
            self._task = self._bar.add_task(what, total=place.steps, numbers="")
        self._bar.update(
            self._task,
            description=what,
            completed=place.step,
            total=place.steps,
            numbers=numbers,
        )

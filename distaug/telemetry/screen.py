"""What a person sees while a training runs: a live bar on a terminal, plain lines elsewhere."""

import sys
from time import monotonic
from types import TracebackType
from typing import Self

from rich import progress
from rich.console import Console

from distaug.store.records import EpochRecord
from distaug.telemetry.lines import epoch_line, numbers, step_line
from distaug.telemetry.progress import Progress

__all__ = ["Screen"]

_PLAIN_EVERY_S = 30.0


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
        self._epochs = 0

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
        now, self._epochs = monotonic(), place.epochs
        if self._live:
            self._draw(place, numbers(place, images_per_second))
        elif place.step and now - self._shown_at >= _PLAIN_EVERY_S:
            self._shown_at = now
            self.line(step_line(place, images_per_second))

    def record(self, record: EpochRecord) -> None:
        """Print the numbers of a finished epoch."""
        self._shown_at = monotonic()
        self.line(epoch_line(record, max(self._epochs, record.epoch + 1)))

    def _draw(self, place: Progress, text: str) -> None:
        phase = "" if place.phase == "train" else f" {place.phase}"
        what = f"{self._name} epoch {place.epoch + 1}/{place.epochs}{phase}"
        if self._task is None:
            self._task = self._bar.add_task(what, total=place.steps, numbers="")
        self._bar.update(
            self._task,
            description=what,
            completed=place.step,
            total=place.steps,
            numbers=text,
        )

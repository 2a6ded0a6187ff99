"""What a person sees while the runs of a study are trained: a table that fills, or plain lines where is no terminal."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from distaug.store.records import EpochRecord
from distaug.telemetry.lines import STUDY, duration, numbers
from distaug.telemetry.progress import Progress
from distaug.telemetry.screen import Screen

__all__ = ["Overview"]

State = Literal["waiting", "running", "done", "failed"]

_COLOURS = {"waiting": "dim", "running": "bold", "done": "green", "failed": "red"}
_SHOWN = 24
"""Runs on the screen at a time, those around the current one."""
_AROUND = 12
"""Lines of the screen that the table's frame and what stands below it take."""
_LINES = 4


@dataclass
class _Row:
    """A run as the table shows it."""

    name: str
    state: State = "waiting"
    epoch: str = ""
    val: float | None = None
    test: float | None = None
    seconds: float | None = None


class Overview:
    """Shows all runs of a study and how far they are.

    Args:
        name: Name of the study.
        runs: Names of the runs, in their order.
        show: Whether to show anything.
    """

    def __init__(self, name: str, runs: Sequence[str], *, show: bool = True) -> None:
        self._console = Console(file=sys.stderr, quiet=not show, soft_wrap=True, highlight=False)
        self.live = show and self._console.is_terminal
        self._name = name
        self._rows = {run: _Row(run) for run in runs}
        self._order = list(runs)
        self._now = 0
        self._lines: list[str] = []
        self._took: list[float] = []
        self.progress = ""
        """Where the current run is, in words."""
        self._table = Live(console=self._console, auto_refresh=False, get_renderable=self._drawn, transient=False)

    def __enter__(self) -> Self:
        """Show the table."""
        if self.live:
            self._table.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave it as it is."""
        if self.live:
            self.refresh()
            self._table.stop()

    def line(self, message: str) -> None:
        """Show a line for the user: the last few stand below the table."""
        if self._table.is_started:
            self._lines = [*self._lines, *message.splitlines()][-_LINES:]
            self.refresh()
        else:
            self._console.print(message, markup=False)

    def begin(self, run: str) -> Screen:
        """Show that a run is trained now; return what shows its progress."""
        self._now = self._order.index(run)
        self._rows[run].state = "running"
        if not self.live:
            left = self._left()
            more = "" if left is None else f", about {duration(left)} left"
            self.line(f"{STUDY}run {self._now + 1} of {len(self._order)}: {run}{more}")
        self.progress = ""
        self.refresh()
        return _RunScreen(self, self._rows[run])

    def end(
        self,
        run: str,
        state: State,
        *,
        val: float | None = None,
        test: float | None = None,
        seconds: float | None = None,
    ) -> None:
        """Show what a run came to.

        Args:
            run: Its name.
            state: What became of it.
            val: Validation accuracy, in 0 to 1.
            test: Accuracy on the test set, in 0 to 1.
            seconds: What it took here; None: it was finished before.
        """
        row = self._rows[run]
        row.state, row.val, row.test, row.seconds = state, val, test, seconds
        if seconds is not None and state == "done":
            self._took.append(seconds)
        self.progress = ""
        self.refresh()

    def refresh(self) -> None:
        """Draw the table anew."""
        if self.live:
            self._table.refresh()

    def _left(self) -> float | None:
        """Return the seconds to the end, as long as a run took so far on average for each that is left."""
        waiting = sum(row.state in ("waiting", "running") for row in self._rows.values())
        return waiting * sum(self._took) / len(self._took) if waiting and self._took else None

    def _drawn(self) -> Group:
        table = Table(title=f"study {self._name}", title_justify="left")
        for place, title in enumerate(("run", "state", "epoch", "val %", "test %", "took")):
            table.add_column(title, no_wrap=True, justify="left" if place < 2 else "right")
        shown = max(1, min(_SHOWN, self._console.height - _AROUND))
        start = max(0, min(self._now - shown // 2, len(self._order) - shown))
        for run in self._order[start : start + shown]:
            row = self._rows[run]
            table.add_row(
                Text(row.name),
                Text(row.state, _COLOURS[row.state]),
                row.epoch,
                "" if row.val is None else f"{100 * row.val:.2f}",
                "" if row.test is None else f"{100 * row.test:.2f}",
                "" if row.seconds is None else duration(row.seconds),
            )
        counts = [
            f"{sum(row.state == state for row in self._rows.values())} {state}"
            for state in ("done", "running", "failed", "waiting")
        ]
        left = self._left()
        foot = ", ".join(counts) + ("" if left is None else f"; about {duration(left)} left")
        said = (Text(line, "dim") for line in self._lines)
        return Group(table, Text(self.progress), Text(foot), *said)


class _RunScreen(Screen):
    """Shows the training of one run: within the table, or by the lines of any other run."""

    def __init__(self, overview: Overview, row: _Row) -> None:
        super().__init__(row.name, show=False)
        self._overview, self._row = overview, row

    def line(self, message: str) -> None:
        self._overview.line(message)

    def update(self, place: Progress, images_per_second: float | None) -> None:
        if not self._overview.live:
            super().update(place, images_per_second)
            return
        self._epochs = place.epochs
        self._row.epoch = f"{min(place.epoch + 1, place.epochs)}/{place.epochs}"
        self._overview.progress = f"step {place.step}/{place.steps}  {numbers(place, images_per_second)}"
        self._overview.refresh()

    def record(self, record: EpochRecord) -> None:
        if not self._overview.live:
            super().record(record)
            return
        self._row.epoch, self._row.val = f"{record.epoch + 1}/{max(self._epochs, record.epoch + 1)}", record.top1
        self._overview.refresh()

"""Whoever watches the training, as the loop sees them."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from distaug.store.records import EpochRecord
from distaug.telemetry.progress import Progress

__all__ = ["LocalReporter", "Reporter"]


class Reporter(Protocol):
    """Receives progress and records, and passes on the wish to stop."""

    def progress(self, progress: Progress) -> bool:
        """Take note of a step and say whether a stop was requested; called every step, never blocks."""

    def report(self, record: EpochRecord) -> None:
        """Take note of a finished epoch; called once an epoch by every rank."""

    def log(self, message: str) -> None:
        """Take note of a line for the user."""


@dataclass
class LocalReporter:
    """A reporter in this process: keeps the records, calls back, and stops when told to.

    Args:
        on_progress: Called with every step's progress.
        on_record: Called with every finished epoch.
        on_log: Called with every line for the user.
    """

    on_progress: Callable[[Progress], None] = lambda progress: None
    on_record: Callable[[EpochRecord], None] = lambda record: None
    on_log: Callable[[str], None] = lambda message: None
    records: list[EpochRecord] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def progress(self, progress: Progress) -> bool:
        """Call back and say whether `stop` is set."""
        self.on_progress(progress)
        return self.stop.is_set()

    def report(self, record: EpochRecord) -> None:
        """Keep the record and call back."""
        self.records.append(record)
        self.on_record(record)

    def log(self, message: str) -> None:
        """Call back."""
        self.on_log(message)

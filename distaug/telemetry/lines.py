"""The lines that a run prints where there is no terminal, and what can be read off them again."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from distaug.store.records import EpochRecord
from distaug.telemetry.progress import Progress

__all__ = ["COMPRESSING", "STUDY", "Seen", "duration", "epoch_line", "numbers", "read", "step_line"]

COMPRESSING = "compress: "
"""What the lines about a compression begin with."""
STUDY = "study: "
"""What the lines about a study begin with; one stands before each of its runs."""
_BEGUN = re.compile(STUDY + r"run \d+ of \d+: [^ ,]+(?:, about (?P<left>[\d:]+) left)?")
_STEP = re.compile(
    r"epoch +(?P<epoch>\d+)/(?P<epochs>\d+) step \d+/\d+  "
    r"(?:(?P<speed>[\d,]+) images/s  )?loss \S+(?:  (?P<left>[\d:]+) left)?"
)
_EPOCH = re.compile(
    r"epoch +(?P<epoch>\d+)/(?P<epochs>\d+)  train loss \S+(?:  val loss \S+  top1 (?P<top1>[\d.]+) %)?  "
    r"(?P<speed>[\d,]+) images/s  [\d.]+ s(?:  (?P<left>[\d:]+) left)?"
)


@dataclass(frozen=True)
class Seen:
    """How far a run has come, as its lines tell; None where they do not."""

    epoch: int | None = None
    """Epochs that are done."""
    epochs: int | None = None
    """Epochs planned."""
    images_per_second: float | None = None
    top1: float | None = None
    """The best so far, in 0 to 1."""
    left_s: float | None = None
    """Seconds to the last epoch's end."""


def numbers(place: Progress, images_per_second: float | None) -> str:
    """Return speed, loss and the time left, in words."""
    if not images_per_second:
        return f"loss {place.loss:.4f}"
    left = (place.epochs * place.steps - place.steps_done) * place.global_batch / images_per_second
    return f"{images_per_second:,.0f} images/s  loss {place.loss:.4f}  {duration(left)} left"


def step_line(place: Progress, images_per_second: float | None) -> str:
    """Return the line about a training in mid-epoch."""
    return (
        f"epoch {place.epoch + 1}/{place.epochs} step {place.step}/{place.steps}  {numbers(place, images_per_second)}"
    )


def epoch_line(record: EpochRecord, epochs: int) -> str:
    """Return the line about a finished epoch.

    Args:
        record: The epoch.
        epochs: Epochs planned.
    """
    val = "" if record.top1 is None else f"  val loss {record.val_loss:.4f}  top1 {100 * record.top1:.2f} %"
    left = (epochs - record.epoch - 1) * (record.seconds + record.eval_seconds)
    return (
        f"epoch {record.epoch + 1:{len(str(epochs))}}/{epochs}  train loss {record.train_loss:.4f}{val}  "
        f"{record.images_per_second:,.0f} images/s  {record.seconds:.1f} s"
        + (f"  {duration(left)} left" if left else "")
    )


def read(lines: Iterable[str]) -> Seen:
    """Return what the lines of a run tell about its training, whatever stands between them.

    Of a study it is about the run that was begun last, but for the time that is left: that is the whole study's.
    """
    epoch = epochs = speed = top1 = left = None
    study, compressing, found = False, False, None
    for line in lines:
        if begun := _BEGUN.match(line):  # What follows is another run.
            epoch = epochs = speed = top1 = None
            study, compressing = True, False
            left = _seconds(begun["left"]) if begun["left"] else None
        compressing, found = compressing or line.startswith(COMPRESSING), None
        if compressing:  # What follows trains pruned networks on.
            left = left if study else None
        elif found := _EPOCH.fullmatch(line):
            epoch = int(found["epoch"])
            top1 = max(filter(None, (top1, found["top1"] and float(found["top1"]) / 100)), default=top1)
        elif found := _STEP.fullmatch(line):
            epoch = int(found["epoch"]) - 1
        if not found:
            continue
        epochs = int(found["epochs"])
        speed = float(found["speed"].replace(",", "")) if found["speed"] else speed
        if not study:
            left = _seconds(found["left"]) if found["left"] else 0.0 if epoch == epochs else left
    return Seen(epoch, epochs, speed, top1, left)


def duration(seconds: float) -> str:
    """Return a time as minutes:seconds, with the hours before them where there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _seconds(text: str) -> float:
    total = 0
    for part in text.split(":"):
        total = 60 * total + int(part)
    return float(total)

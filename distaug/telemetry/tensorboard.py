"""The epochs of a run for TensorBoard, in the run's `tensorboard`."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from distaug.errors import JobError
from distaug.store.records import EpochRecord
from distaug.store.whole import storing

__all__ = ["TensorBoard", "check_installed"]

_TAGS = {
    "train_loss": "train/loss",
    "train_top1": "train/top1",
    "lr": "train/learning_rate",
    "skipped_steps": "train/skipped_steps",
    "val_loss": "val/loss",
    "top1": "val/top1",
    "raw_top1": "val/raw_top1",
    "top5": "val/top5",
    "macro": "val/macro",
    "images_per_second": "speed/images_per_second",
    "data_wait_seconds": "speed/data_wait_seconds",
    "seconds": "speed/epoch_seconds",
    "eval_seconds": "speed/eval_seconds",
    "peak_memory_bytes": "speed/peak_memory_bytes",
    "world_size": "speed/world_size",
}
"""Names of the curves by field of the record; those of one group stand together."""


def check_installed() -> None:
    """Check that TensorBoard can be written.

    Raises:
        JobError: It is not installed.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise JobError("metrics.tensorboard: not installed: pip install 'distaug[tensorboard]'")


class TensorBoard:
    """Writes records; an epoch that is trained once more replaces what was written of it.

    Args:
        folder: Where the event files go.
        epochs: Those that are done already.

    Raises:
        StorageError: The folder cannot be written.
    """

    def __init__(self, folder: Path, epochs: Sequence[EpochRecord]) -> None:
        # Slow to import, and asked for by few.
        from torch.utils.tensorboard.writer import SummaryWriter

        with storing(folder):
            self._writer = SummaryWriter(str(folder), purge_step=len(epochs) + 1)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the files."""
        self._writer.close()

    def record(self, record: EpochRecord) -> None:
        """Write an epoch, counted from 1."""
        for field, tag in _TAGS.items():
            value = getattr(record, field)
            if value is not None:
                self._writer.add_scalar(tag, value, record.epoch + 1)
        self._writer.flush()

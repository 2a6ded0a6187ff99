"""The epochs of a run for TensorBoard, in the run's `tensorboard`."""

import importlib.util
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from distaug.errors import JobError
from distaug.store.records import EpochRecord

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
    """Writes records; an epoch that is trained once more replaces what was written of it and of those after it.

    Metrics never stop a run: what goes wrong is one line, and no more is written.

    Args:
        folder: Where the event files go.
        log: Gets a line for the user.
    """

    def __init__(self, folder: Path, log: Callable[[str], None]) -> None:
        self._folder, self._log = folder, log
        self._writer: Any = None
        self._next = -1
        """The epoch that can be written without a new file; -1 before the first."""
        self._failed = False

    def record(self, record: EpochRecord) -> None:
        """Write an epoch, counted from 1."""
        if self._failed:
            return
        try:
            if record.epoch != self._next:
                self._open(record.epoch)
            for field, tag in _TAGS.items():
                value = getattr(record, field)
                if value is not None:
                    self._writer.add_scalar(tag, value, record.epoch + 1)
            self._writer.flush()
            self._next = record.epoch + 1
        except OSError as error:
            self._failed = True
            self._log(f"no more for TensorBoard: {self._folder} cannot be written ({error.strerror})")

    def close(self) -> None:
        """Close the files."""
        with suppress(OSError):
            if self._writer is not None:
                self._writer.close()

    def _open(self, epoch: int) -> None:
        # Slow to import, and asked for by few.
        from torch.utils.tensorboard.writer import SummaryWriter

        self.close()
        self._writer = SummaryWriter(str(self._folder), purge_step=epoch + 1)

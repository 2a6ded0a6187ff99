"""The package's log: plain lines, on the screen for rank 0 and in one file per rank."""

import logging
from contextlib import suppress
from pathlib import Path

from distaug.errors import StorageError
from distaug.store import lines
from distaug.store.place import Place
from distaug.store.rundir import rank_log
from distaug.store.whole import storing, write_whole

__all__ = ["get"]


class _PutHandler(logging.Handler):
    """Puts the log into an object store, whole with each line: there are few of them, and the last ones matter."""

    def __init__(self, file: Place) -> None:
        super().__init__()
        self._file = file
        self._text = b"".join(lines.read(file))

    def emit(self, record: logging.LogRecord) -> None:
        self._text += f"{self.format(record)}\n".encode(errors="backslashreplace")
        with suppress(StorageError):  # a log that cannot be written stops nothing
            write_whole(self._file, self._text)


def get(rank: int, folder: Place | None) -> logging.Logger:
    """Return the logger `distaug`, set up for this process; a call replaces what an earlier one set up.

    Args:
        rank: Number of this process, part of each line; rank 0 also writes to stderr.
        folder: The run's `logs` folder, where `rank-N.log` is continued; None: no file.

    Raises:
        StorageError: The file cannot be written.
    """
    handlers: list[logging.Handler] = [logging.StreamHandler()] if rank == 0 else []
    if folder is not None:
        file = rank_log(folder, rank)
        with storing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            handlers.append(
                logging.FileHandler(file, encoding="utf-8") if isinstance(file, Path) else _PutHandler(file)
            )
    form = logging.Formatter(f"%(asctime)s rank {rank} %(levelname)s %(message)s")
    logger = logging.getLogger("distaug")
    for old in logger.handlers[:]:
        logger.removeHandler(old)
        old.close()
    for handler in handlers:
        handler.setFormatter(form)
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    # Frameworks put handlers of their own on the root logger, and every line would come twice.
    logger.propagate = False
    return logger

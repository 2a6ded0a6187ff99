"""The package's log: plain lines, on the screen for rank 0 and in one file per rank."""

import logging
import threading
from contextlib import suppress
from pathlib import Path

from distaug.errors import StorageError
from distaug.store import lines
from distaug.store.place import Place
from distaug.store.rundir import rank_log
from distaug.store.whole import storing, write_whole

__all__ = ["get"]


_PUT_EVERY_S = 3.0
_LEAVE_WITHIN_S = 10.0


class _PutHandler(logging.Handler):
    """Puts the log into an object store, whole each time: now and then, after an error at once, and when it is closed.

    A thread does it, since a store that is slow or away must not keep the training waiting.
    """

    def __init__(self, file: Place) -> None:
        super().__init__()
        self._file = file
        self._text = b"".join(lines.read(file))
        self._now, self._over = threading.Event(), False
        self._thread = threading.Thread(target=self._put, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        self._text += f"{self.format(record)}\n".encode(errors="backslashreplace")
        if record.levelno >= logging.ERROR:
            self._now.set()

    def close(self) -> None:
        self._over = True
        self._now.set()
        self._thread.join(_LEAVE_WITHIN_S)
        super().close()

    def _put(self) -> None:
        size = len(self._text)
        while True:
            self._now.wait(_PUT_EVERY_S)
            self._now.clear()
            over, text = self._over, self._text
            if len(text) > size:
                with suppress(StorageError):  # a log that cannot be written stops nothing
                    write_whole(self._file, text)
                    size = len(text)
            if over:
                return


def get(rank: int, folder: Place | None) -> logging.Logger:
    """Return the logger `distaug`, set up for this process; a call replaces what an earlier one set up.

    Args:
        rank: Number of this process, part of each line; rank 0 also writes to stderr.
        folder: The run's `logs` folder, where `rank-N.log` is continued; None: no file.

    Raises:
        StorageError: The file cannot be written.
    """
    # What libraries warn of, e.g. torch of kernels that are not deterministic, comes into the log as well.
    logger, warned = logging.getLogger("distaug"), logging.getLogger("py.warnings")
    logging.captureWarnings(True)
    for old in logger.handlers[:]:
        logger.removeHandler(old)
        warned.removeHandler(old)
        old.close()
    logger.setLevel(logging.INFO)
    # Frameworks put handlers of their own on the root logger, and every line would come twice.
    logger.propagate = warned.propagate = False
    form = logging.Formatter(f"%(asctime)s rank {rank} %(levelname)s %(message)s")

    def add(handler: logging.Handler) -> None:
        handler.setFormatter(form)
        logger.addHandler(handler)
        warned.addHandler(handler)

    if rank == 0:
        add(logging.StreamHandler())
    if folder is not None:
        file = rank_log(folder, rank)
        with storing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            add(logging.FileHandler(file, encoding="utf-8") if isinstance(file, Path) else _PutHandler(file))
    return logger

"""The package's log: plain lines, on the screen for rank 0 and in one file per rank."""

import logging
from pathlib import Path

from distaug.store.rundir import rank_log
from distaug.store.whole import storing

__all__ = ["get"]


def get(rank: int, folder: Path | None) -> logging.Logger:
    """Return the logger `distaug`, set up for this process; a call replaces what an earlier one set up.

    Args:
        rank: Number of this process, part of each line; rank 0 also writes to stderr.
        folder: The run's `logs` folder, where `rank-N.log` is continued; None: no file.

    Raises:
        StorageError: The file cannot be written.
    """
    handlers: list[logging.Handler] = [logging.StreamHandler()] if rank == 0 else []
    if folder is not None:
        with storing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            handlers.append(logging.FileHandler(rank_log(folder, rank), encoding="utf-8"))
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

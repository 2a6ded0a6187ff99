"""The starts and ends of a run's processes: how often it was restarted and what its devices were held for."""

import json
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from distaug.store import lines
from distaug.store.rundir import RunDir

__all__ = ["device_seconds", "note_end", "note_start"]


def _append(run: RunDir, line: dict[str, Any]) -> None:
    run.create()
    lines.append(run.attempts_file, (json.dumps(line) + "\n").encode())


def _read(run: RunDir) -> list[dict[str, Any]]:
    found = []
    for line in lines.read(run.attempts_file):
        with suppress(ValueError):  # These are but times: a line that is damaged does not stop a run.
            found.append(json.loads(line))
    return [line for line in found if isinstance(line, dict)]


def note_start(run: RunDir, *, world_size: int, epoch: int, step: int) -> int:
    """Write down that the training starts at this position; return how often it had started before.

    Raises:
        StorageError: It cannot be written.
    """
    before = sum("world_size" in line for line in _read(run))
    now = datetime.now(UTC).timestamp()
    _append(run, {"started_at": now, "world_size": world_size, "epoch": epoch, "step": step})
    return before


def note_end(run: RunDir) -> None:
    """Write down that the training left on its own account.

    Raises:
        StorageError: It cannot be written.
    """
    _append(run, {"ended_at": datetime.now(UTC).timestamp()})


def device_seconds(run: RunDir) -> float:
    """Return seconds times ranks over all attempts until now; a killed one lasts until the next one starts."""
    total, since, ranks = 0.0, None, 0
    for line in [*_read(run), {"ended_at": datetime.now(UTC).timestamp()}]:
        if since is not None:
            total += ranks * (line.get("started_at", line.get("ended_at", since)) - since)
        since, ranks = line.get("started_at"), line.get("world_size", 0)
    return total

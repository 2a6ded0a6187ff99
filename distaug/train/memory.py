"""The memory that a rank held at its peak; and when it runs out of it: who, when, and the setting that mends it."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from distaug.errors import RankError
from distaug.train.state import Training

__all__ = ["memory_explained", "peak_bytes"]

_GIB = 2**30
_STATUS = Path("/proc/self/status")


def peak_bytes(device: torch.device) -> float:
    """Return the most memory of a device that this process has held: on a GPU in tensors, else all that was resident.

    0.0 where the system does not tell.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Not getrusage: its figure begins with that of the process which started this one.
    lines = _STATUS.read_text().splitlines() if _STATUS.exists() else []
    return next((1024.0 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0.0)


@contextmanager
def memory_explained(t: Training) -> Iterator[None]:
    """Turn torch's refusal of memory into an error that the user can act on.

    Raises:
        RankError: This rank ran out of memory; names rank, phase, peak and remedy.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        # torch has a class for the GPU's allocator; the CPU's is known by its words alone.
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and "can't allocate memory" not in str(error):
            raise
        raise RankError(_message(t)) from error


def _message(t: Training) -> str:
    if t.device.type == "cuda":
        peak: float = torch.cuda.max_memory_reserved(t.device)
        size = torch.cuda.get_device_properties(t.device).total_memory
    else:
        peak = peak_bytes(t.device)
        size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    evaluating = bool(t.reason) or t.step == t.steps
    phase = "evaluating" if evaluating else f"training, epoch {t.epoch + 1}, step {t.step + 1}"
    return (
        f"rank {t.world.rank} on {socket.gethostname()} ran out of memory on {t.device} ({phase}): at its peak it held "
        f"{peak / _GIB:.1f} GiB of {size / _GIB:.1f} GiB. {_eval_remedy(t) if evaluating else _train_remedy(t)}; "
        "that makes it a different job, so give it a new --name"
    )


def _train_remedy(t: Training) -> str:
    """Name the fewest shards that halve what is computed at a time; the global batch stays as it is."""
    shards, batch = t.job.train.shards, t.job.train.global_batch
    assert shards != "auto"
    more = [n for n in range(2 * shards, batch + 1) if batch % n == 0]
    if not more:
        return "One picture at a time is too much: take a smaller `model.name` or `data.image_size`"
    held = ", or `data.batches: stream`, so that the pictures are not held" if _holds_pictures(t) else ""
    return f"Set `train.shards: {more[0]}` ({batch // more[0]} pictures at a time instead of {batch // shards}){held}"


def _holds_pictures(t: Training) -> bool:
    return t.device.type == "cuda" and t.job.data.batches == "device"


def _eval_remedy(t: Training) -> str:
    batch = t.job.evaluate.batch
    return f"Set `evaluate.batch: {max(1, batch // 2)}` (now {batch})"

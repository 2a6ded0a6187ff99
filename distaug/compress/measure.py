"""What a file costs and how far it decides as another: bytes, seconds, agreement."""

import hashlib
import statistics
import zlib
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime

from distaug.compress.artifact import Artifact, open_artifact
from distaug.train.device import cpu_name

__all__ = ["Weight", "agreement", "engine", "latency", "logit_snr_db", "weigh"]

BATCHES = (1, 64)
_SECONDS = 4.0
"""Time that the runs of one batch size take in all, about."""
_LEAST, _MOST = 20, 300


class Weight(NamedTuple):
    """What a file weighs on the disk."""

    sha256: str
    bytes: int
    zlib_bytes: int


def weigh(path: Path) -> Weight:
    """Weigh a file."""
    data = path.read_bytes()
    return Weight(hashlib.sha256(data).hexdigest(), len(data), len(zlib.compress(data, 6)))


def latency(path: Path, baseline: Path) -> dict[str, dict[str, float]]:
    """Run a file and the uncompressed one in turns, on one thread.

    Args:
        path: An artifact.
        baseline: The artifact that it came from in the end; may be the same.

    Returns:
        By batch size (as text, as JSON wants it): p50_ms and p95_ms, baseline_p50_ms and the speedup, the ratio of the
        medians, over so many rounds.
    """
    ours, theirs = open_artifact(path, threads=1), open_artifact(baseline, threads=1)
    found = {}
    for batch in BATCHES:
        images = np.random.default_rng(0).integers(0, 256, (batch, 3, *[ours.image_size] * 2), dtype=np.uint8)
        once = _seconds(ours, images) + _seconds(theirs, images)  # the first runs, which set memory aside
        once = _seconds(ours, images) + _seconds(theirs, images)
        rounds = min(_MOST, max(_LEAST, round(_SECONDS / once)))
        own: list[float] = []
        other: list[float] = []
        for number in range(rounds):
            # Who goes first takes turns too.
            for artifact, times in ((ours, own), (theirs, other))[:: 1 if number % 2 else -1]:
                times.append(1000 * _seconds(artifact, images))
        p50, baseline_p50 = statistics.median(own), statistics.median(other)
        found[str(batch)] = {
            "p50_ms": p50,
            "p95_ms": float(np.percentile(own, 95)),
            "baseline_p50_ms": baseline_p50,
            "speedup": baseline_p50 / p50,
            "rounds": rounds,
        }
    return found


def engine(dtype: str) -> dict[str, Any]:
    """Say what `latency` measures with, for a file of a data type."""
    return {
        "name": "onnxruntime",
        "version": onnxruntime.__version__,
        "provider": "CPUExecutionProvider",
        "threads": 1,
        "dtype": dtype,
        "cpu": cpu_name(),
    }


def _seconds(artifact: Artifact, images: npt.NDArray[np.uint8]) -> float:
    begin = perf_counter()
    artifact.logits(images)
    return perf_counter() - begin


def agreement(logits: npt.NDArray[Any], reference: npt.NDArray[Any]) -> float:
    """Return the share of pictures (N, K) on which both decide alike."""
    return float((logits.argmax(1) == reference.argmax(1)).mean())


def logit_snr_db(logits: npt.NDArray[Any], reference: npt.NDArray[Any]) -> float | None:
    """Return the power of the reference's logits (N, K) over that of the difference, in dB; None if there is none."""
    reference = reference.astype(np.float64)
    noise = np.square(logits - reference).sum()
    return float(10 * np.log10(np.square(reference).sum() / noise)) if noise else None

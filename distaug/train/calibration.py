"""Whether a model is as often right as it says: confidence against accuracy."""

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Bin", "calibration_error", "reliability"]

BINS = 15
_EDGES = [(place + 1) / BINS for place in range(BINS - 1)]


@dataclass(frozen=True)
class Bin:
    """The pictures whose highest probability lies in one of `BINS` equal parts of 0 to 1."""

    count: int
    confidence: float
    """Mean of their highest probabilities; 0 without pictures."""
    accuracy: float
    """Share of them that were right; 0 without pictures."""


def reliability(answers: Iterable[tuple[float, bool]]) -> list[Bin]:
    """Sort answers into bins; one on an edge belongs to the bin below it.

    Args:
        answers: The highest probability of each picture, and whether it was right.
    """
    counts, confidences, hits = [0] * BINS, [0.0] * BINS, [0] * BINS
    for probability, right in answers:
        place = bisect_left(_EDGES, probability)
        counts[place] += 1
        confidences[place] += probability
        hits[place] += right
    return [
        Bin(count, total / max(1, count), hit / max(1, count))
        for count, total, hit in zip(counts, confidences, hits, strict=True)
    ]


def calibration_error(bins: Iterable[Bin]) -> float:
    """Return the expected calibration error, in 0 to 1: the gap of each bin, weighted by its pictures.

    Guo et al. 2017, arXiv:1706.04599.
    """
    bins = list(bins)
    total = sum(one.count for one in bins)
    return sum(one.count * abs(one.accuracy - one.confidence) for one in bins) / total

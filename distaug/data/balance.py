"""Which training pictures an epoch uses, how often, and in which order: index arithmetic, no pictures.

A sample is one use of a picture, and its id is unique within the epoch, so that every use has draws of its own: for N
training pictures, the k-th use of picture i (from 0) is the sample i + N·k.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from distaug import draws
from distaug.spec.data import DataSpec

__all__ = ["quotas", "sample_ids", "strengths"]


def quotas(labels: Tensor, spec: DataSpec) -> Tensor:
    """Return how many samples of each class an epoch has, the same in every epoch.

    With `repeat_factor` a class c with the share f(c) of the pictures has max(1, sqrt(t / f(c))) samples for each of
    them (Gupta et al. 2019, arXiv:1908.03195), rounded over the class, so that the number of steps is known beforehand.
    The threshold t is by default 1 / K: it leaves balanced data as they are, and is about that of the paper (0.001 for
    1,230 classes).

    Args:
        labels: (N,) int64 labels of the training pictures, each of the K classes at least once.
        spec: The section `data`.

    Returns:
        (K,) int64.
    """
    counts = labels.bincount()
    n, classes = len(labels), len(counts)
    if spec.balance == "class_balanced":
        return n // classes + (torch.arange(classes) < n % classes).long()
    if spec.balance == "repeat_factor":
        threshold = 1 / classes if spec.repeat_threshold == "auto" else spec.repeat_threshold
        factors = (threshold * n / counts.double()).sqrt().clamp(min=1)
        return (counts * factors).round().long()
    return counts


def sample_ids(labels: Tensor, quota: Tensor, seed: int, epoch: int) -> Tensor:
    """Return the samples of an epoch in their order.

    A class of n pictures and q samples uses each picture q // n times, and q % n of them once more: the next ones of
    the class, in an order fixed by the seed that begins again at its end. So within the epoch, and over all epochs up
    to it, the pictures of a class are used equally often to within one.

    Args:
        labels: (N,) int64 labels of the training pictures.
        quota: (K,) int64, from `quotas`.
        seed: Seed of the job.
        epoch: Number of the epoch, from 0.

    Returns:
        (sum of the quota,) int64 ids, on the CPU.
    """
    counts, n = labels.bincount(), len(labels)
    if torch.equal(quota, counts):
        return draws.permutation(seed, epoch, n)
    extra = (quota % counts)[labels]
    turn = (_places(labels, counts, seed) - epoch * extra) % counts[labels]
    uses = (quota // counts)[labels] + (turn < extra)
    ids = torch.arange(n).repeat_interleave(uses)
    first = (uses.cumsum(0) - uses).repeat_interleave(uses)
    ids += n * (torch.arange(len(ids)) - first)
    return ids[draws.permutation(seed, epoch, len(ids))]


def _places(labels: Tensor, counts: Tensor, seed: int) -> Tensor:
    """Return (N,) int64: the place of each picture among those of its class, in the order of their hashes."""
    order = draws.bits(seed, 0, torch.arange(len(labels)), "balance").argsort(stable=True)
    order = order[labels[order].argsort(stable=True)]
    first = (counts.cumsum(0) - counts).repeat_interleave(counts)
    places = torch.empty_like(order)
    places[order] = torch.arange(len(order)) - first
    return places


def strengths(labels: Tensor, classes: Sequence[str]) -> dict[str, float]:
    """Return how strongly the pictures of each class are augmented: √(pictures of the rarest class / of this one).

    Args:
        labels: (N,) int64 labels of the training pictures, each of the K classes at least once.
        classes: Names of the K classes.
    """
    counts = labels.bincount().double()
    return dict(zip(classes, (counts.min() / counts).sqrt().tolist(), strict=True))

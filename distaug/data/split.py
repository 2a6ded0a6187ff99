"""The three sets: which picture trains, which validates and which tests. Rows in, rows out; no pictures.

Every choice is made by hashing the picture's row, class by class, so it depends on nothing but `split_seed`
and the pictures; and a smaller choice is always contained in a larger one.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from distaug import draws
from distaug.data.source import TEST, TRAIN, VAL
from distaug.spec.data import DataSpec

__all__ = ["Rows", "subsample", "three_sets"]

Rows = npt.NDArray[np.int64]
"""(n,) rows of the cache, rising."""


def three_sets(
    labels: npt.NDArray[np.int64], parts: npt.NDArray[np.int8], spec: DataSpec, *, final_fit: bool
) -> dict[int, Rows]:
    """Divide all pictures into training, validation and test set.

    What the source has divided stays so. Without a test set, `test_fraction` of everything becomes one;
    without a validation set, `val_fraction` of the training set. A class gives at least one picture to the
    test set if it has three, to the validation set if it has two, and always keeps one.

    Args:
        labels: (M,) label of each picture.
        parts: (M,) set that the source put it into.
        spec: The section `data`.
        final_fit: Train on the validation set too.

    Returns:
        The rows of each set; a set that does not exist is missing.
    """
    sets: dict[int, Rows] = {part: np.flatnonzero(parts == part) for part in (TRAIN, VAL, TEST)}
    declared = {part for part in sets if len(sets[part])}
    if TEST not in declared and spec.test_fraction:
        everything = np.flatnonzero(parts != TEST)
        chosen = _held_out(everything, labels, spec.test_fraction, 3, spec.split_seed, "test split")
        sets = {part: np.setdiff1d(rows, chosen) for part, rows in sets.items()} | {TEST: chosen}
    if VAL not in declared:
        chosen = _held_out(sets[TRAIN], labels, spec.val_fraction, 2, spec.split_seed, "validation split")
        sets |= {TRAIN: np.setdiff1d(sets[TRAIN], chosen), VAL: chosen}
    if final_fit:
        sets |= {TRAIN: np.union1d(sets[TRAIN], sets[VAL]), VAL: np.empty(0, np.int64)}
    return {part: rows for part, rows in sets.items() if len(rows)}


def subsample(train: Rows, labels: npt.NDArray[np.int64], num_classes: int, spec: DataSpec) -> Rows:
    """Thin out the training set: at most `per_class` of each class, then exponentially by `long_tail_ratio`.

    With a ratio r and K classes, class c keeps n * r^(-c/(K-1)) pictures (Cao et al. 2019, arXiv:1906.07413),
    at least one; n is the largest number for which every class has enough.
    """
    counts = np.bincount(labels[train], minlength=num_classes)
    if spec.per_class is not None:
        counts = np.minimum(counts, spec.per_class)
    if spec.long_tail_ratio is not None:
        shares = float(spec.long_tail_ratio) ** (-np.arange(num_classes) / (num_classes - 1))
        most = (counts / shares).min()
        # Rounding errors must not cost a picture: 500 / 0.01 * 0.01 is to be 500 again.
        counts = np.minimum(counts, np.maximum(1, np.floor(most * shares + 1e-6))).astype(np.int64)
    return _first_of_each_class(train, labels, spec.split_seed, "subsample", lambda label, _: int(counts[label]))


def _held_out(rows: Rows, labels: npt.NDArray[np.int64], share: float, least: int, seed: int, operation: str) -> Rows:
    def wanted(label: int, count: int) -> int:
        return min(max(1, int(count * share + 0.5)), count - 1) if count >= least else 0

    return _first_of_each_class(rows, labels, seed, operation, wanted)


def _first_of_each_class(
    rows: Rows, labels: npt.NDArray[np.int64], seed: int, operation: str, wanted: Callable[[int, int], int]
) -> Rows:
    """Return, of each class, the wanted(label, count) pictures that come first by their hashes."""
    keys = draws.bits(seed, 0, torch.from_numpy(rows), operation).numpy()
    shuffled = rows[np.argsort(keys, kind="stable")]
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    names, starts, counts = np.unique(labels[by_class], return_index=True, return_counts=True)
    chosen = [
        by_class[start : start + wanted(int(label), int(count))]
        for label, start, count in zip(names, starts, counts, strict=True)
    ]
    return np.sort(np.concatenate(chosen)) if chosen else rows

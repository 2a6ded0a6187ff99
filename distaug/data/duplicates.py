"""Pictures that are the same pixel for pixel: found by hash, counted, listed, and left out if asked."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from distaug.data.source import PARTS, TRAIN
from distaug.data.split import Rows

__all__ = ["Duplicates", "find_duplicates"]

_LISTED = 10


@dataclass(frozen=True)
class Duplicates:
    """What stands more than once."""

    within_train: int
    """Training pictures that repeat an earlier training picture."""
    across_sets: int
    """Different pictures that stand in more than one set."""
    two_labels: int
    """Different pictures that stand under more than one label."""
    examples: tuple[tuple[str, ...], ...]
    """Some of them, worst first: the places ("train: cat/a.png") where each one stands."""
    droppable: Rows
    """Training rows to leave out: repeats, those that validation or test hold too, all under two labels."""

    @property
    def any(self) -> bool:
        """Whether there are any."""
        return bool(self.within_train or self.across_sets or self.two_labels)

    def report(self) -> dict[str, Any]:
        """Return the counts and examples as plain values."""
        return {
            "within_train": self.within_train,
            "across_sets": self.across_sets,
            "two_labels": self.two_labels,
            "examples": [list(places) for places in self.examples],
        }

    def __str__(self) -> str:
        """Say it in one line."""
        shown = "; ".join(" = ".join(places) for places in self.examples[:3])
        return (
            f"identical pictures: {self.within_train} repeated within train, {self.across_sets} in more than "
            f"one set, {self.two_labels} under more than one label ({shown})"
        )


def find_duplicates(
    hashes: npt.NDArray[np.uint64],
    labels: npt.NDArray[np.int64],
    sets: dict[int, Rows],
    name: Callable[[int], str],
    classes: tuple[str, ...],
) -> Duplicates:
    """Look for the same picture twice.

    Args:
        hashes: (M, 2) hash of each picture of the cache.
        labels: (M,) their labels.
        sets: The rows of each set.
        name: Gives a row's name, for the list.
        classes: Names of the classes, for the list.
    """
    rows = np.concatenate([sets[part] for part in sorted(sets)])
    parts = np.repeat(sorted(sets), [len(sets[part]) for part in sorted(sets)])
    # Training rows come first and rise, so that with a stable sort each group begins with the one to keep.
    order = np.lexsort((np.arange(len(rows)), hashes[rows, 1], hashes[rows, 0]))
    rows, parts = rows[order], parts[order]
    same = (hashes[rows[1:]] == hashes[rows[:-1]]).all(1)
    starts = np.flatnonzero(np.concatenate([[True], ~same]))
    group = np.cumsum(np.concatenate([[True], ~same])) - 1
    train = parts == TRAIN
    training = np.add.reduceat(train, starts, dtype=np.int64)
    mixed_label = _spread(labels[rows], starts)
    mixed_part = _spread(parts, starts)

    first = np.zeros(len(rows), bool)
    first[starts] = True
    drop = train & (~first | (mixed_label | mixed_part)[group])
    listed = np.flatnonzero(mixed_label | mixed_part | (training > 1))
    listed = listed[np.argsort(-2 * mixed_label[listed] - mixed_part[listed], kind="stable")][:_LISTED]
    ends = np.append(starts[1:], len(rows))
    examples = tuple(
        tuple(
            f"{PARTS[parts[i]]}: {name(int(rows[i]))} ({classes[labels[rows[i]]]})"
            for i in range(starts[g], min(ends[g], starts[g] + _LISTED))
        )
        for g in listed
    )
    return Duplicates(
        within_train=int(np.maximum(training - 1, 0).sum()),
        across_sets=int(mixed_part.sum()),
        two_labels=int(mixed_label.sum()),
        examples=examples,
        droppable=np.sort(rows[drop]),
    )


def _spread(values: npt.NDArray[Any], starts: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return for each group whether its values differ."""
    differ: npt.NDArray[np.bool_] = np.maximum.reduceat(values, starts) != np.minimum.reduceat(values, starts)
    return differ

"""What a source of pictures is, and which one a job means."""

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from distaug.data.decode import Reference
from distaug.errors import DataError

__all__ = ["PARTS", "ROLES", "TEST", "TRAIN", "VAL", "Source", "existing", "printable", "role_of"]

Log = Callable[[str], None]

TRAIN, VAL, TEST = range(3)
PARTS = ("train", "val", "test")
ROLES = {"train": TRAIN, "val": VAL, "valid": VAL, "validation": VAL, "dev": VAL, "test": TEST}
"""Words in the name of a file or folder that say which set it holds."""


class Source(ABC):
    """Pictures with labels, in a fixed order; item i is the i-th of them.

    Making one is cheap and finds out whether the data is there; labels and pictures are read when asked for,
    because a node that holds the decoded cache never needs them.
    """

    real = True
    """Whether the pictures show something; made-up ones are for benchmarks."""
    scattered_bytes: int | None = None
    """Bytes of all pictures, where reading one alone is far dearer than all in order; None: it is not."""
    published: tuple[tuple[float, float, float], tuple[float, float, float]] | None = None
    """Well-known mean and standard deviation per channel, in units of the [0, 1] range."""

    @abstractmethod
    def content(self, log: Log) -> str:
        """Return a digest of everything that decides the items, wherever the files lie."""

    @property
    @abstractmethod
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their labels."""

    @property
    @abstractmethod
    def labels(self) -> npt.NDArray[np.int64]:
        """(N,) label of each item."""

    @property
    @abstractmethod
    def parts(self) -> npt.NDArray[np.int8]:
        """(N,) set that each item was put into by whoever made the data: TRAIN, VAL or TEST."""

    @abstractmethod
    def name(self, item: int) -> str:
        """Return a name for one item, by which the user can find it."""

    @abstractmethod
    def reference(self, item: int) -> Reference:
        """Return one picture, not decoded."""

    def references(self) -> Iterator[Reference]:
        """Yield all pictures in order, not decoded."""
        for item in range(len(self.labels)):
            yield self.reference(item)


def existing(path: str, source: str) -> Path:
    """Return an absolute path that exists.

    Raises:
        DataError: There is nothing there.
    """
    found = Path(path).expanduser().absolute()
    if not found.exists():
        nearest = next(parent for parent in found.parents if parent.exists())
        raise DataError(
            f"data.path = {path} (`source: {source}`) does not exist; the part of it that does is {nearest}"
        )
    return found


def role_of(name: str) -> int | None:
    """Return the set that a file or folder name speaks of, None when it names none.

    Raises:
        DataError: It names two.
    """
    roles = {ROLES[word] for word in re.split(r"[^a-z]+", name.lower()) if word in ROLES}
    if len(roles) > 1:
        named = " and ".join(PARTS[role] for role in sorted(roles))
        raise DataError(f"the name {printable(name)} speaks of {named}; rename it so that it says one of them")
    return roles.pop() if roles else None


def printable(name: str | Path) -> str:
    """Return a file name that any terminal can show, whatever bytes it is made of."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")

"""Open a job's data set: find the source, decode it once, divide it in three, and say what is in it."""

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from distaug.data.arrays import DigitsSource, SyntheticSource, TorchvisionSource
from distaug.data.cache import Cache, open_cache
from distaug.data.decode import DamagedPicture, Reference, eval_view, load
from distaug.data.duplicates import Duplicates, find_duplicates
from distaug.data.fetch import fetched
from distaug.data.folder import FolderSource
from distaug.data.source import PARTS, TEST, TRAIN, VAL, Log, Source, printable
from distaug.data.split import Rows, subsample, three_sets
from distaug.errors import DataError
from distaug.spec.data import DataSpec

__all__ = ["DataSet", "Split", "open_data"]

_LOGGER = logging.getLogger("distaug.data")
_LISTED = 20
_NAMED = 10


@dataclass(frozen=True, eq=False)
class Split:
    """One of the three sets; picture i is the i-th of it, and i is its sample id."""

    labels: Tensor
    """(n,) int64."""
    rows: Tensor
    """(n,) int64, the place of each picture in the cache."""
    cache: Cache
    max_pixels: int

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.labels)

    @property
    def pixels(self) -> Tensor | None:
        """(M, 3, S, S) uint8, the mapped cache, to be indexed by `rows`; None: decode references."""
        return self.cache.pixels

    def name(self, index: int) -> str:
        """Return where the user finds a picture."""
        return self.cache.name(int(self.rows[index]))

    def reference(self, index: int) -> Reference:
        """Return a picture, not decoded."""
        return self.cache.reference(int(self.rows[index]))

    def pictures(self, ids: Tensor) -> Tensor:
        """Return pictures as evaluation shows them.

        Args:
            ids: (B,) int64 indices into this set.

        Returns:
            (B, 3, S, S) uint8 on the CPU.

        Raises:
            DataError: A picture has been removed or damaged since it was checked.
        """
        if self.pixels is not None:
            return self.pixels.index_select(0, self.rows[ids])
        views = []
        for index in ids.tolist():
            try:
                pixels = load(self.reference(index), self.max_pixels)
            except DamagedPicture as error:
                raise DataError(f"{self.name(index)} was sound when it was checked: {error}") from error
            views.append(eval_view(pixels, self.cache.image_size).transpose(2, 0, 1))
        return torch.from_numpy(np.stack(views))


@dataclass(frozen=True, eq=False)
class DataSet:
    """The pictures of a job, divided, with what the job needs to know of them."""

    train: Split
    val: Split | None
    test: Split | None
    classes: tuple[str, ...]
    image_size: int
    """Height and width in pixels given to the model."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    """Per channel, in units of the [0, 1] range."""
    digest: str
    """Of every picture and label in their order: whatever decides which picture has which id."""
    report: dict[str, Any]
    """Plain values for records and reports: source, counts, damaged pictures, duplicates, sizes."""
    cached: bool
    """Whether the pictures are held decoded; otherwise they are decoded in every epoch."""


def open_data(
    spec: DataSpec,
    *,
    final_fit: bool = False,
    log: Callable[[str], None] = _LOGGER.warning,
) -> DataSet:
    """Open the data set of a job.

    Any number of processes of a node may do so at once: one decodes, the others wait.

    Args:
        spec: The section `data`.
        final_fit: Train on training and validation set together.
        log: Told what the user should know, a line at a time.

    Raises:
        DataError: The data is missing, damaged or does not fit the job.
        StorageError: The decoded pictures cannot be stored.
    """
    if spec.path is not None:
        spec = spec.model_copy(update={"path": fetched(spec.path, log)})
    source = _source(spec, log)
    cache = open_cache(source, spec, log)
    if len(cache.classes) < 2:
        raise DataError(f"the data has one class only ({', '.join(cache.classes)}); two are the least")
    labels = cache.index["label"].astype(np.int64)
    sets = three_sets(labels, cache.index["part"], spec, final_fit=final_fit)
    _refuse_empty_classes(sets, labels, cache.classes, "")
    hashes = np.ascontiguousarray(cache.index["hash"])
    duplicates = find_duplicates(hashes, labels, sets, cache.name, cache.classes)
    _tell_duplicates(duplicates, spec.drop_duplicates, log)
    if spec.drop_duplicates:
        sets[TRAIN] = np.setdiff1d(sets[TRAIN], duplicates.droppable)
        _refuse_empty_classes(sets, labels, cache.classes, " after data.drop_duplicates")
    sets[TRAIN] = subsample(sets[TRAIN], labels, len(cache.classes), spec)
    _warn_of_absent_classes(sets, labels, cache.classes, log)

    mean, std = _normalisation(source, cache, sets[TRAIN], spec)
    splits = {
        part: Split(torch.from_numpy(labels[rows]), torch.from_numpy(rows), cache, spec.max_pixels)
        for part, rows in sets.items()
    }
    return DataSet(
        train=splits[TRAIN],
        val=splits.get(VAL),
        test=splits.get(TEST),
        classes=cache.classes,
        image_size=cache.image_size,
        mean=mean,
        std=std,
        digest=_digest(cache, hashes, labels, sets),
        report=_report(spec, cache, sets, labels, duplicates, mean, std),
        cached=cache.pixels is not None,
    )


def _source(spec: DataSpec, log: Log) -> Source:
    if spec.source == "digits":
        return DigitsSource()
    if spec.source == "synthetic":
        return SyntheticSource(spec.synthetic, 32 if spec.image_size == "auto" else spec.image_size)
    if spec.source in ("folder", "parquet") and spec.path is None:
        raise DataError(f"`source: {spec.source}` needs data.path")
    if spec.source == "folder":
        return FolderSource(str(spec.path), log)
    if spec.source == "parquet":
        from distaug.data.parquet import ParquetSource  # pyarrow: slow to import, and most jobs do without

        return ParquetSource(str(spec.path))
    return TorchvisionSource(spec.source, spec.path, spec.download, log)


def _shown(names: list[str]) -> str:
    return ", ".join(map(printable, names[:_NAMED])) + (", …" if len(names) > _NAMED else "")


def _absent(rows: Rows, labels: npt.NDArray[np.int64], classes: tuple[str, ...]) -> list[str]:
    counts = np.bincount(labels[rows], minlength=len(classes))
    return [name for name, count in zip(classes, counts, strict=True) if not count]


def _refuse_empty_classes(
    sets: dict[int, Rows], labels: npt.NDArray[np.int64], classes: tuple[str, ...], when: str
) -> None:
    if absent := _absent(sets.get(TRAIN, np.empty(0, np.int64)), labels, classes):
        raise DataError(
            f"{len(absent)} of {len(classes)} classes have no training pictures{when}: {_shown(absent)}; "
            "add pictures or remove the classes"
        )


def _warn_of_absent_classes(
    sets: dict[int, Rows], labels: npt.NDArray[np.int64], classes: tuple[str, ...], log: Log
) -> None:
    for part in sorted(sets.keys() - {TRAIN}):
        if absent := _absent(sets[part], labels, classes):
            log(f"{len(absent)} of {len(classes)} classes have no pictures in {PARTS[part]}: {_shown(absent)}")


def _tell_duplicates(duplicates: Duplicates, drop: bool, log: Log) -> None:
    if duplicates.any:
        dropped = f"left out of train: {len(duplicates.droppable)} (all copies where labels differ)"
        log(f"{duplicates}; {dropped if drop else 'data.drop_duplicates: true leaves them out of train'}")


def _normalisation(
    source: Source, cache: Cache, train: Rows, spec: DataSpec
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Return mean and deviation per channel: given, published, or measured on the training set."""
    if spec.mean != "auto" and spec.std != "auto":
        return spec.mean, spec.std
    if source.published is not None:
        return source.published
    if cache.pixels is not None:
        total, squares = cache.index["sums"][train].sum(0)
        counted = cache.index["counted"][train].sum()
        mean, square = total / counted, squares / counted
    else:  # each picture counts alike, however large
        mean, square = (cache.index["sums"][train] / cache.index["counted"][train, None, None]).mean(0)
    # A channel that never changes would be divided by 0.
    deviation = np.sqrt(np.maximum(square - mean**2, 1.0))
    red, green, blue = (mean / 255).tolist()
    deviations = (deviation / 255).tolist()
    return (red, green, blue), (deviations[0], deviations[1], deviations[2])


def _digest(cache: Cache, hashes: npt.NDArray[np.uint64], labels: npt.NDArray[np.int64], sets: dict[int, Rows]) -> str:
    head = {"classes": cache.classes, "image_size": cache.image_size, "cached": cache.pixels is not None}
    digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    for part, rows in sorted(sets.items()):
        digest.update(f"{PARTS[part]} {len(rows)} ".encode())
        digest.update(labels[rows].astype("<i8").data)
        digest.update(hashes[rows].astype("<u8").data)
    return digest.hexdigest()


def _report(
    spec: DataSpec,
    cache: Cache,
    sets: dict[int, Rows],
    labels: npt.NDArray[np.int64],
    duplicates: Duplicates,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> dict[str, Any]:
    counts = {
        PARTS[part]: dict(
            zip(cache.classes, np.bincount(labels[rows], minlength=len(cache.classes)).tolist(), strict=True)
        )
        for part, rows in sorted(sets.items())
    }
    sizes = cache.index["size"]
    dropped = len(duplicates.droppable) if spec.drop_duplicates else 0
    return {
        "source": spec.source,
        "synthetic": not cache.source.real,
        "cached": cache.pixels is not None,
        "image_size": cache.image_size,
        "picture_sizes": {"smallest": sizes.min(0).tolist(), "largest": sizes.max(0).tolist()},
        "sizes": {PARTS[part]: len(rows) for part, rows in sorted(sets.items())},
        "per_class": counts,
        "damaged": {"count": len(cache.damaged), "listed": [list(one) for one in cache.damaged[:_LISTED]]},
        "duplicates": duplicates.report() | {"dropped": dropped},
        "mean": list(mean),
        "std": list(std),
    }

"""Decoded pictures on the node's disk, mapped into every process, their pages shared.

A folder `<cache>/<digest>-<side>` holds `meta.json`, `index.npy` (one record per sound picture) and
`pixels.bin`: (M, 3, side, side) uint8, where all pictures share one size. Pictures of different sizes, or too
many for the limit, have `<digest>-index` without pixels and are decoded when they are needed; the encoded
bytes of a source that is slow to read one by one then lie in its `encoded.bin`. Whether the pictures share a
size is noted in `<digest>.json`.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from distaug.data import build
from distaug.data.decode import Reference, Slice
from distaug.data.node import cache_root, locked, put_whole, storing
from distaug.data.source import Log, Source
from distaug.errors import DataError, StorageError
from distaug.spec.data import DataSpec

__all__ = ["Cache", "open_cache"]

MIXED_SIDE = 224
"""Side given to the model when the pictures have no square size of their own."""
_NAMED = 5


@dataclass(frozen=True, eq=False)
class Cache:
    """The sound pictures of a source, in the source's order; a row is a place among them."""

    source: Source
    folder: Path
    index: npt.NDArray[Any]
    """(M,) records, mapped."""
    pixels: Tensor | None
    """(M, 3, S, S) uint8, mapped; None when pictures are decoded as they are needed."""
    classes: tuple[str, ...]
    image_size: int
    damaged: tuple[tuple[str, str], ...]
    """(name, what is wrong) of each picture left out."""

    def name(self, row: int) -> str:
        """Return the name of a picture."""
        return self.source.name(int(self.index["item"][row]))

    def reference(self, row: int) -> Reference:
        """Return a picture, not decoded."""
        record = self.index[row]
        if record["length"]:
            return Slice(str(self.folder / build.ENCODED), int(record["offset"]), int(record["length"]))
        return self.source.reference(int(record["item"]))


class _Places:
    """Where things about one content are kept."""

    def __init__(self, source: Source, spec: DataSpec, log: Log) -> None:
        key = [build.FORMAT, type(source).__name__, source.content(log), spec.max_pixels]
        stem = cache_root() / hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]
        self.lock = stem.with_suffix(".lock")
        self.note = stem.with_suffix(".json")
        self.index = Path(f"{stem}-index")
        self.stem = stem

    def pixels(self, side: int) -> Path:
        return Path(f"{self.stem}-{side}")


def open_cache(source: Source, spec: DataSpec, log: Log) -> Cache:
    """Return the decoded pictures of a source, decoding them first where no process of this node has done so.

    Raises:
        DataError: More damaged pictures than `data.max_damaged`, or not one sound picture.
        StorageError: The disk is full or not writable.
    """
    places = _Places(source, spec, log)
    cache = _find(source, spec, places)
    if cache is None:
        with locked(places.lock, log, "decoding the same pictures"):
            cache = _find(source, spec, places)  # another process may have done it meanwhile
            if cache is None:
                _build(source, spec, places, log)
                cache = _find(source, spec, places)
    if cache is None:
        raise StorageError(f"the decoded pictures in {cache_root()} cannot be read back; check that disk")
    _judge_damage(cache, spec.max_damaged, log)
    return cache


def _judge_damage(cache: Cache, allowed: int, log: Log) -> None:
    if not cache.damaged:
        return
    total = len(cache.damaged) + len(cache.index)
    listed = "; ".join(f"{name} ({why})" for name, why in cache.damaged[:_NAMED])
    text = f"{len(cache.damaged)} of {total} pictures are damaged: {listed}"
    text += "; …" if len(cache.damaged) > _NAMED else ""
    if len(cache.damaged) > allowed or not len(cache.index):
        raise DataError(f"{text}. data.max_damaged allows {allowed}: mend or remove them, or allow more")
    log(f"{text}. They are left out")


def _fits(count: int, side: int, spec: DataSpec) -> bool:
    return count * 3 * side * side <= spec.cache_limit_gib * 2**30


def _side(shared: list[int] | None, spec: DataSpec) -> int:
    """Return the side of the model's pictures, given the height and width that all share, if they do."""
    if spec.image_size != "auto":
        return spec.image_size
    return shared[0] if shared and shared[0] == shared[1] else MIXED_SIDE


def _find(source: Source, spec: DataSpec, places: _Places) -> Cache | None:
    """Return what is on the disk and right for the job: pixels, or an index where they are not kept."""
    try:
        note = json.loads(places.note.read_text(encoding="utf-8"))
        shared, count = note["size"], note["count"]
    except (OSError, ValueError, KeyError):
        return None
    side = _side(shared, spec)
    if shared and _fits(count, side, spec):
        return _open(source, places.pixels(side), side)
    return _open(source, places.index, side)


def _open(source: Source, folder: Path, side: int) -> Cache | None:
    """Map a folder; None when it is absent, or when something other than this program has cut it short."""
    try:
        meta = json.loads((folder / build.META).read_text(encoding="utf-8"))
        if meta["format"] > build.FORMAT:
            raise DataError(f"{folder} has format {meta['format']}, this version reads up to {build.FORMAT}; remove it")
        if any((folder / name).stat().st_size != size for name, size in meta["bytes"].items()):
            return None
        # An array of no records cannot be mapped.
        index = np.load(folder / build.INDEX, mmap_mode="r" if meta["count"] else None)
    except (OSError, ValueError, KeyError):
        return None
    pixels = None
    if build.PIXELS in meta["bytes"]:
        # A private map: its pages are shared with all other processes until somebody writes to them.
        size = len(index) * 3 * side * side
        mapped = torch.from_file(str(folder / build.PIXELS), shared=False, size=size, dtype=torch.uint8)
        pixels = mapped.view(len(index), 3, side, side)
    damaged = tuple((name, why) for name, why in meta["damaged"])
    return Cache(source, folder, index, pixels, tuple(meta["classes"]), side, damaged)


def _build(source: Source, spec: DataSpec, places: _Places, log: Log) -> None:
    """Decode everything once; keep the pixels, or the index alone where sizes differ or they are too many."""
    shared = build.first_size(source, spec.max_pixels)
    count, limit = len(source.labels), spec.cache_limit_gib * 2**30
    side = _side(shared, spec)
    if shared and _fits(count, side, spec):
        plan = build.Plan(spec.max_pixels, side, (shared[0], shared[1]))
        try:
            build.write(source, places.pixels(side), plan, log)
        except build.SizesDiffer:
            shared = None
            log("the pictures have different sizes: all are checked once now, and decoded anew in each epoch")
    elif shared:
        log(f"{count:,} pictures are too many for data.cache_limit_gib = {spec.cache_limit_gib:g}: not kept")
    if not (shared and _fits(count, side, spec)):
        encoded = source.scattered_bytes is not None and source.scattered_bytes <= limit
        shared = build.write(source, places.index, build.Plan(spec.max_pixels, encoded=encoded), log)
    with storing(places.note.parent):
        put_whole(places.note, json.dumps({"size": shared, "count": count}))

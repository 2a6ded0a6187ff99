"""Decode all pictures of a source once and write them, or an index of them, to disk: whole or absent."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from math import isqrt
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from distaug.data.decode import DamagedPicture, Pixels, Reference, eval_view, load
from distaug.data.node import available_cores, free_bytes, storing
from distaug.data.order import in_order
from distaug.data.source import Log, Source
from distaug.errors import StorageError
from distaug.store.whole import sync_folder

__all__ = [
    "ENCODED",
    "FORMAT",
    "INDEX",
    "META",
    "PIXELS",
    "RECORD",
    "Plan",
    "SizesDiffer",
    "first_size",
    "write",
]

FORMAT = 1
META, INDEX, PIXELS, ENCODED = "meta.json", "index.npy", "pixels.bin", "encoded.bin"
RECORD = np.dtype(
    [
        ("item", "<i8"),  # number in the source
        ("label", "<i8"),
        ("part", "i1"),
        ("hash", "<u8", (2,)),  # of the size and the decoded pixels
        ("sums", "<i8", (2, 3)),  # of the pixels and of their squares, per channel
        ("counted", "<i8"),  # pixels in those sums
        ("size", "<i4", (2,)),  # height, width
        ("offset", "<i8"),  # in encoded.bin
        ("length", "<i8"),
    ]
)
"""What is known of each sound picture."""
_CHUNK = 32
_SUMMED_PIXELS = 1 << 18  # of a larger picture an even grid of about so many is enough
_TELL_EVERY_S = 10.0
_SMALL_PIXELS = 1 << 14  # below, more threads than one only wait for the interpreter's lock (measured)


class SizesDiffer(Exception):
    """Not all pictures have the height and width of the first one."""


@dataclass(frozen=True)
class Plan:
    """What is written beside the index."""

    max_pixels: int
    """Larger pictures count as damaged."""
    side: int | None = None
    """Side of the decoded pictures to keep; None: keep none."""
    size: tuple[int, int] | None = None
    """Height and width that every picture must then have."""
    encoded: bool = False
    """Whether to lay out the encoded bytes one after the other."""


class _Prepared(NamedTuple):
    """One picture as a thread hands it back."""

    hash: bytes
    size: tuple[int, int]
    sums: npt.NDArray[np.int64]
    counted: int
    view: Pixels | None
    encoded: bytes


def first_size(source: Source, max_pixels: int) -> list[int] | None:
    """Return height and width of the first sound picture, None when there is none."""
    for reference in source.references():
        try:
            height, width = load(reference, max_pixels).shape[:2]
        except DamagedPicture:
            continue
        return [height, width]
    return None


def write(source: Source, folder: Path, plan: Plan, log: Log) -> list[int] | None:
    """Write a cache folder under a temporary name and rename it. The caller holds the lock.

    Returns:
        The height and width that all pictures share, None when they differ.

    Raises:
        SizesDiffer: The pictures do not share the size in the plan; nothing is left behind.
        StorageError: The disk is full or not writable; nothing is left behind.
    """
    total = len(source.labels)
    needed = total * (RECORD.itemsize + (3 * plan.side**2 if plan.side else 0))
    needed += (source.scattered_bytes or 0) if plan.encoded else 0
    temporary = folder.with_name(f"{folder.name}.tmp")
    with storing(folder.parent, needed):
        for leftover in (temporary, folder):  # of a killed process; of a folder that is not whole
            if leftover.exists():
                shutil.rmtree(leftover)
        if (free := free_bytes(folder.parent)) < needed:
            raise StorageError(
                f"the pictures need {needed:,} bytes in {folder.parent}, {free:,} are free; "
                "point DISTAUG_CACHE to a larger disk, or set data.cache_limit_gib lower to decode them anew "
                "each epoch"
            )
        try:
            temporary.mkdir(parents=True)
            started = time.monotonic()
            shared = _fill(source, temporary, plan, log)
            os.rename(temporary, folder)
            sync_folder(folder.parent)
            log(f"decoded {total:,} pictures in {time.monotonic() - started:.1f} s into {folder}")
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    return shared


def _fill(source: Source, folder: Path, plan: Plan, log: Log) -> list[int] | None:
    told = time.monotonic()
    labels, parts = source.labels, source.parts
    records: list[tuple[Any, ...]] = []
    damaged: list[tuple[str, str]] = []
    with ExitStack() as stack:
        pixels = stack.enter_context(open(folder / PIXELS, "wb")) if plan.side else None
        encoded = stack.enter_context(open(folder / ENCODED, "wb")) if plan.encoded else None
        small = plan.size is not None and plan.size[0] * plan.size[1] < _SMALL_PIXELS
        pool = stack.enter_context(ThreadPoolExecutor(1 if small else available_cores()))
        for item, one in enumerate(stack.enter_context(closing(_prepared(pool, source, plan)))):
            if isinstance(one, str):
                damaged.append((source.name(item), one))
                continue
            offset = encoded.tell() if encoded else 0
            words = np.frombuffer(one.hash, "<u8")
            records.append(
                (
                    item,
                    labels[item],
                    parts[item],
                    words,
                    one.sums,
                    one.counted,
                    one.size,
                    offset,
                    len(one.encoded),
                )
            )
            if pixels and one.view is not None:
                pixels.write(np.ascontiguousarray(one.view.transpose(2, 0, 1)).data)
            if encoded:
                encoded.write(one.encoded)
            if time.monotonic() - told > _TELL_EVERY_S:
                told = time.monotonic()
                log(f"decoded {item + 1:,} of {len(labels):,} pictures")
        for file in filter(None, (pixels, encoded)):
            _finish(file)
    index = np.array(records, RECORD)
    with open(folder / INDEX, "wb") as file:
        np.save(file, index)
        _finish(file)
    meta = {
        "format": FORMAT,
        "classes": source.classes,
        "count": len(index),
        "bytes": {entry.name: entry.stat().st_size for entry in os.scandir(folder)},
        "damaged": damaged,
    }
    with open(folder / META, "wb") as file:
        file.write(json.dumps(meta).encode())
        _finish(file)
    sync_folder(folder)
    sizes = index["size"]
    return sizes[0].tolist() if len(sizes) and (sizes == sizes[0]).all() else None


def _prepared(pool: Executor, source: Source, plan: Plan) -> Generator[_Prepared | str]:
    chunks = _chunks(source.references())
    with closing(in_order(pool, partial(_prepare_chunk, plan), chunks, 4 * available_cores())) as results:
        for chunk in results:
            yield from chunk


def _chunks(references: Iterable[Reference]) -> Iterator[list[Reference]]:
    rest = iter(references)
    while chunk := list(islice(rest, _CHUNK)):
        yield chunk


def _prepare_chunk(plan: Plan, references: list[Reference]) -> list[_Prepared | str]:
    return [_prepare(plan, reference) for reference in references]


def _prepare(plan: Plan, reference: Reference) -> _Prepared | str:
    """Decode one picture and learn all there is to know of it; of a damaged one, say what is wrong."""
    try:
        pixels = load(reference, plan.max_pixels)
    except DamagedPicture as error:
        return str(error)
    height, width = pixels.shape[:2]
    if plan.size is not None and plan.size != (height, width):
        raise SizesDiffer
    digest = hashlib.sha256(f"{height} {width} ".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    step = max(1, isqrt(height * width // _SUMMED_PIXELS))
    grid = pixels[::step, ::step].reshape(-1, 3).astype(np.int64)
    sums = np.stack([grid.sum(0), np.einsum("ij,ij->j", grid, grid)])
    view = eval_view(pixels, plan.side, share=1) if plan.side else None
    encoded = reference if plan.encoded and isinstance(reference, bytes) else b""
    return _Prepared(digest.digest()[:16], (height, width), sums, len(grid), view, encoded)


def _finish(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())

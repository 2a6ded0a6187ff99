"""Parquet files in the Hugging Face image layout: column `image` {bytes, path}, column `label`."""

import json
import os
from collections.abc import Iterator
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from distaug.data.decode import Reference
from distaug.data.node import content_digest
from distaug.data.source import PARTS, TRAIN, Log, Source, existing, printable, role_of
from distaug.errors import DataError

__all__ = ["ParquetSource", "Row"]

_READ_ROWS = 256


class Row(NamedTuple):
    """One row of a file."""

    path: str
    row: int

    def read(self) -> bytes:
        """Return the encoded picture; reads the whole row group, and keeps the last one."""
        file = _open(Path(self.path))
        stamp = os.stat(self.path).st_mtime_ns
        group, first = 0, 0
        while first + file.metadata.row_group(group).num_rows <= self.row:
            first += file.metadata.row_group(group).num_rows
            group += 1
        value: bytes | None = _group(self.path, stamp, group)[self.row - first].as_py()
        return value or b""


# The time of the last change is part of the keys: a file may be written anew under a long-lived process.
@lru_cache(maxsize=1)
def _group(path: str, stamp: int, group: int) -> Any:
    table = _open(Path(path)).read_row_group(group, columns=["image"])
    return _encoded(table.column("image").combine_chunks())


@lru_cache(maxsize=64)
def _opened(path: Path, stamp: int) -> pq.ParquetFile:
    return pq.ParquetFile(path)


def _open(path: Path) -> pq.ParquetFile:
    try:
        return _opened(path, os.stat(path).st_mtime_ns)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} is not a Parquet file that can be read: {error}") from error


def _encoded(column: Any) -> Any:
    """Return the `bytes` of an image column, with nulls where the struct itself is null."""
    return column.flatten()[column.type.get_field_index("bytes")]


class ParquetSource(Source):
    """Rows of one file, or of all files in a folder; the file's name says which set its rows belong to."""

    def __init__(self, path: str) -> None:
        """Read the footers of the files.

        Args:
            path: A file (all of it is the training set) or a folder (searched at any depth).

        Raises:
            DataError: No files, no training file, other columns, or class names that differ between files.
        """
        root = existing(path, "parquet")
        self._files = _files(root)
        self._rows = [_open(file).metadata.num_rows for _, file in self._files]
        self.scattered_bytes = sum(file.stat().st_size for _, file in self._files)
        self._starts = np.concatenate([[0], np.cumsum(self._rows)]).astype(np.int64)
        names = {file: _checked(file) for _, file in self._files}
        first = self._files[0][1]
        for file, own in names.items():
            if own != names[first]:
                raise DataError(
                    f"the class names of {first.name} and {file.name} differ: {_shown(names[first])} and {_shown(own)}"
                )
        self._names = names[first]

    def content(self, log: Log) -> str:
        """Digest the files in order, each with the set it belongs to; their names are left out."""
        return content_digest([(PARTS[part], file) for part, file in self._files], log)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The names in the schema's metadata, else the labels as they are."""
        if self._names is not None:
            return self._names
        return tuple(str(label) for label in range(int(self.labels.max(initial=0)) + 1))

    @cached_property
    def labels(self) -> npt.NDArray[np.int64]:
        """(N,) column `label` of all files."""
        known = None if self._names is None else len(self._names)
        return np.concatenate([_labels(file, known) for _, file in self._files])

    @cached_property
    def parts(self) -> npt.NDArray[np.int8]:
        """(N,) set of each row, from the name of its file."""
        return np.repeat(np.array([part for part, _ in self._files], np.int8), self._rows)

    def _place(self, item: int) -> tuple[Path, int]:
        number = int(np.searchsorted(self._starts, item, side="right")) - 1
        return self._files[number][1], item - int(self._starts[number])

    def name(self, item: int) -> str:
        """Return the file's name and the row, from 0."""
        file, row = self._place(item)
        return f"{printable(file.name)} row {row}"

    def reference(self, item: int) -> Row:
        """Return where the row is."""
        file, row = self._place(item)
        return Row(str(file), row)

    def references(self) -> Iterator[Reference]:
        """Yield the encoded pictures in order."""
        for _, file in self._files:
            for batch in _open(file).iter_batches(_READ_ROWS, columns=["image"]):
                for encoded in _encoded(batch.column(0)).to_pylist():
                    yield encoded or b""


def _files(root: Path) -> list[tuple[int, Path]]:
    """Return (set, file) for each file: train, val, test, each by name."""
    if root.is_file():
        return [(TRAIN, root)]
    below = sorted(root.rglob("*.parquet"))
    found = [f for f in below if not any(part.startswith(".") for part in f.relative_to(root).parts)]
    if not found:
        raise DataError(f"{root} holds no file that ends in .parquet; `source: parquet` wants one or more")
    roles = [_role(file.relative_to(root)) for file in found]
    if all(role is None for role in roles):
        return [(TRAIN, file) for file in found]
    unnamed = [printable(file.name) for file, role in zip(found, roles, strict=True) if role is None]
    if unnamed:
        raise DataError(
            f"{root}: {len(unnamed)} of {len(found)} files do not say which set they hold "
            f"({', '.join(unnamed[:5])}); put train, val or test into the name of each file or its folder"
        )
    if TRAIN not in roles:
        raise DataError(f"{root} holds no training file among {', '.join(printable(f.name) for f in found[:5])}")
    return sorted((role, file) for file, role in zip(found, roles, strict=True) if role is not None)


def _role(relative: Path) -> int | None:
    """Ask the file's name first, then its folders from the innermost out."""
    for name in (relative.stem, *reversed(relative.parts[:-1])):
        if (role := role_of(name)) is not None:
            return role
    return None


def _checked(file: Path) -> tuple[str, ...] | None:
    """Check the columns of a file and return its class names, if it has any."""
    schema = _open(file).schema_arrow
    for column in ("image", "label"):
        if column not in schema.names:
            raise DataError(f"{file} has no column `{column}`; its columns are {', '.join(schema.names)}")
    image, label = schema.field("image").type, schema.field("label").type
    binary = pa.types.is_struct(image) and image.get_field_index("bytes") >= 0
    if not binary or not _is_binary(image.field("bytes").type):
        raise DataError(f"{file}: column `image` is {image}, not struct<bytes: binary, path: string>")
    if not pa.types.is_integer(label):
        raise DataError(f"{file}: column `label` is {label}, not whole numbers")
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features["label"]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return tuple(str(name) for name in names)


def _is_binary(kind: Any) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _labels(file: Path, known: int | None) -> npt.NDArray[np.int64]:
    column = _open(file).read(columns=["label"]).column("label")
    if column.null_count:
        row = column.is_null().to_pylist().index(True)
        raise DataError(f"{file}: {column.null_count} rows have no label, the first is row {row}")
    labels: npt.NDArray[np.int64] = column.to_numpy().astype(np.int64)
    wrong = labels < 0 if known is None else (labels < 0) | (labels >= known)
    if wrong.any():
        row = int(wrong.argmax())
        allowed = "0 and up" if known is None else f"0 to {known - 1} (the class names in the file)"
        raise DataError(
            f"{file}: the label of row {row} is {labels[row]}, allowed are {allowed}; {int(wrong.sum())} rows are wrong"
        )
    return labels


def _shown(names: tuple[str, ...] | None) -> str:
    return "none" if names is None else f"{len(names)} ({', '.join(names[:5])}…)"

"""Class folders of picture files: path/<class>/... or path/{train,val,test}/<class>/..."""

import os
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from distaug.data.node import content_digest
from distaug.data.source import PARTS, ROLES, TRAIN, Log, Source, existing, printable
from distaug.errors import DataError

__all__ = ["FolderSource"]

_PICTURES = frozenset(".avif .bmp .gif .jfif .jp2 .jpe .jpeg .jpg .pbm .pgm .png .pnm .ppm .tif .tiff .webp".split())
_LISTED = 5


class FolderSource(Source):
    """Pictures whose label is the name of the folder they lie in, at any depth below it."""

    def __init__(self, path: str, log: Log) -> None:
        """List the files.

        Args:
            path: Folder of class folders, or of folders `train`, `val`, `test` that hold the class folders.
            log: Told about files and folders that are left out.

        Raises:
            DataError: The folder is missing, empty, or its sets do not have the same classes.
        """
        self.root = existing(path, "folder")
        if not self.root.is_dir():
            raise DataError(f"data.path = {path} is a file; `source: folder` wants a folder of class folders")
        self._strays: Counter[str] = Counter()
        sets = _sets(self.root, log)
        found = {part: _class_folders(folder) for part, folder in sets.items()}
        self._classes = _same_classes(self.root, sets, found)
        self._files: list[str] = []
        labels: list[int] = []
        parts: list[int] = []
        for part, folders in sorted(found.items()):
            for label, name in enumerate(self._classes):
                files = list(self._walk(folders[name], frozenset()))
                if not files and part == TRAIN:
                    raise DataError(
                        f"the class folder {printable(folders[name])} holds no pictures; fill it or remove it"
                    )
                self._files += files
                labels += [label] * len(files)
                parts += [part] * len(files)
        self._labels = np.array(labels, np.int64)
        self._parts = np.array(parts, np.int8)
        if self._strays:
            shown = ", ".join(f"{count} {suffix}" for suffix, count in self._strays.most_common(_LISTED))
            log(f"{self._strays.total()} files in {path} have no picture's ending and are left out: {shown}")

    def _walk(self, folder: Path, above: frozenset[Path]) -> Iterator[str]:
        """Yield the pictures below a folder by name, relative to the root; links back up are not followed."""
        real = folder.resolve()
        if real in above:
            return
        for entry in _visible(folder):
            if entry.is_dir():
                yield from self._walk(Path(entry.path), above | {real})
            elif Path(entry.name).suffix.lower() in _PICTURES:
                yield os.path.relpath(entry.path, self.root)
            else:
                self._strays[Path(entry.name).suffix or "without an ending"] += 1

    def content(self, log: Log) -> str:
        """Digest the files and their names below the root; the name of the root is left out."""
        labelled = [
            (f"{part}/{label}/{name}", self.root / name)
            for part, label, name in zip(self._parts, self._labels, self._files, strict=True)
        ]
        return content_digest(labelled, log)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the class folders, sorted."""
        return self._classes

    @cached_property
    def labels(self) -> npt.NDArray[np.int64]:
        """(N,) label of each file."""
        return self._labels

    @cached_property
    def parts(self) -> npt.NDArray[np.int8]:
        """(N,) set of each file."""
        return self._parts

    def name(self, item: int) -> str:
        """Return the file's path below the root."""
        return printable(self._files[item])

    def reference(self, item: int) -> Path:
        """Return the file."""
        return self.root / self._files[item]


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"the folder {printable(folder)} cannot be read: {error.strerror}") from error
    # __MACOSX is what the Finder adds to an archive: hidden files in a folder that is not.
    return [e for e in entries if not e.name.startswith(".") and e.name != "__MACOSX"]


def _folders(folder: Path) -> dict[str, Path]:
    return {entry.name: Path(entry.path) for entry in _visible(folder) if entry.is_dir()}


def _class_folders(folder: Path) -> dict[str, Path]:
    found = _folders(folder)
    if not found:
        raise DataError(
            f"{printable(folder)} holds no class folders ({len(_visible(folder))} other files); "
            "put the pictures of each class into a folder of its own: <class>/picture.jpg"
        )
    return found


def _sets(root: Path, log: Log) -> dict[int, Path]:
    """Return the folder of each set; the root alone when the class folders lie right in it.

    A class may well be called "train": only a folder that holds folders is taken for a set.
    """
    inside = _folders(root)
    named = {name: ROLES[name.lower()] for name in inside if name.lower() in ROLES}
    if not any(_folders(inside[name]) for name in named):
        return {TRAIN: root}
    sets: dict[int, Path] = {}
    for name, part in named.items():
        if part in sets:
            raise DataError(f"{root} holds two folders for {PARTS[part]}: {sets[part].name} and {name}; keep one")
        sets[part] = inside[name]
    if TRAIN not in sets:
        raise DataError(f"{root} holds {', '.join(named)}, but no folder `train`; the training pictures go there")
    if others := sorted(inside.keys() - named.keys()):
        shown = ", ".join(map(printable, others[:_LISTED]))
        log(f"{root}: left out, for it is neither train, val nor test: {shown}")
    return sets


def _same_classes(root: Path, sets: dict[int, Path], found: dict[int, dict[str, Path]]) -> tuple[str, ...]:
    classes = tuple(sorted(found[TRAIN]))
    if len(classes) < 2:
        raise DataError(f"{printable(root)} holds one class only ({printable(classes[0])}); two are the least")
    for part, folders in found.items():
        missing, extra = sorted(set(classes) - folders.keys()), sorted(folders.keys() - set(classes))
        if missing or extra:
            wrong = [f"only in {sets[TRAIN].name}: {', '.join(map(printable, missing[:_LISTED]))}"] * bool(missing)
            wrong += [f"only in {sets[part].name}: {', '.join(map(printable, extra[:_LISTED]))}"] * bool(extra)
            raise DataError(
                f"the class folders of {sets[TRAIN].name} ({len(classes)}) and {sets[part].name} "
                f"({len(folders)}) differ ({'; '.join(wrong)}); every set needs the same class folders"
            )
    return classes

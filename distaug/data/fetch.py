"""A data set in an object store: each node has one copy of it, whole or absent."""

import fcntl
import hashlib
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from distaug.data.node import cache_root, locked, storing
from distaug.data.source import Log
from distaug.errors import DataError
from distaug.store.place import is_url, place

if TYPE_CHECKING:
    from distaug.store.objects import ObjectPath

__all__ = ["at_hand", "fetched"]

_AT_A_TIME = 16
_CHANGES = ("ETag", "etag", "generation", "md5Hash", "VersionId")
"""What tells one content of a file from another, by store."""
_IN_USE: dict[Path, int] = {}
"""Copies that this process may read until it ends: the descriptor of the lock that says so."""


def fetched(path: str, log: Log) -> str:
    """Return the path of a data set on this node, where the first process that asks fetches it.

    Args:
        path: What the job says: a path, returned as it is, or a URL.
        log: Told what is fetched, or waited for.

    Raises:
        DataError: There is nothing, or it changed while it was fetched.
        JobError: The URL cannot be used.
        StorageError: The store does not give it, or this node's disk is full.
    """
    if not is_url(path):
        return path
    url = place(path)
    if isinstance(url, Path):
        return str(url)
    files = url.files()
    copy = _copy(url, files)
    with storing(copy.parent, 0, f"the data of {url}"):
        _use(copy)
    try:
        _bring(url, files, copy, log)
    except BaseException:
        os.close(_IN_USE.pop(copy))
        raise
    return str(copy)


def _bring(url: "ObjectPath", files: dict[str, dict[str, Any]], copy: Path, log: Log) -> None:
    if copy.exists():
        return
    size = sum(int(info["size"]) for info in files.values())
    with locked(copy.parent.with_suffix(".lock"), log, f"fetching {url}"):
        if not copy.exists():
            log(f"fetching {url}: {len(files):,} files, {size / 2**20:,.1f} MiB, to {copy}")
            with storing(copy.parent, size, f"the data of {url}"):
                _fetch(url, files, copy)
            _remove_older(copy)


def at_hand(path: str) -> bool:
    """Return whether a data set can be read without fetching it from an object store."""
    url = place(path) if is_url(path) else Path()
    return isinstance(url, Path) or _copy(url, url.files()).exists()


def _copy(url: "ObjectPath", files: dict[str, dict[str, Any]]) -> Path:
    """Return where the copy of these files is, or will be; its name is that of the original."""
    if not files:
        raise DataError(f"data.path = {url} holds no files; put the data set there, or look for a slip in the URL")
    contents = sorted((name, info["size"], *_content(info)) for name, info in files.items())
    return cache_root() / "fetched" / _key(str(url)) / _key(contents) / (url.name or url.bucket)


def _key(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:32]


def _content(info: dict[str, Any]) -> list[str]:
    return [str(info[name]) for name in _CHANGES if info.get(name)]


def _use(copy: Path) -> None:
    """Keep other processes from removing a copy for as long as this one lives."""
    if copy not in _IN_USE:
        copy.parent.parent.mkdir(parents=True, exist_ok=True)
        _IN_USE[copy] = os.open(copy.parent.with_suffix(".used"), os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(_IN_USE[copy], fcntl.LOCK_SH)


def _remove_older(copy: Path) -> None:
    """Remove the copies of what the URL held before, but for those that a process may still read."""
    for used in copy.parent.parent.glob("*.used"):
        older = used.with_suffix("")
        if older == copy.parent:
            continue
        with open(used) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            shutil.rmtree(older, ignore_errors=True)


def _fetch(url: "ObjectPath", files: dict[str, dict[str, Any]], copy: Path) -> None:
    """Fetch into a folder of another name, which gets its own when all files are there as they were listed.

    What an earlier try has fetched in full stays: the folder above is for these very contents.
    """
    partial, parts = copy.with_name(f".{copy.name}.partial"), copy.with_name(f".{copy.name}.parts")
    _check_names(url, files)
    shutil.rmtree(parts, ignore_errors=True)
    targets = {name: partial / name if name else partial for name in files}
    for folder in {parts, *(target.parent for target in targets.values())}:
        folder.mkdir(parents=True, exist_ok=True)

    def one(number: int, name: str) -> None:
        if not targets[name].exists():
            part = parts / str(number)
            (url / name if name else url).fetch(part)
            if part.stat().st_size != files[name]["size"]:
                raise FileNotFoundError
            os.replace(part, targets[name])

    try:
        with ThreadPoolExecutor(_AT_A_TIME) as pool:
            list(pool.map(one, range(len(files)), files))
        if _copy(url, url.files()) != copy:
            raise FileNotFoundError
    except FileNotFoundError as error:
        shutil.rmtree(copy.parent)  # There may be files of both contents.
        raise DataError(
            f"data.path = {url} changed while it was fetched; run the job again when it is still"
        ) from error
    os.replace(partial, copy)
    shutil.rmtree(parts, ignore_errors=True)


def _check_names(url: "ObjectPath", files: dict[str, dict[str, Any]]) -> None:
    folders = {str(folder) for name in files for folder in PurePosixPath(name).parents}
    if both := sorted(folders & files.keys()):
        raise DataError(
            f"data.path = {url} holds a file {both[0]!r} and files below that name, which a disk cannot hold both; "
            "rename or remove one"
        )

"""A data set in an object store: each node has one copy of it, whole or absent."""

import hashlib
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
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
    if not copy.exists():
        size = sum(int(info["size"]) for info in files.values())
        with locked(copy.parent.with_suffix(".lock"), log, f"fetching {url}"):
            if not copy.exists():
                log(f"fetching {url}: {len(files):,} files, {size / 2**20:,.1f} MiB, to {copy}")
                with storing(copy.parent, size, f"the data of {url}"):
                    _fetch(url, files, copy)
    return str(copy)


def at_hand(path: str) -> bool:
    """Return whether a data set can be read without fetching it from an object store."""
    url = place(path) if is_url(path) else Path()
    return isinstance(url, Path) or _copy(url, url.files()).exists()


def _copy(url: "ObjectPath", files: dict[str, dict[str, Any]]) -> Path:
    """Return where the copy of these files is, or will be; its name is that of the original."""
    if not files:
        raise DataError(f"data.path = {url} holds no files; put the data set there, or look for a slip in the URL")
    key = [str(url), sorted((name, info["size"], *_content(info)) for name, info in files.items())]
    return (
        cache_root() / "fetched" / hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32] / (url.name or url.bucket)
    )


def _content(info: dict[str, Any]) -> list[str]:
    return [str(info[name]) for name in _CHANGES if info.get(name)]


def _fetch(url: "ObjectPath", files: dict[str, dict[str, Any]], copy: Path) -> None:
    """Fetch into a folder of another name, which gets its own when all files are there as they were listed."""
    partial = copy.with_name(f".{copy.name}.partial")
    if partial.is_dir():  # of a process that was killed
        shutil.rmtree(partial)
    targets = {name: partial / name if name else partial for name in files}
    for folder in {target.parent for target in targets.values()}:
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with ThreadPoolExecutor(_AT_A_TIME) as pool:
            list(pool.map(lambda name: (url / name if name else url).fetch(targets[name]), files))
        same = all(target.stat().st_size == files[name]["size"] for name, target in targets.items())
        if not same or _copy(url, url.files()) != copy:
            raise FileNotFoundError
    except FileNotFoundError as error:
        raise DataError(
            f"data.path = {url} changed while it was fetched; run the job again when it is still"
        ) from error
    os.replace(partial, copy)

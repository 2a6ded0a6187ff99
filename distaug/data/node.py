"""The node's store of decoded pictures: where it is, who may write, and the digest of files."""

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from distaug.errors import StorageError

__all__ = ["available_cores", "cache_root", "content_digest", "locked", "put_whole", "storing"]

Log = Callable[[str], None]

_REFUSED = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR}


def cache_root() -> Path:
    """Return the folder of all caches: $DISTAUG_CACHE, $XDG_CACHE_HOME/distaug or ~/.cache/distaug."""
    if own := os.environ.get("DISTAUG_CACHE"):
        return Path(own).expanduser().absolute()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared).absolute() / "distaug"
    return Path.home() / ".cache" / "distaug"


def available_cores() -> int:
    """Return the cores that this process may use: its affinity, cut down to the quota of its control group."""
    cores = len(os.sched_getaffinity(0))
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.is_file():
        limit, period = quota.read_text().split()[:2]
        if limit != "max":
            cores = min(cores, max(1, int(limit) // int(period)))
    return cores


@contextmanager
def storing(folder: Path, needed: int = 0, what: str = "decoded pictures") -> Iterator[None]:
    """Turn a full, read-only or forbidden disk into a StorageError.

    Args:
        folder: What is written to, for the message.
        needed: Bytes that were to be written, for the message.
        what: What is written, for the message.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        raise StorageError(
            f"cannot write {what} to {folder}: {error.strerror} ({needed:,} bytes needed, "
            f"{free_bytes(folder):,} free); point DISTAUG_CACHE to a writable disk with more space, "
            "or set data.cache_limit_gib lower to decode the pictures anew each epoch"
        ) from error


def free_bytes(folder: Path) -> int:
    """Return the bytes that can still be written to the disk of a folder, which may not exist yet."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


@contextmanager
def locked(path: Path, log: Log, what: str) -> Iterator[None]:
    """Hold a lock among the processes of this node; a process that dies lets go of it.

    Args:
        path: The lock's file; it is made when missing and stays.
        log: Told when another process is being waited for.
        what: What the other process is doing, for the log.
    """
    with storing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log(f"waiting for another process that is {what}")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def put_whole(path: Path, text: str) -> None:
    """Write a small file so that nobody ever sees half of it."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def content_digest(files: Sequence[tuple[str, Path]], log: Log) -> str:
    """Return a sha256 of files: of each one's label and content, not of its place or its times.

    Reading everything takes time, so the answer is kept beside a fingerprint of sizes, times and inodes.

    Args:
        files: (label, path) of each file in a fixed order; the label is whatever of the name has a meaning.
        log: Told when there is much to read.
    """
    fingerprint, size = _fingerprint(files)
    labels = "\0".join(f"{label}\0{path}" for label, path in files)
    memo = cache_root() / "memo" / f"{hashlib.sha256(os.fsencode(labels)).hexdigest()[:32]}.json"
    with locked(memo.with_suffix(".lock"), log, "reading the same files"):
        try:
            known = json.loads(memo.read_text(encoding="utf-8"))
            if known["fingerprint"] == fingerprint:
                return str(known["digest"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # no memo, or a torn one: read the files
        if size > 1 << 30:
            log(f"reading {len(files)} files ({size / 2**30:.1f} GiB) once to know their content")
        digest = _read_all(files)
        with storing(memo.parent):
            put_whole(memo, json.dumps({"fingerprint": fingerprint, "digest": digest}))
    return digest


def _fingerprint(files: Iterable[tuple[str, Path]]) -> tuple[str, int]:
    # Change time and inode tell of a file replaced by one of the same size and modification time.
    total, parts = 0, hashlib.sha256()
    for label, path in files:
        stat = os.stat(path)
        total += stat.st_size
        parts.update(os.fsencode(f"{label}\0"))
        parts.update(f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino}\n".encode())
    return parts.hexdigest(), total


def _read_all(files: Sequence[tuple[str, Path]]) -> str:
    def read(path: Path) -> bytes:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()

    whole = hashlib.sha256()
    with ThreadPoolExecutor(available_cores()) as pool:
        for (label, _), digest in zip(files, pool.map(read, [path for _, path in files]), strict=True):
            whole.update(hashlib.sha256(os.fsencode(label)).digest() + digest)
    return whole.hexdigest()

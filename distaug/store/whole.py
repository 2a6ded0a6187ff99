"""Writes that are whole or absent: nobody ever reads half a file or half a folder.

A file is written under a temporary name, synced and renamed. A folder is written under a temporary name too,
and its `seal` (the one file that says what the others are) comes last, by rename: a folder without its seal
does not exist. Removing goes the other way round, so that a kill at any moment leaves whole things or
nothing.

An object store has no rename, but a file that is put there is whole or absent by itself. So a folder gets its files
under their final names, and its seal last.
"""

import errno
import getpass
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from distaug.errors import StorageError
from distaug.store import lease
from distaug.store.place import Place

__all__ = [
    "LEFTOVERS",
    "SAVING",
    "finish_folder",
    "remove_folder",
    "remove_tree",
    "storing",
    "sync_folder",
    "write_folder",
    "write_synced",
    "write_whole",
]

SAVING = ".saving-"
"""What the name of a folder begins with while it is written."""
LEFTOVERS = ".*.tmp"
"""Pattern of the names of files that are being written."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)


def _refusal(error: OSError, folder: Place, needed_bytes: int) -> str:
    if not isinstance(folder, Path):
        return f"cannot write in {folder}: {error.strerror or error} ({error.filename})"
    place = folder
    while not place.is_dir() and place != place.parent:
        place = place.parent
    try:
        usage = os.statvfs(place)
        free = f"{usage.f_bavail * usage.f_frsize:,} bytes are free"
    except OSError:
        free = "the free space is unknown"
    text = f"cannot write in {folder}: {error.strerror or error} (needed {needed_bytes:,} bytes, {free}); "
    if error.errno in _FULL:
        return text + "free some space or give `runs_dir` a folder on a larger disk, then run the job again"
    if error.errno in _REFUSED:
        return text + f"make it writable for the user {_user()} or give `runs_dir` another folder"
    return text + f"look at {error.filename or folder}, or give `runs_dir` another folder"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without an entry in the password file
        return str(os.getuid())


@contextmanager
def storing(folder: Place, needed_bytes: int = 0) -> Iterator[None]:
    """Turn an OSError of the block into a StorageError.

    Args:
        folder: The folder that is written to, for the message.
        needed_bytes: Bytes that the block wants to write in all, for the message.

    Raises:
        StorageError: The disk is full, read-only, not ours or broken; with the needed and the free bytes.
    """
    try:
        yield
    except OSError as error:
        raise StorageError(_refusal(error, folder, needed_bytes)) from error


def write_synced(path: Path, data: bytes) -> None:
    """Write a new file and wait until it is on the disk; an existing one is refused (OSError)."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the folder's names are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_by_rename(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")  # matches LEFTOVERS
    try:
        write_synced(temporary, data)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_whole(path: Place, data: bytes) -> None:
    """Write or replace a file so that every reader finds the old content or the new one, never a part.

    Raises:
        StorageError: The disk is full or the folder cannot be written; the old content is untouched.
    """
    if not isinstance(path, Path):
        lease.check(path)
        path.write_bytes(data)
        return
    with storing(path.parent, len(data)):
        _write_by_rename(path, data)


def write_folder(path: Place, files: Mapping[str, bytes], *, seal: str) -> None:
    """Write or replace a folder of files; after a kill it is the old one, the new one or absent, no mixture.

    In an object store there is no moment at which the new one takes the old one's place: it is absent meanwhile.

    Args:
        path: The folder; its parent must exist.
        files: Content by file name, with the seal among them.
        seal: Name of the file that is written last and makes the folder count.

    Raises:
        StorageError: The disk is full or the folder cannot be written; nothing half-written remains.
    """
    if not isinstance(path, Path):
        remove_folder(path, seal=seal)
        with ThreadPoolExecutor(len(files)) as uploads:  # side by side, for one alone does not fill the line
            list(uploads.map(lambda name: (path / name).write_bytes(files[name]), files.keys() - {seal}))
        # Which asks for the lock once more: the uploads may have taken so long that another process has followed.
        write_whole(path / seal, files[seal])
        return
    saving = path.with_name(SAVING + path.name)
    with storing(path.parent, sum(map(len, files.values()))):
        remove_folder(saving, seal=seal)
        try:
            saving.mkdir()
            for name, data in files.items():
                if name != seal:
                    write_synced(saving / name, data)
            sync_folder(saving)
            _write_by_rename(saving / seal, files[seal])
        except BaseException:
            with suppress(OSError):  # the first error is the one to tell
                remove_folder(saving, seal=seal)
            raise
        finish_folder(path, seal=seal)


def finish_folder(path: Path, *, seal: str) -> None:
    """Give a folder that is sealed under its temporary name its real name, in place of an older one."""
    # Between the two lines only the temporary name has a sealed folder: readers of checkpoints look there
    # too.
    remove_folder(path, seal=seal)
    os.rename(path.with_name(SAVING + path.name), path)
    sync_folder(path.parent)


def remove_folder(path: Place, *, seal: str) -> None:
    """Remove a folder if it is there, its seal first: a kill leaves no sealed folder with missing files."""
    if not isinstance(path, Path):
        lease.check(path)
        (path / seal).unlink(missing_ok=True)
        path.remove_below()
        return
    if not path.is_dir():
        return
    (path / seal).unlink(missing_ok=True)
    sync_folder(path)
    # On NFS a file that somebody is just copying cannot go; what stays has no seal and goes at the next save.
    shutil.rmtree(path, ignore_errors=True)


def remove_tree(path: Place) -> None:
    """Remove a folder that nobody reads any more, with all below it, if it is there."""
    if isinstance(path, Path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        lease.check(path)
        path.remove_below()

"""Files that grow a line at a time; a line exists when its end does."""

import os
from pathlib import Path

from distaug.errors import StorageError
from distaug.store.place import Place
from distaug.store.whole import storing, write_whole

__all__ = ["append", "read"]


def append(path: Place, line: bytes) -> None:
    """Add a line; one that was torn by an earlier kill is cut off first.

    Args:
        path: The file, which is made when missing.
        line: With its end.

    Raises:
        StorageError: It cannot be written; the lines before stay as they are.
    """
    if not isinstance(path, Path):
        write_whole(path, b"".join(read(path)) + line)  # an object can only be put whole
        return
    with storing(path.parent, len(line)), open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
        end = _whole(file.read())
        file.seek(end)
        try:
            file.truncate()
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            file.truncate(end)
            raise


def read(path: Place) -> list[bytes]:
    """Return the lines with their ends, none if there is no file; a torn last line is left out.

    Raises:
        StorageError: The file cannot be read.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    return data[: _whole(data)].splitlines(keepends=True)


def _whole(data: bytes) -> int:
    """Return the length of the data up to the last line end."""
    return data.rfind(b"\n") + 1

"""Where runs and data are: folders of this machine, and URLs of object stores.

A `file://` URL is the path it names. For `s3://` and `gs://` the libraries are imported here and not before: a run in
a folder does not pay for them.
"""

import importlib
import importlib.util
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, Union
from urllib.parse import unquote, urlsplit

from distaug.errors import JobError

if TYPE_CHECKING:
    from distaug.store.objects import ObjectPath

__all__ = ["Place", "is_url", "place"]

Place: TypeAlias = Union[Path, "ObjectPath"]
"""A file or folder, here or in an object store."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_LIBRARIES = {"s3": "s3fs", "gs": "gcsfs"}
"""What a scheme needs, under the name of its extra."""


def is_url(where: "str | Place") -> bool:
    """Return whether it is the text of a URL."""
    return isinstance(where, str) and _SCHEME.match(where) is not None


def place(where: "str | Place") -> Place:
    """Return a path, absolute, or what stands for it in an object store; nothing is touched.

    Args:
        where: A path (`~` is the home folder) or a URL: `file://`, `s3://bucket/folder`, `gs://bucket/folder`.

    Raises:
        JobError: The URL has a password in it or no bucket, or its scheme is unknown or not installed.
    """
    if not isinstance(where, str | Path):
        return where
    match = _SCHEME.match(where) if isinstance(where, str) else None
    if match is None:
        # Absolute from the start: the workers of a cluster run in working directories of their own.
        return Path(os.path.abspath(Path(where).expanduser()))
    scheme, rest = match[1].lower(), str(where)[match.end() :]
    _refuse_secrets(scheme, rest)
    if scheme == "file":
        return _local(str(where))
    library = _LIBRARIES.get(scheme)
    if library is None:
        raise JobError(f"{where} has the unknown scheme {scheme}; give a path or a URL with file, s3 or gs")
    parts = rest.rstrip("/").split("/")
    if not all(parts) or {".", ".."} & set(parts):
        raise JobError(f"{where} names no place in a bucket; give {scheme}://bucket/folder, without `.` and `..`")
    if missing := [name for name in (library, "upath") if importlib.util.find_spec(name) is None]:
        raise JobError(f"{where} needs {' and '.join(missing)}: pip install 'distaug[{scheme}]'")
    from distaug.store.objects import ObjectPath

    return ObjectPath(f"{scheme}://{'/'.join(parts)}")


def _refuse_secrets(scheme: str, rest: str) -> None:
    """Refuse `s3://key:secret@bucket`, without repeating it: it would be in job files, logs and messages."""
    user, at, bucket = rest.split("/")[0].rpartition("@")
    if at:
        raise JobError(
            f"a {scheme}:// URL for {bucket!r} has credentials in it, which everybody sees who sees the job; give "
            f"{scheme}://{bucket}/… and put them into the environment of the nodes (AWS_ACCESS_KEY_ID, "
            "AWS_SECRET_ACCESS_KEY), or use the identity that the machine has"
        )


def _local(url: str) -> Path:
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise JobError(f"{url} is on the host {parts.netloc!r}; give file:///path with three slashes, or the path")
    return Path(os.path.abspath(unquote(parts.path)))

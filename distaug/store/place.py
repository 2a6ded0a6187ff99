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
_SLIP = re.compile(r"(s3|gs):/", re.IGNORECASE)
"""What is no path either: nobody names a folder so."""
_LIBRARIES = {"s3": "s3fs", "gs": "gcsfs"}
"""What a scheme needs, under the name of its extra."""
_SECRETS = {"s3": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY", "gs": "GOOGLE_APPLICATION_CREDENTIALS"}
"""What a scheme's credentials are in."""


def is_url(where: "str | Place") -> bool:
    """Return whether it is the text of a URL, or is meant to be."""
    return isinstance(where, str) and (_SCHEME.match(where) or _SLIP.match(where)) is not None


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
    if match is None and is_url(where):
        scheme = str(where).partition(":")[0].lower()
        raise JobError(f"a URL has two slashes after `{scheme}:`; give {scheme}://bucket/folder")
    if match is None:
        # Absolute from the start: the workers of a cluster run in working directories of their own.
        return Path(os.path.abspath(Path(where).expanduser()))
    scheme, rest = match[1].lower(), str(where)[match.end() :]
    if scheme == "file":
        return _local(str(where))
    library = _LIBRARIES.get(scheme)
    if library is None:  # not repeated, since there may be a password in it
        raise JobError(f"a URL has the unknown scheme {scheme}; give a path or a URL with file, s3 or gs")
    _refuse_secrets(scheme, rest)
    parts = rest.rstrip("/").split("/")
    if not all(parts) or {".", ".."} & set(parts):
        raise JobError(f"{where} names no place in a bucket; give {scheme}://bucket/folder, without `.` and `..`")
    if missing := [name for name in (library, "upath") if importlib.util.find_spec(name) is None]:
        raise JobError(f"{where} needs {' and '.join(missing)}: pip install 'distaug[{scheme}]'")
    from distaug.store.objects import ObjectPath

    return ObjectPath(f"{scheme}://{'/'.join(parts)}")


def _refuse_secrets(scheme: str, rest: str) -> None:
    """Refuse `s3://key:secret@bucket`, without repeating it: it would be in job files, logs and messages.

    A secret may have slashes in it, so that the `@` need not be in the first part.
    """
    if {":", "@"} & set(rest.split("/")[0]):
        raise JobError(
            f"a {scheme}:// URL has `:` or `@` where only the bucket's name belongs, as one with credentials in it, "
            f"which everybody sees who sees the job; give {scheme}://bucket/folder and put them into the environment "
            f"of the nodes ({_SECRETS[scheme]}), or use the identity that the machine has"
        )


def _local(url: str) -> Path:
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise JobError(f"{url} is on the host {parts.netloc!r}; give file:///path with three slashes, or the path")
    return Path(os.path.abspath(unquote(parts.path)))

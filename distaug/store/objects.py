"""Files of an object store, as paths.

The libraries below answer some questions wrongly where it matters: a listing may be an old one, and of a store that
cannot be reached or does not let us in they say that there is no such file. Here nothing is remembered, "not there" is
a FileNotFoundError as of any path, and whatever else goes wrong is a StorageError that says what to do.
"""

import errno
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from typing import Any, Self

from aiohttp import ClientTimeout
from upath.extensions import ProxyUPath

from distaug.errors import StorageError

__all__ = ["ObjectPath"]

# A store that cannot be reached is told of within half a minute, one that does not answer within a minute or so; of
# Google's within two minutes, since its client asks six times, with growing pauses.
_CONNECT_S, _READ_S, _ATTEMPTS = 5, 20, 3
_OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {
        "use_listings_cache": False,
        "config_kwargs": {
            "connect_timeout": _CONNECT_S,
            "read_timeout": _READ_S,
            "retries": {"max_attempts": _ATTEMPTS, "mode": "standard"},
        },
    },
    "gs": {
        "use_listings_cache": False,
        "requests_timeout": ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_READ_S / 2),
        "retry_timeout": _CONNECT_S,  # of the question what kind of bucket it is, which may stay open
    },
}
_AT_A_TIME = 16
logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # It logs tracebacks of what it raises.
_OF_THIS_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
"""Errors of the disk that a file is fetched to; a store's have other numbers or none."""
_NO_CREDENTIALS = ("NoCredentials", "PartialCredentials", "CredentialRetrieval", "DefaultCredentials", "RefreshError")
_CUT = ("ClientPayload", "IncompleteRead", "ResponseStreaming", "ServerDisconnected", "ConnectionClosed")
"""Errors of a connection that ended in the middle of a content."""
_UNREACHABLE = ("Connect", "Timeout", "EndpointResolution", "ProxyConnection", *_CUT)
_FULL = ("StorageFull", "QuotaExceeded", "InsufficientStorage", "EntityTooLarge")


class ObjectPath(ProxyUPath):
    """A file of an object store, or what its names make look like a folder."""

    __slots__ = ()

    def __init__(self, url: str) -> None:
        scheme = url.partition("://")[0]
        super().__init__(url, protocol=scheme, **_OPTIONS[scheme])

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self),)

    @property
    def bucket(self) -> str:
        """Name of the bucket."""
        return str(self.path).partition("/")[0]

    def _ask(self, method: str, *arguments: Any, **options: Any) -> Any:
        """Call a method of the file system, which is connected when it is asked for the first time."""
        try:
            if self.protocol == "s3":
                # Its client tries again by itself; once more around that would multiply the waiting.
                self.fs.retries = 1
            return getattr(self.fs, method)(*arguments, **options)
        except FileNotFoundError as error:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self)) from error
        except FileExistsError as error:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(self)) from error
        except StorageError:
            raise
        except OSError as error:
            if error.errno in _OF_THIS_MACHINE:
                raise
            raise StorageError(_explained(self, error)) from error
        except Exception as error:  # of three libraries, with no class in common
            raise StorageError(_explained(self, error)) from error

    def _get(self, method: str, *arguments: Any) -> Any:
        """Call a method that brings a content; the clients try a request again, but not what follows its answer."""
        for _ in range(_ATTEMPTS - 1):
            try:
                return self._ask(method, self.path, *arguments)
            except StorageError as error:
                if not any(word in type(error.__cause__).__name__ for word in _CUT):
                    raise
        return self._ask(method, self.path, *arguments)

    def _info(self) -> dict[str, Any] | None:
        try:
            return dict(self._ask("info", self.path))
        except FileNotFoundError:
            return None

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        """Return whether there is a file of this name, or one below it."""
        return self._info() is not None

    def is_file(self) -> bool:
        """Return whether there is a file of this name."""
        info = self._info()
        return info is not None and info["type"] == "file"

    def is_dir(self) -> bool:
        """Return whether there are files below this name."""
        info = self._info()
        return info is not None and info["type"] == "directory"

    def read_bytes(self) -> bytes:
        """Return the content.

        Raises:
            FileNotFoundError: It is not there.
            StorageError: The store does not give it.
        """
        return bytes(self._get("cat_file"))

    def write_bytes(self, data: bytes, *, new: bool = False) -> int:
        """Put a file: whoever reads gets the old content or the new one, never a part.

        Args:
            data: The content.
            new: There must be none yet, not even one that another writer puts at this moment.

        Returns:
            The bytes written.

        Raises:
            FileExistsError: `new`, and there is one.
            StorageError: The store does not take it.
        """
        try:
            self._ask("pipe_file", self.path, data, mode="create" if new else "overwrite")
        except FileNotFoundError as error:
            raise StorageError(_no_bucket(self)) from error
        return len(data)

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the file.

        Raises:
            FileNotFoundError: It is not there and must be; S3 never says so.
            StorageError: The store does not remove it.
        """
        try:
            self._ask("rm_file", self.path)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def remove_below(self) -> None:
        """Remove all files below this name."""
        with ThreadPoolExecutor(_AT_A_TIME) as removals:
            list(removals.map(self._remove, [name for name in self._below() if name != self.path]))

    def _remove(self, name: str) -> None:
        # One by one: the libraries take each name of a list for a pattern.
        try:
            self._ask("rm_file", name)
        except FileNotFoundError:
            pass

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Do nothing: folders are there with their files."""

    def iterdir(self) -> Iterator[Self]:
        """Yield the files and folders right below this name; none where there is nothing."""
        try:
            names = self._ask("ls", self.path, detail=False)
        except FileNotFoundError:
            return
        for name in names:
            if last := name.rstrip("/").removeprefix(self.path).lstrip("/"):
                yield self / last

    def glob(self, pattern: str, **options: Any) -> Iterator[Self]:
        """Yield the files below this name whose names from here match a pattern, part by part."""
        wanted = pattern.split("/")
        for name in self._below():
            parts = name.removeprefix(self.path).removeprefix("/").split("/")
            if len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted)):
                yield self / "/".join(parts)

    def _below(self) -> dict[str, dict[str, Any]]:
        """Return properties of all files below this name, or of the one of this name, by bucket and name."""
        try:
            return dict(self._ask("find", self.path, detail=True))
        except FileNotFoundError:
            return {}

    def files(self) -> dict[str, dict[str, Any]]:
        """Return size and other properties of all files below this name, by their name from here.

        A file has itself, under the name "".

        Raises:
            StorageError: The store does not list them, or a name would lead out of a folder that it is copied to.
        """
        below = {
            name.removeprefix(self.path).removeprefix("/"): info
            for name, info in self._below().items()
            if not name.endswith("/")  # those only mark folders
        }
        for name in below:
            if {".", ".."} & set(name.split("/")) or "" in name.split("/")[:-1] or "\0" in name:
                raise StorageError(f"{self} holds {name!r}, which can be no file's name; rename or remove it")
        return below

    def fetch(self, target: os.PathLike[str]) -> None:
        """Copy the file to one of this machine.

        Raises:
            FileNotFoundError: It is not there.
            StorageError: The store does not give it.
        """
        self._get("get_file", os.fspath(target))

    def check_bucket(self) -> None:
        """Ask whether the bucket is there and lets us list what is below this name.

        Raises:
            StorageError: It is not, or does not.
        """
        try:
            # Not the bucket itself, which whoever may only use this name may not ask about. No file's name begins so,
            # and the answer is short.
            self._ask("find", self.path, prefix="-")
        except FileNotFoundError as error:
            raise StorageError(_no_bucket(self)) from error


def _no_bucket(path: ObjectPath) -> str:
    return f"{path}: there is no bucket {path.bucket!r}; make it, or look for a slip in the URL"


def _explained(path: ObjectPath, error: Exception) -> str:
    """Say in words what a store's error means and what to do."""
    text, kind = " ".join(str(error).split()) or type(error).__name__, type(error).__name__
    identity = (
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" if path.protocol == "s3" else "GOOGLE_APPLICATION_CREDENTIALS"
    )
    if any(word in kind for word in _NO_CREDENTIALS):
        return f"{path}: no credentials ({text}); set {identity} on every node, or give the machine an identity"
    if isinstance(error, PermissionError) or "Forbidden" in text:
        return (
            f"{path}: the store refuses it ({text}); the credentials of this machine must allow to list, read, write "
            f"and remove below {path.protocol}://{path.bucket}"
        )
    if any(word in text or word in kind for word in _FULL):
        return f"{path}: the store is full ({text}); free some space, or give `runs_dir` another place"
    if isinstance(error, TimeoutError | ConnectionError) or any(word in kind for word in _UNREACHABLE):
        where = "; is AWS_ENDPOINT_URL right?" if path.protocol == "s3" else ""
        return f"{path}: the store cannot be reached ({text}); look at the network of this machine{where}"
    return f"{path}: the store refuses it ({kind}: {text})"

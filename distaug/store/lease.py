"""The lock of a run in an object store: an object that says who works on it and until when.

There is no lock there that goes with its owner, so it is lent for a time, and its owner makes the time longer while it
lives. The objects are numbered, and the highest number owns the run: a new one is put only where there is none, which
the store decides, so that of two who want to follow a dead owner one alone can. Whoever was stopped for so long that
another one followed finds that out before it writes. The clocks of the machines must agree to within a few seconds, a
small part of the time that is lent.
"""

import json
import os
import secrets
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from distaug.errors import JobError, StorageError

if TYPE_CHECKING:
    from distaug.store.objects import ObjectPath

__all__ = ["LENT_S", "Lease", "Owner", "check", "join", "owner"]

LENT_S = 60.0
"""Seconds after which a dead owner is one no more."""
_NAME = ".lock-"
_OWN: dict[str, int] = {}
"""The locks that this process writes under: number by folder."""


@dataclass(frozen=True)
class Owner:
    """What a lock's object says."""

    number: int
    pid: int
    host: str
    token: str
    """Tells apart two locks of one process."""
    until: float
    """Seconds since 1970."""

    @property
    def lives(self) -> bool:
        """Whether its time is not over."""
        return time.time() < self.until

    @property
    def here(self) -> bool:
        """Whether it is this process."""
        return (self.pid, self.host) == (os.getpid(), socket.gethostname())

    def __str__(self) -> str:
        return f"pid {self.pid} on host {self.host}"


def join(folder: "ObjectPath") -> None:
    """Write below a folder from now on only as long as whoever has its lock now has it still."""
    if (found := owner(folder)) is not None:
        _OWN[str(folder)] = found.number


def check(path: "ObjectPath") -> None:
    """Refuse to write what another process owns by now.

    Raises:
        StorageError: It does.
    """
    for folder, number in list(_OWN.items()):
        if str(path).startswith(f"{folder}/"):
            root = path.with_segments(folder)
            if _newest(root) > number:
                raise StorageError(_lost(root))


def _newest(folder: "ObjectPath") -> int:
    """Return the highest number of a lock that was ever taken and not cleared away; 0: none."""
    names = [path.name.removeprefix(_NAME) for path in folder.iterdir() if path.name.startswith(_NAME)]
    return max((int(name) for name in names if name.isdecimal()), default=0)


def owner(folder: "ObjectPath") -> Owner | None:
    """Return who owns the folder now; None: nobody."""
    found = _read(folder, _newest(folder))
    return found if found is not None and found.lives else None


def _file(folder: "ObjectPath", number: int) -> "ObjectPath":
    return folder / f"{_NAME}{number:06d}"


def _read(folder: "ObjectPath", number: int) -> Owner | None:
    """Return what a lock says; None where it is gone or says nothing that can be understood."""
    try:
        said = json.loads(_file(folder, number).read_bytes())
        return Owner(number, int(said["pid"]), str(said["host"]), str(said["token"]), float(said["until"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


class Lease:
    """A run's lock, taken when it is made, and held until `release` or until this process dies.

    Args:
        folder: The run's.

    Raises:
        JobError: Somebody else has it; the message is who.
        StorageError: The store cannot be used.
    """

    def __init__(self, folder: "ObjectPath") -> None:
        self._folder, self._token, self._pid = folder, secrets.token_hex(8), os.getpid()
        self._number, self._lost = self._take(), False
        _OWN[str(folder)] = self._number
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lock", daemon=True)
        self._thread.start()

    def _take(self) -> int:
        last = _newest(self._folder)
        held = _read(self._folder, last)
        if held is not None and held.lives:
            raise JobError(f"{held} (if that is dead, its lock ends in {held.until - time.time():.0f} s)")
        # The number after the very one that was seen dead: had somebody followed it meanwhile, that one is taken.
        number = last + 1
        with suppress(FileExistsError):
            self._put(number, new=True)
        # Read back, for a request that was repeated on its way finds its own file there already.
        found = _read(self._folder, number)
        if found is None or found.token != self._token:
            raise JobError(str(found or "another process"))
        # Whoever was seen may have ended meanwhile, and others have come after it and cleared up what it left.
        if _newest(self._folder) != number:
            _file(self._folder, number).unlink(missing_ok=True)
            raise JobError(str(owner(self._folder) or "another process"))
        self._clear(number)
        return number

    def _clear(self, below: int) -> None:
        for path in list(self._folder.iterdir()):
            name = path.name.removeprefix(_NAME)
            if path.name.startswith(_NAME) and name.isdecimal() and int(name) < below:
                path.unlink(missing_ok=True)

    def _put(self, number: int, *, new: bool = False, seconds: float | None = None) -> None:
        until = time.time() + (LENT_S if seconds is None else seconds)
        said = {"pid": self._pid, "host": socket.gethostname(), "token": self._token, "until": until}
        _file(self._folder, number).write_bytes(json.dumps(said).encode(), new=new)

    def _renew(self) -> None:
        while not self._over.wait(LENT_S / 3):
            try:
                self._lost = _newest(self._folder) > self._number
                if self._lost:
                    return
                self._put(self._number)
            except StorageError:
                pass  # The store may be back in time; if not, somebody else may follow, and that is seen.

    def release(self) -> None:
        """Let go of it; another process can have it at once.

        Raises:
            StorageError: It was lost meanwhile: this process stopped for so long that another one followed it.
        """
        if os.getpid() != self._pid:  # a forked child has no part in it
            return
        self._over.set()
        self._thread.join()
        _OWN.pop(str(self._folder), None)
        with suppress(StorageError):  # It runs out by itself.
            self._lost = self._lost or _newest(self._folder) > self._number
            if not self._lost:
                # It stays, out of date, so that the numbers never begin anew.
                self._put(self._number, seconds=0.0)
        if self._lost:
            raise StorageError(_lost(self._folder))


def _lost(folder: "ObjectPath") -> str:
    return (
        f"the lock of {folder} is that of {owner(folder) or 'another process'} by now: this process did not renew it "
        f"for {LENT_S:g} s, and writes no more. Leave the run to the other one, or stop that and resume the run"
    )

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
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from distaug.errors import JobError, StorageError

if TYPE_CHECKING:
    from distaug.store.objects import ObjectPath

__all__ = ["LENT_S", "Lease", "Owner", "check", "join", "number", "owner"]

LENT_S = 60.0
"""Seconds after which a dead owner is one no more."""
_NAME = ".lock-"
_OWN: dict[str, int] = {}
"""The locks that this process writes under: number by folder."""
_LOST = -1
"""Instead of the number of a lock that is known to be lost: every other one is newer."""
_TRIES = 3


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


def number(folder: "ObjectPath") -> int | None:
    """Return the number of the lock that this process writes under; None: none."""
    return _OWN.get(str(folder))


def join(folder: "ObjectPath", number: int) -> None:
    """Write below a folder from now on only as long as no other lock has followed the one of this number.

    What this process holds itself counts more.
    """
    _OWN.setdefault(str(folder), number)


def check(path: "ObjectPath") -> None:
    """Refuse to write what another process owns by now.

    Raises:
        StorageError: It does.
    """
    for folder, own in list(_OWN.items()):
        if str(path).startswith(f"{folder}/"):
            root = path.with_segments(folder)
            if own == _LOST or _newest(root) > own:
                raise StorageError(_lost(root))


def _newest(folder: "ObjectPath") -> int:
    """Return the highest number of a lock that was ever taken and not cleared away; 0: none."""
    return max(_files(folder), default=0)


def _files(folder: "ObjectPath") -> "dict[int, ObjectPath]":
    """Return the locks that are there, by number."""
    found = {path.name.removeprefix(_NAME): path for path in folder.iterdir() if path.name.startswith(_NAME)}
    return {int(name): path for name, path in found.items() if name.isdecimal()}


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
        log: Told when somebody is waited for who may be dead.

    Raises:
        JobError: Somebody else has it; the message is who.
        StorageError: The store cannot be used.
    """

    def __init__(self, folder: "ObjectPath", log: Callable[[str], None] = lambda line: None) -> None:
        self._folder, self._token, self._pid = folder, secrets.token_hex(8), os.getpid()
        self._number = self._take(log)
        _OWN[str(folder)] = self._number
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lock", daemon=True)
        self._thread.start()

    def _take(self, log: Callable[[str], None]) -> int:
        last = _newest(self._folder)
        held = _read(self._folder, last)
        if held is not None and held.lives:
            last = self._outlive(held, log)
        # The number after the very one that was seen dead: had somebody followed it meanwhile, that one is taken.
        number = last + 1
        found = self._put_new(number)
        if found.token != self._token:
            raise JobError(str(found))
        # Whoever was seen may have ended meanwhile, and others have come after it and cleared up what it left.
        if _newest(self._folder) != number:
            _file(self._folder, number).unlink(missing_ok=True)
            raise JobError(str(owner(self._folder) or "another process"))
        self._clear(number)
        return number

    def _outlive(self, held: Owner, log: Callable[[str], None]) -> int:
        """Wait until an owner's time is over, or refuse: whoever lives makes it longer before that.

        Returns:
            Number of the newest lock, of an owner that lives no more.

        Raises:
            JobError: It lives.
        """
        if held.here:
            raise JobError(str(held))
        log(f"{held} had the run less than {LENT_S:g} s ago: waiting up to {LENT_S:g} s to see whether it lives")
        limit, seen = time.monotonic() + LENT_S, held
        while seen.lives:
            if time.monotonic() > limit:  # The clocks differ.
                raise JobError(f"{seen} (if that is dead, its lock ends in {seen.until - time.time():.0f} s)")
            time.sleep(min(1.0, LENT_S / 20))
            newest = _newest(self._folder)
            found = _read(self._folder, newest)
            if found is None:  # damaged, or removed by hand
                return newest
            if found.lives and found != held:
                raise JobError(str(found))
            seen = found
        return seen.number

    def _put_new(self, number: int) -> Owner:
        """Put the lock of a number where there is none; return whose it is then.

        Raises:
            StorageError: It is nobody's: the store cannot be used.
        """
        problem = StorageError(f"{self._folder}: the store does not keep the lock that was put there")
        for _ in range(_TRIES):
            try:
                self._put(number, new=True)
            except FileExistsError:
                pass
            except StorageError as error:  # Stores have several ways to say that there is one, or will be.
                problem = error
            # Read back, for a request that was repeated on its way finds its own file there already.
            if (found := _read(self._folder, number)) is not None:
                return found
            time.sleep(min(1.0, LENT_S / 20))
        raise problem

    def _clear(self, below: int) -> None:
        for number, path in _files(self._folder).items():
            if number < below:
                path.unlink(missing_ok=True)

    def _put(self, number: int, *, new: bool = False, seconds: float | None = None) -> None:
        until = time.time() + (LENT_S if seconds is None else seconds)
        said = {"pid": self._pid, "host": socket.gethostname(), "token": self._token, "until": until}
        _file(self._folder, number).write_bytes(json.dumps(said).encode(), new=new)

    def _is_lost(self) -> bool:
        """Return whether another lock is there: a newer one, or of the same number where a store lets two put it."""
        found = _read(self._folder, self._number)
        return _newest(self._folder) > self._number or (found is not None and found.token != self._token)

    def _renew(self) -> None:
        while not self._over.wait(LENT_S / 3):
            try:
                if self._is_lost():
                    _OWN[str(self._folder)] = _LOST
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
        lost = _OWN.pop(str(self._folder), None) == _LOST
        with suppress(StorageError):  # It runs out by itself.
            lost = lost or self._is_lost()
            if not lost:
                # It stays, out of date, so that the numbers never begin anew.
                self._put(self._number, seconds=0.0)
        if lost:
            raise StorageError(_lost(self._folder))


def _lost(folder: "ObjectPath") -> str:
    return (
        f"the lock of {folder} is that of {owner(folder) or 'another process'} by now: this process did not renew it "
        f"for {LENT_S:g} s, and writes no more. Leave the run to the other one, or stop that and resume the run"
    )

"""The run folder: the one place that knows its paths, its names and who is using it."""

import difflib
import fcntl
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from distaug.errors import JobError, StorageError
from distaug.spec.job import JobSpec
from distaug.spec.load import dump_job, load_job, parse_job
from distaug.store import lease
from distaug.store.place import Place, is_url, place
from distaug.store.whole import LEFTOVERS, storing, write_whole

__all__ = ["RunDir", "RunLock", "rank_log", "write_whole"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SHOWN = 10


class RunDir:
    """Paths of one run; nothing is touched before `create`.

    Args:
        runs_dir: Folder of all runs; relative to the working directory, `~` is the home folder; or a URL.
        name: Name of the run and of its folder below `runs_dir`.

    Raises:
        JobError: The name could leave the folder, or `runs_dir` is a URL that cannot be used.
    """

    def __init__(self, runs_dir: str | Place, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise JobError(
                f"the run name {name!r} cannot be a folder's name; allowed are up to 100 letters, digits, "
                "dots, underscores and hyphens, the first of them a letter or a digit"
            )
        self.root = place(runs_dir) / name
        self.job_file = self.root / "job.yaml"
        self.history_file = self.root / "history.jsonl"
        self.result_file = self.root / "result.json"
        self.predictions_file = self.root / "predictions.csv"
        self.lock_file = self.root / ".lock"
        self.checkpoints = self.root / "checkpoints"
        self.model = self.root / "model"
        self.compressed = self.root / "compressed"
        self.report = self.root / "report"
        self.logs = self.root / "logs"
        self.attempts_file = self.logs / "attempts.jsonl"

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.root.name

    @property
    def runs_dir(self) -> Place:
        """Folder of all runs, absolute."""
        return self.root.parent

    @classmethod
    def find(cls, run: str | Place, runs_dir: str | Place = "runs") -> "RunDir":
        """Return an existing run.

        Args:
            run: Path or URL of a run folder, or the name of a run below `runs_dir`.
            runs_dir: Folder of all runs.

        Raises:
            JobError: There is no such run; the message names those that exist, the nearest first.
            StorageError: The store that a URL names cannot be used.
        """
        path, name = place(run), str(run)
        if (path / "job.yaml").is_file():
            return cls(path.parent, path.name)
        if is_url(run):
            runs_dir = path.parent
        elif _NAME.fullmatch(name) and (found := cls(runs_dir, name)).exists():
            return found
        folder = place(runs_dir)
        names = cls.names(folder)
        wanted = path.name.lower()
        names.sort(key=lambda n: (-difflib.SequenceMatcher(None, wanted, n.lower()).ratio(), n))
        if not names:
            known = f"{folder}/ holds no run yet; start one with `distaug run JOB`"
        else:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            known = f"{folder}/ holds {', '.join(names[:_SHOWN])}{more}; give one of them or a run folder's path"
        raise JobError(f"there is no run {name!r} (a run folder has a job.yaml); {known}")

    @staticmethod
    def names(runs_dir: Place) -> list[str]:
        """Return the names of all runs in a folder.

        Raises:
            StorageError: The store that it is in cannot be used.
        """
        if not isinstance(runs_dir, Path):
            runs_dir.check_bucket()
        return sorted(job.parent.name for job in runs_dir.glob("*/job.yaml"))

    def exists(self) -> bool:
        """Whether the run was started at some time, that is, has a job.yaml."""
        return self.job_file.is_file()

    def in_use(self) -> bool:
        """Whether another process works on it now."""
        if not isinstance(self.root, Path):
            owner = lease.owner(self.root)
            return owner is not None and not owner.here
        try:
            descriptor = os.open(self.root / self.lock_file.name, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return os.pread(descriptor, 1000, 0).split()[:1] != [str(os.getpid()).encode()]
        finally:
            os.close(descriptor)
        return False

    def lock(self) -> int | None:
        """Return the number of the lock that this process holds in an object store; None in a folder, or without."""
        return None if isinstance(self.root, Path) else lease.number(self.root)

    def join(self, lock: int | None) -> None:
        """Write, in this process, on behalf of the holder of a lock, and only as long as that one holds it.

        A folder's lock goes with its owner, and the owner's workers with it; one in an object store can be lost.

        Args:
            lock: The holder's `lock()`.
        """
        if not isinstance(self.root, Path) and lock is not None:
            lease.join(self.root, lock)

    def create(self) -> None:
        """Make the folder and those below it; an existing one is kept.

        Raises:
            StorageError: It cannot be made.
        """
        if not isinstance(self.root, Path):
            self.root.check_bucket()  # Folders are there with their files.
            return
        with storing(self.root):
            for folder in (self.checkpoints, self.logs):
                folder.mkdir(parents=True, exist_ok=True)

    def save_job(self, job: JobSpec) -> None:
        """Write job.yaml.

        Raises:
            StorageError: It cannot be written.
        """
        write_whole(self.job_file, dump_job(job).encode())

    def load_job(self) -> JobSpec:
        """Read job.yaml; if the folder was moved, the job's name and `runs_dir` are those of the new place.

        Raises:
            JobError: The file is not there or is no job of a format that this version reads.
        """
        if not self.exists():
            raise JobError(f"{self.root} is no run folder: it has no job.yaml; start one with `distaug run JOB`")
        if isinstance(self.job_file, Path):
            job = load_job(self.job_file)
        else:
            job = parse_job(self.job_file.read_bytes().decode(errors="replace"), filename=str(self.job_file))
        if RunDir(job.runs_dir, job.name).root != self.root:
            job = job.model_copy(update={"name": self.name, "runs_dir": str(self.runs_dir)})
        return job


def rank_log(logs: Place, rank: int) -> Place:
    """Return the log file of a rank within a run's `logs` folder."""
    return logs / f"rank-{rank}.log"


# A lock belongs to the open file, which forked children (loader processes) inherit: without this a child that
# outlives a killed owner would go on holding the run.
_held: set[int] = set()


def _let_go() -> None:
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_let_go)


class RunLock:
    """Context manager: this process is the only one that writes to the run; an owner that died holds nothing.

    In an object store a dead owner holds it for another `lease.LENT_S` seconds, which are waited for.

    Args:
        run: The run; its folder must exist.
        log: Told when somebody is waited for who may be dead.

    Raises:
        JobError: Another process (or another lock in this one) uses the run; the message has pid and host.
        StorageError: The lock cannot be written, or, at the end, was lost to another process.
    """

    def __init__(self, run: RunDir, log: Callable[[str], None] = lambda line: None) -> None:
        self._run, self._log = run, log
        self._descriptor = -1
        self._lease: lease.Lease | None = None

    def __enter__(self) -> Self:
        root = self._run.root
        if isinstance(root, Path):
            self._lock(root)
            return self
        try:
            self._lease = lease.Lease(root, self._log)
        except JobError as error:
            raise JobError(self._in_use(str(error))) from None
        return self

    def _in_use(self, who: str) -> str:
        return (
            f"run {self._run.name} ({self._run.root}) is in use by {who}; "
            "wait for it, stop it, or choose another name with --name"
        )

    def _lock(self, root: Path) -> None:
        with storing(root):
            descriptor = os.open(root / self._run.lock_file.name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = os.pread(descriptor, 1000, 0).decode(errors="replace").split()
                os.close(descriptor)
                who = f"pid {owner[0]} on host {owner[1]}" if len(owner) == 2 else "another process"
                raise JobError(self._in_use(who)) from None
            except OSError:
                os.close(descriptor)
                raise
            _held.add(descriptor)
            self._descriptor = descriptor
            try:
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"{os.getpid()} {socket.gethostname()}\n".encode(), 0)
                for leftover in root.glob(LEFTOVERS):  # of an owner that was killed while writing
                    leftover.unlink(missing_ok=True)
            except OSError:
                self._release()
                raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lease is None:
            self._release()
            return
        try:
            self._lease.release()
        except StorageError:
            if error is None:  # else that says it already, or what is worse
                raise

    def _release(self) -> None:
        if self._descriptor in _held:  # in a forked child it is closed already
            _held.remove(self._descriptor)
            os.close(self._descriptor)

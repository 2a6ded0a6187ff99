"""The run folder: the one place that knows its paths, its names and who is using it."""

import difflib
import fcntl
import os
import re
import socket
from pathlib import Path
from types import TracebackType
from typing import Self

from distaug.errors import JobError
from distaug.spec.job import JobSpec
from distaug.spec.load import dump_job, load_job
from distaug.store.whole import LEFTOVERS, storing, write_whole

__all__ = ["RunDir", "RunLock", "rank_log", "write_whole"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SHOWN = 10


class RunDir:
    """Paths of one run; nothing is touched before `create`.

    Args:
        runs_dir: Folder of all runs; relative to the working directory, `~` is the home folder.
        name: Name of the run and of its folder below `runs_dir`.

    Raises:
        JobError: The name could leave the folder, or `runs_dir` is a URL.
    """

    def __init__(self, runs_dir: str | Path, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise JobError(
                f"the run name {name!r} cannot be a folder's name; allowed are up to 100 letters, digits, "
                "dots, underscores and hyphens, the first of them a letter or a digit"
            )
        if "://" in str(runs_dir):
            raise JobError(f"runs_dir {str(runs_dir)!r} is a URL; give a folder that all workers can reach")
        # Absolute from the start: the workers of a cluster run in working directories of their own.
        self.root = Path(os.path.abspath(Path(runs_dir).expanduser())) / name
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
    def runs_dir(self) -> Path:
        """Folder of all runs, absolute."""
        return self.root.parent

    @classmethod
    def find(cls, run: str | Path, runs_dir: str | Path = "runs") -> "RunDir":
        """Return an existing run.

        Args:
            run: Path of a run folder, or the name of a run below `runs_dir`.
            runs_dir: Folder of all runs.

        Raises:
            JobError: There is no such run; the message names those that exist, the nearest first.
        """
        path = Path(os.path.abspath(Path(run).expanduser()))
        if (path / "job.yaml").is_file():
            return cls(path.parent, path.name)
        name = str(run)
        if _NAME.fullmatch(name) and (found := cls(runs_dir, name)).exists():
            return found
        folder = Path(runs_dir).expanduser()
        names = [job.parent.name for job in folder.glob("*/job.yaml")]
        wanted = path.name.lower()
        names.sort(key=lambda n: (-difflib.SequenceMatcher(None, wanted, n.lower()).ratio(), n))
        if not names:
            known = f"{folder}/ holds no run yet; start one with `distaug run JOB`"
        else:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            known = f"{folder}/ holds {', '.join(names[:_SHOWN])}{more}; give one of them or a run folder's path"
        raise JobError(f"there is no run {name!r} (a run folder has a job.yaml); {known}")

    def exists(self) -> bool:
        """Whether the run was started at some time, that is, has a job.yaml."""
        return self.job_file.is_file()

    def in_use(self) -> bool:
        """Whether another process works on it now."""
        try:
            descriptor = os.open(self.lock_file, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return os.pread(descriptor, 1000, 0).split()[:1] != [str(os.getpid()).encode()]
        finally:
            os.close(descriptor)
        return False

    def create(self) -> None:
        """Make the folder and those below it; an existing one is kept.

        Raises:
            StorageError: It cannot be made.
        """
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
        job = load_job(self.job_file)
        if RunDir(job.runs_dir, job.name).root != self.root:
            job = job.model_copy(update={"name": self.name, "runs_dir": str(self.runs_dir)})
        return job


def rank_log(logs: Path, rank: int) -> Path:
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

    Args:
        run: The run; its folder must exist.

    Raises:
        JobError: Another process (or another lock in this one) uses the run; the message has pid and host.
        StorageError: The lock file cannot be written.
    """

    def __init__(self, run: RunDir) -> None:
        self._run = run
        self._descriptor = -1

    def __enter__(self) -> Self:
        with storing(self._run.root):
            descriptor = os.open(self._run.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = os.pread(descriptor, 1000, 0).decode(errors="replace").split()
                os.close(descriptor)
                who = f"pid {owner[0]} on host {owner[1]}" if len(owner) == 2 else "another process"
                raise JobError(
                    f"run {self._run.name} ({self._run.root}) is in use by {who}; "
                    "wait for it, stop it, or choose another name with --name"
                ) from None
            except OSError:
                os.close(descriptor)
                raise
            _held.add(descriptor)
            self._descriptor = descriptor
            try:
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"{os.getpid()} {socket.gethostname()}\n".encode(), 0)
                for leftover in self._run.root.glob(LEFTOVERS):  # of an owner that was killed while writing
                    leftover.unlink(missing_ok=True)
            except OSError:
                self._release()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release()

    def _release(self) -> None:
        if self._descriptor in _held:  # in a forked child it is closed already
            _held.remove(self._descriptor)
            os.close(self._descriptor)

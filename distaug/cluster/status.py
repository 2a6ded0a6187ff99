"""How runs go: those submitted to a cluster, by what their drivers print, and those of a folder, by their files."""

from dataclasses import dataclass

from distaug.cluster.jobs import Cluster, Job
from distaug.errors import ClusterError, DistaugError
from distaug.store import records
from distaug.store.place import place
from distaug.store.records import Result
from distaug.store.rundir import RunDir
from distaug.telemetry import lines

__all__ = ["Status", "of_job", "of_run", "runs"]

_WORDS = {"PENDING": "queued", "RUNNING": "running", "SUCCEEDED": "finished", "STOPPED": "stopped", "FAILED": "failed"}
_ENDS = {"stopped": "finished early"}
_SAVED = 130
_LAST_LINES = 5


@dataclass(frozen=True, kw_only=True)
class Status:
    """Where a run stands; None where unknown."""

    run: str
    """Its name."""
    id: str | None = None
    """Its submission to a cluster."""
    state: str
    """queued, running, finished, finished early, stopped (it can go on), failed, unfinished, or unreadable."""
    epoch: int | None = None
    """Epochs that are done."""
    epochs: int | None = None
    """Epochs planned."""
    images_per_second: float | None = None
    top1: float | None = None
    """Best validation accuracy, in 0 to 1; on a cluster since the driver started."""
    left_s: float | None = None
    """Seconds to the end of the training, while it runs."""
    seconds: float | None = None
    """Since the driver started, or the whole training's."""
    place: str = ""
    """The run's folder."""
    message: str = ""
    """Why it ended, or what it said last."""


def of_job(cluster: Cluster, job: Job, now: float) -> Status:
    """Return how a submitted run goes.

    Args:
        cluster: Where it is.
        job: Its submission.
        now: Seconds since 1970.
    """
    try:
        log = cluster.log(job).splitlines()
    except ClusterError as error:  # e.g. of a node that is gone
        log = [str(error)]
    seen = lines.read(log)
    state = "stopped" if job.exit_code == _SAVED else _WORDS[job.state]
    said = [line for line in log if line.strip()][-_LAST_LINES:]
    return Status(
        run=job.run,
        id=job.id,
        state=state,
        epoch=seen.epoch,
        epochs=seen.epochs,
        images_per_second=seen.images_per_second,
        top1=seen.top1,
        left_s=None if job.over else seen.left_s,
        seconds=None if job.started_at is None else (job.ended_at or now) - job.started_at,
        place=job.folder,
        message="\n".join(said) if said else job.message,
    )


def of_run(run: RunDir) -> Status:
    """Return how the run of a folder goes."""
    try:
        return _of_run(run)
    except DistaugError as error:
        return Status(run=run.name, state="unreadable", place=str(run.root), message=str(error))


def _of_run(run: RunDir) -> Status:
    job, history = run.load_job(), records.read(run.history_file)
    result = Result.read(run.result_file) if run.result_file.exists() else None
    busy = run.in_use()
    last = history[-1] if history else None
    left = (job.train.epochs - len(history)) * (last.seconds + last.eval_seconds) if last else None
    return Status(
        run=run.name,
        state="running" if busy else _ENDS.get(result.state, result.state) if result else "unfinished",
        epoch=len(history),
        epochs=job.train.epochs,
        images_per_second=last.images_per_second if last else None,
        top1=max((record.top1 for record in history if record.top1 is not None), default=None),
        left_s=left if busy and result is None else None,
        seconds=sum(record.seconds + record.eval_seconds for record in history),
        place=str(run.root),
        message=result.reason if result else "",
    )


def runs(where: str | None) -> list[RunDir]:
    """Return a run, or all runs of a folder.

    Args:
        where: A run, as for `RunDir.find`, or a folder or URL of runs; None: ./runs.

    Raises:
        JobError: There is none.
        StorageError: The store that a URL names cannot be used.
    """
    folder = place("runs" if where is None else where)
    if names := RunDir.names(folder):
        return [RunDir(folder, name) for name in names]
    return [] if where is None else [RunDir.find(where)]

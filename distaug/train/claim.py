"""Which run a job is: a new one, one to go on with, or a finished one."""

from distaug.errors import JobError
from distaug.spec.job import JobSpec, differences
from distaug.store.records import Result
from distaug.store.rundir import RunDir

__all__ = ["claim", "settle"]

_PART_OF_THE_ARITHMETIC = ("cpus_per_worker", "gpus_per_worker")
"""What a job asks of its machines that changes its sums: the number of threads, and the kind of device."""


def claim(job: JobSpec) -> tuple[RunDir, JobSpec, Result | None]:
    """Find the job's run folder and what is in it.

    Args:
        job: The job as asked.

    Returns:
        The run folder; the job to train, in which everything decided at the run's first start stays as it was; and the
        result when the run has finished.

    Raises:
        JobError: A run of this name has a different job.
        StorageError: The runs folder cannot be written.
    """
    run = RunDir(job.runs_dir, job.name)
    run.create()
    if not run.exists():
        return run, job, None
    job = settle(job, run)
    return run, job, Result.read(run.result_file) if run.result_file.exists() else None


def settle(job: JobSpec, run: RunDir) -> JobSpec:
    """Return the job in which everything decided at the run's first start stays as it was; itself in a new run.

    Raises:
        JobError: The run has a different job.
    """
    if not run.exists():
        return job
    stored = run.load_job()
    changed = differences(job, stored)
    if changed:
        lines = "\n".join(f"  {path}: {theirs!r} in the run, {ours!r} now" for path, ours, theirs in changed)
        raise JobError(
            f"run {job.name!r} in {run.root.parent} was made by a different job:\n{lines}\n"
            "give the new job another name (--name), or restore these fields to go on with the old run"
        )
    decided = {
        field: getattr(stored.cluster, field)
        for field in _PART_OF_THE_ARITHMETIC
        if getattr(job.cluster, field) == "auto"
    }
    cluster = job.cluster.model_copy(update=decided)
    kept = {"cluster": cluster, "runs_dir": job.runs_dir, "compress": job.compress, "metrics": job.metrics}
    return stored.model_copy(update=kept)

"""About how long a study takes: the speed of a few steps here, times the pictures of all runs."""

import statistics
import tempfile
from collections.abc import Callable
from time import monotonic

from distaug.data.open import open_data
from distaug.errors import InterruptedRunError
from distaug.spec.job import JobSpec
from distaug.store.records import Result
from distaug.study.plan import Plan
from distaug.study.table import complete, outcomes
from distaug.telemetry.progress import Progress
from distaug.train.device import available_cores, usable_gpus
from distaug.train.local import train
from distaug.train.reporter import LocalReporter

__all__ = ["estimate"]

_TRIAL_S = 3.0
_LEAST_STEPS = 5
_RUN_S = 15.0
"""What a run takes beside its pictures: start of the workers, saves, report."""
_EVAL_COST = 1 / 3
"""A picture that is only judged needs the forward pass alone."""


def estimate(plan: Plan, say: Callable[[str], None]) -> float:
    """Return about how many seconds the runs take that are not done.

    The speed is that of finished runs or, where there are none, of a few steps of the first variant in this process;
    fine-tuning after pruning is counted, exporting and measuring files are not.

    Args:
        plan: The study.
        say: Told what is measured.

    Raises:
        DataError: The data cannot be opened here.
    """
    left = [run for run in plan.runs if not complete(run)]
    done = [outcome.result for outcome in outcomes(plan) if outcome.result is not None]
    if not left:
        return 0.0
    pictures: dict[str, float] = {}  # the same for all seeds
    for run in left:
        if run.variant not in pictures:
            pictures[run.variant] = _pictures(run.job)
    speed = _speed_of(done) or _tried(left[0].job, say)
    return sum(_RUN_S + pictures[run.variant] / speed for run in left)


def _speed_of(done: list[Result]) -> float | None:
    known = [result.images_per_second for result in done if result.images_per_second]
    return sum(known) / len(known) if known else None


def _pictures(job: JobSpec) -> float:
    """Return the pictures of a run, in trainings of one."""
    data = open_data(job.data, final_fit=job.train.final_fit, log=lambda line: None)
    val, test = (0 if split is None else len(split) for split in (data.val, data.test))
    epochs = job.train.epochs
    for stage in job.compress.stages if job.compress else ():
        times = len(stage.magnitude.targets) if stage.magnitude else 1
        epochs += times * getattr(stage.settings, "finetune_epochs", 0)
    return epochs * (len(data.train) + _EVAL_COST * val) + _EVAL_COST * test


class _Trial:
    """Stops a training after a few seconds, and knows how fast its steps were."""

    def __init__(self) -> None:
        self.reporter = LocalReporter(on_progress=self._note)
        self._batch = 0
        self._steps: list[float] = []
        self._began = self._before = monotonic()

    def _note(self, progress: Progress) -> None:
        now = monotonic()
        if not self._batch:  # The first step warms up.
            self._began, self._batch = now, progress.global_batch
        elif progress.phase == "train" and progress.step:
            self._steps.append(now - self._before)
            if now - self._began > _TRIAL_S and len(self._steps) >= _LEAST_STEPS:
                self.reporter.stop.set()
        self._before = now

    @property
    def images_per_second(self) -> float:
        """Pictures of a step over its usual time."""
        return self._batch / statistics.median(self._steps)


def _tried(job: JobSpec, say: Callable[[str], None]) -> float:
    workers, gpus = job.cluster.workers, usable_gpus()
    asked = workers[1] if isinstance(workers, tuple) else max(1, gpus) if workers == "auto" else workers
    most = min(asked, gpus or available_cores())
    # One worker's share of this machine, times the workers: what they say to one another is left out.
    cluster = job.cluster.model_copy(update={"workers": 1, "cpus_per_worker": max(1, available_cores() // most)})
    say(f"measuring the speed of {job.name} for {_TRIAL_S:g} s")
    trial = _Trial()
    with tempfile.TemporaryDirectory(prefix="distaug-trial-") as folder:
        shards = asked if job.train.shards == "auto" else job.train.shards
        endless = job.train.model_copy(update={"shards": shards, "epochs": 10**4})
        changed = {"runs_dir": folder, "compress": None, "cluster": cluster, "train": endless}
        try:
            train(job.model_copy(update=changed), trial.reporter)
        except InterruptedRunError:
            pass
    return trial.images_per_second * most

"""Small jobs for the tests of the loop, and functions that ranks run."""

from pathlib import Path
from typing import Any

from distaug.errors import DistaugError
from distaug.spec.job import JobSpec
from distaug.store import records
from distaug.store.rundir import RunDir
from distaug.telemetry.progress import Progress
from distaug.train import watch
from distaug.train.claim import claim
from distaug.train.judge import judge
from distaug.train.loop import fit
from distaug.train.reporter import LocalReporter
from distaug.train.setup import setup
from distaug.train.world import World


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return the job with changes laid over it, section by section; an empty section takes the place of the old one."""
    merged = dict(base)
    for key, value in changes.items():
        nested = value and isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if nested else value
    return merged


def small_job(runs: Path, name: str = "small", **changes: Any) -> dict[str, Any]:
    """Two epochs of five steps on 200 real digits, with everything on that could depend on the ranks."""
    base = {
        "name": name,
        "runs_dir": str(runs),
        "data": {"source": "digits", "test_fraction": 0.2, "per_class": 20},
        "augment": {"ops": [{"crop": {"padding": 2}}]},
        "mix": {"mixup": {"alpha": 0.4}, "cutmix": {}},
        "model": {"name": "smallnet", "options": {"widths": [8, 8, 16]}},
        "train": {
            "epochs": 2,
            "global_batch": 40,
            "shards": 4,
            "optimizer": {"lr": 0.05, "lr_per_samples": None},
            "ema": {"decay": 0.9},
            "clip_norm": 1.0,
        },
        "precision": "fp32",
        "evaluate": {"batch": 32},
        "cluster": {"cpus_per_worker": 1, "gpus_per_worker": 0},
    }
    return merge(base, changes)


class Watcher(LocalReporter):
    """Counts progress and asks to stop after a number of steps."""

    stop_after: int | None = None
    steps: int = 0
    last: tuple[int, int] | None = None

    def progress(self, progress: Progress) -> bool:
        """Count a training step."""
        place = (progress.epoch, progress.step)
        # Each epoch begins with a word before its first step, and goes on after a save with one more.
        new = self.last is not None and place != self.last and progress.step > 0
        self.steps += progress.phase == "train" and new
        self.last = place
        if self.stop_after is not None and self.steps >= self.stop_after:
            self.stop.set()
        return super().progress(progress)


def run_job(world: World, job: dict[str, Any], stop_after: int | None = None) -> dict[str, Any]:
    """Train on this rank; return the result or the error, and what was reported."""
    watch._LOOK_EVERY_S = 0.0  # These steps are so short that half a second is a whole run.
    watcher = Watcher()
    # One rank alone is asked, the last: the others must hear of it.
    watcher.stop_after = stop_after if world.rank == world.size - 1 else None
    run, claimed, finished = claim(JobSpec.model_validate(job))
    if finished is not None:
        return {"result": finished, "finished": True}
    try:
        result, error = fit(claimed, run, world, watcher), None
    except DistaugError as found:
        result, error = None, found
    return {
        "result": result,
        "error": error,
        "reports": [record.epoch for record in watcher.records],
        "steps": watcher.steps,
        "history": records.read(run.history_file) if run.history_file.exists() else [],
    }


def train_as_asked(world: World, job: dict[str, Any], stop_after: int | None = None) -> dict[str, Any]:
    """Train as a group of workers does that a driver started with the job as it was before the run's first start."""
    watch._LOOK_EVERY_S = 0.0
    watcher = Watcher()
    watcher.stop_after = stop_after if world.rank == world.size - 1 else None
    asked = JobSpec.model_validate(job)
    run = RunDir(asked.runs_dir, asked.name)
    run.create()
    try:
        return {"result": fit(asked, run, world, watcher), "error": None}
    except DistaugError as error:
        return {"result": None, "error": error}


def judge_again(world: World, job: dict[str, Any]) -> dict[str, Any]:
    """Take up a stopped run and judge its model on the test set."""
    run, claimed, _ = claim(JobSpec.model_validate(job))
    t = setup(claimed, run, world, LocalReporter())
    try:
        return judge(t, t.data.test, "test")["model"].to_dict()
    finally:
        t.close()

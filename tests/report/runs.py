"""Run folders as a training leaves them, without the training."""

from pathlib import Path
from typing import Any

from distaug.spec.job import JobSpec
from distaug.store import predictions, records
from distaug.store.predictions import Prediction
from distaug.store.records import EpochRecord, Result
from distaug.store.rundir import RunDir

CLASSES = ["cat", "dog", "<script>alert(1)</script>"]
HOSTILE = CLASSES[2]
ANSWERS = [
    Prediction("test", 0, "a.png", "cat", "cat", 0.9, 0.9),
    Prediction("test", 1, "b.png", "cat", "dog", 0.6, 0.3),
    Prediction("test", 2, "c.png", "dog", "dog", 0.8, 0.8),
    Prediction("test", 3, "<i>.png", "dog", HOSTILE, 0.95, 0.01),
    Prediction("test", 4, "e.png", HOSTILE, HOSTILE, 0.7, 0.7),
]


def record(epoch: int, **fields: Any) -> EpochRecord:
    """Return an epoch that took two seconds, half a second of it waiting, better than the one before."""
    values: dict[str, Any] = {
        "epoch": epoch,
        "steps": 10,
        "images": 1000,
        "seconds": 2.0,
        "eval_seconds": 1.0,
        "data_wait_seconds": 0.5,
        "images_per_second": 500.0,
        "lr": 0.1 / (epoch + 1),
        "train_loss": 2.0 / (epoch + 1),
        "train_top1": 0.5 + epoch / 100,
        "train_top1_mixed": False,
        "val_loss": 1.5 / (epoch + 1),
        "top1": 0.6 + epoch / 100,
        "raw_top1": 0.6,
        "top5": 1.0,
        "macro": 0.59,
        "per_class": [0.5, 0.7, None],
        "finished_at": "2026-01-02T03:04:05+00:00",
    }
    return EpochRecord(**values | fields)


def result_of(name: str, **fields: Any) -> Result:
    """Return the end of a run of four epochs on five test pictures."""
    values: dict[str, Any] = {
        "name": name,
        "state": "finished",
        "reason": "all 4 epochs done",
        "best": {"epoch": 3, "top1": 0.63, "loss": 0.375, "metric": "top1"},
        "test": {
            "top1": 0.6,
            "top5": 1.0,
            "macro": 2 / 3,
            "loss": 0.7,
            "per_class": [0.5, 0.5, 1.0],
            "samples": 5,
            "raw_top1": 0.6,
            "tta_top1": None,
            "ece": 0.25,
        },
        "val": {"top1": 0.63, "top5": 1.0, "macro": 0.59, "loss": 0.375, "per_class": [0.5, 0.7, None]},
        "seconds": 75.0,
        "images_per_second": 500.0,
        "world_size": 2,
        "restarts": 1,
        "device_seconds": 4000.0,
        "goodput": 0.9,
        "classes": CLASSES,
        "data": {
            "sizes": {"train": 1000, "val": 100, "test": 5},
            "per_class": {"test": dict(zip(CLASSES, (2, 2, 1), strict=True))},
            "damaged": {"count": 7},
            "duplicates": {"within_train": 3, "across_sets": 0},
        },
        "weights_digest": "ab" * 32,
        "versions": {"distaug": "0.1.0", "torch": "2.15.0"},
        "machine": {"cpu": "a processor", "cores": 2, "gpu": None, "gpus": 0},
    }
    return Result(**values | fields)


def make_run(
    runs_dir: Path,
    name: str = "a",
    *,
    job: dict[str, Any] | None = None,
    history: list[EpochRecord] | None = None,
    result: Result | None = None,
    answers: list[Prediction] | None = None,
) -> RunDir:
    """Write a run whose data is not at hand."""
    run = RunDir(runs_dir, name)
    run.create()
    base = {
        "name": name,
        "runs_dir": str(runs_dir),
        "data": {"source": "folder", "path": "/no/such/pictures"},
        "model": {"name": "smallnet"},
        "train": {"epochs": 4},
    }
    run.save_job(JobSpec.model_validate(base | (job or {})))
    for epoch in [record(k) for k in range(4)] if history is None else history:
        records.append(run.history_file, epoch)
    if result is not None:
        result.write(run.result_file)
    if answers:
        predictions.write(run.predictions_file, answers)
    return run

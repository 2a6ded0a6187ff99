"""The recipe from its first epoch to its test set: in this process, and through Ray."""

import json
from dataclasses import asdict
from time import monotonic
from typing import Any

from bench.gpu.shared import GPU, Bench, say, told
from distaug.spec.job import to_dict
from distaug.store.records import EpochRecord
from distaug.store.rundir import RunDir
from distaug.train.local import train
from distaug.train.reporter import LocalReporter

TARGETS = (0.85, 0.90, 0.94, 0.95)
CURVES = ("epoch", "train_loss", "val_loss", "top1", "raw_top1", "images_per_second", "seconds", "eval_seconds")
MARGIN_S = 10.0


def accuracy(bench: Bench) -> None:
    """Train at the length that was asked for, or at the longest that fits the time."""
    wanted = bench.epochs or (2 if bench.shrink else bench.job("recipe").train.epochs)
    each, around = _probe(bench)
    fits = int((bench.left() - around - MARGIN_S) / (1.05 * each))
    epochs = max(1, min(wanted, fits))
    say(f"accuracy: {each:.2f} s an epoch with validation and saving, {bench.left():.0f} s left: {epochs} epochs")
    if epochs < wanted:
        say(f"accuracy: {wanted} epochs do not fit; the whole recipe is shortened to {epochs}")
    budget = max(0.01, (bench.left() - around) / 60)
    job = bench.job("accuracy", {"stop.time_budget_min": f"{budget:.3f}"}, epochs=epochs)
    entry: dict[str, Any] = {"n": 1, "epochs_asked": wanted, "epochs_planned": epochs, "epoch_seconds": round(each, 3)}
    records: list[EpochRecord] = []
    began = monotonic()

    def note(record: EpochRecord) -> None:
        records.append(record)
        entry["wall_seconds"] = round(monotonic() - began, 1)
        entry["time_to"] = _time_to(records)
        entry["curves"] = [{key: asdict(r)[key] for key in CURVES} for r in records]
        bench.keep("accuracy", entry, done=False)
        if len(records) % 5 == 0 or len(records) == epochs:
            say(f"accuracy: epoch {len(records)}, val top1 {100 * (record.top1 or 0):.2f} %, {entry['wall_seconds']} s")

    result = train(job, LocalReporter(on_record=note)).to_dict()
    stored = to_dict(RunDir(job.runs_dir, job.name).load_job())
    stored.pop("runs_dir")
    stored["data"]["path"] = None  # Where the data lies on one machine is nobody else's business.
    result.pop("data")
    entry |= {"wall_seconds": round(monotonic() - began, 1), "job": stored, "result": result}
    bench.keep("accuracy", entry)
    for target, reached in entry["time_to"].items():
        say(f"accuracy: {target} {json.dumps(reached) if reached else 'not reached'}")
    say(f"accuracy: test top1 {100 * result['test']['top1']:.2f} %, {entry['wall_seconds']} s for the whole run")


def _probe(bench: Bench) -> tuple[float, float]:
    """Return the seconds of a warm epoch, validation and saving included, and those of start and end."""
    marks = [monotonic()]
    train(bench.job("probe", epochs=3), LocalReporter(on_record=lambda _: marks.append(monotonic())))
    each = (marks[3] - marks[1]) / 2
    return each, marks[1] - marks[0] - each + monotonic() - marks[3]


def _time_to(records: list[EpochRecord]) -> dict[str, Any]:
    """Return for each target the epochs until the validation set first reached it, and their seconds; None: never."""
    found: dict[str, Any] = {}
    for target in TARGETS:
        reached = next((n for n, r in enumerate(records, 1) if r.top1 is not None and r.top1 >= target), 0)
        training, validation = (sum(getattr(r, f) for r in records[:reached]) for f in ("seconds", "eval_seconds"))
        seconds = {"training_seconds": round(training, 1), "with_validation_seconds": round(training + validation, 1)}
        found[f"{100 * target:.0f} %"] = {"epochs": reached, **seconds} if reached else None
    return found


def through_ray(bench: Bench) -> None:
    """Train a few epochs through Ray Train, with one worker."""
    try:
        import ray
    except ImportError as error:
        say(f"ray: SKIPPED, it cannot be imported here ({told(error)})")
        return bench.keep("ray", {"skipped": told(error)})
    from distaug.cluster.fit import run

    began = monotonic()
    job = bench.job("ray", {"cluster.gpus_per_worker": int(GPU)}, epochs=3)
    result = run(job, workers=1, show_progress=False).to_dict()
    result.pop("data")
    wall = round(monotonic() - began, 1)
    bench.keep("ray", {"n": 1, "ray": ray.__version__, "wall_seconds": wall, "result": result})
    say(f"ray: {result['state']}, {result['images_per_second']:,.0f} images/s, {wall} s for the whole run")

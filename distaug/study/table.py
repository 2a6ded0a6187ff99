"""What the runs of a study came to: a row for each run, and for each compressed file."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from distaug.errors import StorageError
from distaug.store import records
from distaug.store.records import EpochRecord, Result, finite
from distaug.store.rundir import RunDir
from distaug.store.stages import Stages
from distaug.store.whole import write_whole
from distaug.study.plan import Plan, Run

__all__ = ["METRICS", "Metric", "Outcome", "complete", "outcomes", "write"]

FORMAT = 1


@dataclass(frozen=True)
class Outcome:
    """A run and what is known of it."""

    run: Run
    result: Result | None
    """None: it has not ended."""
    history: Sequence[EpochRecord]
    damaged: bool = False
    """Whether a file of it cannot be read."""

    @property
    def state(self) -> Literal["done", "unfinished", "waiting", "damaged"]:
        """Whether it is done, begun, or not even that."""
        if self.damaged:
            return "damaged"
        return "done" if self.result is not None else "unfinished" if self.history else "waiting"

    def values(self) -> dict[str, float | None]:
        """Return its figures by the names of the metrics; None where there is none."""
        return {name: metric.value(self) for name, metric in METRICS.items()}


@dataclass(frozen=True)
class Metric:
    """A figure of a run."""

    title: str
    unit: Literal["%", "s", "GiB", ""]
    """With `%` the value is a share of 0 to 1, with `GiB` it is in bytes."""
    better: Literal["higher", "lower", "neither"]
    value: Callable[[Outcome], float | None]
    measured: bool = False
    """Whether it is another one each time, also of the same training: a time, or a size in memory."""
    digits: int | None = None
    """Behind the point, where it is written; None: as its unit or size asks for."""


def _of_set(part: str, key: str) -> Callable[[Outcome], float | None]:
    def value(outcome: Outcome) -> float | None:
        numbers = getattr(outcome.result, part, None)
        found = numbers.get(key) if numbers else None
        return None if found is None else float(found)

    return value


def _gap(outcome: Outcome) -> float | None:
    train, val = _of_set("train", "top1")(outcome), _of_set("val", "top1")(outcome)
    return None if train is None or val is None else train - val


def _of_epochs(total: Callable[[Sequence[EpochRecord]], float | None]) -> Callable[[Outcome], float | None]:
    return lambda outcome: total(outcome.history) if outcome.result is not None and outcome.history else None


METRICS = {
    "top1": Metric("test accuracy", "%", "higher", _of_set("test", "top1")),
    "macro": Metric("macro test accuracy", "%", "higher", _of_set("test", "macro")),
    "loss": Metric("test loss", "", "lower", _of_set("test", "loss")),
    "ece": Metric("calibration error on test", "%", "lower", _of_set("test", "ece")),
    "val_top1": Metric("validation accuracy", "%", "higher", _of_set("val", "top1")),
    "train_top1": Metric("accuracy on training pictures", "%", "neither", _of_set("train", "top1")),
    "gap": Metric("train–validation gap", "%", "lower", _gap),
    "train_loss": Metric("training loss", "", "neither", _of_epochs(lambda history: history[-1].train_loss)),
    "epochs": Metric("epochs", "", "neither", _of_epochs(lambda history: float(len(history))), digits=1),
    "epoch_seconds": Metric(
        "seconds of an epoch", "s", "lower", _of_epochs(lambda h: sum(r.seconds for r in h) / len(h)), measured=True
    ),
    "images_per_second": Metric(
        "images per second",
        "",
        "higher",
        _of_epochs(lambda h: sum(r.images for r in h) / sum(r.seconds for r in h)),
        measured=True,
    ),
    "seconds": Metric(
        "seconds of training", "s", "lower", lambda o: o.result.seconds if o.result else None, measured=True
    ),
    "peak_memory_bytes": Metric(
        "peak memory of a worker",
        "GiB",
        "lower",
        _of_epochs(lambda h: float(max(r.peak_memory_bytes or 0 for r in h)) or None),
        measured=True,
    ),
}
"""By the names that `spec.study` knows."""


def outcomes(plan: Plan) -> list[Outcome]:
    """Read what there is of each run, in their order."""
    return [_outcome(run, run.folder) for run in plan.runs]


def _outcome(run: Run, folder: RunDir) -> Outcome:
    try:
        result = Result.read(folder.result_file) if folder.result_file.exists() else None
        return Outcome(run, result, records.read(folder.history_file))
    except StorageError:  # told when its turn comes, and no reason to hide the others
        return Outcome(run, None, [], damaged=True)


def complete(run: Run) -> bool:
    """Say whether a run has nothing left to do: it is trained and, if it is to be, compressed.

    Raises:
        StorageError: A file of it is damaged.
    """
    folder = run.folder
    if not folder.result_file.exists():
        return False
    result = Result.read(folder.result_file)
    if run.job.compress is None:
        return True
    if result.artifacts is None:  # killed before they were written down there
        return False
    stages = Stages.read(folder.compressed)
    return stages is not None and stages.done and stages.spec == run.job.compress.model_dump(mode="json")


def write(plan: Plan, found: Sequence[Outcome], summary: dict[str, Any]) -> None:
    """Write results.csv and results.json to the study's folder.

    Args:
        plan: The study.
        found: Its runs.
        summary: What they say together, as plain values.

    Raises:
        StorageError: They cannot be written.
    """
    exact = [name for name, metric in METRICS.items() if not metric.measured]
    times = [name for name, metric in METRICS.items() if metric.measured]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["variant", "seed", "state", *exact, "weights_digest", "run", *times])
    rows = []
    for outcome in found:
        values, run, result = outcome.values(), outcome.run, outcome.result
        digest = result.weights_digest if result else None
        cells = [values[name] for name in exact], [values[name] for name in times]
        table.writerow([run.variant, run.seed, outcome.state, *cells[0], digest, run.job.name, *cells[1]])
        rows.append(
            {"variant": run.variant, "seed": run.seed, "state": outcome.state}
            | {name: values[name] for name in exact}
            | {"weights_digest": digest, "run": run.job.name, "artifacts": _artifacts(result)}
            | {"times": {name: values[name] for name in times} | {"speedups": _speedups(result)}}
        )
    write_whole(plan.root / "results.csv", text.getvalue().encode())
    whole = {"format": FORMAT, "study": plan.spec.name, "runs": rows, "summary": summary}
    machine = next((outcome.result for outcome in found if outcome.result), None)
    if machine is not None:
        whole |= {"machine": machine.machine, "versions": machine.versions}
    write_whole(plan.root / "results.json", (json.dumps(finite(whole), indent=1, allow_nan=False) + "\n").encode())


def _artifacts(result: Result | None) -> list[dict[str, Any]]:
    kept = ("name", "parameters", "nonzeros", "macs", "bytes", "zlib_bytes", "test", "val", "passed")
    return [{key: row[key] for key in kept} for row in (result.artifacts if result else None) or ()]


def _speedups(result: Result | None) -> dict[str, float]:
    rows = (result.artifacts if result else None) or ()
    return {row["name"]: row["latency"]["1"]["speedup"] for row in rows}

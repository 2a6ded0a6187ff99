"""What there is to know about a run, in whatever state it is."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from distaug.data.fetch import at_hand
from distaug.data.open import DataSet, Split, open_data
from distaug.errors import DataError, DistaugError
from distaug.spec.job import JobSpec
from distaug.store import predictions, records
from distaug.store.model_files import read_model
from distaug.store.predictions import Prediction
from distaug.store.records import EpochRecord, Result
from distaug.store.rundir import RunDir, rank_log
from distaug.store.stages import Stages
from distaug.train.decide import score_of

__all__ = ["Facts", "Judged", "gather", "percent", "wilson"]

_LOG_LINES = 12


@dataclass(frozen=True)
class Judged:
    """What the model came to on a held-out set."""

    set: Literal["test", "val"]
    numbers: dict[str, Any]
    """top1, top5, macro, loss, per_class and, of the test set, samples, raw_top1, tta_top1, ece."""


@dataclass(frozen=True)
class Facts:
    """A run as its folder and its data tell of it."""

    run: RunDir
    job: JobSpec
    history: Sequence[EpochRecord]
    result: Result | None
    """None while the run has not ended, or where it never did."""
    stages: Stages | None
    """None where nothing was compressed."""
    predictions: Sequence[Prediction]
    """Empty where none were kept."""
    data: DataSet | None
    no_data: str
    """Why `data` is None."""
    busy: bool
    """Whether a process works on it."""
    log: Sequence[str]
    """The last lines of rank 0's log."""

    @property
    def state(self) -> str:
        """The state in a word or two."""
        if self.result is not None:
            if self.busy:
                return "being compressed"
            return "stopped early" if self.result.state == "stopped" else self.result.state
        return "running" if self.busy else "unfinished"

    @property
    def ended(self) -> bool:
        """Whether it came to its end, so that there is a model."""
        return self.result is not None and self.result.state in ("finished", "stopped")

    @property
    def best_epoch(self) -> int | None:
        """Epoch, from 0, that the model is of, or the best one so far; None without a validation set."""
        if self.result is not None and self.result.val is not None and self.result.best:
            return int(self.result.best["epoch"])
        scores = {r.epoch: score_of(r, self.job.stop) for r in self.history}
        known = {epoch: score for epoch, score in scores.items() if score is not None}
        return max(known, key=lambda epoch: known[epoch]) if known else None

    @property
    def judged(self) -> Judged | None:
        """What the model came to: on the test set if it was read, else on the validation set, else None."""
        if self.result is not None and self.result.test:
            return Judged("test", self.result.test)
        if self.result is not None:
            return Judged("val", self.result.val) if self.result.val else None
        if (best := self.best_epoch) is None:
            return None
        record = next(r for r in self.history if r.epoch == best)
        return Judged("val", record.to_dict() | {"loss": record.val_loss})

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes; their numbers where no name is known."""
        if self.result is not None and self.result.classes:
            return self.result.classes
        if self.data is not None:
            return self.data.classes
        known = self.judged
        return [f"class {place}" for place in range(len(known.numbers["per_class"] or ()) if known else 0)]

    @property
    def wait_share(self) -> float:
        """Share of the time of all steps that was spent waiting for data."""
        return sum(r.data_wait_seconds for r in self.history) / max(1e-9, sum(r.seconds for r in self.history))

    def split(self, name: str) -> Split | None:
        """Return a held-out set of the data, if it is at hand."""
        if self.data is None:
            return None
        return self.data.test if name == "test" else self.data.val


def gather(run: RunDir) -> Facts:
    """Read everything about a run.

    Args:
        run: The run; nothing in it is changed.

    Raises:
        JobError: It is no run, or its job is none that this version reads.
        StorageError: One of its files is damaged or of a newer format.
    """
    job = run.load_job()
    result = Result.read(run.result_file) if run.result_file.exists() else None
    data, no_data = _open(run, job)
    return Facts(
        run=run,
        job=job,
        history=records.read(run.history_file),
        result=result,
        stages=Stages.read(run.compressed),
        predictions=predictions.read(run.predictions_file),
        data=data,
        no_data=no_data,
        busy=run.in_use(),
        log=_log(run),
    )


def _open(run: RunDir, job: JobSpec) -> tuple[DataSet | None, str]:
    """Open the data that the run was trained on, or say why not; nothing is downloaded for a report."""
    try:
        spec = job.data.model_copy(update={"download": False})
        if spec.path is not None and not at_hand(spec.path):
            raise DataError(f"this machine has no copy of {spec.path}")
        data = open_data(spec, final_fit=job.train.final_fit, log=logging.getLogger("distaug").debug)
        trained_on = read_model(run.model)[1].get("data_digest") if run.model.exists() else data.digest
        if trained_on != data.digest:
            raise DataError(f"the run was trained on other data (digest {trained_on}, found {data.digest})")
    except (DistaugError, OSError) as error:
        return None, str(error)
    return data, ""


def _log(run: RunDir) -> list[str]:
    try:
        lines = rank_log(run.logs, 0).read_bytes().decode(errors="replace").splitlines()
    except OSError:
        return []
    return lines[-_LOG_LINES:]


def percent(share: float | None, digits: int = 2) -> str:
    """Return a share of 0 to 1 in %, a dash where it is unknown."""
    return "–" if share is None or not math.isfinite(share) else f"{100 * share:.{digits}f} %"


def wilson(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """Return the 95 % interval of a share that was counted on so many pictures.

    Wilson 1927, Probable inference, the law of succession, and statistical inference.
    """
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)

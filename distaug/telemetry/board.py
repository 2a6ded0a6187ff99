"""All metrics of a run as they stand: what its ranks have done, where it is, how it goes, what came out."""

import platform
import threading
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from time import monotonic
from typing import NamedTuple

from distaug import __version__
from distaug.store.records import EpochRecord
from distaug.store.stages import StageRow
from distaug.telemetry.catalog import CATALOG, STATES, Metric
from distaug.telemetry.meter import RankStats, Series

__all__ = ["Board", "Sample"]

_SILENT_S = 10.0
"""A rank that has pushed nothing for so long is gone; they push about twice a second."""
_RECENT_S = 10.0
"""What `the last steps` means, if there was more than one in it."""


class Sample(NamedTuple):
    """One number, as Prometheus takes it."""

    name: str
    """That of its metric, for a histogram with `_bucket`, `_count` or `_sum`."""
    labels: tuple[tuple[str, str], ...]
    value: float


class _Done(NamedTuple):
    at: float
    steps: float
    seconds: float
    waited: float
    augmented: float


@dataclass
class _Rank:
    """What is known of a rank."""

    stats: RankStats
    seen: float
    recent: deque[_Done] = field(default_factory=deque)

    def take(self, stats: RankStats, now: float) -> None:
        self.stats, self.seen = stats, now
        names = ("step_seconds_count", "step_seconds_sum", "data_wait_seconds_sum", "augment_seconds_total")
        done = _Done(now, *(stats.totals.get((f"distaug_{name}", ()), 0.0) for name in names))
        if not self.recent or done.steps > self.recent[-1].steps:
            self.recent.append(done)
            while len(self.recent) > 2 and now - self.recent[1].at > _RECENT_S:
                self.recent.popleft()

    def since(self) -> _Done | None:
        """Return what the last steps came to; None before the first."""
        if len(self.recent) < 2:
            return None
        return _Done(*(new - old for new, old in zip(self.recent[-1], self.recent[0], strict=True)))


class Board:
    """Gathers everything about one run; a scrape reads it from another thread.

    Args:
        run: Name of the run.
    """

    def __init__(self, run: str) -> None:
        self._run = run
        self._lock = threading.Lock()
        self._ranks: dict[int, _Rank] = {}
        self._gone: dict[Series, float] = defaultdict(float)
        self._values: dict[str, float] = {}
        self._stages: dict[str, StageRow] = {}
        self._restarts = 0
        self._end = ""
        self.compressing = False
        """Whether the training is over and the compression goes on; it may train as well."""

    def take(self, pushed: Iterable[RankStats]) -> None:
        """Take note of what ranks pushed."""
        with self._lock:
            now = monotonic()
            for stats in pushed:
                known = self._ranks.get(stats.rank)
                if known is None or known.stats.process != stats.process:
                    if known is not None:  # what a lost process had done stays counted
                        _add(self._gone, known.stats.totals)
                    known = self._ranks[stats.rank] = _Rank(stats, now)
                known.take(stats, now)
                if stats.progress is not None:  # a fine-tuning counts from 0
                    self._restarts = max(self._restarts, stats.progress.restarts)

    def record(self, record: EpochRecord) -> None:
        """Take note of a finished epoch."""
        found = {
            "distaug_train_top1_ratio": record.train_top1,
            "distaug_val_loss": record.val_loss,
            "distaug_val_top1_ratio": record.top1,
        }
        with self._lock:
            self._values |= {name: value for name, value in found.items() if value is not None}

    def judged(self, best: float | None, test: float | None) -> None:
        """Take note of the accuracy of the chosen model on the validation and the test set, 0 to 1."""
        found = {"distaug_best_val_top1_ratio": best, "distaug_test_top1_ratio": test}
        with self._lock:
            self._values |= {name: value for name, value in found.items() if value is not None}

    def stage(self, row: StageRow) -> None:
        """Take note of an exported file."""
        with self._lock:
            self._stages[row.name] = row

    def end(self, state: str) -> None:
        """Take note of how the run ended, by one of the last of `STATES`."""
        self._end = state

    @property
    def images_per_second(self) -> float | None:
        """Training pictures of all ranks over wall time of the last steps; None before there were two."""
        lead = self._ranks.get(0)
        done = None if lead is None else lead.since()
        if lead is None or lead.stats.progress is None or done is None:
            return None
        return done.steps * lead.stats.progress.global_batch / done.seconds

    def families(self) -> list[tuple[Metric, list[Sample]]]:
        """Return every metric that has a value, in the order of the catalogue."""
        with self._lock:
            now = monotonic()
            found: dict[str, list[Sample]] = defaultdict(list)
            for name, labels, value in [*self._counters(), *self._place(now), *self._each_rank(now), *self._outcome()]:
                found[name].append(Sample(name, (("run", self._run), *labels), value))
        families = []
        for metric in CATALOG:
            suffixes = ("_bucket", "_count", "_sum") if metric.type == "histogram" else ("",)
            if samples := [sample for suffix in suffixes for sample in found[metric.name + suffix]]:
                families.append((metric, samples))
        return families

    def samples(self) -> list[Sample]:
        """Return all values, in the order of the catalogue."""
        return [sample for _, samples in self.families() for sample in samples]

    def _state(self, now: float) -> str:
        if self._end or self.compressing:
            return self._end or "compress"
        lead = self._ranks.get(0)
        if lead is None or now - lead.seen > _SILENT_S:
            return "starting"
        return "setup" if lead.stats.progress is None else lead.stats.progress.phase

    def _counters(self) -> Iterable[Sample]:
        total: dict[Series, float] = defaultdict(float, self._gone)
        for rank in self._ranks.values():
            _add(total, rank.stats.totals)
        return [Sample(name, labels, value) for (name, labels), value in total.items()]

    def _place(self, now: float) -> Iterable[Sample]:
        """Yield where the run is and how it goes, as rank 0 told last."""
        state = self._state(now)
        for other in STATES:
            yield Sample("distaug_state", (("state", other),), float(other == state))
        lead = self._ranks.get(0)
        progress = None if lead is None else lead.stats.progress
        values: dict[str, float | None] = dict(self._values)
        if progress is not None:
            values |= {
                "distaug_restarts_total": self._restarts,
                "distaug_progress_ratio": progress.steps_done / (progress.epochs * progress.steps),
                "distaug_epoch": min(progress.epoch + 1, progress.epochs),
                "distaug_epochs": progress.epochs,
                "distaug_world_size": progress.world_size,
                "distaug_shards": progress.shards,
                "distaug_patience_left_epochs": progress.patience_left,
                "distaug_goodput_ratio": progress.goodput,
                "distaug_images_per_second": self.images_per_second,
                "distaug_train_loss": progress.loss,
                "distaug_learning_rate": progress.lr,
                "distaug_scaler_scale": progress.scale,
            }
        for name, value in values.items():
            if value is not None:
                yield Sample(name, (), value)

    def _each_rank(self, now: float) -> Iterable[Sample]:
        for number, rank in sorted(self._ranks.items()):
            if self._end or now - rank.seen > _SILENT_S:
                continue
            labels, stats = (("rank", str(number)),), rank.stats
            if stats.progress is not None:
                place = (("node", stats.node), ("device", stats.progress.device))
                yield Sample("distaug_rank_info", labels + place, 1.0)
            for name, value in stats.gauges.items():
                yield Sample(name, labels, value)
            if done := rank.since():
                yield Sample("distaug_rank_step_seconds", labels, done.seconds / done.steps)
                yield Sample("distaug_rank_data_wait_ratio", labels, done.waited / done.seconds)
                yield Sample("distaug_rank_augment_ratio", labels, done.augmented / done.seconds)

    def _outcome(self) -> Iterable[Sample]:
        for row in self._stages.values():
            labels = (("stage", row.name),)
            yield Sample("distaug_stage_bytes", labels, row.bytes)
            yield Sample("distaug_stage_passed", labels, float(row.passed))
            # What was not finite is None once it has been read back.
            if row.val["top1"] is not None:
                yield Sample("distaug_stage_val_top1_ratio", labels, row.val["top1"])
            for batch, found in row.latency.items():
                timed = (*labels, ("batch", batch))
                if found["p50_ms"] is not None and found["speedup"] is not None:
                    yield Sample("distaug_stage_latency_seconds", timed, found["p50_ms"] / 1000)
                    yield Sample("distaug_stage_speedup_ratio", timed, found["speedup"])
        yield Sample("distaug_build_info", _VERSIONS, 1.0)


def _add(total: dict[Series, float], more: Mapping[Series, float]) -> None:
    for series, value in more.items():
        total[series] += value


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


_VERSIONS = (
    ("version", __version__),
    ("python", platform.python_version()),
    ("torch", _version("torch")),
    ("ray", _version("ray")),
)

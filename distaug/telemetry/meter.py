"""What a rank has done since its process began: counters of the catalogue, made from the progress it tells."""

import socket
import threading
import uuid
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic

from distaug.telemetry.catalog import SAVE_BUCKETS, STEP_BUCKETS
from distaug.telemetry.progress import Progress
from distaug.telemetry.usage import usage

__all__ = ["Meter", "RankStats", "Series"]

_USAGE_EVERY_S = 5.0
"""Adding up the pages of a large process takes the kernel some milliseconds."""

Series = tuple[str, tuple[tuple[str, str], ...]]
"""Name of a sample and its labels, without those that tell run and rank."""


@dataclass(frozen=True, kw_only=True)
class RankStats:
    """What a rank pushes: all of it replaces what it pushed before."""

    rank: int
    process: str
    """Another one after each restart."""
    node: str
    """Name of its machine."""
    progress: Progress | None
    """Where it is; None during its set-up."""
    totals: dict[Series, float]
    """Counters since the process began."""
    gauges: dict[str, float]
    """Memory and load, by metric."""


class _Histogram:
    """Counts of values up to each limit, and their sum.

    Args:
        name: Of the metric.
        limits: Upper limits in ascending order, without infinity.
    """

    def __init__(self, name: str, limits: Sequence[float]) -> None:
        self._name, self._limits = name, limits
        self._counts, self._sum = [0] * (len(limits) + 1), 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._limits, value)] += 1
        self._sum += value

    def series(self) -> dict[Series, float]:
        found: dict[Series, float] = {}
        below = 0
        for limit, count in zip((*map(str, self._limits), "+Inf"), self._counts, strict=True):
            below += count
            found[f"{self._name}_bucket", (("le", limit),)] = below
        return found | {(f"{self._name}_count", ()): below, (f"{self._name}_sum", ()): self._sum}


class Meter:
    """Turns the progress of one rank into counters.

    Args:
        rank: Number of the rank; what all ranks do together is counted by rank 0.
    """

    def __init__(self, rank: int) -> None:
        self._rank, self._process, self._node = rank, uuid.uuid4().hex, socket.gethostname()
        self._lock = threading.Lock()
        self._last: Progress | None = None
        self._since = monotonic()
        self._totals: dict[Series, float] = defaultdict(float)
        self._step = _Histogram("distaug_step_seconds", STEP_BUCKETS)
        self._wait = _Histogram("distaug_data_wait_seconds", STEP_BUCKETS)
        self._save = _Histogram("distaug_checkpoint_seconds", SAVE_BUCKETS)
        self._gauges: dict[str, float] = {}
        self._gauged_at = -_USAGE_EVERY_S

    def note(self, progress: Progress) -> None:
        """Take note of where the rank is; costs some microseconds."""
        with self._lock:
            now, last = monotonic(), self._last
            spent = now - self._since
            if self._rank == 0:
                self._totals[self._phase] += spent
            if last is not None:
                self._count(last, progress, spent)
            self._last, self._since = progress, now

    def stats(self) -> RankStats:
        """Return all of it, to be pushed."""
        if (now := monotonic()) - self._gauged_at >= _USAGE_EVERY_S:
            self._gauged_at, self._gauges = now, usage(self._last.device if self._last else "cpu")
        with self._lock:
            totals = self._totals | self._step.series() | self._wait.series()
            if self._rank == 0:
                totals[self._phase] = self._totals[self._phase] + monotonic() - self._since
                totals |= self._save.series()
            return RankStats(
                rank=self._rank,
                process=self._process,
                node=self._node,
                progress=self._last,
                totals=dict(totals),
                gauges=self._gauges,
            )

    @property
    def _phase(self) -> Series:
        phase = "setup" if self._last is None else self._last.phase
        return "distaug_phase_seconds_total", (("phase", phase),)

    def _count(self, last: Progress, new: Progress, spent: float) -> None:
        """Count what happened between two progresses; the first one of each epoch has done no new step."""
        done: dict[str, float] = {"distaug_augment_seconds_total": new.augment_seconds - last.augment_seconds}
        if new.epoch == last.epoch:
            steps = new.step - last.step
            done["distaug_images_total"] = steps * new.rank_images
            if steps:
                self._step.observe(spent)
                self._wait.observe(new.wait_seconds - last.wait_seconds)
            if self._rank == 0:
                done["distaug_steps_total"] = steps
                done["distaug_skipped_steps_total"] = max(0, new.skipped - last.skipped)
        if new.saved_bytes > last.saved_bytes:
            done["distaug_checkpoint_bytes_total"] = new.saved_bytes - last.saved_bytes
            self._save.observe(spent)
        for name, value in done.items():
            self._totals[name, ()] += value

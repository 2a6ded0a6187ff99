"""The metrics of a run at the metrics endpoint of the Ray node that its driver runs on."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ray.util.metrics import Gauge

from distaug.telemetry.board import Board, Sample

__all__ = ["Mirror", "mirrored"]

_EVERY_S = 1.0


class Mirror:
    """Shows samples through Ray, under their own names with `ray_` before them.

    Ray sends what was set since it last sent something (`metrics_report_interval_ms`, 10 s by default) and forgets a
    series two such intervals after that. So all samples have to be shown again and again, more often than that, and
    those of a lost rank are gone 20 to 30 s after the last time. What was shown last is sent also when the driver
    leaves Ray. Ray leaves out values that are not finite.
    """

    def __init__(self) -> None:
        self._gauges: dict[str, Gauge] = {}

    def show(self, samples: Sequence[Sample]) -> None:
        """Show all samples of a run; takes some microseconds for each.

        Args:
            samples: Every series of the run. All are gauges to Ray, whose counters and histograms only grow by what
                this process adds; queries do not look at the type.
        """
        for name, labels, value in samples:
            if name not in self._gauges:
                self._gauges[name] = Gauge(name, tag_keys=tuple(label for label, _ in labels))
            self._gauges[name].set(value, tags=dict(labels))


@contextmanager
def mirrored(board: Board) -> Iterator[None]:
    """Show a board's samples every second meanwhile, whatever the main thread does."""
    mirror, over = Mirror(), threading.Event()

    def show() -> None:
        try:
            mirror.show(board.samples())
        except Exception:
            pass  # Metrics never stop a run; the next second may do better.

    def go_on() -> None:
        show()
        while not over.wait(_EVERY_S):
            show()

    thread = threading.Thread(target=go_on, name="mirror", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        show()

"""What a rank counts: from nothing but the progress that the loop tells."""

from typing import Any

import pytest

from distaug.telemetry import meter as meter_module
from distaug.telemetry.catalog import STEP_BUCKETS
from distaug.telemetry.meter import Meter, RankStats, Series
from distaug.telemetry.progress import Progress

START: dict[str, Any] = {
    "phase": "train", "epoch": 0, "epochs": 2, "step": 0, "steps": 4, "global_batch": 64, "loss": 1.0, "lr": 0.1,
    "scale": None, "skipped": 0, "rank_images": 32, "wait_seconds": 0.0, "augment_seconds": 0.0, "saved_bytes": 0,
    "device": "cpu", "world_size": 2, "shards": 2, "restarts": 0, "patience_left": None, "goodput": None,
}  # fmt: skip


def progress(**changes: Any) -> Progress:
    return Progress(**(START | changes))


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(meter_module, "monotonic", clock)
    return clock


def total(stats: RankStats, name: str, **labels: str) -> float:
    key: Series = (name, tuple(labels.items()))
    return stats.totals[key]


def run_epochs(meter: Meter, clock: Clock) -> None:
    """Two epochs of four steps of 0.3 s, of which 0.2 s waiting; 1 s of validation, a save of 0.5 s."""
    for epoch in range(2):
        meter.note(progress(epoch=epoch, augment_seconds=0.4 * epoch, saved_bytes=1000 * epoch))
        for step in range(1, 5):
            clock.now += 0.3
            done = {"augment_seconds": 0.4 * epoch + 0.1 * step, "saved_bytes": 1000 * epoch}
            meter.note(progress(epoch=epoch, step=step, wait_seconds=0.2 * step, skipped=int(step > 2), **done))
        end = done | {"augment_seconds": 0.4 * (epoch + 1), "skipped": 1}
        meter.note(progress(phase="evaluate", epoch=epoch, step=4, wait_seconds=0.8, **end))
        clock.now += 1.0
        meter.note(progress(phase="save", epoch=epoch + 1, **end))
        clock.now += 0.5
        meter.note(progress(epoch=epoch + 1, **end | {"saved_bytes": 1000 * (epoch + 1)}))


def test_a_rank_counts_what_it_did(clock: Clock) -> None:
    meter = Meter(0)
    clock.now += 3.0  # the set-up
    run_epochs(meter, clock)
    stats = meter.stats()
    assert total(stats, "distaug_images_total") == 2 * 4 * 32
    assert total(stats, "distaug_steps_total") == 8
    assert total(stats, "distaug_skipped_steps_total") == 2
    assert total(stats, "distaug_augment_seconds_total") == pytest.approx(0.8)
    assert total(stats, "distaug_checkpoint_bytes_total") == 2000
    assert total(stats, "distaug_checkpoint_seconds_count") == 2
    assert total(stats, "distaug_checkpoint_seconds_sum") == pytest.approx(1.0)
    phases = {"setup": 3.0, "train": 2.4, "evaluate": 2.0, "save": 1.0}
    for phase, seconds in phases.items():
        assert total(stats, "distaug_phase_seconds_total", phase=phase) == pytest.approx(seconds)


def test_histograms_hold_every_step_in_its_bucket(clock: Clock) -> None:
    meter = Meter(1)
    run_epochs(meter, clock)
    stats = meter.stats()
    for name, value in (("distaug_step_seconds", 0.3), ("distaug_data_wait_seconds", 0.2)):
        assert total(stats, f"{name}_sum") == pytest.approx(8 * value)
        assert total(stats, f"{name}_count") == total(stats, f"{name}_bucket", le="+Inf") == 8
        for limit in STEP_BUCKETS:
            assert total(stats, f"{name}_bucket", le=str(limit)) == (8 if value <= limit else 0)


def test_what_all_ranks_do_together_is_counted_by_the_first(clock: Clock) -> None:
    meter = Meter(1)
    run_epochs(meter, clock)
    names = {name for name, _ in meter.stats().totals}
    assert "distaug_images_total" in names
    assert not names & {"distaug_steps_total", "distaug_skipped_steps_total", "distaug_phase_seconds_total"}
    assert not any(name.startswith("distaug_checkpoint_seconds") for name in names)


def test_a_resumed_epoch_counts_new_steps_only(clock: Clock) -> None:
    meter = Meter(0)
    meter.note(progress(step=2, skipped=1))
    clock.now += 0.1
    meter.note(progress(step=3, skipped=1))
    assert total(meter.stats(), "distaug_steps_total") == 1
    assert total(meter.stats(), "distaug_skipped_steps_total") == 0


def test_time_in_a_phase_grows_while_nothing_is_told(clock: Clock) -> None:
    meter = Meter(0)
    meter.note(progress(phase="evaluate"))
    seen = []
    for _ in range(3):
        clock.now += 1.0
        seen.append(total(meter.stats(), "distaug_phase_seconds_total", phase="evaluate"))
    meter.note(progress(phase="save"))
    seen.append(total(meter.stats(), "distaug_phase_seconds_total", phase="evaluate"))
    assert seen == pytest.approx([1, 2, 3, 3])


def test_memory_is_this_process_own() -> None:
    found = Meter(0).stats().gauges["distaug_host_memory_pss_bytes"]
    assert 5e6 < found < 50e9


def test_another_process_has_another_name() -> None:
    assert Meter(0).stats().process != Meter(0).stats().process

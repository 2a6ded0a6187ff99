"""What a run shows: sums over ranks that never fall, states, and nothing of ranks that are gone."""

import dataclasses
from typing import Any

import pytest

from distaug.telemetry import board as board_module
from distaug.telemetry.board import Board
from distaug.telemetry.catalog import CATALOG, STATES
from distaug.telemetry.meter import Meter, RankStats
from distaug.telemetry.progress import Progress
from tests.store.test_records import epoch_record
from tests.store.test_stages import row as stage_row
from tests.telemetry.test_meter import Clock, progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(board_module, "monotonic", clock)
    return clock


def values(board: Board) -> dict[tuple[str, str], float]:
    """Return the values by name and, of the labels, rank, state, stage or nothing."""
    found = {}
    for sample in board.samples():
        labels = dict(sample.labels)
        assert labels["run"] == "mine"
        found[sample.name, labels.get("rank") or labels.get("state") or labels.get("stage") or ""] = sample.value
    return found


def stats(rank: int, process: str, images: int, *, progress: Progress | None, **gauges: float) -> RankStats:
    return RankStats(
        rank=rank, process=process, node="here", progress=progress,
        totals={("distaug_images_total", ()): float(images)}, gauges=gauges,
    )  # fmt: skip


def test_totals_are_sums_over_ranks_and_outlive_a_restart(clock: Clock) -> None:
    board, seen = Board("mine"), []
    pushes = [
        [stats(0, "a", 10, progress=progress()), stats(1, "b", 20, progress=progress())],
        [stats(0, "a", 30, progress=progress()), stats(1, "b", 30, progress=progress())],
        [stats(0, "c", 0, progress=None)],  # both were lost, and come one after the other
        [stats(0, "c", 5, progress=progress(restarts=1))],
        [stats(1, "d", 0, progress=None)],
        [stats(0, "c", 10, progress=progress(restarts=1)), stats(1, "d", 10, progress=progress(restarts=1))],
    ]
    for pushed in pushes:
        clock.now += 0.5
        board.take(pushed)
        seen.append(values(board)["distaug_images_total", ""])
    assert seen == [30, 60, 60, 65, 65, 80]
    assert values(board)["distaug_restarts_total", ""] == 1


def test_a_rank_that_is_gone_disappears_and_its_work_stays(clock: Clock) -> None:
    board = Board("mine")
    board.take([stats(rank, str(rank), 10, progress=progress(), distaug_host_memory_pss_bytes=1.0) for rank in (0, 1)])
    for _ in range(11):
        clock.now += 1.0
        board.take([stats(0, "0", 10, progress=progress(), distaug_host_memory_pss_bytes=1.0)])
    found = values(board)
    assert ("distaug_host_memory_pss_bytes", "0") in found and ("distaug_rank_info", "0") in found
    assert not any(rank == "1" for _, rank in found)
    assert found["distaug_images_total", ""] == 20


def test_rates_are_those_of_the_last_steps(clock: Clock) -> None:
    board, meter = Board("mine"), Meter(0)
    meter.note(progress(steps=1000))
    real = meter.stats()
    for step in range(1, 101):
        clock.now += 0.1 if step <= 50 else 1.0
        seconds = 0.1 * min(step, 50) + 1.0 * max(0, step - 50)
        totals = {
            ("distaug_step_seconds_count", ()): float(step),
            ("distaug_step_seconds_sum", ()): seconds,
            ("distaug_data_wait_seconds_sum", ()): seconds / 4,
            ("distaug_augment_seconds_total", ()): seconds / 10,
        }
        board.take([dataclasses.replace(real, totals=totals)])
    found = values(board)
    assert found["distaug_images_per_second", ""] == pytest.approx(64 / 1.0)
    assert found["distaug_rank_step_seconds", "0"] == pytest.approx(1.0)
    assert found["distaug_rank_data_wait_ratio", "0"] == pytest.approx(0.25)
    assert found["distaug_rank_augment_ratio", "0"] == pytest.approx(0.1)


def state(board: Board) -> str:
    (current,) = [name for name in STATES if values(board)["distaug_state", name] == 1]
    return current


def test_the_state_is_one_of_the_list(clock: Clock) -> None:
    board = Board("mine")
    assert state(board) == "starting"
    board.take([stats(0, "a", 0, progress=None)])
    assert state(board) == "setup"
    board.take([stats(0, "a", 0, progress=progress(phase="evaluate"))])
    assert state(board) == "evaluate"
    clock.now += 11
    assert state(board) == "starting", "nothing was heard of the ranks: they are started again"
    board.compressing = True
    assert state(board) == "compress"
    board.end("finished")
    assert state(board) == "finished"


def test_records_and_stages_are_shown() -> None:
    board = Board("mine")
    board.record(epoch_record(0, val_loss=0.5, top1=0.75, train_top1=0.7))
    board.judged(0.8, None)
    board.stage(stage_row("int8", bytes=1234, passed=False))
    found = values(board)
    assert found["distaug_val_top1_ratio", ""] == 0.75 and found["distaug_best_val_top1_ratio", ""] == 0.8
    assert ("distaug_test_top1_ratio", "") not in found
    assert found["distaug_stage_bytes", "int8"] == 1234 and found["distaug_stage_passed", "int8"] == 0


def full_board() -> Board:
    """Return a board that has a value of every metric."""
    gpu = ("memory_allocated_bytes", "memory_reserved_bytes", "memory_peak_bytes", "memory_limit_bytes")
    gauges = {f"distaug_gpu_{name}": 1.0 for name in (*gpu, "utilization_ratio")}
    place: dict[str, Any] = {"patience_left": 3, "scale": 2.0, "goodput": 0.5, "steps": 100}
    board, meter = Board("mine"), Meter(0)
    for step in range(3):
        meter.note(progress(step=step, saved_bytes=100 * step, **place))
        found = meter.stats()
        board.take([dataclasses.replace(found, gauges=found.gauges | gauges)])
    board.record(epoch_record(0, val_loss=0.5, top1=0.75))
    board.judged(0.5, 0.5)
    board.stage(stage_row("int8"))
    return board


def test_every_metric_of_the_catalogue_has_its_labels() -> None:
    families = full_board().families()
    assert [metric for metric, _ in families] == list(CATALOG)
    for metric, samples in families:
        for sample in samples:
            labels = tuple(label for label, _ in sample.labels if label != "le")
            assert labels == metric.labels, sample


def test_a_fine_tuning_does_not_take_restarts_back(clock: Clock) -> None:
    board = Board("mine")
    board.take([stats(0, "a", 10, progress=progress(restarts=2))])
    board.take([stats(0, "b", 0, progress=progress(restarts=0))])
    assert values(board)["distaug_restarts_total", ""] == 2


def test_what_was_not_finite_leaves_the_rest_readable() -> None:
    board, row = Board("mine"), stage_row("int8")
    latency = {"1": {"p50_ms": None, "speedup": None}}
    board.stage(dataclasses.replace(row, val=row.val | {"top1": None}, latency=latency))
    found = values(board)
    assert found["distaug_stage_bytes", "int8"] == row.bytes
    assert ("distaug_stage_val_top1_ratio", "int8") not in found

"""Decisions are values: patience, best epoch and time, without any process."""

import dataclasses
from collections.abc import Sequence

import pytest

from distaug.spec.train import CheckpointSpec, StopSpec
from distaug.store.records import EpochRecord
from distaug.train.decide import Decision, Memory, decide

RECORD = EpochRecord(
    epoch=0, steps=1, images=1, seconds=1.0, eval_seconds=0.0, data_wait_seconds=0.0, images_per_second=1.0,
    lr=0.1, train_loss=1.0, train_top1=0.5, train_top1_mixed=False, val_loss=1.0, top1=0.5, raw_top1=0.5,
    top5=1.0, macro=0.5, per_class=[0.5], skipped_steps=0, peak_memory_bytes=0, world_size=1, finished_at="",
)  # fmt: skip


def play(
    values: Sequence[float], epochs: int = 100, seconds: float = 0.0, every: int = 1, **stop: object
) -> list[Decision]:
    """Feed top-1 values (or losses) until the training stops."""
    spec = StopSpec.model_validate({"start_epoch": 0} | stop)
    field = "top1" if spec.metric == "top1" else "val_loss"
    memory, decisions = Memory(), []
    for epoch, value in enumerate(values):
        record = dataclasses.replace(RECORD, epoch=epoch, **{field: value})
        decisions.append(
            decide(
                memory,
                record,
                stop=spec,
                checkpoint=CheckpointSpec(every_epochs=every),
                epochs=epochs,
                trained_seconds=seconds,
            )
        )
        memory = decisions[-1].memory
        if decisions[-1].stop:
            break
    return decisions


def test_patience_counts_epochs_without_improvement() -> None:
    decisions = play([0.1, 0.5, 0.4, 0.5, 0.3, 0.9], patience_epochs=3)
    assert len(decisions) == 5 and decisions[-1].reason == "no better top1 for 3 epochs"
    assert decisions[-1].memory.best_epoch == 1 and [d.best for d in decisions] == [True, True, False, False, False]


def test_patience_starts_late() -> None:
    assert len(play([0.9] + [0.1] * 20, patience_epochs=2, start_epoch=10)) == 12


def test_small_gains_are_best_but_do_not_reset_the_patience() -> None:
    decisions = play([0.50, 0.501, 0.502, 0.503], patience_epochs=3, min_delta=0.01)
    assert decisions[-1].stop and decisions[-1].memory.best_epoch == 3


def test_gains_add_up_past_min_delta() -> None:
    assert not play([0.50, 0.508, 0.516, 0.524, 0.532], patience_epochs=2, min_delta=0.01)[-1].stop


def test_loss_is_better_when_lower_and_nan_is_never_best() -> None:
    decisions = play([1.0, 0.5, float("nan"), 0.7], metric="loss", patience_epochs=None)
    assert decisions[-1].memory.best_epoch == 1 and not decisions[2].best


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"epochs": 3, "patience_epochs": None}, "all 3 epochs done"),
        ({"seconds": 61.0, "time_budget_min": 1.0}, "time budget of 1 minutes used up"),
    ],
)
def test_other_ends(settings: dict[str, object], reason: str) -> None:
    assert play([0.1, 0.2, 0.3, 0.4], **settings)[-1].reason == reason  # type: ignore[arg-type]


def test_best_and_last_are_saved_out_of_turn() -> None:
    decisions = play([0.1, 0.5, 0.2, 0.3, 0.4], epochs=5, every=4, patience_epochs=None)
    assert [d.save for d in decisions] == [True, True, False, True, True]


def test_memory_survives_a_checkpoint() -> None:
    memory = play([0.1, 0.5, 0.4], patience_epochs=9)[-1].memory
    assert Memory(**memory.to_dict()) == memory

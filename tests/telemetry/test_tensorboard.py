"""The epochs in TensorBoard: all of them, once, also after a resume."""

from pathlib import Path

import pytest

pytest.importorskip("tensorboard")

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from distaug.telemetry.tensorboard import TensorBoard
from tests.store.test_records import epoch_record


def curve(folder: Path, tag: str) -> list[tuple[int, float]]:
    found = EventAccumulator(str(folder)).Reload()
    return [(event.step, event.value) for event in found.Scalars(tag)]


def test_a_resumed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    records = [epoch_record(epoch, train_loss=float(epoch), top1=0.5) for epoch in range(4)]
    with TensorBoard(tmp_path, []) as board:
        for record in records[:3]:
            board.record(record)
    with TensorBoard(tmp_path, records[:2]) as board:  # the third epoch was lost, and is trained once more
        for record in records[2:]:
            board.record(record)
    assert curve(tmp_path, "train/loss") == [(1, 0.0), (2, 1.0), (3, 2.0), (4, 3.0)]
    assert curve(tmp_path, "val/top1") == [(epoch, 0.5) for epoch in (1, 2, 3, 4)]

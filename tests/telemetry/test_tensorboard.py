"""The epochs in TensorBoard: all of them, once, also after a resume."""

import contextlib
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
    board = TensorBoard(tmp_path, print)
    for record in [*records[:3], records[1]]:  # the second and third were lost with their worker
        board.record(record)
    board.close()
    board = TensorBoard(tmp_path, print)  # the driver was started again
    for record in records[2:]:
        board.record(record)
    board.close()
    assert curve(tmp_path, "train/loss") == [(1, 0.0), (2, 1.0), (3, 2.0), (4, 3.0)]
    assert curve(tmp_path, "val/top1") == [(epoch, 0.5) for epoch in (1, 2, 3, 4)]


# The library writes in a thread of its own, which dies of it as well.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_full_disk_is_a_line_and_not_an_end(small_disk: Path) -> None:
    lines: list[str] = []
    board = TensorBoard(small_disk / "tensorboard", lines.append)
    with (small_disk / "fill").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    for epoch in range(3):
        board.record(epoch_record(epoch))
    board.close()
    assert len(lines) == 1 and "cannot be written" in lines[0]

"""History and result: what is written is read, torn lines are not, newer formats are refused."""

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distaug.errors import StorageError
from distaug.store import records
from distaug.store.records import EpochRecord, Result


def epoch_record(epoch: int, **fields: Any) -> EpochRecord:
    values: dict[str, Any] = {
        "epoch": epoch,
        "steps": 10,
        "images": 1280,
        "seconds": 1.5,
        "eval_seconds": 0.25,
        "data_wait_seconds": 0.01,
        "images_per_second": 853.3333333333334,
        "lr": 0.1,
        "train_loss": 0.1 + 0.2,
        "train_top1": 1 / 3,
        "train_top1_mixed": True,
        "top1": 0.9,
        "per_class": [1.0, None, 0.5],
        "world_size": 2,
        "finished_at": "2026-01-02T03:04:05+00:00",
    }
    return EpochRecord(**(values | fields))


def test_records_come_back_exactly(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    assert records.read(path) == []
    written = [epoch_record(0), epoch_record(1, top1=None, per_class=None), epoch_record(2, skipped_steps=3)]
    for record in written:
        records.append(path, record)
    assert records.read(path) == written
    lines = path.read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [0, 1, 2]
    assert json.loads(lines[0])["format"] == 1


def test_numbers_that_are_not_finite_stay_plain_json(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    records.append(path, epoch_record(0, train_loss=math.nan, val_loss=math.inf, per_class=[math.nan]))
    assert "NaN" not in path.read_text() and "Infinity" not in path.read_text()
    [found] = records.read(path)
    assert math.isnan(found.train_loss) and found.val_loss is None and found.per_class == [None]


@pytest.mark.parametrize("cut", [1, 2, 30])
def test_a_torn_last_line_is_left_out_and_cut_off(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "history.jsonl"
    for epoch in range(3):
        records.append(path, epoch_record(epoch))
    os.truncate(path, path.stat().st_size - cut)
    assert [r.epoch for r in records.read(path)] == [0, 1]
    records.append(path, epoch_record(2, lr=0.5))
    assert [(r.epoch, r.lr) for r in records.read(path)] == [(0, 0.1), (1, 0.1), (2, 0.5)]


def test_a_file_that_is_one_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text('{"form')
    assert records.read(path) == []
    records.append(path, epoch_record(0))
    assert [r.epoch for r in records.read(path)] == [0]


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    for epoch in range(3):
        records.append(path, epoch_record(epoch))
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + "x" + lines[1] + lines[2])
    with pytest.raises(StorageError, match=r"history.jsonl, line 2 is not JSON"):
        records.read(path)
    path.write_text(lines[0] + lines[1].replace('"lr": 0.1, ', "") + lines[2])
    with pytest.raises(StorageError, match=r"line 2 lacks the field 'lr'"):
        records.read(path)
    path.write_text(lines[0] + lines[1] + lines[2].replace('"format": 1', '"format": 3'))
    with pytest.raises(StorageError, match=r"line 3 has format 3; .* up to 1"):
        records.read(path)
    path.write_text("[]\n")
    with pytest.raises(StorageError, match="line 1 has no format"):
        records.read(path)


def test_truncate_keeps_the_epochs_before(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    records.truncate(path, 5)
    assert not path.exists()
    for epoch in range(4):
        records.append(path, epoch_record(epoch))
    with path.open("a") as file:
        file.write('{"torn')
    records.truncate(path, 2)
    assert [r.epoch for r in records.read(path)] == [0, 1]
    assert path.read_text().count("\n") == 2 and path.read_text().endswith("\n")
    records.truncate(path, 0)
    assert path.read_bytes() == b""


def test_a_full_disk_tears_no_line(small_disk: Path) -> None:
    path = small_disk / "history.jsonl"
    records.append(path, epoch_record(0))
    before = path.read_bytes()
    with pytest.raises(StorageError, match=r"No space left.*needed [\d,]+ bytes"):
        records.append(path, epoch_record(1, per_class=[0.123456789] * 200_000))
    assert path.read_bytes() == before
    (small_disk / "filler").write_bytes(b"x" * 900_000)
    records.append(path, epoch_record(1))
    assert [r.epoch for r in records.read(path)] == [0, 1]


def test_an_unwritable_history_is_named(read_only: Path) -> None:
    with pytest.raises(StorageError, match=rf"cannot write in {read_only}"):
        records.append(read_only / "history.jsonl", epoch_record(0))


RESULT = Result(
    name="a",
    state="stopped",
    reason="no better top1 for 10 epochs",
    best={"epoch": 3, "top1": 0.9, "loss": 0.2, "metric": "top1"},
    test={"top1": 0.91, "per_class": [0.9, None], "samples": 100, "ema_top1": None},
    epochs=7,
    classes=["cat", "dog"],
    synthetic=True,
)


def test_the_result_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    RESULT.write(path)
    assert Result.read(path) == RESULT
    written = json.loads(path.read_text())
    assert list(written)[:3] == ["format", "name", "state"] and written["format"] == 1
    assert written["goodput"] is None
    assert Result.from_dict(RESULT.to_dict()) == RESULT


def test_unknown_keys_of_a_readable_format_are_passed_over(tmp_path: Path) -> None:
    values = RESULT.to_dict() | {"carbon_grams": 3}
    assert Result.from_dict(values) == RESULT
    older = {key: values[key] for key in ("format", "name", "state", "reason")}
    assert Result.from_dict(older) == Result(name="a", state="stopped", reason=RESULT.reason)
    record = epoch_record(0)
    assert EpochRecord.from_dict(record.to_dict() | {"moon": "full"}) == record
    assert EpochRecord.from_dict({**record.to_dict(), "top1": None}) == replace(record, top1=None)


def test_a_result_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    with pytest.raises(StorageError, match="result.json: No such file"):
        Result.read(path)
    path.write_text("{")
    with pytest.raises(StorageError, match="result.json is not JSON"):
        Result.read(path)
    path.write_text(json.dumps(RESULT.to_dict() | {"format": 2}))
    with pytest.raises(StorageError, match="result.json has format 2; this version .* up to 1"):
        Result.read(path)
    path.write_text('{"format": 1, "name": "a"}')
    with pytest.raises(StorageError, match="lacks the field 'state'"):
        Result.read(path)

"""The starts and ends of a run: counted, added up, and never in a run's way."""

from pathlib import Path

import pytest

from distaug.errors import StorageError
from distaug.store.rundir import RunDir
from distaug.train import attempts


def test_starts_are_counted_and_their_time_is_added_up(tmp_path: Path) -> None:
    run = RunDir(tmp_path, "a")
    assert attempts.device_seconds(run) == 0
    assert attempts.note_start(run, world_size=2, epoch=0, step=0) == 0
    attempts.note_end(run)
    assert attempts.note_start(run, world_size=4, epoch=1, step=0) == 1
    assert 0 < attempts.device_seconds(run) < 60


@pytest.mark.parametrize("torn", [b'{"started_at": 17', b'{"ended_at"', b"\0\0\0\n", b"5\n"])
def test_a_damaged_line_stops_nothing(tmp_path: Path, torn: bytes) -> None:
    run = RunDir(tmp_path, "a")
    attempts.note_start(run, world_size=1, epoch=0, step=0)
    with run.attempts_file.open("ab") as file:
        file.write(torn)
    assert attempts.note_start(run, world_size=1, epoch=0, step=3) == 1
    attempts.note_end(run)
    assert attempts.note_start(run, world_size=1, epoch=0, step=5) == 2
    assert attempts.device_seconds(run) >= 0


def test_a_full_disk_is_an_error_of_the_storage(small_disk: Path) -> None:
    run = RunDir(small_disk, "a")
    attempts.note_start(run, world_size=1, epoch=0, step=0)
    before = run.attempts_file.read_bytes()
    run.attempts_file.write_bytes(before + b" " * (4096 - len(before) % 4096 - 1) + b"\n")
    with pytest.raises(OSError), (small_disk / "filler").open("wb") as filler:
        while True:
            filler.write(bytes(4096))
            filler.flush()
    with pytest.raises(StorageError, match="No space left"):
        attempts.note_end(run)


def test_attempts_of_a_run_in_a_store(bucket: str) -> None:
    run = RunDir(f"{bucket}/runs", "a")
    assert [attempts.note_start(run, world_size=1, epoch=0, step=0) for _ in range(3)] == [0, 1, 2]
    attempts.note_end(run)
    assert len(run.attempts_file.read_bytes().splitlines()) == 4

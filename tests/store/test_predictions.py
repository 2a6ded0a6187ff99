"""predictions.csv is read back as it was written, whatever classes and pictures are called."""

import dataclasses
from pathlib import Path

import pytest

from distaug.errors import StorageError
from distaug.store.predictions import Prediction, read, write

ROWS = [
    Prediction("test", 0, "cats/a,b.png", "cat", "dog", 0.9682972431182861, 1e-30),
    Prediction("test", 1, 'x "y"\nz.png', "<b>", "<b>", 1.0, 1.0),
    Prediction("val", 2, "ä.png", "9", "9", 1 / 3, 1 / 3),
]


def test_what_is_written_is_read_back_to_the_last_bit(tmp_path: Path) -> None:
    write(tmp_path / "p.csv", ROWS)
    assert read(tmp_path / "p.csv") == ROWS
    assert [row.right for row in ROWS] == [False, True, True]


def test_a_spreadsheet_finds_names_in_the_first_line(tmp_path: Path) -> None:
    write(tmp_path / "p.csv", ROWS[:1])
    first, second = (tmp_path / "p.csv").read_text().splitlines()
    assert first == "set,index,picture,class,predicted,probability,true_probability"
    assert second == 'test,0,"cats/a,b.png",cat,dog,0.9682972431182861,1e-30'


def test_no_file_is_no_predictions(tmp_path: Path) -> None:
    assert read(tmp_path / "p.csv") == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace("true_probability", "other"), "lacks the columns true_probability"),
        (lambda text: "", "lacks the columns"),
        (lambda text: text[: text.rindex(",")], "damaged"),
        (lambda text: text.replace("0.968", "x"), "damaged"),
        (lambda text: text.replace("test,0", "test,zero"), "damaged"),
    ],
    ids=["another column", "empty", "cut short", "no number", "no index"],
)
def test_a_damaged_file_is_named(change, words: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "p.csv"
    write(path, ROWS[:1])
    path.write_text(change(path.read_text()))
    with pytest.raises(StorageError, match=words) as caught:
        read(path)
    assert str(path) in str(caught.value)


def test_bytes_that_are_no_text_are_damage(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StorageError, match="damaged"):
        read(tmp_path / "p.csv")


def test_a_file_name_that_is_no_text_loses_nothing_else(tmp_path: Path) -> None:
    odd = dataclasses.replace(ROWS[0], picture="cat/\udcff.png")
    write(tmp_path / "p.csv", [odd])
    (found,) = read(tmp_path / "p.csv")
    assert found == dataclasses.replace(odd, picture="cat/\\udcff.png")

"""Runs side by side: what differs, curves, and the pictures that only one of them had right."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from distaug.errors import JobError
from distaug.report.compare import mcnemar, pair, write_comparison
from distaug.report.facts import gather
from distaug.store.rundir import RunDir
from tests.report.runs import ANSWERS, make_run, record, result_of
from tests.report.test_page import Reader

OTHER = [replace(one, predicted=right) for one, right in zip(ANSWERS, ["dog", "cat", "dog", "dog", "cat"], strict=True)]


@pytest.fixture
def two(tmp_path: Path) -> list[RunDir]:
    """Return two runs: of the five pictures both have one right, A alone two, B alone two."""
    first = make_run(tmp_path, "a", result=result_of("a"), answers=ANSWERS)
    job = {
        "seed": 7,
        "model": {"name": "smallnet", "options": {"widths": [4, 4, 8]}},
        "train": {"epochs": 4, "ema": {}},
    }
    second = make_run(tmp_path, "b", job=job, history=[record(0)], answers=OTHER)
    return [first, second]


def words_of(file: Path) -> str:
    text = file.read_text()
    assert "<script" not in text
    return " ".join(" ".join(Reader(text).words).split())


def test_two_runs(two: list[RunDir], tmp_path: Path) -> None:
    words = words_of(write_comparison(two, tmp_path / "new" / "x.html"))
    assert "state finished unfinished" in words
    assert "60.00 % Test accuracy: 95 % interval" in words
    assert "60.00 % Validation accuracy: selected on this set" in words
    assert "epochs 4 1 best epoch 4 1" in words and "training time 1 min 15 s –" in words
    assert "seed 0 7" in words and "model.options.widths null [4, 4, 8]" in words
    assert 'train.ema null {"decay": 0.999' in words
    assert "runs_dir" not in words and "cluster" not in words, "what is alike or says nothing is left out"
    for name in ("Validation accuracy", "Validation loss", "Training loss", "Learning rate", "Images per second"):
        assert f"{name} a b" in words
    assert "A ahead, points p a b 5 1 2 2 0 +0.00 1.0000" in words


def test_the_page_is_named_after_its_runs(two: list[RunDir], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert write_comparison(two) == Path("report-a-vs-b.html") and Path("report-a-vs-b.html").is_file()
    many = [make_run(tmp_path, name) for name in "cde"]
    assert write_comparison([*two, *many]).name == "report-a-vs-b-vs-c-and-more.html"


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / folder, "a") for folder in ("one", "two")]
    words = words_of(write_comparison(runs, tmp_path / "x.html"))
    assert f"{runs[0].root} vs {runs[1].root}" in words and "Nothing: the jobs are the same" in words


def test_pictures_are_paired_only_if_they_are_the_same(two: list[RunDir]) -> None:
    first, second = map(gather, two)
    found = pair(first, second)
    assert found is not None
    assert (found.total, found.both_right, found.only_first, found.only_second, found.both_wrong) == (5, 1, 2, 2, 0)
    for change in (
        OTHER[:-1],
        [replace(one, picture=f"other/{one.picture}") for one in OTHER],
        [replace(one, set="val") for one in OTHER],
        [],
    ):
        assert pair(first, replace(second, predictions=change)) is None


def test_each_two_of_three_are_compared(two: list[RunDir], tmp_path: Path) -> None:
    runs = [*two, make_run(tmp_path, "c", answers=ANSWERS), make_run(tmp_path, "d")]
    words = words_of(write_comparison(runs, tmp_path / "x.html"))
    assert "not corrected for 3 comparisons" in words and "a c 5 3 0 0 2 +0.00 1.0000" in words
    assert "No predictions on the same pictures: a and d; b and d; c and d." in words


def test_too_many_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="found 9 runs to compare; at most 8"):
        write_comparison([make_run(tmp_path, f"r{k}", history=[]) for k in range(9)])


@pytest.mark.parametrize(
    ("first", "second", "p"), [(0, 0, 1.0), (7, 1, 18 / 256), (1, 7, 18 / 256), (5, 5, 1.0), (0, 10, 2 / 1024)]
)
def test_the_exact_test(first: int, second: int, p: float) -> None:
    assert mcnemar(first, second) == pytest.approx(p)


def test_the_exact_test_bears_many_pictures() -> None:
    # 5,200 of 10,000 is four deviations from the middle.
    assert mcnemar(5200, 4800) == pytest.approx(math.erfc(3.99 / math.sqrt(2)), rel=0.02)

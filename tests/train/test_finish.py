"""What the end of a training leaves about each held-out picture."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distaug.data.open import open_data
from distaug.store import predictions
from distaug.store.rundir import RunDir
from distaug.train.calibration import calibration_error, reliability
from distaug.train.world import SoloWorld
from tests.train.jobs import run_job, small_job

QUICK: dict[str, Any] = {"train": {"epochs": 1, "optimizer": {"lr": 0.2}}}


def test_predictions_agree_with_the_figures_of_the_test_set(tmp_path: Path) -> None:
    result = run_job(SoloWorld(), small_job(tmp_path, **QUICK))["result"]
    run = RunDir(tmp_path, "small")
    rows = predictions.read(run.predictions_file)
    test = open_data(run.load_job().data).test
    assert test is not None and len(rows) == len(test) == result.test["samples"]
    assert {row.set for row in rows} == {"test"} and [row.index for row in rows] == list(range(len(test)))
    assert [row.picture for row in rows] == [test.name(index) for index in range(len(test))]
    assert [row.label for row in rows] == [result.classes[label] for label in test.labels.tolist()]
    assert sum(row.right for row in rows) / len(rows) == result.test["top1"] < 1
    for row in rows:
        assert 0.1 <= row.probability <= 1 and row.true_probability <= row.probability
        assert row.right == (row.true_probability == row.probability)
    confusion = result.test["confusion"]
    for true, name in enumerate(result.classes):
        for guess, other in enumerate(result.classes):
            assert confusion[true][guess] == sum((row.label, row.predicted) == (name, other) for row in rows)
    bins = reliability((row.probability, row.right) for row in rows)
    assert result.test["ece"] == pytest.approx(calibration_error(bins)) and result.test["ece"] > 0


def test_any_number_of_ranks_writes_the_same_file(ranks: Callable[..., list[Any]], tmp_path: Path) -> None:
    run_job(SoloWorld(), small_job(tmp_path / "one", **QUICK))
    ranks(3, run_job, small_job(tmp_path / "three", **QUICK))
    one, three = (RunDir(tmp_path / name, "small").predictions_file.read_bytes() for name in ("one", "three"))
    assert one == three


def test_without_a_test_set_the_validation_set_is_told_of(tmp_path: Path) -> None:
    result = run_job(SoloWorld(), small_job(tmp_path, **QUICK, data={"test_fraction": 0}))["result"]
    rows = predictions.read(RunDir(tmp_path, "small").predictions_file)
    assert result.test is None and {row.set for row in rows} == {"val"}
    assert sum(row.right for row in rows) / len(rows) == result.val["top1"]


def test_a_model_that_is_only_a_step_leaves_no_predictions(tmp_path: Path) -> None:
    run_job(SoloWorld(), small_job(tmp_path, **QUICK, evaluate={"test": False}))
    assert not RunDir(tmp_path, "small").predictions_file.exists()

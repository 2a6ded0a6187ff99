"""About how long a study takes: pictures over speed, of finished runs or of a short trial."""

import tempfile
from pathlib import Path
from typing import Any

import pytest

from distaug.data.open import open_data
from distaug.errors import DataError
from distaug.spec.document import dump
from distaug.study import estimate as module
from distaug.study.estimate import estimate
from distaug.study.plan import Plan
from tests.study.studies import plan_of, train
from tests.train.jobs import small_job

TWO = "variants: {a: {}, b: {train.epochs: 3}}\nseeds: [0, 1, 2]\n"
SPEED = 500.0
PICTURES = {"train": 200, "val": 145, "test": 359}


def study(folder: Path, text: str = TWO, **changes: Any) -> Plan:
    job = small_job(folder, **changes)
    del job["name"], job["runs_dir"]
    return plan_of(folder / "studies", text, base=dump({"base": job}))


def seconds(epochs: int) -> float:
    """Return what a run takes at a known speed; to judge a picture costs a third of training on it."""
    a_run = epochs * (PICTURES["train"] + PICTURES["val"] / 3) + PICTURES["test"] / 3
    return module._RUN_S + a_run / SPEED


def never(line: str) -> None:
    pytest.fail(f"measures although the speed is known: {line}")


def test_the_speed_of_finished_runs_is_used(tmp_path: Path) -> None:
    plan = study(tmp_path)
    assert plan.runs[0].variant == "a"
    train(plan.runs[0], images_per_second=SPEED - 100)
    train(plan.runs[1], images_per_second=SPEED + 100)
    train(plan.runs[2], images_per_second=None)
    train(plan.runs[3], ended=False)
    assert estimate(plan, never) == pytest.approx(seconds(2) + 2 * seconds(3))


def test_what_pruned_networks_are_trained_on_is_counted(tmp_path: Path) -> None:
    stages = "[{magnitude: {targets: [0.3, 0.5], finetune_epochs: 4}}, {int8: {}}]"
    plan = study(tmp_path, f"variants: {{a: {{}}, b: {{compress: {{stages: {stages}}}}}}}\nseeds: [0]\n")
    train(plan.runs[0], images_per_second=SPEED)
    assert estimate(plan, never) == pytest.approx(seconds(2 + 2 * 4))
    train(plan.runs[1], images_per_second=SPEED)
    assert estimate(plan, never) == pytest.approx(seconds(2 + 2 * 4)), "it is not compressed yet"


def test_of_a_study_that_is_done_nothing_is_left(tmp_path: Path) -> None:
    plan = study(tmp_path, data={"source": "folder", "path": str(tmp_path / "gone")})
    for run in plan.runs:
        train(run)
    assert estimate(plan, never) == 0.0


def test_pictures_are_counted_once_for_all_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []

    def counted(*arguments: Any, **more: Any) -> Any:
        opened.append(arguments)
        return open_data(*arguments, **more)

    monkeypatch.setattr(module, "open_data", counted)
    plan = study(tmp_path)
    train(plan.runs[0], images_per_second=SPEED)
    assert estimate(plan, never) == pytest.approx(2 * seconds(2) + 3 * seconds(3)) and len(opened) == 2


def test_without_a_finished_run_a_few_steps_are_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TRIAL_S", 0.05)
    monkeypatch.setattr(module, "_LEAST_STEPS", 2)
    (tmp_path / "short").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "short"))
    plan, said = study(tmp_path), list[str]()
    found = estimate(plan, said.append)
    starts = len(plan.runs) * module._RUN_S
    assert starts < found < starts + 600, "a second or so for each run"
    assert said == ["measuring the speed of a-s0 for 0.05 s"]
    assert not plan.root.exists() and not list((tmp_path / "short").iterdir()), "no run is left behind"


def test_data_that_is_not_here_tells_no_time(tmp_path: Path) -> None:
    plan = study(tmp_path, data={"source": "folder", "path": str(tmp_path / "gone")})
    with pytest.raises(DataError, match="gone"):
        estimate(plan, never)

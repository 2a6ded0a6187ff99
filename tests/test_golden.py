"""Runs, draws and operations that earlier versions left behind: this one opens them, goes on with them, and agrees."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import distaug
from distaug.data.open import open_data
from distaug.errors import DistaugError, JobError, StorageError
from distaug.spec import job as jobs
from distaug.spec.augment import OpSpec
from distaug.store import checkpoint, manifests, model_files, records
from distaug.store.records import Result
from distaug.store.rundir import RunDir
from distaug.train.local import train
from distaug.train.world import SoloWorld
from tests.golden import make
from tests.train.jobs import Watcher, run_job

FORMATS = sorted(make.HERE.glob("format-*"))


@pytest.fixture(params=FORMATS, ids=lambda folder: folder.name)
def golden(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy the runs of a format to `runs` in a working directory of their own; return the folder they came from."""
    folder: Path = request.param
    for name in ("finished", "half"):
        shutil.copytree(folder / name, tmp_path / "runs" / name)
    monkeypatch.chdir(tmp_path)
    return folder


def test_a_finished_run_is_opened_and_judged_as_it_was(golden: Path) -> None:
    run = RunDir.find("finished")
    result, history = Result.read(run.result_file), records.read(run.history_file)
    assert [record.epoch for record in history] == [0, 1]
    assert result.best is not None and result.best["top1"] == max(record.top1 or 0 for record in history)

    classifier = distaug.load("finished")
    assert checkpoint.weights_digest(classifier.module.state_dict()) == result.weights_digest
    found, told = classifier.evaluate(), result.test
    assert told is not None and (found["set"], found["samples"]) == ("test", told["samples"])
    # Quotients of counts: equal, or wrong.
    assert [found[key] for key in ("top1", "top5", "macro")] == [told[key] for key in ("top1", "top5", "macro")]
    assert list(found["per_class"].values()) == told["per_class"]
    assert found["loss"] == pytest.approx(told["loss"], rel=1e-5)

    test = open_data(classifier.job.data).test
    assert test is not None
    pictures = test.pictures(torch.arange(len(test))).permute(0, 2, 3, 1).numpy()
    answers = [answer["predictions"][0]["class"] for answer in classifier.predict(pictures, top=1)]
    right = sum(answer == classifier.classes[k] for answer, k in zip(answers, test.labels.tolist(), strict=True))
    assert right / len(test) == told["top1"]


def test_the_job_of_a_finished_run_is_not_trained_again(golden: Path) -> None:
    watcher = Watcher()
    result = train(distaug.load_job(golden / "job.yaml", name="finished"), watcher)
    assert result == Result.read(golden / "finished" / "result.json")
    assert watcher.steps == 0 and not watcher.records


def newest(run: Path) -> checkpoint.Checkpoint:
    found = checkpoint.newest(run / "checkpoints", warn=pytest.fail)
    assert found is not None
    return found


def test_a_half_finished_run_is_resumed(golden: Path, ranks: Callable[..., list[Any]], tmp_path: Path) -> None:
    """By one rank and by two, which must agree to the last bit, on whatever machine this is.

    The uninterrupted run that was kept beside it comes from one machine, and other kernels round otherwise, so it is
    compared within a tolerance. With every instruction set of one CPU (scalar, AVX2, AVX-512; SSE4.1 in oneDNN) the
    weights came to within 5e-7 of it; resumed without the momentum, with the raw weights for the averages, or with
    the draws of another seed, to 0.01 and more.
    """
    saved = newest(golden / "half")
    assert not (golden / "half" / "result.json").exists() and saved.step > 0, "it was left in mid-epoch"
    ends = []
    for size in (1, 2):
        runs = tmp_path / f"by-{size}"
        shutil.copytree(golden / "half", runs / "half")
        job = jobs.to_dict(distaug.load_job(golden / "job.yaml", name="half")) | {"runs_dir": str(runs)}
        end = run_job(SoloWorld(), job) if size == 1 else ranks(size, run_job, job)[0]
        assert end["result"].state == "finished" and end["result"].restarts == 1
        assert [record.epoch for record in end["history"]] == [0, 1] and end["reports"] == [1]
        assert end["history"][0] == records.read(golden / "half" / "history.jsonl")[0]
        assert end["steps"] == end["history"][1].steps - saved.step, "the saved steps are not repeated"
        ends.append((end["result"], end["history"][1], newest(runs / "half")))
    (result, last, alone), (other_result, _, both) = ends
    assert result.weights_digest == other_result.weights_digest and result.test == other_result.test

    whole, kept = newest(golden / "finished"), records.read(golden / "finished" / "history.jsonl")[1]
    for part in whole.parts:
        assert checkpoint.weights_digest(alone.weights(part)) == checkpoint.weights_digest(both.weights(part))
        torch.testing.assert_close(alone.weights(part), whole.weights(part), rtol=0, atol=1e-4)
    assert (last.images, last.lr) == (kept.images, pytest.approx(kept.lr))
    assert last.train_loss == pytest.approx(kept.train_loss, rel=1e-5)
    assert last.val_loss == pytest.approx(kept.val_loss, rel=1e-5)


def test_draws_and_operations_are_what_they_were() -> None:
    kept = json.loads((make.HERE / "draws.json").read_text())
    assert make.exact() == kept["exact"]
    found = make.close()
    assert found.keys() == kept["close"].keys()
    for name, line in kept["close"].items():
        assert found[name] == pytest.approx([float(value) for value in line.split()], rel=1e-6, abs=2e-7), name
    for operation in OpSpec.model_fields:
        assert any(name.startswith(operation) for name in (*kept["exact"], *kept["close"])), f"{operation} is missing"


@pytest.mark.parametrize(
    ("pattern", "present", "error", "name"),
    [
        ("finished/job.yaml", jobs.FORMAT, JobError, r"finished/job\.yaml:1"),
        ("finished/model/model.json", model_files.FORMAT, StorageError, r"model/model\.json"),
        ("finished/result.json", records.FORMAT, StorageError, r"finished/result\.json"),
        ("half/job.yaml", jobs.FORMAT, JobError, r"half/job\.yaml:1"),
        ("half/history.jsonl", records.FORMAT, StorageError, r"half/history\.jsonl, line 1"),
        ("half/checkpoints/*[1-9]/manifest.json", manifests.FORMAT, StorageError, r"checkpoints/epoch-0001-step-\d+"),
    ],
)
def test_a_newer_format_is_refused_by_name_and_number(
    golden: Path, pattern: str, present: int, error: type[DistaugError], name: str
) -> None:
    (file,) = Path("runs").glob(pattern)
    text, changed = re.subn(r'^(.{0,3}"?format"?: )\d+', rf"\g<1>{present + 1}", file.read_text(), count=1, flags=re.M)
    assert changed
    file.write_text(text)
    watcher = Watcher()
    with pytest.raises(error, match=rf"{name}.* format:? {present + 1}\b"):
        if "/model/" in pattern:
            distaug.load("finished")
        else:
            train(distaug.load_job(golden / "job.yaml", name=pattern.split("/")[0]), watcher)
    assert watcher.steps == 0

"""The report of a run is a page in every state of the run, and says what the run's files say."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from distaug.data.open import open_data
from distaug.errors import DistaugError, JobError, StorageError
from distaug.report import facts
from distaug.report.answers import embedded
from distaug.report.facts import wilson
from distaug.report.run import write_report
from distaug.report.summary import duration
from distaug.spec.job import JobSpec
from distaug.store.model_files import read_model, write_model
from distaug.store.predictions import Prediction
from distaug.store.rundir import RunDir
from distaug.train.local import train
from tests.report.runs import ANSWERS, CLASSES, make_run, record, result_of
from tests.report.test_compression import FULL, stages
from tests.report.test_page import Reader
from tests.store.test_rundir import held_elsewhere
from tests.train.jobs import small_job


def written(run: RunDir) -> tuple[str, str]:
    """Write the report; return the page, and its words alone."""
    text = write_report(run).read_text()
    assert "<script" not in text and "Traceback" not in text
    return text, " ".join(" ".join(Reader(text).words).split())


def test_a_finished_run(tmp_path: Path) -> None:
    text, words = written(make_run(tmp_path, result=result_of("a"), answers=ANSWERS))
    assert "Test accuracy 60.00 % 95 % interval 23.1 to 88.2 %, 5 pictures" in words
    assert "Finished after 4 of 4 epochs: all 4 epochs done. The model is that of epoch 4" in words
    assert "Best epoch 4 of 4 by top1: val loss 0.375, val top-1 63.00 %" in words
    assert "Training time 1 min 15 s" in words and "Images per second 500" in words
    assert "Waiting for data 25.0 %" in words
    assert "Device time 1 h 6 min goodput 90.0 %, restarts: 1" in words
    assert "damaged pictures, left out 7" in words and "3 within train, 0 across" in words and "a processor" in words
    assert "epochs: 4" in words and "/no/such/pictures" in words, "the job file is there"
    assert 'class="state good"' in text and "Compression" not in words


def test_classes_mistakes_and_calibration(tmp_path: Path) -> None:
    text, words = written(make_run(tmp_path, result=result_of("a"), answers=ANSWERS))
    assert "cat taken for dog: 1 of 2 (50.0 %)" in words and "cat taken for cat: 1 of 2 (50.0 %)" in words
    assert "cat 50.0 % 2" in words and f"{CLASSES[2]} 100.0 % 1" in words, "accuracy by class"
    assert "2 of 5 pictures were taken for another class; all of them, the surest first" in words
    assert f"<i>.png dog {CLASSES[2]} 95.0 % b.png cat dog 60.0 %" in words, "the surest mistake first"
    assert "79.0 % sure and 60.0 % right: surer than it was right" in words
    assert "The pictures cannot be shown here: data.path = /no/such/pictures" in words
    assert "&lt;script&gt;alert(1)" in text


def test_raw_weights_and_averaged_views_stand_beside_the_model(tmp_path: Path) -> None:
    result = result_of("a")
    assert result.test is not None
    _, words = written(make_run(tmp_path, result=result))
    assert "raw" not in words.partition("Job and environment")[0]
    result.test.update(raw_top1=0.4, tta_top1=0.8)
    job = {"train": {"epochs": 4, "ema": {}}, "evaluate": {"tta": ["flip"]}}
    text, words = written(make_run(tmp_path, "b", job=job, result=result))
    assert "its raw weights 40.00 %" in words and "with the views of flip 80.00 %" in words
    assert "val (raw), epoch 4: 60 %" in words and "--gaps" in text


def test_all_right_has_no_mistakes(tmp_path: Path) -> None:
    right = [replace(one, predicted=one.label) for one in ANSWERS]
    _, words = written(make_run(tmp_path, result=result_of("a"), answers=right))
    assert "None: all 5 pictures were taken for what they are" in words


def test_a_run_before_its_first_epoch(tmp_path: Path) -> None:
    text, words = written(make_run(tmp_path, history=[]))
    assert "No epoch has been finished yet" in words and 'class="state warn">unfinished<' in text
    assert "Left after 0 of 4 epochs without a result" in words


def test_a_run_that_goes_on(tmp_path: Path) -> None:
    run = make_run(tmp_path, history=[record(0), record(1)])
    with held_elsewhere(run):
        text, words = written(run)
    assert 'class="state warn">running<' in text and "Running: epoch 3 of 4" in words
    assert "Validation accuracy 61.00 % selected on this set: no figure to quote" in words
    assert "class 0 50.0 % class 1 70.0 % class 2 –" in words, "the names of the classes are not known yet"


def test_a_run_that_failed_shows_its_log(tmp_path: Path) -> None:
    run = make_run(tmp_path, history=[record(0)])
    (run.logs / "rank-0.log").write_text("\n".join(f"line {k}" for k in range(30)) + "\nERROR <b>gradient</b>\n")
    text, words = written(run)
    assert 'class="state warn">unfinished<' in text
    assert f"`distaug resume {run.root}` goes on from there" in words
    assert "ERROR &lt;b&gt;gradient" in text and "line 29" in words and "line 3 " not in words


@pytest.mark.parametrize(("state", "kind"), [("failed", "bad"), ("interrupted", "warn")])
def test_a_result_without_a_model(state: Any, kind: str, tmp_path: Path) -> None:
    result = replace(result_of("a"), state=state, reason="the gradient was not finite", test=None, val=None, best=None)
    text, words = written(make_run(tmp_path, result=result))
    assert f'class="state {kind}">{state}<' in text
    assert f"{state.capitalize()} after 4 of 4 epochs: the gradient was not finite" in words


def test_a_run_that_stopped_early_says_what_that_saved(tmp_path: Path) -> None:
    run = make_run(
        tmp_path, job={"train": {"epochs": 8}}, result=replace(result_of("a"), state="stopped", reason="enough")
    )
    text, words = written(run)
    assert "stopped early" in words and "Stopped after 4 of 8 epochs: enough. Stopping saved 4 epochs (50 %)." in words


def test_without_a_validation_set(tmp_path: Path) -> None:
    history = [record(k, val_loss=None, top1=None, raw_top1=None, macro=None, per_class=[]) for k in range(4)]
    run = make_run(tmp_path, history=history, result=replace(result_of("a"), val=None), answers=ANSWERS)
    text, words = written(run)
    assert "There was no validation set, so the model is that of the last epoch" in words
    assert "Best epoch" not in words and 'class="mark"' not in text.partition("Test set")[0].partition("Training")[2]


def test_without_a_test_set_nothing_is_quoted(tmp_path: Path) -> None:
    run = make_run(
        tmp_path, result=replace(result_of("a"), test=None), answers=[replace(a, set="val") for a in ANSWERS]
    )
    _, words = written(run)
    assert "Validation accuracy 63.00 % selected on this set: no figure to quote" in words
    assert "Test" not in words and "cat taken for dog: 1 of 2" in words


def test_a_run_of_an_earlier_version_has_no_predictions(tmp_path: Path) -> None:
    _, words = written(make_run(tmp_path, result=result_of("a")))
    assert "The run kept no predictions.csv" in words and "Confusion" not in words and "cat 50.0 % 2" in words


def test_many_classes_have_no_matrix(tmp_path: Path) -> None:
    names = [f"kind-{k}" for k in range(150)]
    answers = [Prediction("test", k, f"{k}.png", names[k], names[k if k < 140 else 0], 0.5, 0.5) for k in range(150)]
    per_class = [1.0] * 140 + [0.0] * 10
    result = result_of("a", classes=names, data={})
    assert result.test is not None
    result.test.update(per_class=per_class, samples=150)
    _, words = written(make_run(tmp_path, result=result, answers=answers))
    assert "Confusion matrix" not in words and "Most often confused" in words and "kind-140 kind-0 1" in words
    assert "the 15 lowest and the 5 highest of 150" in words and "kind-149 0.0 %" in words


def test_one_epoch(tmp_path: Path) -> None:
    result = replace(result_of("a"), best={"epoch": 0, "top1": 0.6, "loss": 1.5, "metric": "top1"})
    text, _ = written(make_run(tmp_path, history=[record(0)], result=result))
    assert "train, epoch 1: 2<" in text and 'class="dot"' in text


def test_losses_that_are_not_finite_are_told(tmp_path: Path) -> None:
    history = [record(0), record(1, train_loss=math.nan, val_loss=math.nan, skipped_steps=3), record(2)]
    text, words = written(make_run(tmp_path, history=history))
    assert "The loss was not finite in 1 of the epochs, first in epoch 2" in words
    assert "The scaler of fp16 withheld 3 updates" in words and "nan" not in text.partition("<body>")[2]


def test_made_up_pictures_are_no_proof(tmp_path: Path) -> None:
    run = make_run(
        tmp_path, job={"data": {"source": "synthetic", "synthetic": {"samples": 100}}}, result=result_of("a")
    )
    assert "The pictures are made up: the accuracies on this page mean nothing" in written(run)[1]


def test_workers_that_came_and_went_are_drawn(tmp_path: Path) -> None:
    run = make_run(tmp_path, history=[record(0, world_size=2), record(1, world_size=1)])
    assert "workers, epoch 2: 1<" in written(run)[0]
    assert "workers, epoch" not in written(make_run(tmp_path, "b", history=[record(0), record(1)]))[0]


def test_the_compression_is_a_table_and_curves(tmp_path: Path) -> None:
    run = make_run(tmp_path, result=result_of("a"))
    run.compressed.mkdir()
    rows = [
        replace(
            row,
            latency={"1": {"p50_ms": 0.5, "speedup": row.latency["1"]["speedup"]}},
            engine={"name": "onnxruntime", "version": "1.32", "threads": 1, "cpu": "a processor"},
            reason="" if row.passed else "it only guesses",
        )
        for row in FULL
    ]
    stages(*rows, artifact="int8").write(run.compressed)
    text, words = written(run)
    assert "Compressed 1.2 MB int8: 4.0 × smaller, 3.4 × faster, val 94.50 %" in words
    assert "int8 1.2 MB 0.250 0 % 0.50 3.40 × 94.50 % – 100.0 % passed" in words
    assert "magnitude-80 : it only guesses" in words and "magnitude-80 ↓ 31.0 %" in words
    for title in ("over size", "over speed", "over zeros"):
        assert f"Validation accuracy {title}" in words
    assert text.count("dot hollow") == 5 and "The compression has not ended" in words


def test_nothing_that_passed_the_gate_is_told(tmp_path: Path) -> None:
    run = make_run(tmp_path, result=result_of("a"))
    run.compressed.mkdir()
    row = replace(FULL[0], latency={"1": {"p50_ms": 1.0, "speedup": 1.0}}, engine={"threads": 1})
    replace(stages(row), done=True, reason="all too slow").write(run.compressed)
    assert "Nothing passed the gate: all too slow" in written(run)[1]


def test_a_trained_run_shows_its_pictures(tmp_path: Path) -> None:
    job = JobSpec.model_validate(small_job(tmp_path, train={"epochs": 1}))
    train(job)
    run = RunDir(tmp_path, "small")
    text, words = written(run)
    mistakes = words.partition("pictures were taken for another class")[2]
    assert "24 of them" in mistakes and text.count('title="digit ') == 24
    assert text.count("data:image/png") == 24 + 20
    assert "in the first epoch, with their largest targets" in words

    # Data that has changed since would put other pictures beside the answers.
    weights, card = read_model(run.model)
    write_model(run.model, weights, card | {"data_digest": "ff"})
    text, words = written(run)
    assert "data:image" not in text and "the run was trained on other data" in words


def test_nothing_is_downloaded_for_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = {"data": {"source": "cifar10", "path": str(tmp_path / "none"), "download": True}}
    specs: list[Any] = []
    monkeypatch.setattr(facts, "open_data", lambda spec, **more: specs.append(spec) or open_data(spec, **more))
    _, words = written(make_run(tmp_path, job=job))
    assert [spec.download for spec in specs] == [False] and "cannot be shown here" in words


def test_the_page_goes_where_it_is_asked_for(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    assert write_report(run) == run.report / "index.html"
    assert write_report(run, tmp_path / "new" / "x.html").is_file()


def test_what_is_wrong_is_an_error_of_ours(tmp_path: Path, read_only: Path) -> None:
    with pytest.raises(JobError, match="no run folder"):
        write_report(RunDir(tmp_path, "none"))
    run = make_run(tmp_path)
    with pytest.raises(StorageError, match="cannot write"):
        write_report(run, read_only / "x.html")
    for file in (run.history_file, run.result_file, run.predictions_file):
        file.write_text("{\n")
        with pytest.raises(DistaugError, match=file.name):
            write_report(run)
        file.unlink()


def test_large_pictures_are_made_small_and_small_ones_are_kept() -> None:
    small = torch.arange(3 * 32 * 32).remainder(256).to(torch.uint8).view(3, 32, 32)
    large = torch.arange(3 * 500 * 400).remainder(256).to(torch.uint8).view(3, 500, 400)
    assert 'src="data:image/png' in embedded(small, "") and 'src="data:image/jpeg' in embedded(large, "")
    assert len(embedded(large, "")) < 30_000


@pytest.mark.parametrize(
    ("share", "count", "expected"),
    [
        (0.5, 10, (0.2366, 0.7634)),
        (1.0, 10, (0.7225, 1.0)),
        (0.0, 10, (0.0, 0.2775)),
        (0.99, 10_000, (0.98786, 0.99178)),
    ],
)
def test_the_interval_of_a_share(share: float, count: int, expected: tuple[float, float]) -> None:
    assert wilson(share, count) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.34, "0.3 s"), (33.4, "33 s"), (59.7, "1 min 0 s"), (75, "1 min 15 s"), (7260, "2 h 1 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text

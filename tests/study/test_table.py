"""The table of a study: every figure of every run, and what is exact apart from what is a time."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from distaug.errors import StorageError
from distaug.spec import study as spec
from distaug.store.rundir import RunDir
from distaug.store.stages import Stages
from distaug.study.plan import Plan
from distaug.study.summary import summarise, to_values
from distaug.study.table import METRICS, complete, outcomes, write
from tests.report.runs import record, result_of
from tests.study.studies import compressed, plan_of, train, train_all

TWO = "variants: {a: {}, b: {train.label_smoothing: 0.2}}\nseeds: [0, 1]\n"
EXACT = ["top1", "macro", "loss", "ece", "val_top1", "train_top1", "gap", "train_loss", "epochs"]
TIMES = ["epoch_seconds", "images_per_second", "seconds", "peak_memory_bytes"]


def written(plan: Plan) -> tuple[list[list[str]], dict[str, Any]]:
    """Return the rows of results.csv and the values of results.json."""
    plan.root.mkdir(parents=True, exist_ok=True)
    found = outcomes(plan)
    write(plan, found, to_values(summarise(plan, found)))
    rows = list(csv.reader((plan.root / "results.csv").read_text().splitlines()))
    return rows, json.loads((plan.root / "results.json").read_text(), parse_constant=pytest.fail)


def test_the_metrics_are_those_of_the_study_file() -> None:
    assert tuple(METRICS) == spec.METRICS == get_args(spec.Metric)
    assert [name for name, metric in METRICS.items() if metric.measured] == TIMES


def test_every_metric_is_read_off_the_run(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, TWO)
    history = [
        record(0, seconds=2.0, images=1000, train_loss=2.0, peak_memory_bytes=5000),
        record(1, seconds=4.0, images=1000, train_loss=0.5, peak_memory_bytes=7000),
        record(2, seconds=1.5, images=1000, train_loss=0.75, peak_memory_bytes=None),
    ]
    train(plan.runs[0], 0.75, history=history, train={"top1": 0.8125}, val={"top1": 0.625}, seconds=99.5)
    values = outcomes(plan)[0].values()
    assert values == {
        "top1": 0.75,
        "macro": pytest.approx(2 / 3),
        "loss": 0.7,
        "ece": 0.25,
        "val_top1": 0.625,
        "train_top1": 0.8125,
        "gap": 0.1875,
        "train_loss": 0.75,
        "epochs": 3,
        "epoch_seconds": 2.5,
        "images_per_second": 400.0,
        "seconds": 99.5,
        "peak_memory_bytes": 7000,
    }


def test_a_figure_that_is_not_known_is_none(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, TWO)
    history = [record(0, peak_memory_bytes=0)]
    train(plan.runs[0], history=history, val=None, test={"top1": 0.5, "ece": None}, seconds=None)
    train(plan.runs[1], history=[])
    train(plan.runs[2], ended=False)
    first, second, *others = (outcome.values() for outcome in outcomes(plan))
    unknown = {"macro", "loss", "ece", "val_top1", "train_top1", "gap", "seconds", "peak_memory_bytes"}
    assert {name for name, value in first.items() if value is None} == unknown
    assert second["top1"] == 0.6 and second["epochs"] is None and second["images_per_second"] is None
    assert {value for values in others for value in values.values()} == {None}


def test_a_run_is_done_begun_or_waiting(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, TWO)
    train(plan.runs[1])
    train(plan.runs[2], ended=False)
    found = outcomes(plan)
    assert [outcome.run for outcome in found] == plan.runs
    assert [outcome.state for outcome in found] == ["waiting", "done", "unfinished", "waiting"]


@pytest.mark.parametrize("file", ["result.json", "history.jsonl"])
def test_a_damaged_run_is_told_and_hides_no_other(tmp_path: Path, file: str) -> None:
    plan = plan_of(tmp_path, TWO)
    train_all(plan, {"a": [0.5, 0.625], "b": [0.75]})
    (plan.root / "runs" / "a-s0" / file).write_text("{\n")
    found = outcomes(plan)
    assert [outcome.state for outcome in found] == ["damaged", "done", "done", "waiting"]
    assert set(found[0].values().values()) == {None} and found[0].history == []
    (head, *rows), whole = written(plan)
    assert [dict(zip(head, row, strict=True))["top1"] for row in rows] == ["", "0.75", "0.625", ""]
    assert [run["state"] for run in whole["runs"]] == ["damaged", "done", "done", "waiting"]
    assert [line["spreads"]["top1"]["count"] for line in whole["summary"]["lines"]] == [1, 1]


def test_the_table_has_a_row_for_each_run_with_the_times_last(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, TWO)
    train(plan.runs[0], 0.75, weights_digest="abc", seconds=75.0)
    train(plan.runs[3], ended=False)
    (head, *rows), _ = written(plan)
    assert head == ["variant", "seed", "state", *EXACT, "weights_digest", "run", *TIMES]
    assert [row[:3] for row in rows] == [
        ["a", "0", "done"],
        ["b", "0", "waiting"],
        ["a", "1", "waiting"],
        ["b", "1", "unfinished"],
    ]
    first = dict(zip(head, rows[0], strict=True))
    assert first["top1"] == "0.75" and first["weights_digest"] == "abc" and first["seconds"] == "75.0"
    assert [row[3:] for row in rows[1:]] == [[*[""] * 10, f"{name}", *[""] * 4] for name in ("b-s0", "a-s1", "b-s1")]


def test_the_values_are_those_of_the_table_and_say_where_they_are_from(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, TWO + "name: mine\n")
    train_all(plan, {"a": [0.5, 0.625], "b": [0.75]})
    (head, *rows), whole = written(plan)
    assert (whole["format"], whole["study"]) == (1, "mine") and len(whole["runs"]) == 4
    assert whole["machine"]["cpu"] == "a processor" and whole["versions"] == {"distaug": "0.1.0", "torch": "2.15.0"}
    for row, run in zip(rows, whole["runs"], strict=True):
        flat = {key: value for key, value in run.items() if key not in ("artifacts", "times")} | run["times"]
        assert {name: "" if flat[name] is None else str(flat[name]) for name in head} == dict(
            zip(head, row, strict=True)
        )
    assert [line["spreads"]["top1"]["mean"] for line in whole["summary"]["lines"]] == [0.5625, 0.75]


def test_before_the_first_run_there_is_a_table_and_no_machine(tmp_path: Path) -> None:
    rows, whole = written(plan_of(tmp_path, TWO))
    assert len(rows) == 5 and "machine" not in whole and {run["state"] for run in whole["runs"]} == {"waiting"}


def test_a_loss_that_is_not_finite_is_null(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, TWO)
    train(plan.runs[0], history=[record(0, train_loss=float("nan"))])
    _, whole = written(plan)
    assert whole["runs"][0]["train_loss"] is None and whole["runs"][0]["epochs"] == 1


def left(folder: Path, *, slow: bool = False, top1: float = 0.75) -> tuple[str, str]:
    """Return the exact part of the table and of the values of a study, trained on a fast or a slow machine."""
    plan = plan_of(folder, TWO)
    for run in plan.runs:
        base = [record(k) for k in range(3)]
        history = [replace(one, seconds=9.0, eval_seconds=8.0, peak_memory_bytes=7) for one in base] if slow else base
        files = [compressed("fp32", 0.5), compressed("int8", 0.5, speedup=1.25 if slow else 3.0)]
        other: dict[str, Any] = {"seconds": 500.0, "machine": {"cpu": "slow"}, "versions": {}} if slow else {}
        train(run, top1, history=history, artifacts=files, **other)
    rows, whole = written(plan)
    del whole["machine"], whole["versions"]
    speedup, seconds = (1.25, 500.0) if slow else (3.0, 75.0)
    times = [run.pop("times") for run in whole["runs"]]
    assert {(one["speedups"]["int8"], one["seconds"]) for one in times} == {(speedup, seconds)}
    lines = [line.pop("times") for line in whole["summary"]["lines"]]
    assert {line["spreads"]["seconds"]["mean"] for line in lines} == {seconds}
    files = [file.pop("times") for file in whole["summary"]["files"]]
    assert files == [{"speedup": 1.0}, {"speedup": speedup}] * 2
    return "\n".join(",".join(row[: -len(TIMES)]) for row in rows), json.dumps(whole)


def test_where_only_the_times_differ_the_rest_is_the_same(tmp_path: Path) -> None:
    fast = left(tmp_path / "a")
    assert left(tmp_path / "b", slow=True) == fast
    other = left(tmp_path / "c", top1=0.76)
    assert other[0] != fast[0] and other[1] != fast[1]


def test_the_compressed_files_are_in_the_values(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, TWO)
    train(plan.runs[0], artifacts=[compressed("fp32", 0.6), compressed("int8", None, size=1000, speedup=2.5)])
    _, whole = written(plan)
    first, second = whole["runs"][0]["artifacts"]
    assert second == {
        "name": "int8",
        "parameters": 1000,
        "nonzeros": 1000,
        "macs": 7000,
        "bytes": 1000,
        "zlib_bytes": 500,
        "test": None,
        "val": {"top1": 0.5},
        "passed": True,
    }
    assert first["test"] == {"top1": 0.6} and whole["runs"][0]["times"]["speedups"] == {"fp32": 1.0, "int8": 2.5}
    assert whole["runs"][1]["artifacts"] == [] and whole["runs"][1]["times"]["speedups"] == {}


def test_a_run_is_complete_once_it_is_trained(tmp_path: Path) -> None:
    run = plan_of(tmp_path, TWO).runs[0]
    assert not complete(run)
    train(run, ended=False)
    assert not complete(run)
    file = RunDir(run.job.runs_dir, "a-s0").result_file
    result_of("a-s0").write(file)
    assert complete(run)
    file.write_text("{")
    with pytest.raises(StorageError, match=r"a-s0/result\.json is not JSON"):
        complete(run)


def test_a_run_that_is_to_be_compressed_is_complete_after_that_very_compression(tmp_path: Path) -> None:
    text = "variants: {a: {compress: {stages: [{int8: {}}]}}, b: {compress: {stages: [{magnitude: {}}]}}}\n"
    run, other, *_ = plan_of(tmp_path, text).runs
    train(run)
    assert not complete(run), "it is only trained"
    assert run.job.compress is not None and other.job.compress is not None
    folder = RunDir(run.job.runs_dir, run.job.name).compressed
    folder.mkdir()
    for asked, done, expected in (
        (run.job.compress, False, False),
        (other.job.compress, True, False),
        (run.job.compress, True, True),
    ):
        Stages(spec=asked.model_dump(mode="json"), weights_digest="", classes=[], done=done).write(folder)
        for artifacts in (None, [compressed("fp32", 0.5)]):
            train(run, artifacts=artifacts)
            assert complete(run) is (expected and artifacts is not None), "its result does not hold them yet"

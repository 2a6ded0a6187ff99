"""The command `study` on a real Ray: stopped, killed and gone on with, it says the same as one that was not."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distaug.cluster import fit, study
from distaug.errors import ArtifactError, ClusterError, InterruptedRunError, JobError, StudyError
from distaug.report.study import write_study
from distaug.spec.document import dump
from distaug.study import table
from distaug.study.load import load_study
from distaug.study.plan import Plan
from distaug.study.summary import summarise, to_values
from distaug.train.world import SoloWorld
from tests.train.jobs import run_job, small_job

PATIENCE_S = 150


def write_study_file(folder: Path, variants: dict[str, Any], seeds: list[int], **changes: Any) -> Path:
    base = small_job(folder, **changes, train={"epochs": 6, "shards": 2}, stop={"patience_epochs": None})
    del base["runs_dir"]
    file = folder / "study.yaml"
    file.write_text(dump({"name": "small", "base": base, "variants": variants, "seeds": seeds}))
    return file


def start(folder: Path) -> subprocess.Popen[str]:
    with (folder / "out.txt").open("a") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "distaug", "study", "study.yaml"],
            cwd=folder,
            stdout=out,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )


def wait_for(what: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    limit = time.monotonic() + PATIENCE_S
    while time.monotonic() < limit and process.poll() is None:
        if what():
            return
        time.sleep(0.05)
    raise AssertionError(f"did not happen; the command's exit code is {process.poll()}")


def results(plan: Plan) -> dict[str, Any]:
    """Return results.json without what is another one each time."""
    found: dict[str, Any] = json.loads((plan.root / "results.json").read_text())
    for part in (*found["runs"], *found["summary"]["lines"], *found["summary"]["files"]):
        del part["times"]
    return found


def undisturbed(folder: Path, file: Path, *sets: str) -> Plan:
    """Train the runs of a study one by one in this process, as far as they can be."""
    plan = load_study(file, [f"studies_dir={folder}", *sets])
    for run in plan.runs:
        run_job(SoloWorld(), run.job.model_dump(mode="json"))
    found = table.outcomes(plan)
    table.write(plan, found, to_values(summarise(plan, found)))
    return plan


@pytest.mark.ray
@pytest.mark.slow
def test_interrupted_killed_and_gone_on_with_it_says_the_same(tmp_path: Path) -> None:
    """One of the variants cannot be trained, and another one differs in nothing that matters."""
    variants = {
        "plain": {},
        "idle": {"data.device_memory_share": 0.5},
        "wild": {"train.optimizer.lr": 1e30, "train.clip_norm": None},
    }
    file = write_study_file(tmp_path, variants, [0], cluster={"workers": 1})
    runs = tmp_path / "studies" / "small" / "runs"

    def epochs(run: str) -> int:
        history = runs / run / "history.jsonl"
        return len(history.read_text().splitlines()) if history.exists() else 0

    process = start(tmp_path)
    wait_for(lambda: epochs("plain-s0") >= 1, process)
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(PATIENCE_S) == 130
    said = (tmp_path / "out.txt").read_text()
    assert "study small: 0 of 3 runs are done" in said and "the same command goes on" in said, said
    assert (tmp_path / "studies/small/index.html").exists()

    process = start(tmp_path)
    wait_for(lambda: epochs("idle-s0") >= 1, process)
    time.sleep(random.uniform(0, 0.5))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    finished = (runs / "plain-s0" / "result.json").read_bytes()

    process = start(tmp_path)
    assert process.wait(PATIENCE_S) == 8
    said = (tmp_path / "out.txt").read_text()
    assert "1 of 3 runs failed, the others are done:\n  wild-s0: " in said and "Traceback" not in said, said
    assert "plain and idle trained the same networks, bit by bit: data.device_memory_share had no effect" in said
    assert (runs / "plain-s0" / "result.json").read_bytes() == finished, "a finished run is not repeated"
    plan = load_study(file, [f"studies_dir={tmp_path / 'studies'}"])
    alone = undisturbed(tmp_path / "alone", file)
    assert results(plan) == results(alone)
    assert [run["state"] for run in results(plan)["runs"]] == ["done", "done", "waiting"]


@pytest.mark.ray
def test_one_ray_serves_all_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    began: list[dict[str, Any]] = []
    init = ray.init
    monkeypatch.setattr(ray, "init", lambda **options: (began.append(options), init(**options))[1])
    file = write_study_file(tmp_path, {"plain": {}, "smoothed": {"train.label_smoothing": 0.3}}, [0])
    plan = load_study(file, [f"studies_dir={tmp_path}", "train.epochs=1"])
    study.study(plan, show_progress=False)
    assert len(began) == 1 and not ray.is_initialized()
    lines = (plan.root / "results.csv").read_text().splitlines()
    assert [line.split(",")[:3] for line in lines[1:]] == [["plain", "0", "done"], ["smoothed", "0", "done"]]
    # All is done, so nothing is begun once more.
    study.study(plan, show_progress=False)
    assert len(began) == 1


def test_runs_that_were_made_by_another_study_are_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_study_file(tmp_path, {"plain": {}, "smoothed": {"train.label_smoothing": 0.3}}, [0])
    plan = load_study(file, [f"studies_dir={tmp_path}", "train.epochs=1"])
    run_job(SoloWorld(), plan.runs[1].job.model_dump(mode="json"))
    monkeypatch.setattr(fit, "train", lambda *_: pytest.fail("a run was started"))
    other = load_study(file, [f"studies_dir={tmp_path}", "train.epochs=2"])
    with pytest.raises(JobError, match=r"study small: run 'smoothed-s0'(?s:.*)train.epochs: 1 in the run, 2 now"):
        study.study(other, show_progress=False)


def test_gone_on_with_it_repeats_nothing_and_says_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_study_file(tmp_path, {"plain": {}, "smoothed": {"train.label_smoothing": 0.3}}, [0, 1])
    plan = load_study(file, [f"studies_dir={tmp_path}", "train.epochs=1"])
    begun: list[str] = []

    def train(job: Any, *_: Any) -> None:
        begun.append(job.name)
        if len(begun) == 3:
            raise InterruptedRunError("stopped in mid-epoch")
        run_job(SoloWorld(), job.model_dump(mode="json"))

    monkeypatch.setattr(fit, "train", train)
    with pytest.raises(InterruptedRunError, match=r"study small: 2 of 4 runs are done .*the same command goes on"):
        study.study(plan, show_progress=False)
    assert [run["state"] for run in results(plan)["runs"]] == ["done", "done", "waiting", "waiting"]
    study.study(plan, show_progress=False)
    assert begun == ["plain-s0", "smoothed-s0", "plain-s1", "plain-s1", "smoothed-s1"]
    assert results(plan) == results(undisturbed(tmp_path / "alone", file, "train.epochs=1"))


def test_a_failure_of_our_own_does_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smoothed = {name: {"train.label_smoothing": share} for name, share in (("a", 0.1), ("b", 0.2), ("c", 0.3))}
    file = write_study_file(tmp_path, smoothed, [0])
    plan = load_study(file, [f"studies_dir={tmp_path}", "train.epochs=1"])
    real: list[str] = []

    def train(job: Any, *_: Any) -> None:
        if job.name == "b-s0":
            raise ZeroDivisionError("a slip")
        real.append(job.name)
        run_job(SoloWorld(), job.model_dump(mode="json"))

    monkeypatch.setattr(fit, "train", train)
    with pytest.raises(StudyError, match=r"1 of 3 runs failed(?s:.*)b-s0: internal error: ZeroDivisionError: a slip"):
        study.study(plan, show_progress=False)
    assert real == ["a-s0", "c-s0"]
    assert write_study(plan, table.outcomes(plan), summarise(plan, table.outcomes(plan))).exists()


@pytest.mark.parametrize("measured", [True, False], ids=["measured", "not exported"])
def test_a_refused_file_is_a_result_and_one_that_was_not_made_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: bool
) -> None:
    """The gate's refusal comes when all is measured; here the section alone says whether anything was to be."""
    file = write_study_file(tmp_path, {"plain": {}}, [0], **({} if measured else {"compress": {}}))
    plan = load_study(file, [f"studies_dir={tmp_path}", "train.epochs=1"])

    def train(job: Any, *_: Any) -> None:
        run_job(SoloWorld(), job.model_dump(mode="json"))
        raise ArtifactError("no stage passed the gate" if measured else "cannot be traced")

    monkeypatch.setattr(fit, "train", train)
    if measured:
        study.study(plan, show_progress=False)
    else:
        with pytest.raises(StudyError, match="plain-s0: cannot be traced"):
            study.study(plan, show_progress=False)


def test_why_a_run_failed_is_told_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_study_file(tmp_path, {"plain": {}}, [0])
    error = ClusterError("the workers failed:\n  rank 1: killed\nlogs are in /x")
    monkeypatch.setattr(fit, "train", lambda *_: (_ for _ in ()).throw(error))
    with pytest.raises(StudyError, match="plain-s0: the workers failed: rank 1: killed logs are in /x"):
        study.study(load_study(file, [f"studies_dir={tmp_path}"]), show_progress=False)

"""The real command on a real Ray: kills, signals and errors, each run compared bit by bit with an undisturbed one."""

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
import yaml

from bench import faults
from distaug.spec.job import JobSpec
from distaug.spec.load import dump_job
from distaug.train.world import SoloWorld
from tests.train.jobs import run_job, small_job

pytestmark = pytest.mark.ray

PATIENCE_S = 150


def long_job(runs: Path) -> dict[str, Any]:
    # A short time limit on collectives, since the survivors of a kill wait for it at the worst.
    changes = {"train": {"epochs": 12, "shards": 2}, "stop": {"patience_epochs": None}}
    return small_job(runs, **changes, cluster={"workers": 2, "collective_timeout_s": 30.0})


def start(folder: Path, *command: str) -> subprocess.Popen[str]:
    with (folder / "out.txt").open("a") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "distaug", *command],
            cwd=folder,
            stdout=out,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )


def write_job(folder: Path, job: dict[str, Any]) -> None:
    (folder / "job.yaml").write_text(dump_job(JobSpec.model_validate(job)))


def end(process: subprocess.Popen[str], folder: Path) -> tuple[int, str]:
    try:
        code = process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return code, (folder / "out.txt").read_text()


def wait_for(what: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    limit = time.monotonic() + PATIENCE_S
    while time.monotonic() < limit and process.poll() is None:
        found = what()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"did not happen; the command's exit code is {process.poll()}")


def epochs_done(folder: Path) -> int:
    history = folder / "runs" / "small" / "history.jsonl"
    return len(history.read_text().splitlines()) if history.exists() else 0


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the digest of the same job's weights, trained in this process alone."""
    digest: str = run_job(SoloWorld(), long_job(tmp_path_factory.mktemp("alone")))["result"].weights_digest
    return digest


def result_of(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "runs" / "small" / "result.json").read_text())
    epochs = [json.loads(line)["epoch"] for line in (folder / "runs/small/history.jsonl").read_text().splitlines()]
    assert epochs == list(range(12)), "the history has every epoch once"
    return result


@pytest.mark.parametrize("kind", ["kill rank", "kill driver"])
def test_a_kill_at_a_random_moment_costs_time_but_no_bit(tmp_path: Path, kind: str) -> None:
    """Two events of the fault drill, with saves in mid-epoch; `python bench/faults.py` does more of them."""
    job = yaml.safe_load(faults.JOB) | {"runs_dir": str(tmp_path / "alone")}
    whole = run_job(SoloWorld(), job)["result"].weights_digest
    run, dice = faults.Run(tmp_path / "drill", workers=2), random.Random()
    event = faults.disturb(run, kind, dice.uniform(0, 2), dice)
    assert event is not None and event["starts"] == 2
    assert event["lost_s"] < faults.SAVE_EVERY_S + 2, "more was lost than the time between saves and a step or two"
    assert run.digest() == whole


def test_sigterm_saves_and_resume_goes_on_from_that_step(tmp_path: Path, undisturbed: str) -> None:
    write_job(tmp_path, long_job(Path("runs")))
    process = start(tmp_path, "run", "job.yaml")
    wait_for(lambda: epochs_done(tmp_path) >= 3, process)
    began = time.monotonic()
    os.kill(process.pid, signal.SIGTERM)
    code, out = end(process, tmp_path)
    assert code == 130 and "the state is saved" in out, out
    assert time.monotonic() - began < 30
    code, out = end(start(tmp_path, "resume", "small", "--json"), tmp_path)
    assert code == 0 and "going on from epoch" in out, out
    assert result_of(tmp_path)["weights_digest"] == undisturbed
    # Once finished it is told so, at once.
    code, out = end(start(tmp_path, "run", "job.yaml"), tmp_path)
    assert code == 0 and "has finished before" in out and "--name" in out


def test_an_error_of_the_data_is_told_once_without_a_traceback(tmp_path: Path) -> None:
    job = small_job(Path("runs"), cluster={"workers": 2})
    job["data"] = {"source": "folder", "path": "nowhere"}
    write_job(tmp_path, job)
    code, out = end(start(tmp_path, "run", "job.yaml"), tmp_path)
    assert code == 3 and out.count("nowhere") == 1 and "Traceback" not in out, out

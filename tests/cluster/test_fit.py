"""The real command on a real Ray: kills, signals and errors, each run compared bit by bit with an undisturbed one."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench import faults
from distaug.spec.job import JobSpec
from distaug.spec.load import dump_job
from distaug.store.records import Result
from distaug.train.world import SoloWorld
from tests.cluster.scraper import Scraper
from tests.train.jobs import run_job, small_job

# The drill is three starts of Ray and one more of its workers, which a busy machine needs its time for.
pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

PATIENCE_S = 150


def start(folder: Path, *command: str, program: tuple[str, str] = ("-m", "distaug")) -> subprocess.Popen[str]:
    with (folder / "out.txt").open("a") as out:
        return subprocess.Popen(
            [sys.executable, *program, *command],
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


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """Return the result of the drill's job, trained in this process alone."""
    job = yaml.safe_load(faults.JOB) | {"runs_dir": str(tmp_path_factory.mktemp("alone"))}
    result: Result = run_job(SoloWorld(), job)["result"]
    return result


@dataclass
class Drill:
    """What became of a run that was disturbed three times."""

    run: faults.Run
    lost_s: list[float]
    """Work lost by each kill."""
    leaving_s: float
    """From SIGTERM to the end of the command."""
    scraper: Scraper
    """Of the last command, which lost a worker and then finished."""

    @property
    def out(self) -> str:
        return (self.run.folder / "out.txt").read_text()


@pytest.fixture(scope="module")
def drill(tmp_path_factory: pytest.TempPathFactory, undisturbed: Result) -> Drill:
    """Kill the driver, stop it, and kill a rank; `python bench/faults.py` does more of it, in a run for each event.

    Here they are in one run, since each command starts a Ray, which takes longer than the training.
    """
    run, dice = faults.Run(tmp_path_factory.mktemp("drill") / "folder", workers=2), random.Random()
    assert undisturbed.seconds is not None
    moments = [dice.uniform(0, undisturbed.seconds / 4) for _ in range(2)]
    too_late = f"the training was over before it was disturbed; the kills were due {moments} s after its starts"

    killed = faults.strike(run, run.start(), "kill driver", moments[0], dice)
    assert killed, too_late
    stopped = faults.strike(run, run.start("resume", "drill"), "SIGTERM", 0, dice, lambda: epochs_done(run) >= 3)
    assert stopped, too_late
    left_at = time.time()

    scraper = Scraper(run.folder / "runs" / "targets" / "drill.json")
    scraper.start()
    process = run.start("resume", "drill", "--json")
    lost = faults.strike(
        run, process, "kill rank", moments[1], dice, lambda: (scraper.last("distaug_images_total") or 0) > 0
    )
    assert lost, too_late
    run.end(process, 0)
    scraper.over = True
    scraper.join()
    return Drill(run, [killed[1], lost[1]], left_at - stopped[0], scraper)


def epochs_done(run: faults.Run) -> int:
    history = run.root / "history.jsonl"
    return len(history.read_text().splitlines()) if history.exists() else 0


def test_kills_at_random_moments_and_a_stop_cost_time_but_no_bit(drill: Drill, undisturbed: Result) -> None:
    assert len(drill.run.attempts()) == 4
    assert max(drill.lost_s) < faults.SAVE_EVERY_S + 2, "more than the time between saves and a step or two"
    assert drill.run.digest() == undisturbed.weights_digest


def test_sigterm_saves_and_resume_goes_on_from_that_step(drill: Drill) -> None:
    assert drill.leaving_s < 30
    told = re.search(r"stopped in epoch (\d+) after step (\d+); the state is saved", drill.out)
    assert told is not None, drill.out
    after = drill.run.attempts()[2]
    assert (after["epoch"] + 1, after["step"]) == (int(told[1]), int(told[2]))
    assert drill.out.count("going on from epoch") >= 2, drill.out


def test_once_finished_it_is_told_so_at_once(drill: Drill) -> None:
    code, out = end(start(drill.run.folder, "run", "job.yaml"), drill.run.folder)
    assert code == 0 and "has finished before" in out and "--name" in out


def test_a_killed_worker_is_seen_and_no_total_falls(drill: Drill) -> None:
    scraper = drill.scraper
    assert scraper.missed <= 1, "the endpoint answers throughout, but for the moment in which it is taken down"
    for name in ("distaug_images_total", "distaug_steps_total", "distaug_step_seconds_count"):
        totals = [seen[name, ""] for seen in scraper.seen if (name, "") in seen]
        assert totals == sorted(totals) and totals[-1] > 0, name
    # Two by the commands before, and one by the kill.
    assert scraper.last("distaug_restarts_total") == 3
    ranks = [{rank for name, rank in seen if name == "distaug_rank_info"} for seen in scraper.seen]
    assert {"0", "1"} in ranks and all(found <= {"0", "1"} for found in ranks)
    assert not scraper.announcement.exists()


def test_an_error_of_the_data_is_told_once_without_a_traceback(tmp_path: Path) -> None:
    job = small_job(Path("runs"), cluster={"workers": 2})
    job["data"] = {"source": "folder", "path": "nowhere"}
    write_job(tmp_path, job)
    code, out = end(start(tmp_path, "run", "job.yaml"), tmp_path)
    assert code == 3 and out.count("nowhere") == 1 and "Traceback" not in out, out

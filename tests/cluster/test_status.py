"""How the runs of a folder go, and what the command shows of it."""

import json
import os
import shutil
from pathlib import Path

import pytest

from distaug import cli
from distaug.cluster.private import ADDRESS
from distaug.cluster.status import of_run, runs
from distaug.errors import JobError
from distaug.store.rundir import RunDir, RunLock

GOLDEN = Path(__file__).parent.parent / "golden" / "format-1"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a working directory with a finished run, a half-finished one and a damaged one."""
    monkeypatch.delenv(ADDRESS, raising=False)
    monkeypatch.chdir(tmp_path)
    for name in ("finished", "half"):
        shutil.copytree(GOLDEN / name, tmp_path / "runs" / name)
    shutil.copytree(GOLDEN / "half", tmp_path / "runs" / "broken")
    (tmp_path / "runs" / "broken" / "job.yaml").write_text("no: job")
    return tmp_path


def test_each_run_says_where_it_stands(folder: Path) -> None:
    broken, finished, half = (of_run(run) for run in runs(None))
    assert finished.state == "finished" and finished.epoch == finished.epochs and finished.left_s is None
    assert half.state == "unfinished" and half.epoch is not None and half.epochs is not None
    assert half.epoch < half.epochs and half.left_s is None
    assert broken.state == "unreadable" and "unknown key" in broken.message
    assert finished.top1 is not None and 0 < finished.top1 <= 1 and finished.place == str(folder / "runs" / "finished")


def test_a_run_that_is_held_is_running(folder: Path) -> None:
    run = RunDir("runs", "half")
    lock, go = os.pipe(), os.pipe()
    if (child := os.fork()) == 0:
        with RunLock(run):
            os.write(lock[1], b"x")
            os.read(go[0], 1)
        os._exit(0)
    os.read(lock[0], 1)
    status = of_run(run)
    os.write(go[1], b"x")
    os.waitpid(child, 0)
    assert status.state == "running" and status.left_s is not None and status.left_s > 0
    assert of_run(run).state == "unfinished"


def test_a_run_or_a_folder_of_runs_can_be_named(folder: Path) -> None:
    assert [run.name for run in runs("runs/half")] == ["half"]
    assert [run.name for run in runs("half")] == ["half"]
    assert [run.name for run in runs(str(folder / "runs"))] == ["broken", "finished", "half"]
    assert runs(None) and not (Path.cwd() / "nothing").exists()
    with pytest.raises(JobError, match="there is no run 'nothing'"):
        runs("nothing")


def test_the_command_shows_all_or_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status"]) == 0
    table = capsys.readouterr().out
    assert all(word in table for word in ("broken", "unreadable", "half", "unfinished", "finished"))
    assert cli.main(["status", "finished"]) == 0
    assert str(folder / "runs" / "finished") in capsys.readouterr().out
    assert cli.main(["status", "--json"]) == 0
    assert [row["run"] for row in json.loads(capsys.readouterr().out)] == ["broken", "finished", "half"]

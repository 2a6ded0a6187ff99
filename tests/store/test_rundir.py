"""The run folder: names, finding, the job file and the lock."""

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from distaug.errors import JobError, StorageError
from distaug.spec.job import JobSpec
from distaug.store.rundir import RunDir, RunLock, rank_log


def job(**fields: object) -> JobSpec:
    return JobSpec.model_validate({"data": {"source": "digits"}, "model": {"name": "smallnet"}, **fields})


def started(runs_dir: Path, name: str) -> RunDir:
    run = RunDir(runs_dir, name)
    run.create()
    run.save_job(job(name=name, runs_dir=str(runs_dir)))
    return run


# --- paths ----------------------------------------------------------------------------------------


def test_the_paths_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = RunDir("runs", "a-b_c.1")
    root = tmp_path / "runs" / "a-b_c.1"
    assert run.root == root and run.name == "a-b_c.1" and run.runs_dir == tmp_path / "runs"
    assert {path: getattr(run, path) for path in ("job_file", "history_file", "result_file")} == {
        "job_file": root / "job.yaml",
        "history_file": root / "history.jsonl",
        "result_file": root / "result.json",
    }
    assert (run.checkpoints, run.model, run.logs) == (root / "checkpoints", root / "model", root / "logs")
    assert (run.predictions_file, run.report) == (root / "predictions.csv", root / "report")
    assert rank_log(run.logs, 3) == root / "logs" / "rank-3.log"
    assert not root.exists(), "paths touch nothing"
    monkeypatch.chdir("/")
    assert run.root == root, "a change of the working directory moves nothing"
    assert pickle.loads(pickle.dumps(run)).root == root


def test_home_is_understood(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert RunDir("~/runs", "a").root == tmp_path / "runs" / "a"


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../up", "a/b", "/etc", ".hidden", "-flag", "a b", "a\n", "ü", "a\0", "x" * 101]
)
def test_a_name_that_could_leave_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(JobError, match="cannot be a folder's name; allowed are"):
        RunDir(tmp_path, name)


def test_a_run_in_an_object_store(bucket: str) -> None:
    run = RunDir(f"{bucket}/runs", "a")
    assert str(run.root) == f"{bucket}/runs/a" and str(run.runs_dir) == f"{bucket}/runs" and run.name == "a"
    assert pickle.loads(pickle.dumps(run)).root == run.root
    run.create()
    assert not run.exists() and not run.in_use() and RunDir.names(run.runs_dir) == []
    run.save_job(job(name="a", runs_dir=f"{bucket}/runs", seed=3))
    assert run.exists() and run.load_job().seed == 3
    assert RunDir.find(f"{bucket}/runs/a/").root == RunDir.find("a", f"{bucket}/runs").root == run.root
    with pytest.raises(JobError, match=rf"no run '{bucket}/runs/b' .*; {bucket}/runs/ holds a;"):
        RunDir.find(f"{bucket}/runs/b")
    with pytest.raises(StorageError, match="there is no bucket"):
        RunDir.find(f"{bucket}-not/runs/a")
    with pytest.raises(StorageError, match="there is no bucket"):
        RunDir(f"{bucket}-not/runs", "a").create()


def test_a_run_of_another_bucket_is_the_job_of_its_new_place(bucket: str) -> None:
    run = RunDir(f"{bucket}/moved", "b")
    run.save_job(job(name="a", runs_dir="runs"))
    moved = run.load_job()
    assert (moved.name, moved.runs_dir) == ("b", f"{bucket}/moved")


def test_create_keeps_what_is_there(tmp_path: Path) -> None:
    run = started(tmp_path / "deep" / "runs", "a")
    (run.checkpoints / "x").touch()
    run.create()
    assert (run.checkpoints / "x").exists() and run.logs.is_dir()
    assert not run.model.exists(), "the model is whole or absent"


def test_an_unwritable_runs_folder_is_named(read_only: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=rf"{read_only}/runs/a.*make it writable.*runs_dir"):
        RunDir(read_only / "runs", "a").create()
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file/a: Not a directory"):
        RunDir(tmp_path / "file", "a").create()


# --- the job --------------------------------------------------------------------------------------


def test_the_job_comes_back(tmp_path: Path) -> None:
    run = RunDir(tmp_path, "a")
    run.create()
    assert not run.exists()
    asked = job(name="a", runs_dir=str(tmp_path), seed=7, train={"epochs": 3})
    run.save_job(asked)
    assert run.exists() and run.load_job() == asked


def test_a_moved_run_is_the_job_of_its_new_place(tmp_path: Path) -> None:
    run = started(tmp_path / "runs", "a")
    (tmp_path / "elsewhere").mkdir()
    run.root.rename(tmp_path / "elsewhere" / "b")
    moved = RunDir(tmp_path / "elsewhere", "b").load_job()
    assert RunDir(moved.runs_dir, moved.name).root == tmp_path / "elsewhere" / "b"


def test_a_folder_without_job_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="no run folder.*distaug run JOB"):
        RunDir(tmp_path, "a").load_job()


# --- finding --------------------------------------------------------------------------------------


def test_a_run_is_found_by_name_by_path_and_from_within(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = started(tmp_path / "runs", "digits").root
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()  # a data set of the same name is no run
    for given in ("digits", "runs/digits", "./runs/digits/", str(root), root):
        assert RunDir.find(given).root == root
    assert RunDir.find("digits", tmp_path / "runs").root == root
    monkeypatch.chdir(root)
    assert RunDir.find(".").root == root


def test_an_unknown_run_names_the_nearest(tmp_path: Path) -> None:
    for name in ("mnist", "cifar10-resnet18", "digits"):
        started(tmp_path, name)
    (tmp_path / "not-a-run").mkdir()
    with pytest.raises(JobError, match=r"no run 'Digit' .* holds digits, .*mnist"):
        RunDir.find("Digit", tmp_path)
    with pytest.raises(JobError) as caught:
        RunDir.find("cifar-10", tmp_path)
    assert "holds cifar10-resnet18," in str(caught.value) and "not-a-run" not in str(caught.value)
    for number in range(12):
        started(tmp_path, f"run-{number}")
    with pytest.raises(JobError, match=r"holds run-1, .* and 5 more;"):
        RunDir.find("run-1x", tmp_path)
    with pytest.raises(JobError, match="holds no run yet"):
        RunDir.find("../mnist", tmp_path / "empty")


# --- the lock -------------------------------------------------------------------------------------

HOLD = """
import os, sys, time
from distaug.store.rundir import RunDir, RunLock
run = RunDir(sys.argv[1], "a")
with RunLock(run):
    if "fork" not in sys.argv or os.fork() == 0:
        print(os.getpid(), flush=True)
    time.sleep(60)
"""


@contextmanager
def held_elsewhere(run: RunDir, *options: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    owner = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run.runs_dir), *options], stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    try:
        yield owner, int(owner.stdout.readline())
    finally:
        owner.kill()
        owner.wait()
        owner.stdout.close()


def test_a_run_in_use_is_refused_with_its_owner(tmp_path: Path) -> None:
    run = started(tmp_path, "a")
    with held_elsewhere(run) as (owner, _):
        with (
            pytest.raises(JobError, match=rf"run a .* in use by pid {owner.pid} on host \S+; .*--name"),
            RunLock(run),
        ):
            pytest.fail("two processes hold the run")
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        with RunLock(run):
            assert run.lock_file.read_text().split()[0] == str(os.getpid())


def test_only_another_process_makes_a_run_one_in_use(tmp_path: Path) -> None:
    run = started(tmp_path, "a")
    assert not run.in_use(), "nobody has held it yet"
    with held_elsewhere(run) as (owner, _):
        assert run.in_use()
        owner.kill()
        owner.wait()
    assert not run.in_use()
    with RunLock(run):
        assert not run.in_use(), "it is ours"
        with pytest.raises(JobError), RunLock(run):
            pytest.fail("asking let go of the lock")


def test_a_dead_owner_holds_nothing_even_if_a_child_lives_on(tmp_path: Path) -> None:
    run = started(tmp_path, "a")
    with held_elsewhere(run, "fork") as (owner, child):
        try:
            owner.send_signal(signal.SIGKILL)
            owner.wait()
            os.kill(child, 0)  # it does live on
            with RunLock(run):
                pass
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_child_that_ends_does_not_let_go_for_its_parent(tmp_path: Path) -> None:
    run = started(tmp_path, "a")
    with RunLock(run):
        child = subprocess.run([sys.executable, "-c", "import os; os.fork()"])
        assert child.returncode == 0
        with pytest.raises(JobError, match="in use by"), RunLock(run):
            pytest.fail("locked twice")
    with RunLock(run), pytest.raises(JobError), RunLock(run):
        pytest.fail("locked twice")
    with pytest.raises(ZeroDivisionError), RunLock(run):
        raise ZeroDivisionError
    with RunLock(run):
        pass


def test_leftovers_of_a_killed_owner_are_cleared_up(tmp_path: Path) -> None:
    run = started(tmp_path, "a")
    (run.root / ".result.json.0a1b2c3d.tmp").write_bytes(b"half")
    with RunLock(run):
        assert sorted(path.name for path in run.root.glob(".*")) == [".lock"]


def test_a_lock_that_cannot_be_written_holds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = started(tmp_path, "a")

    def full(descriptor: int, length: int) -> None:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(os, "ftruncate", full)
        with pytest.raises(StorageError, match="No space left"), RunLock(run):
            pytest.fail("locked")
    with RunLock(run):
        pass
    with pytest.raises(StorageError, match="No such file"), RunLock(RunDir(tmp_path, "none")):
        pytest.fail("locked")


def test_the_paths_load_neither_torch_nor_ray() -> None:
    code = "import sys, distaug.store.rundir, distaug.store.records; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout.split()
    assert {"torch", "ray", "numpy", "safetensors"}.isdisjoint(loaded)

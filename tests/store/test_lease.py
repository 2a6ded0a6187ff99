"""The lock of a run in an object store: one owner, who may die, and never two."""

import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from distaug.errors import JobError, StorageError
from distaug.store import lease
from distaug.store.objects import ObjectPath
from distaug.store.rundir import RunDir, RunLock
from distaug.store.whole import write_folder, write_whole
from tests.store.test_rundir import job

HOLD = """
import sys, time
from distaug.store import lease
from distaug.store.rundir import RunDir, RunLock
lease.LENT_S = float(sys.argv[2])
with RunLock(RunDir(sys.argv[1], "a")):
    print(flush=True)
    time.sleep(60)
"""


@pytest.fixture
def run(bucket: str) -> RunDir:
    made = RunDir(f"{bucket}/runs", "a")
    made.create()
    made.save_job(job(name="a", runs_dir=f"{bucket}/runs"))
    return made


def root(run: RunDir) -> ObjectPath:
    assert isinstance(run.root, ObjectPath)
    return run.root


def owned_elsewhere(run: RunDir, seconds: float) -> subprocess.Popen[str]:
    owner = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run.runs_dir), str(seconds)], stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    owner.stdout.readline()
    return owner


def test_a_second_owner_is_refused_until_the_first_lets_go(run: RunDir) -> None:
    with RunLock(run):
        assert not run.in_use(), "it is ours"
        with (
            pytest.raises(JobError, match=r"run a .* in use by pid \d+ on host \S+ \(.* ends in \d+ s\); .*--name"),
            RunLock(run),
        ):
            pytest.fail("locked twice")
    with RunLock(run), pytest.raises(JobError), RunLock(run):
        pytest.fail("asking let go of the lock")
    with pytest.raises(ZeroDivisionError), RunLock(run):
        raise ZeroDivisionError
    with RunLock(run):
        pass
    assert not run.in_use()
    assert [path.name for path in root(run).iterdir() if path.name.startswith(".lock")] == [".lock-000004"]


@pytest.mark.slow
def test_a_living_owner_keeps_it_and_a_dead_one_loses_it_in_time(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "LENT_S", 6.0)
    owner = owned_elsewhere(run, 6.0)
    try:
        for _ in range(14):  # longer than it was lent for at first
            time.sleep(0.5)
            assert run.in_use()
            with (
                pytest.raises(
                    JobError, match=rf"pid {owner.pid} on host \S+ \(if that is dead, its lock ends in \d s\)"
                ),
                RunLock(run),
            ):
                pytest.fail("two processes hold the run")
        owner.kill()
        owner.wait()
        killed = time.monotonic()
        while run.in_use():
            assert time.monotonic() - killed < 20
            time.sleep(0.1)
        with RunLock(run):
            assert not run.in_use()
    finally:
        owner.kill()
        owner.wait()


def test_of_many_who_want_to_follow_a_dead_owner_one_does(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = {"pid": 1, "host": "gone", "token": "", "until": time.time() - 1}
    (root(run) / ".lock-000001").write_bytes(json.dumps(dead).encode())
    asked, all_have_asked, newest = set(), threading.Barrier(6), lease._newest

    def asking(folder: ObjectPath) -> int:
        found = newest(folder)
        if threading.get_ident() not in asked:
            asked.add(threading.get_ident())
            assert found == 1, "all of them see that the owner is dead before one follows it"
            all_have_asked.wait(60)
        return found

    def take(number: int) -> lease.Lease | None:
        try:
            return lease.Lease(root(run))
        except JobError:
            return None

    with monkeypatch.context() as patch, ThreadPoolExecutor(6) as takers:
        patch.setattr(lease, "_newest", asking)
        taken = [won for won in takers.map(take, range(6)) if won is not None]
    assert len(taken) == 1
    assert (root(run) / ".lock-000002").exists() and not (root(run) / ".lock-000003").exists()
    taken[0].release()


def test_an_owner_that_was_followed_writes_no_more(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "LENT_S", 0.5)
    with pytest.raises(StorageError, match=r"the lock of s3://\S+/runs/a is that of pid"), RunLock(run) as held:
        write_whole(run.result_file, b"mine")
        assert held._lease is not None
        held._lease._over.set()  # as if the process had been stopped
        time.sleep(1.0)
        write_whole(run.result_file, b"nobody else wanted it")
        monkeypatch.setattr(lease, "LENT_S", 60.0)
        other = owned_elsewhere(run, 60.0)
        try:
            for write in (
                lambda: write_whole(run.result_file, b"late"),
                lambda: write_folder(run.model, {"seal": b""}, seal="seal"),
                lambda: write_whole(run.compressed / "stages.json", b""),
            ):
                with pytest.raises(StorageError, match=f"is that of pid {other.pid} on host .* writes no more"):
                    write()
            assert run.result_file.read_bytes() == b"nobody else wanted it" and not run.model.exists()
        finally:
            other.kill()
            other.wait()


def test_a_worker_writes_only_as_long_as_its_driver_has_the_run(run: RunDir) -> None:
    code = (
        "import sys; from distaug.store import lease; from distaug.store.rundir import RunDir\n"
        "from distaug.store.whole import write_whole\n"
        "run = RunDir(sys.argv[1], 'a'); run.join(); print(flush=True); sys.stdin.readline()\n"
        "write_whole(run.history_file, b'')"
    )
    for followed in (False, True):
        driver = lease.Lease(root(run))
        worker = subprocess.Popen(
            [sys.executable, "-c", code, str(run.runs_dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert worker.stdout is not None
        worker.stdout.readline()
        driver.release()
        if followed:
            lease.Lease(root(run)).release()
        _, err = worker.communicate("\n", timeout=60)
        assert (worker.returncode != 0) == followed and ("writes no more" in err) == followed, err


def test_a_lock_that_makes_no_sense_holds_nobody_up(run: RunDir) -> None:
    (root(run) / ".lock-000007").write_bytes(b"?")
    (root(run) / ".lock-old").write_bytes(b"?")
    assert not run.in_use()
    with RunLock(run):
        assert (root(run) / ".lock-000008").exists()

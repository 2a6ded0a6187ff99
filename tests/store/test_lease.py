"""The lock of a run in an object store: one owner, who may die, and never two."""

import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from s3fs import S3FileSystem

from distaug.errors import JobError, StorageError
from distaug.store import lease
from distaug.store.objects import ObjectPath
from distaug.store.rundir import RunDir, RunLock
from distaug.store.whole import write_folder, write_whole
from distaug.train.attempts import note_start
from tests.buckets import Proxy
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
            pytest.raises(JobError, match=r"run a .* in use by pid \d+ on host \S+; .*--name"),
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
        for _ in range(5):  # longer than it was lent for at first
            time.sleep(0.5)
            assert run.in_use()
            with (
                pytest.raises(JobError, match=rf"in use by pid {owner.pid} on host \S+; wait for it"),
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


def test_a_living_owner_is_refused_as_soon_as_it_renews(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "LENT_S", 6.0)
    owner, said = owned_elsewhere(run, 6.0), list[str]()
    try:
        began = time.monotonic()
        with pytest.raises(JobError, match=rf"in use by pid {owner.pid} on host"), RunLock(run, said.append):
            pytest.fail("two processes hold the run")
        assert time.monotonic() - began < 5.0
    finally:
        owner.kill()
        owner.wait()
    assert len(said) == 1 and said[0].startswith(f"pid {owner.pid} on host "), said
    assert said[0].endswith("waiting up to 6 s to see whether it lives")


def test_a_dead_owner_is_waited_for(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "LENT_S", 3.0)
    owner = owned_elsewhere(run, 3.0)
    owner.kill()
    owner.wait()
    assert run.in_use(), "its time is not over"
    with RunLock(run):
        assert (root(run) / ".lock-000002").exists()


def test_a_lock_without_end_is_not_waited_for_without_end(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "LENT_S", 0.5)
    put_lock(run, 1, until=time.time() + 1000)
    with pytest.raises(JobError, match=r"in use by pid 7 on host else \(if that is dead, its lock ends in \d+ s\)"):
        RunLock(run).__enter__()


def put_lock(run: RunDir, number: int, *, token: str = "theirs", until: float | None = None) -> None:
    """Put the lock of somebody on another host."""
    said = {"pid": 7, "host": "else", "token": token, "until": until or time.time() + 60}
    (root(run) / f".lock-{number:06d}").write_bytes(json.dumps(said).encode())


WORKER = """
import sys
from distaug.store.rundir import RunDir
from distaug.store.whole import write_whole
run = RunDir(sys.argv[1], "a")
run.join(int(sys.argv[2]))
print(flush=True)
sys.stdin.readline()
write_whole(run.history_file, b"")
"""


@pytest.mark.parametrize("followed", ["never", "before the worker begins", "while it works"])
def test_a_worker_writes_only_as_long_as_its_driver_has_the_run(run: RunDir, followed: str) -> None:
    driver = lease.Lease(root(run))
    lock = run.lock()
    assert lock == 1
    if followed == "before the worker begins":  # the driver was stopped for long, and starts a group after that
        put_lock(run, 2)
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(run.runs_dir), str(lock)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert worker.stdout is not None
    worker.stdout.readline()
    if followed == "while it works":
        put_lock(run, 2)
    _, err = worker.communicate("\n", timeout=60)
    refused = "is that of pid 7 on host else by now" in err and "writes no more" in err
    assert (worker.returncode != 0) == refused == (followed != "never"), err
    driver._over.set()
    lease._OWN.clear()


def test_who_holds_a_lock_joins_no_other(run: RunDir) -> None:
    with RunLock(run):
        run.join(99)
        assert run.lock() == 1
    assert run.lock() is None
    run.join(None)
    assert run.lock() is None


def test_nothing_is_written_at_a_start_in_a_run_that_was_lost(run: RunDir) -> None:
    with pytest.raises(StorageError, match="is that of pid 7 on host else"), RunLock(run):
        put_lock(run, 2)
        for write in (lambda: note_start(run, world_size=1, epoch=0, step=0), lambda: run.save_job(job(name="a"))):
            with pytest.raises(StorageError, match="writes no more"):
                write()
        assert not run.attempts_file.exists()


def test_a_folder_gets_no_seal_from_an_owner_that_was_followed_meanwhile(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = ObjectPath.write_bytes

    def slow(path: ObjectPath, data: bytes, *, new: bool = False) -> int:
        if path.name == "weights":
            put_lock(run, 2)
        return put(path, data, new=new)

    with pytest.raises(StorageError, match="is that of pid 7"), RunLock(run):
        monkeypatch.setattr(ObjectPath, "write_bytes", slow)
        with pytest.raises(StorageError, match="writes no more"):
            write_folder(run.model, {"seal": b"", "weights": b""}, seal="seal")
        assert (run.model / "weights").exists() and not (run.model / "seal").exists()


@pytest.mark.parametrize(("status", "code"), [(409, "ConditionalRequestConflict"), (412, "PreconditionFailed")])
def test_a_store_that_has_another_word_for_being_late(run: RunDir, proxy: Proxy, status: int, code: str) -> None:
    def refuse(line: str) -> tuple[int, str] | None:
        if not line.startswith("PUT ") or not line.endswith("/.lock-000001"):
            return None
        put_lock(run, 1)  # at this very moment, past the proxy
        return status, code

    proxy.refuse = refuse
    with pytest.raises(JobError, match="run a .* is in use by pid 7 on host else; wait for it"):
        RunLock(through(run)).__enter__()
    assert [path.name for path in root(run).iterdir() if path.name.startswith(".lock")] == [".lock-000001"]


def through(run: RunDir) -> RunDir:
    """Return the run as seen through the proxy."""
    S3FileSystem.clear_instance_cache()
    return RunDir(str(run.runs_dir), run.name)


def test_a_store_that_takes_no_lock_says_why(run: RunDir, proxy: Proxy) -> None:
    proxy.refuse = lambda line: (409, "ConditionalRequestConflict") if line.startswith("PUT ") else None
    with pytest.raises(StorageError, match="ConditionalRequestConflict"):
        RunLock(through(run)).__enter__()
    assert not run.in_use()


def test_of_two_owners_of_one_number_one_notices(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "LENT_S", 3.0)
    first = lease.Lease(root(run))
    put_lock(run, 1)  # into a store that does not mind
    limit = time.monotonic() + 20
    while run.lock() != lease._LOST:
        assert time.monotonic() < limit
        time.sleep(0.1)
    with pytest.raises(StorageError, match="is that of pid 7 on host else"):
        write_whole(run.history_file, b"")
    with pytest.raises(StorageError, match="is that of pid 7 on host else"):
        first.release()
    found = lease.owner(root(run))
    assert found is not None and found.token == "theirs", "the other one's lock is left alone"

    put_lock(run, 1, until=time.time() - 1)
    second = lease.Lease(root(run))
    put_lock(run, 2)
    with pytest.raises(StorageError, match="is that of pid 7 on host else"):
        second.release()


def test_a_lock_that_makes_no_sense_holds_nobody_up(run: RunDir) -> None:
    (root(run) / ".lock-000007").write_bytes(b"?")
    (root(run) / ".lock-old").write_bytes(b"?")
    assert not run.in_use()
    with RunLock(run):
        assert (root(run) / ".lock-000008").exists()

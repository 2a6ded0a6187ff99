"""Loader processes: how many, and that they never outlive a rank that was killed."""

import multiprocessing
import os
import signal
import struct
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from distaug.data.order import in_order
from distaug.data.views import Views

STARTER = """
import numpy as np
from distaug.data.views import Request, Views
if __name__ == "__main__":
    views = Views(2)
    pictures = [np.zeros((4, 4, 3), np.uint8)] * 2
    request = Request(pictures, ["a", "b"], None, 2, 100)
    assert [found.shape for found in views.decoded([request] * 8)] == [(2, 3, 2, 2)] * 8
    print(*views._pool._processes, flush=True)
    input()
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_processes_leave_when_their_rank_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "starter.py"
    script.write_text(STARTER)
    with subprocess.Popen(
        [sys.executable, str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.getcwd()},
    ) as process:
        assert process.stdout is not None
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert pids and all(alive(pid) for pid in pids)
        process.send_signal(signal.SIGKILL)
    limit = time.monotonic() + 10
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < limit, "loader processes without a rank"
        time.sleep(0.05)


def test_auto_shares_the_cores_among_the_ranks_of_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distaug.data.views.available_cores", lambda: 12)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert Views("auto")._workers == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert Views("auto")._workers == 3
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    assert Views("auto")._workers == 1
    assert Views(5)._workers == 5


def test_loader_processes_import_no_torch() -> None:
    code = "import sys, distaug.data.views, distaug.data.parquet; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def _half_a_result(job: int) -> None:
    """Die as a process does that is killed while it sends: its message says more bytes than come."""
    frame = sys._getframe()
    while "result_queue" not in frame.f_locals:
        assert frame.f_back is not None
        frame = frame.f_back
    os.write(frame.f_locals["result_queue"]._writer.fileno(), struct.pack("!i", 1000) + b"x")
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_dies_while_it_sends_is_an_error_and_not_a_hang() -> None:
    views = Views(2)
    pool = views._pool = ProcessPoolExecutor(2, multiprocessing.get_context("forkserver"))
    with pytest.raises(BrokenProcessPool):
        list(in_order(pool, _half_a_result, [0], 1, views.look))
    pool.shutdown(wait=True)  # its thread ends as well: it would keep this process from leaving
    views.close()

"""What workers look at before they begin, and how it is told what ended them."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from distaug.cluster import worker
from distaug.cluster.hub import Hub
from distaug.errors import ClusterError
from distaug.store.checkpoint import versions
from distaug.store.rundir import RunDir
from distaug.train.world import SoloWorld


class Two(SoloWorld):
    """This rank, and another whose answers are given."""

    node = "here"

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)

    def gather(self, value: Any) -> list[Any]:
        return [value, self.answers.pop(0)]


def test_other_versions_are_named() -> None:
    mine = versions()
    worker._check_versions(Two(("there", mine["distaug"], mine["torch"])), mine)
    with pytest.raises(ClusterError, match="^there has torch 1.0, the driver .*: install the same"):
        worker._check_versions(Two(("there", mine["distaug"], "1.0")), mine)


def test_nodes_without_the_run_folder_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_APPEARS_WITHIN_S", 0.0)
    run = RunDir(tmp_path, "small")
    run.create()
    (run.root / "token").touch()
    worker._check_shared(Two(("there", True)), run, "token")
    with pytest.raises(ClusterError, match="^there: no run folder of the driver"):
        worker._check_shared(Two(("there", False)), run, "token")
    with pytest.raises(ClusterError, match="^here: no run folder of the driver"):
        worker._check_shared(Two(("there", True)), run, "another")


def test_causes_name_the_node_where_there_are_several() -> None:
    failures: dict[int, Exception] = {1: RuntimeError("a\nb")}
    assert worker.causes(failures, {0: ("x", "one"), 1: ("y", "two")}) == ["rank 1 on two: RuntimeError: b"]
    assert worker.causes(failures, {0: ("x", "one"), 1: ("x", "one")}) == ["rank 1: RuntimeError: b"]


def test_what_keeps_workers_from_beginning_is_told_with_the_node() -> None:
    error = RuntimeError(
        "ray::Worker.run() (pid=7, ip=10.0.0.9, actor_id=1f)\nModuleNotFoundError: No module named 'x'"
    )
    assert worker.cause(error, {"10.0.0.9": "a"}) == "a: ModuleNotFoundError: No module named 'x'"
    assert worker.cause(error, {}).startswith("10.0.0.9: Mod")
    assert worker.cause(RuntimeError("timed out"), {}) == "timed out" and worker.cause(KeyError(), {}) == "KeyError"


def test_the_hub_knows_where_ranks_are() -> None:
    hub = Hub()
    assert hub.enter(1, "id", "two") is False
    assert hub.look().nodes == {1: ("id", "two")} == hub.look().nodes
    hub.fail(ClusterError("over"))
    assert hub.enter(0, "id", "one") is True


_WATCHES = """
import sys, time
from distaug.cluster.worker import _leave_with
_leave_with(int(sys.argv[1]))
print("watching", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("reaped", [True, False], ids=["reaped", "zombie"])
def test_a_worker_leaves_with_its_driver(reaped: bool) -> None:
    driver = subprocess.Popen(["sleep", "60"])
    command = [sys.executable, "-c", _WATCHES, str(driver.pid)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "watching\n"
        time.sleep(1)
        assert process.poll() is None
        driver.kill()
        if reaped:
            driver.wait()
        assert process.wait(5) == 1
    driver.wait()

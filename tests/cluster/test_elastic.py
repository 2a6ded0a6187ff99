"""What is decided about groups of workers on a cluster, with groups that are not there."""

from pathlib import Path
from typing import Any

import pytest

from distaug.cluster import elastic, nodes, worker
from distaug.cluster.elastic import Elastic
from distaug.cluster.hub import Hub, News
from distaug.cluster.nodes import Node
from distaug.errors import ClusterError, InterruptedRunError
from distaug.spec.job import JobSpec
from distaug.store.checkpoint import versions
from distaug.store.rundir import RunDir
from distaug.telemetry.meter import RankStats
from distaug.train.world import SoloWorld
from tests.train.jobs import small_job


class Screen:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)


class Session:
    def __init__(self, run_dir: RunDir) -> None:
        self.run_dir, self.screen = run_dir, Screen()


class Cluster:
    """Has room for `room` workers; each group meets the next of `fates`, and a result when there are none left."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int, fates: list[str]) -> None:
        self.room, self.fates, self.groups = room, fates, list[int]()
        self.leaving: set[str] = set()
        cluster = self

        class Places:
            def __init__(self, count: int, share: Any, job: JobSpec) -> None:
                self.count = count

            def had(self) -> int:
                return max(0, min(self.count, cluster.room))

            def close(self) -> None:
                self.count = 0

        class Group:
            nodes: dict[int, tuple[str, str]] = {}
            failed = False

            def __init__(self, job: JobSpec, *_: Any, workers: int, **__: Any) -> None:
                self.workers = workers
                cluster.groups.append(workers)
                self.fate = cluster.fates.pop(0) if cluster.fates else "result"

            def watch(self, stops: list[int], look: Any) -> str | None:
                if self.fate == "does not begin":
                    self.failed = True
                    return None
                self.nodes = {rank: (f"id-{rank}", f"node-{rank}") for rank in range(cluster.groups[-1])}
                if self.fate == "result":
                    return "result"
                if self.fate in ("drain", "drain too soon"):
                    cluster.leaving = {"id-0"}
                if self.fate == "room":
                    cluster.room = 1  # beside those of the group
                self.failed = self.fate in ("dies", "drain too soon")
                if self.fate != "dies":
                    trains = News(ranks=[RankStats(rank=0, process="", node="", progress=..., totals={}, gauges={})])  # type: ignore[arg-type]
                    for _ in range(5):
                        if look(trains):
                            break
                    else:
                        raise AssertionError("the workers are never asked to leave")
                cluster.leaving = set()
                return None

            def causes(self) -> list[str]:
                return ["rank 0: lost"]

            def explain(self) -> ClusterError:
                return ClusterError("more often than retries")

        monkeypatch.setattr(elastic, "Group", Group)
        for name, value in (("_STEADY_S", 0.0), ("_LOOK_AROUND_EVERY_S", 0.0), ("_LOOK_EVERY_S", 0.01)):
            monkeypatch.setattr(elastic, name, value)
        monkeypatch.setattr(nodes, "Places", Places)
        monkeypatch.setattr(nodes, "nodes", lambda: [Node("a", 4, 0)])
        monkeypatch.setattr(nodes, "draining", lambda: self.leaving)
        monkeypatch.setattr(nodes, "own_node", lambda: "driver")


def train(tmp_path: Path, stops: list[int] | None = None, **asked: Any) -> tuple[Any, list[str]]:
    job = JobSpec.model_validate(small_job(tmp_path, cluster=asked))
    run = RunDir(tmp_path, "small")
    session: Any = Session(run)
    result: Any = Elastic(job, run, session, [] if stops is None else stops).train()
    return result, session.screen.lines


def test_lost_groups_count_as_retries_and_preempted_ones_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(monkeypatch, 2, ["drain", "dies", "drain too soon", "does not begin", "dies", "drain"])
    result, lines = train(tmp_path, workers=2, retries=2)
    assert result == "result" and cluster.groups == [2] * 7
    assert [line for line in lines if "retries" in line] == [
        "workers lost (1 of 2 retries): rank 0: lost",
        "workers lost (2 of 2 retries): rank 0: lost",
    ]
    assert "node-0 is being taken away: saving the state and moving" in lines


@pytest.mark.parametrize(
    ("fates", "asked", "message"),
    [
        (["dies", "drain", "dies"], {"retries": 1}, "more often than retries"),
        (["drain", "drain"], {"preemption_retries": 1}, "taken away 2 times, and cluster.preemption_retries is 1"),
        (["does not begin"] * 10**6, {"start_timeout_min": 0.002}, "start_timeout_min = 0.002: rank 0: lost"),
    ],
    ids=["retries", "preemptions", "never begins"],
)
def test_it_gives_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fates: list[str], asked: dict[str, Any], message: str
) -> None:
    Cluster(monkeypatch, 2, fates)
    with pytest.raises(ClusterError, match=message):
        train(tmp_path, workers=2, **asked)


def test_a_range_starts_with_what_there_is_and_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, 1, ["room"])
    _, lines = train(tmp_path, workers=[1, 2])
    assert cluster.groups[0] == 1 and lines[:2] == [
        "there is room for 1 of 2 workers: they do the work of all",
        "there is room for 2 workers: saving the state and growing",
    ]


def test_too_little_room_is_told_at_once_and_then_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Cluster(monkeypatch, 1, [])
    with pytest.raises(
        ClusterError, match=r"start_timeout_min = 0.005: the job asks for 2 x 1 CPU.*room for 1 of them"
    ):
        train(tmp_path, workers=2, start_timeout_min=0.005)


def test_the_drivers_own_node_being_taken_away_is_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Cluster(monkeypatch, 2, []).leaving = {"driver", "id-0"}
    lines: list[str] = []
    stops: list[int] = []
    group: Any = elastic.Group(JobSpec.model_validate(small_job(tmp_path)), workers=2)
    group.nodes = {0: ("id-0", "node-0")}
    lookout = elastic._Lookout(group, lambda: nodes.Places(0, {}, JobSpec()), lines.append, stops)
    assert lookout.look(News()) is False and stops == [1]
    assert lines == ["the node of the driver is being taken away; submit the job again to go on elsewhere"]


def test_a_signal_ends_the_wait_for_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Cluster(monkeypatch, 0, [])
    with pytest.raises(InterruptedRunError, match="waiting for room"):
        train(tmp_path, stops=[1], workers=2)


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


def test_the_hub_knows_where_ranks_are() -> None:
    hub = Hub()
    assert hub.enter(1, "id", "two") is False
    assert hub.look().nodes == {1: ("id", "two")} == hub.look().nodes
    hub.fail(ClusterError("over"))
    assert hub.enter(0, "id", "one") is True

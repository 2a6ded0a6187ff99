"""What is decided about groups of workers on a cluster, with groups that are not there."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from distaug.cluster import elastic, nodes, private
from distaug.cluster.elastic import Elastic
from distaug.cluster.group import Group
from distaug.cluster.hub import News
from distaug.cluster.nodes import Node
from distaug.errors import ClusterError, InterruptedRunError
from distaug.spec.job import JobSpec
from distaug.store.rundir import RunDir
from distaug.telemetry.meter import RankStats
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
        self.jobs, self.nodes = list[JobSpec](), [Node("a", 4, 0)]
        cluster = self

        class Places:
            def __init__(self, least: int, most: int, share: Any, job: JobSpec) -> None:
                self.count = most

            def had(self) -> int:
                return max(0, min(self.count, cluster.room))

            def close(self) -> None:
                self.count = 0

        class Group:
            nodes: dict[int, tuple[str, str]] = {}
            failed = crowded_out = False

            def __init__(self, job: JobSpec, run_dir: RunDir, *_: Any, workers: int, **__: Any) -> None:
                self.workers = workers
                cluster.groups.append(workers)
                cluster.jobs.append(job)
                if not run_dir.exists():  # as the workers do it
                    run_dir.create()
                    run_dir.save_job(job)
                self.fate = cluster.fates.pop(0) if cluster.fates else "result"

            def watch(self, stops: list[int], look: Any) -> str | None:
                if self.fate in ("does not begin", "crowded out"):
                    self.failed, self.crowded_out = True, self.fate == "crowded out"
                    return None
                self.nodes = {rank: (f"id-{rank}", f"node-{rank}") for rank in range(cluster.groups[-1])}
                if self.fate == "result":
                    return "result"
                if self.fate in ("drain", "drain too soon"):
                    cluster.leaving = {"id-0"}
                if self.fate in ("room", "room that is taken"):
                    before, cluster.room = cluster.room, 1  # beside those of the group
                self.failed = self.fate in ("dies", "drain too soon")
                if self.fate == "driver's node":
                    cluster.leaving = {"driver", "id-0"}
                if self.fate != "dies":
                    trains = News(ranks=[RankStats(rank=0, process="", node="", progress=..., totals={}, gauges={})])  # type: ignore[arg-type]
                    for _ in range(5):
                        if look(trains):
                            break
                    else:
                        raise AssertionError("the workers are never asked to leave")
                cluster.leaving = set()
                if self.fate in ("room", "room that is taken"):
                    cluster.room = before + (self.fate == "room")
                return None

            def causes(self) -> list[str]:
                return ["rank 0: lost"]

            def explain(self) -> ClusterError:
                return ClusterError("more often than retries")

        monkeypatch.setattr(elastic, "Group", Group)
        for name, value in (("_STEADY_S", 0.0), ("_LOOK_AROUND_EVERY_S", 0.0), ("_LOOK_EVERY_S", 0.01)):
            monkeypatch.setattr(elastic, name, value)
        monkeypatch.setattr(nodes, "Places", Places)
        monkeypatch.setattr(nodes, "nodes", lambda job: self.nodes)
        monkeypatch.setattr(nodes, "free", lambda job: [Node("a", self.room, 0)])
        monkeypatch.setattr(nodes, "draining", lambda: self.leaving)
        monkeypatch.setattr(nodes, "give_back_all", lambda: None)
        monkeypatch.setattr(nodes, "own_node", lambda: "driver")


def train(tmp_path: Path, stops: list[int] | None = None, **asked: Any) -> tuple[Any, list[str]]:
    job = JobSpec.model_validate(small_job(tmp_path, cluster=asked))
    run = RunDir(tmp_path, "small")
    session: Any = Session(run)
    result: Any = Elastic(job, run, session, [] if stops is None else stops).train()
    return result, session.screen.lines


def train_auto(tmp_path: Path, cluster: Cluster, **cluster_section: Any) -> list[str]:
    asked = {"workers": "auto", "gpus_per_worker": "auto", "cpus_per_worker": "auto"} | cluster_section
    job = JobSpec.model_validate(small_job(tmp_path, train={"shards": "auto"}, cluster=asked))
    session: Any = Session(RunDir(tmp_path, "small"))
    assert Elastic(job, session.run_dir, session, []).train() == "result"
    lines: list[str] = session.screen.lines
    return lines


def shapes(cluster: Cluster) -> list[tuple[int, Any, Any, Any]]:
    """Return size, shards, threads and GPUs of each group."""
    asked = [(job.train.shards, job.cluster.cpus_per_worker, job.cluster.gpus_per_worker) for job in cluster.jobs]
    return [(size, *rest) for size, rest in zip(cluster.groups, asked, strict=True)]


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
        (["crowded out"] * 10**6, {"start_timeout_min": 0.002}, "start_timeout_min = 0.002: rank 0: lost"),
        (["does not begin"] * 5, {}, "did not begin, 5 times for the same reason: rank 0: lost"),
    ],
    ids=["retries", "preemptions", "never room", "never begins"],
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
    assert cluster.groups == [1, 2] and lines == [
        "there is room for 1 of 2 workers: they do the work of all",
        "there is room for 2 workers: saving the state and growing",
    ]


def test_too_little_room_is_told_at_once_and_then_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Cluster(monkeypatch, 1, [])
    with pytest.raises(
        ClusterError, match=r"start_timeout_min = 0.005: the job asks for 2 x 1 CPU.*room for 1 of them"
    ):
        train(tmp_path, workers=2, start_timeout_min=0.005)


def test_the_drivers_own_node_being_taken_away_ends_the_job_without_counting_as_a_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private, "submitted", lambda: True)
    cluster = Cluster(monkeypatch, 2, ["driver's node"])
    stops: list[int] = []
    with pytest.raises(InterruptedRunError, match="the node of the driver .* submitted again under its name, it goes"):
        train(tmp_path, stops, workers=2)
    assert stops == [] and cluster.groups == [2]


def test_auto_stays_what_it_was_at_the_first_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight GPUs, of which three are free; then two nodes are lost, then all, then there are more than ever."""
    gpus = [Node("a", 16, 4), Node("b", 16, 4)]
    cluster = Cluster(monkeypatch, 3, ["dies", "dies"])
    cluster.nodes = gpus
    lines = train_auto(tmp_path, cluster)
    assert shapes(cluster) == [(3, 8, 4, 1)] * 3
    assert "there is room for 3 of 8 workers: they do the work of all" in lines
    later = Cluster(monkeypatch, 100, ["dies"])
    later.nodes = [Node("cpu", 64, 0)]
    train_auto(tmp_path, later)
    assert shapes(later) == [(8, 8, 4, 1)] * 2, "no node with a GPU is up: they are waited for"
    assert not any("CPUs, also" in line for line in lines)


def test_auto_without_gpus_trains_on_cpus_for_good_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, 8, [])
    assert "no node has a GPU: the run is trained on CPUs, also when GPUs come later" in train_auto(tmp_path, cluster)
    later = Cluster(monkeypatch, 8, [])
    later.nodes = [Node("a", 4, 8)]
    train_auto(tmp_path, later)
    assert shapes(cluster) == shapes(later) == [(1, 1, 4, 0)]


def test_gpus_that_come_before_the_first_start_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, 0, [])
    looks = iter(range(10**6))

    def look(job: JobSpec) -> list[Node]:
        if next(looks) < 3:
            return [Node("head", 0, 0)]
        cluster.room = 2
        return [Node("a", 8, 2)]

    monkeypatch.setattr(nodes, "nodes", look)
    train_auto(tmp_path, cluster, gpus_per_worker=1)
    assert shapes(cluster) == [(2, 2, 4, 1)]


def test_growing_is_rare_and_rarer_when_it_gives_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(elastic, "monotonic", lambda: now[0])
    growth, waits = elastic._Growth(), []
    assert growth.allowed()
    for before, after in ((1, 2), (2, 2), (2, 1), (1, 2)):
        growth.left(before)
        growth.began(after)
        began = now[0]
        while not growth.allowed():
            growth.began(after)  # groups that begin for another reason change nothing
            now[0] += 1
        waits.append(now[0] - began)
    assert waits == [60, 120, 240, 60]


def test_a_group_that_has_just_grown_does_not_ask_for_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Cluster(monkeypatch, 1, ["room that is taken", "room"])
    with pytest.raises(AssertionError, match="never asked to leave"):
        train(tmp_path, workers=[1, 2])


def test_a_signal_ends_the_wait_for_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Cluster(monkeypatch, 0, [])
    with pytest.raises(InterruptedRunError, match="waiting for room"):
        train(tmp_path, stops=[1], workers=2)
    cluster = Cluster(monkeypatch, 2, [])
    with pytest.raises(InterruptedRunError, match="waiting for room"):
        train(tmp_path, stops=[1], workers=2)
    assert cluster.groups == [], "there is room, and yet nothing is begun"


def test_a_signal_is_the_last_thing_that_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the workers are asked to leave, no node that leaves nor any room makes them move instead."""
    asked: list[str] = []
    group = object.__new__(Group)

    class Remote:
        def __init__(self, *answers: Any) -> None:
            self.answers = list(answers)

        def remote(self) -> Any:
            return self.answers.pop(0)

    class Asked(Remote):
        def remote(self) -> None:
            asked.append("stop")

    left = News(error=InterruptedRunError("the state is saved"))
    monkeypatch.setattr(ray, "get", lambda answer: answer)
    session: Any = Session(RunDir(tmp_path, "small"))
    session.show = lambda news: None
    group._hub = SimpleNamespace(look=Remote(News(), News(), left), request_stop=Asked())
    group._job, group._session, group._token = JobSpec.model_validate(small_job(tmp_path)), session, tmp_path / "token"
    group._thread = SimpleNamespace(is_alive=lambda: True, join=lambda limit: None)  # type: ignore[assignment]
    with pytest.raises(InterruptedRunError, match="the state is saved"):
        group.watch([1], lambda news: bool(asked.append("look")))
    assert asked == ["stop"]

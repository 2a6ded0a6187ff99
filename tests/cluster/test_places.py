"""Which nodes a job may use, and the places it gets on them."""

from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
import ray
from ray.util import placement_group

from distaug.cluster import nodes, private
from distaug.cluster.nodes import Node
from distaug.spec.job import JobSpec
from tests.train.jobs import small_job


def test_only_nodes_that_the_job_may_use_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    known = [
        described("a", {"CPU": 4.0, "GPU": 2.0, "accelerator_type:H100": 1.0}, {"zone": "x"}),
        described("b", {"CPU": 8.0, "GPU": 4.0, "accelerator_type:T4": 1.0}, {"zone": "y"}),
        described("c", {"CPU": 16.0}, {}),
        described("d", {"CPU": 1.0}, {"zone": "x"}),
        described("dead", {"CPU": 1.0}, {"zone": "x"}) | {"Alive": False},
    ]
    monkeypatch.setattr(ray, "nodes", lambda: known)
    monkeypatch.setattr(nodes, "draining", lambda: {"d"})
    monkeypatch.setattr(ray._private.state, "available_resources_per_node", lambda: {"b": {"CPU": 3.0, "GPU": 0.5}})

    def names(**asked: Any) -> str:
        job = JobSpec.model_validate(small_job(Path("runs"), cluster=asked))
        return "".join(node.name[0] for node in nodes.nodes(job))

    assert names() == "abc"
    assert names(accelerator="H100") == "a" and names(accelerator="A100") == ""
    assert names(node_labels={"zone": "x"}) == "a" and names(node_labels={"zone": "!x"}) == "bc"
    assert names(node_labels={"zone": "in(x, y)"}) == "ab" and names(node_labels={"zone": "!in(x,y)"}) == "c"
    assert names(node_labels={"zone": "y"}, accelerator="H100") == ""
    job = JobSpec.model_validate(small_job(Path("runs")))
    assert nodes.nodes(job)[1] == Node("b (address)", 8, 4)
    assert nodes.free(job) == [Node("a (address)", 0, 0), Node("b (address)", 3, 0), Node("c (address)", 0, 0)]


def described(name: str, resources: dict[str, float], labels: dict[str, str]) -> dict[str, Any]:
    where = {"NodeID": name, "NodeManagerHostname": name, "NodeManagerAddress": "address"}
    return where | {"Alive": True, "Resources": resources, "Labels": labels}


@pytest.mark.ray
def test_places_that_must_be_had_are_had_together_or_not_at_all(tmp_path: Path) -> None:
    job = JobSpec.model_validate(small_job(tmp_path))

    def asks(least: int, most: int) -> nodes.Places:
        return nodes.Places(least, most, {"CPU": 1.0}, job)

    def comes(places: nodes.Places, count: int) -> bool:
        limit = monotonic() + 20
        while places.had() != count and monotonic() < limit:
            sleep(0.05)
        return places.had() == count

    with private.connected(job, cpus=4, gpus=0):
        first, second = asks(3, 3), asks(2, 4)
        assert comes(first, 3) and second.had() == 0
        sleep(1)
        assert second.had() == 0, "it does not hold the one that is left"
        first.close()
        assert comes(second, 4)
        third = asks(1, 1)
        second.close()
        assert comes(third, 1)
        third.close()
        nobody = JobSpec.model_validate(small_job(tmp_path, cluster={"node_labels": {"zone": "x"}}))
        assert nodes.nodes(job)[0].cpus == 4 and nodes.nodes(nobody) == []
        nowhere = nodes.Places(1, 2, {"CPU": 1.0}, nobody)
        sleep(1)
        assert nowhere.had() == 0
        nowhere.close()
        # What was left by others of this job, as a process that ended leaves it.
        placement_group([{"CPU": 4.0}])
        fourth = asks(4, 4)
        sleep(1)
        assert fourth.had() == 0
        nodes.give_back_all()
        assert comes(asks(4, 4), 4)

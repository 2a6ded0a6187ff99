"""How many workers, and what each takes: pure arithmetic over what nodes offer."""

from pathlib import Path
from typing import Any

import pytest

from distaug.cluster import scale
from distaug.cluster.nodes import Node, describe
from distaug.cluster.scale import Scale, of_cluster, of_machine
from distaug.errors import ClusterError
from distaug.spec.job import JobSpec
from tests.train.jobs import small_job

HEAD = Node("head", 0, 0)
CPU_NODES = [HEAD, Node("a", 4, 0), Node("b", 4, 0), Node("c", 4, 0)]
GPU_NODES = [HEAD, Node("a", 16, 2), Node("b", 16, 4), Node("c", 64, 0)]


def asks(*, shards: int | str = "auto", **cluster: Any) -> JobSpec:
    fields = {"cpus_per_worker": "auto", "gpus_per_worker": "auto"} | cluster
    return JobSpec.model_validate(small_job(Path("runs"), train={"shards": shards}, cluster=fields))


@pytest.mark.parametrize(
    ("nodes", "asked", "expected"),
    [
        pytest.param(CPU_NODES, {}, Scale(1, 1, 4, 0), id="auto on CPUs is one worker with a node's cores"),
        pytest.param(CPU_NODES, {"workers": 3}, Scale(3, 3, 4, 0), id="a node each"),
        pytest.param(CPU_NODES, {"workers": 4}, Scale(4, 4, 2, 0), id="an equal share of a node"),
        pytest.param(CPU_NODES, {"workers": [1, 6]}, Scale(1, 6, 2, 0), id="a range shares for its upper end"),
        pytest.param(CPU_NODES, {"workers": 40}, Scale(40, 40, 1, 0), id="more than there is room for"),
        pytest.param(CPU_NODES, {"workers": 2, "cpus_per_worker": 3}, Scale(2, 2, 3, 0), id="cores as asked"),
        pytest.param(GPU_NODES, {}, Scale(1, 6, 4, 1), id="auto is every GPU of the cluster"),
        pytest.param(GPU_NODES, {"shards": 4}, Scale(1, 4, 8, 1), id="auto takes no more workers than shards"),
        pytest.param(GPU_NODES, {"workers": 2}, Scale(2, 2, 16, 1), id="cores of nodes with GPUs only"),
        pytest.param(GPU_NODES, {"workers": 2, "gpus_per_worker": 0}, Scale(2, 2, 32, 0), id="no GPU wanted"),
        pytest.param(GPU_NODES, {"shards": 8}, Scale(1, 8, 4, 1), id="auto grows to the shards, sharing what there is"),
        pytest.param(CPU_NODES, {"shards": 8}, Scale(1, 1, 4, 0), id="auto on CPUs is one worker for any shards"),
        pytest.param(CPU_NODES, {"workers": [1, 6], "shards": 3}, Scale(1, 3, 4, 0), id="a range above the shards"),
        pytest.param([Node("c", 64, 0)], {"gpus_per_worker": 1}, Scale(1, 1, 1, 1), id="a GPU that no node has yet"),
        pytest.param([HEAD], {"gpus_per_worker": 1}, Scale(1, 1, 1, 1), id="a GPU that may come"),
        pytest.param([HEAD], {"accelerator": "H100", "workers": 2}, Scale(2, 2, 1, 1), id="an accelerator is a GPU"),
        pytest.param([], {}, Scale(1, 1, 1, 0), id="no node yet"),
    ],
)
def test_of_cluster(nodes: list[Node], asked: dict[str, Any], expected: Scale) -> None:
    assert of_cluster(asks(**asked), nodes) == expected


def test_of_machine_never_takes_more_than_its_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "usable_gpus", lambda: 2)
    monkeypatch.setattr(scale, "gpu_problem", lambda: None)
    monkeypatch.setattr(scale, "available_cores", lambda: 8)
    lines: list[str] = []
    assert of_machine(asks(), lines.append) == Scale(2, 2, 4, 1)
    assert of_machine(asks(shards=1), lines.append) == Scale(1, 1, 8, 1)
    assert lines == []
    assert of_machine(asks(workers=4), lines.append) == Scale(2, 2, 4, 1)
    assert lines == ["4 workers were asked for and there are 2 GPUs: 2 workers do the work of all"]
    with pytest.raises(ClusterError, match=r"\[3, 4\] asks for 3 GPUs or more, this machine has 2"):
        of_machine(asks(workers=[3, 4]), lines.append)
    monkeypatch.setattr(scale, "usable_gpus", lambda: 0)
    assert of_machine(asks(workers=[1, 4]), lines.append) == Scale(4, 4, 2, 0)
    with pytest.raises(ClusterError, match="has none that torch can use"):
        of_machine(asks(gpus_per_worker=1), lines.append)


def test_what_chooses_nodes_is_not_asked_of_the_only_machine() -> None:
    lines: list[str] = []
    assert of_machine(asks(workers=2, cpus_per_worker=1, node_labels={"pool": "a"}), lines.append) == Scale(2, 2, 1, 0)
    assert lines == ["cluster.node_labels and accelerator choose among nodes: here there is but this machine"]


def test_what_is_asked_and_offered_is_told() -> None:
    assert str(of_cluster(asks(workers=[2, 6]), GPU_NODES)) == "2 to 6 x 4 CPU + 1 GPU"
    assert describe(GPU_NODES[:3]) == "a: 16 CPUs, 2 GPUs; b: 16 CPUs, 4 GPUs"
    assert describe([HEAD]) == "nothing"
    asked = Scale(1, 8, 4, 1)
    assert (asked.fits(GPU_NODES), asked.fits([HEAD]), asked.fits([Node("a", 7, 9)])) == (6, 0, 1)
    assert Scale(1, 2, 1, 0).fits(CPU_NODES) == 2
    assert describe([Node(str(i), 1, 0) for i in range(20)]).endswith("7: 1 CPU; and 12 more")

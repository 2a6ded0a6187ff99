"""What a cluster has: its nodes, those that are being taken away, and places for workers."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import ray
from ray._raylet import PlacementGroupID
from ray.util import placement_group, placement_group_table, remove_placement_group
from ray.util.placement_group import PlacementGroup

from distaug.spec.job import JobSpec

__all__ = ["Node", "Places", "describe", "draining", "free", "give_back_all", "names", "nodes", "own_node"]

_LISTED = 8


class Node(NamedTuple):
    """A node, and what it offers to workers."""

    name: str
    cpus: int
    gpus: int


def nodes(job: JobSpec) -> list[Node]:
    """Return the nodes that a job may use and that are not being taken away, each with all it has."""
    return [_node(node, node["Resources"]) for node in _usable(job)]


def free(job: JobSpec) -> list[Node]:
    """Return the same nodes, each with what nobody uses now."""
    left: dict[str, dict[str, float]] = ray._private.state.available_resources_per_node()  # type: ignore[no-untyped-call]
    return [_node(node, left.get(node["NodeID"], {})) for node in _usable(job)]


def _usable(job: JobSpec) -> list[dict[str, Any]]:
    known: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    leaving, type_ = draining(), _accelerator(job)
    return [
        node
        for node in known
        if node["Alive"]
        and node["NodeID"] not in leaving
        and (type_ is None or type_ in node["Resources"])
        and all(_matches(node["Labels"].get(label), wanted) for label, wanted in job.cluster.node_labels.items())
    ]


def _accelerator(job: JobSpec) -> str | None:
    """Return the resource that Ray gives to nodes with the accelerator that the job asks for."""
    return None if job.cluster.accelerator is None else f"accelerator_type:{job.cluster.accelerator}"


def _matches(value: str | None, selector: str) -> bool:
    """Say whether Ray's selector takes a label of this value: `a`, `!a`, `in(a, b)` or `!in(a, b)`."""
    inner = selector.removeprefix("!")
    named = inner[3:-1].split(",") if inner.startswith("in(") else [inner]
    return (value in [name.strip() for name in named]) != selector.startswith("!")


def _name(node: dict[str, Any]) -> str:
    return f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"


def _node(node: dict[str, Any], offer: Mapping[str, float]) -> Node:
    return Node(_name(node), int(offer.get("CPU", 0)), int(offer.get("GPU", 0)))


def names() -> dict[str, str]:
    """Return the names of all nodes that are there, by address."""
    known: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return {node["NodeManagerAddress"]: _name(node) for node in known if node["Alive"]}


def describe(found: list[Node]) -> str:
    """Say what nodes offer, those with nothing for workers left out."""
    offers = [
        f"{node.name}: {_counted(node.cpus, 'CPU')}" + (f", {_counted(node.gpus, 'GPU')}" if node.gpus else "")
        for node in found
        if node.cpus or node.gpus
    ]
    more = f"; and {len(offers) - _LISTED} more" if len(offers) > _LISTED else ""
    return "; ".join(offers[:_LISTED]) + more or "nothing"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def draining() -> set[str]:
    """Return the ids of the nodes that are about to be taken away: preempted, or scaled down."""
    # Ray has no public call for it; its own watcher of preemptions asks the same way.
    return set(ray._private.state.state.get_draining_nodes())


def own_node() -> str:
    """Return the id of the node that this process runs on."""
    return str(ray.get_runtime_context().get_node_id())


def give_back_all() -> None:
    """Give back all placement groups of this process's Ray job.

    Ray Train leaves that of workers which it could not start, and Ray keeps it as long as the job lives.
    """
    job = ray.get_runtime_context().get_job_id()
    for name, entry in placement_group_table().items():
        if name.endswith(job) and entry["state"] != "REMOVED":  # the last bytes of an id are those of its job
            remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(name))))


class Places:
    """Places for workers: as many as there must be in one placement group, each of the others in one of its own.

    So Ray's scheduler itself says what is free (other jobs, labels and nodes that are being taken away count), and an
    autoscaler sees what is missing. Fewer than there must be are never held: two jobs that each held some of the last
    places would wait for each other.

    Args:
        least: Number of places that are had together or not at all.
        most: Number of places asked for; those above `least` are asked for once these are had.
        share: Resources of each.
        job: Has the labels that its node must carry and the type of its accelerator.
    """

    def __init__(self, least: int, most: int, share: Mapping[str, float], job: JobSpec) -> None:
        self._least, self._more = least, most - least
        type_ = _accelerator(job)
        self._bundle = dict(share) | ({type_: 0.001} if type_ else {})  # as Ray Train asks for it
        self._labels = dict(job.cluster.node_labels)
        self._groups = [self._ask(least)] if least else []

    def _ask(self, count: int) -> tuple[Any, int]:
        labels: dict[str, Any] = {"bundle_label_selector": [self._labels] * count} if self._labels else {}
        return placement_group([self._bundle] * count, **labels), count

    def had(self) -> int:
        """Return how many of them are had now."""
        had = 0
        if self._groups:
            known = placement_group_table()
            had = sum(n for group, n in self._groups if known.get(group.id.hex(), {}).get("state") == "CREATED")
        if had >= self._least:
            self._groups += [self._ask(1) for _ in range(self._more)]
            self._more = 0
        return had

    def close(self) -> None:
        """Give them back."""
        for group, _ in self._groups:
            remove_placement_group(group)
        self._groups, self._more = [], 0

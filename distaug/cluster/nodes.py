"""What a cluster has: its nodes, those that are being taken away, and places for workers."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import ray
from ray.util import placement_group, placement_group_table, remove_placement_group

from distaug.spec.job import JobSpec

__all__ = ["Node", "Places", "describe", "draining", "nodes", "own_node"]

_LISTED = 8


class Node(NamedTuple):
    """A node, and what it offers to workers."""

    name: str
    cpus: int
    gpus: int


def nodes() -> list[Node]:
    """Return the nodes that are there and not being taken away."""
    known: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    leaving = draining()
    return [
        Node(
            f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})",
            int(node["Resources"].get("CPU", 0)),
            int(node["Resources"].get("GPU", 0)),
        )
        for node in known
        if node["Alive"] and node["NodeID"] not in leaving
    ]


def describe(found: list[Node]) -> str:
    """Say what nodes offer, those with nothing for workers left out."""
    offers = [
        f"{node.name}: {_counted(node.cpus, 'CPU')}" + (f", {_counted(node.gpus, 'GPU')}" if node.gpus else "")
        for node in found
        if node.cpus or node.gpus
    ]
    more = f"; and {len(offers) - _LISTED} more" if len(offers) > _LISTED else ""
    return "; ".join(offers[:_LISTED]) + more or "no node that takes workers"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def draining() -> set[str]:
    """Return the ids of the nodes that are about to be taken away: preempted, or scaled down."""
    # Ray has no public call for it; its own watcher of preemptions asks the same way.
    return set(ray._private.state.state.get_draining_nodes())


def own_node() -> str:
    """Return the id of the node that this process runs on."""
    return str(ray.get_runtime_context().get_node_id())


class Places:
    """Places for workers, each a placement group of one bundle that is had as soon as a node has room for it.

    So Ray's scheduler itself says what is free (other jobs, labels and nodes that are being taken away count), and an
    autoscaler sees what is missing.

    Args:
        count: Number of places asked for.
        share: Resources of each.
        job: Has the labels that its node must carry and the type of its accelerator.
    """

    def __init__(self, count: int, share: Mapping[str, float], job: JobSpec) -> None:
        bundle = dict(share)
        if job.cluster.accelerator is not None:  # as Ray Train asks for it
            bundle[f"accelerator_type:{job.cluster.accelerator}"] = 0.001
        options: dict[str, Any] = {}
        if job.cluster.node_labels:
            options["bundle_label_selector"] = [dict(job.cluster.node_labels)]
        self._groups = [placement_group([bundle], **options) for _ in range(count)]

    def had(self) -> int:
        """Return how many of them are had now."""
        if not self._groups:
            return 0
        known = placement_group_table()
        return sum(known.get(group.id.hex(), {}).get("state") == "CREATED" for group in self._groups)

    def close(self) -> None:
        """Give them back."""
        for group in self._groups:
            remove_placement_group(group)
        self._groups = []

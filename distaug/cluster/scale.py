"""How many workers a job gets, and what each of them takes of its node."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from distaug.errors import ClusterError
from distaug.spec.job import JobSpec
from distaug.train.device import available_cores, gpu_problem, usable_gpus

if TYPE_CHECKING:
    from distaug.cluster.nodes import Node

__all__ = ["Scale", "of_cluster", "of_machine"]


@dataclass(frozen=True)
class Scale:
    """Numbers of workers that do, and the resources of each."""

    least: int
    most: int
    cores: int
    gpus: int

    @property
    def share(self) -> dict[str, float]:
        """What each worker takes, as Ray counts it."""
        return {"CPU": float(self.cores)} | ({"GPU": float(self.gpus)} if self.gpus else {})

    def fits(self, nodes: Sequence["Node"]) -> int:
        """Return how many of the workers these nodes have room for."""
        each = [(node.cpus // self.cores, node.gpus // self.gpus if self.gpus else self.most) for node in nodes]
        return min(self.most, sum(min(pair) for pair in each))

    def __str__(self) -> str:
        """Say what is asked for."""
        count = str(self.most) if self.least == self.most else f"{self.least} to {self.most}"
        return f"{count} x {self.cores} CPU" + (f" + {self.gpus} GPU" if self.gpus else "")


def of_machine(job: JobSpec, log: Callable[[str], None]) -> Scale:
    """Return the workers of a job on this machine alone, whose devices do not come and go.

    Args:
        job: The job.
        log: Told when there are fewer workers than asked for.

    Raises:
        ClusterError: This machine cannot give what the job asks for at least.
    """
    asked, wanted = job.cluster.workers, job.cluster.gpus_per_worker
    gpus = 0 if wanted == 0 else usable_gpus()
    if wanted != 0 and (problem := gpu_problem()):
        raise ClusterError(problem)
    if wanted == 1 and not gpus:
        raise ClusterError(
            "cluster.gpus_per_worker: 1, asked for now or decided at the run's first start, wants GPUs, and this "
            "machine has none that torch can use; 0 trains on its CPUs"
        )
    if job.cluster.node_labels or job.cluster.accelerator:
        log("cluster.node_labels and accelerator choose among nodes: here there is but this machine")
    least, most = asked if isinstance(asked, tuple) else (1, _devices(job, gpus)) if asked == "auto" else (asked, asked)
    if gpus and most > gpus:
        if isinstance(asked, tuple) and least > gpus:
            raise ClusterError(f"cluster.workers: {list(asked)} asks for {least} GPUs or more, this machine has {gpus}")
        log(f"{most} workers were asked for and there are {gpus} GPUs: {gpus} workers do the work of all")
        most = gpus
    threads = job.cluster.cpus_per_worker
    cores = max(1, available_cores() // most) if threads == "auto" else threads
    return Scale(most, most, cores, int(gpus > 0))


def of_cluster(job: JobSpec, nodes: Sequence["Node"]) -> Scale:
    """Return the workers of a job on a cluster, where nodes may come and go.

    `auto` is a range from one to the number of shards. Where that is open as well, because the run has not started yet,
    it is the number of GPUs that are there.

    Args:
        job: The job; what its run has decided before is in it.
        nodes: The nodes that are there now and that it may use.
    """
    asked, wanted, shards = job.cluster.workers, job.cluster.gpus_per_worker, job.train.shards
    gpus = sum(node.gpus for node in nodes)
    takes_gpu = wanted == 1 or (wanted == "auto" and (gpus > 0 or job.cluster.accelerator is not None))
    if asked == "auto":
        least, most = 1, 1 if not takes_gpu else max(1, gpus) if shards == "auto" else shards
    elif isinstance(asked, tuple):
        least, most = asked
        if shards != "auto":  # more workers than these would have nothing to work on
            most = max(least, min(most, shards))
    else:
        least = most = asked
    threads = job.cluster.cpus_per_worker
    cores = _equal_share(most, nodes, takes_gpu) if threads == "auto" else threads
    return Scale(least, most, cores, int(takes_gpu))


def _devices(job: JobSpec, gpus: int) -> int:
    """Return what `workers: auto` takes at most: no more workers than there are shards."""
    shards = math.inf if job.train.shards == "auto" else job.train.shards
    return int(min(max(1, gpus), shards))


def _equal_share(workers: int, nodes: Sequence["Node"], takes_gpu: bool) -> int:
    """Return the largest number of cores that so many workers, or all there is a device for, can have each."""
    now = max(1, Scale(1, workers, 1, int(takes_gpu)).fits(nodes))
    for cores in range(max((node.cpus for node in nodes), default=1), 1, -1):
        if Scale(1, workers, cores, int(takes_gpu)).fits(nodes) >= now:
            return cores
    return 1

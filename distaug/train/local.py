"""The loop without Ray: in this process, or in all processes that torchrun started."""

import os
from contextlib import ExitStack
from datetime import timedelta

import torch
import torch.distributed as dist

from distaug.errors import RankError
from distaug.spec.job import JobSpec
from distaug.store.records import Result
from distaug.store.rundir import RunLock
from distaug.train.claim import claim
from distaug.train.device import usable_gpus
from distaug.train.loop import fit
from distaug.train.reporter import LocalReporter
from distaug.train.world import SoloWorld, TorchWorld, World, by_rank_0, together

__all__ = ["train"]


def train(job: JobSpec, reporter: LocalReporter | None = None) -> Result:
    """Train a job in this process, or in all processes that torchrun started.

    Args:
        job: The job.
        reporter: Whoever watches; setting its `stop` saves and leaves.

    Returns:
        The result, the same on every rank.

    Raises:
        DistaugError: See `distaug.train.loop.fit`.
    """
    reporter = reporter or LocalReporter()
    world = _world(job)
    try:
        # Rank 0 alone touches the run folder before all ranks know what is in it.
        run, claimed, result = by_rank_0(world, lambda: claim(job))
        if result is not None:
            reporter.log(f"run {job.name!r} has finished before; start anew with --name")
            return result
        if job.compress is not None and world.rank == 0:
            reporter.log("the section `compress` is for `distaug run` and `distaug compress`: this only trains")
        with ExitStack() as held:
            together(world, lambda: held.enter_context(RunLock(run, reporter.log)) if world.rank == 0 else None)
            return fit(claimed, run, world, reporter)
    except RuntimeError as error:
        # nccl has a class for it; gloo is known by its words alone.
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise RankError(
            f"rank {world.rank} lost contact with another rank ({error}); see what that one says. "
            "The same command goes on from the last checkpoint"
        ) from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _world(job: JobSpec) -> World:
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return SoloWorld()
    wants_gpu = job.cluster.gpus_per_worker != 0 and usable_gpus() > 0
    local_rank, timeout_s = int(os.environ.get("LOCAL_RANK", "0")), job.cluster.collective_timeout_s
    # nccl refuses two ranks on one GPU; gloo lets them share it.
    own_gpu = wants_gpu and int(os.environ.get("LOCAL_WORLD_SIZE", "1")) <= usable_gpus()
    backend = job.cluster.backend if job.cluster.backend != "auto" else "nccl" if own_gpu else "gloo"
    if backend == "nccl":
        torch.cuda.set_device(local_rank)
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s))
    return TorchWorld(local_rank, timeout_s)

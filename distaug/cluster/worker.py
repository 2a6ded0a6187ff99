"""What each Ray Train worker runs: the ordinary loop, with Ray's process group and the hub as reporter."""

import os
import threading
import traceback
from pathlib import Path
from typing import Any

import ray
import ray.exceptions
import ray.train

from distaug.errors import ClusterError, DistaugError
from distaug.spec.load import parse_job
from distaug.store.records import EpochRecord
from distaug.store.rundir import RunDir
from distaug.telemetry import log
from distaug.telemetry.meter import Meter
from distaug.telemetry.progress import Progress
from distaug.train.loop import fit
from distaug.train.world import SoloWorld, TorchWorld, World

__all__ = ["HubReporter", "work"]

_PUSH_EVERY_S = 0.5
_PUSHES_PER_SECOND = 500
"""That the hub takes of all ranks together; bench/metrics.py shows what it costs."""


def push_every_s(world_size: int) -> float:
    """Return the seconds between two pushes of a rank: half a second, longer where there are hundreds of them."""
    return max(_PUSH_EVERY_S, world_size / _PUSHES_PER_SECOND)


class HubReporter:
    """Pushes to the hub about twice a second, in a thread of its own: a training that is busy is not one that is lost.

    Args:
        hub: Handle of the `Hub` actor.
        rank: Rank of this worker.
        world_size: Number of workers.
    """

    def __init__(self, hub: Any, rank: int, world_size: int) -> None:
        self._hub, self._rank, self._meter = hub, rank, Meter(rank)
        self._every_s = push_every_s(world_size)
        self._stop, self._phase = False, ""
        self._wake, self._over = threading.Event(), False
        self._thread = threading.Thread(target=self._push, name="push", daemon=True)
        self._thread.start()

    def progress(self, progress: Progress) -> bool:
        """Take note of it, and say what the hub answered last."""
        self._meter.note(progress)
        if progress.phase != self._phase:
            self._phase = progress.phase
            self._wake.set()
        return self._stop

    def close(self) -> None:
        """Push once more, and no more."""
        self._over = True
        self._wake.set()
        self._thread.join(2 * _PUSH_EVERY_S)

    def _push(self) -> None:
        while True:
            self._wake.clear()
            over = self._over
            try:
                self._stop = bool(ray.get(self._hub.push.remote(self._meter.stats())))
            except ray.exceptions.ActorDiedError:  # The driver is gone, and the training soon will be.
                return
            except Exception:
                pass  # Whatever it was, the next push may get through, and the wish to stop comes with it.
            if over:
                return
            self._wake.wait(self._every_s)

    def report(self, record: EpochRecord) -> None:
        """Report the epoch to Ray Train, on every rank, and its record to the hub, on rank 0."""
        if self._rank == 0:
            self._hub.record.remote(record)
        ray.train.report({"epoch": record.epoch, "top1": record.top1, "train_loss": record.train_loss})

    def log(self, message: str) -> None:
        """Pass a line on to the user."""
        self._hub.line.remote(message)


def work(config: dict[str, Any]) -> None:
    """Train a job on this worker.

    Args:
        config: `job` (text of the job file), `hub` (handle of the `Hub` actor), and `folder`, the driver's working
            directory, which relative paths in the job start from.
    """
    hub = config["hub"]
    # Ray gives each worker a directory of its own.
    if Path(config["folder"]).is_dir():
        os.chdir(config["folder"])
    if ray.get(hub.over.remote()):
        return
    context = ray.train.get_context()
    job = parse_job(config["job"], filename="job.yaml")
    run, rank = RunDir(job.runs_dir, job.name), context.get_world_rank()
    logger = log.get(rank, run.logs)
    world: World = (
        TorchWorld(context.get_local_rank(), job.cluster.collective_timeout_s)
        if context.get_world_size() > 1
        else SoloWorld()
    )
    reporter = HubReporter(hub, rank, world.size)
    try:
        result = fit(job, run, world, reporter)
    except DistaugError as error:
        # A restart would only meet it again, so this rank returns rather than raises, and the driver ends the others.
        logger.error(str(error))
        ray.get(hub.fail.remote(error))
    except Exception:
        # Most often another rank is gone; Ray starts the group again.
        logger.error(traceback.format_exc())
        raise
    else:
        if rank == 0:
            ray.get(hub.finish.remote(result))
    finally:
        reporter.close()


def explain(failures: dict[int, Exception], run: RunDir, whole: RunDir) -> ClusterError:
    """Turn the failures of a worker group into one error that names rank, cause and log.

    Args:
        failures: What ended each rank.
        run: The run that it trained.
        whole: The run to go on with: the same, or the one whose model is fine-tuned.
    """
    lines = []
    for rank, failure in sorted(failures.items()):
        cause = str(failure).strip().splitlines()
        lines.append(f"  rank {rank}: {type(failure).__name__}: {cause[-1] if cause else 'no message'}")
    return ClusterError(
        "the workers failed more often than `cluster.retries` allows:\n"
        + "\n".join(lines)
        + f"\nlogs are in {run.logs}; `distaug resume {whole.name}` goes on from the last checkpoint"
    )

"""What each Ray Train worker runs: the ordinary loop, with Ray's process group and the hub as reporter."""

import os
import re
import socket
import threading
import traceback
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import ray
import ray.exceptions
import ray.train
from ray.util import get_node_ip_address

from distaug.errors import ClusterError, DistaugError
from distaug.spec.load import parse_job
from distaug.store.checkpoint import versions
from distaug.store.records import EpochRecord
from distaug.store.rundir import RunDir
from distaug.telemetry import log
from distaug.telemetry.meter import Meter
from distaug.telemetry.progress import Progress
from distaug.train.loop import fit
from distaug.train.world import SoloWorld, TorchWorld, World

__all__ = ["HubReporter", "cause", "causes", "work"]

_PUSH_EVERY_S = 0.5
_PUSHES_PER_SECOND = 500
"""That the hub takes of all ranks together; bench/metrics.py shows what it costs."""
_LOOK_EVERY_S = 0.3
_APPEARS_WITHIN_S = 5.0
"""Time that a network file system may take to show a new file."""
_ADDRESS = re.compile(r"\bip=([^,)\s]+)")
"""In the text of Ray's errors of a task or actor."""


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
        config: `job` (text of the job file); `runs_dir`, absolute; `hub` (handle of the `Hub` actor); `folder`, the
            driver's working directory, which relative paths in the job start from; `token`, a file that the driver
            has put into the run folder; `lock`, the driver's of that folder; `driver`, its process id where it is on
            this machine; and `versions`, those of the driver.
    """
    if config["driver"] is not None:
        _leave_with(config["driver"])
    hub, context = config["hub"], ray.train.get_context()
    rank, address = context.get_world_rank(), get_node_ip_address()  # type: ignore[no-untyped-call]
    node = f"{socket.gethostname()} ({address})"
    if ray.get(hub.enter.remote(rank, ray.get_runtime_context().get_node_id(), node)):
        return
    # A node without that folder has the working directory of the submission in a place of its own, where it is already.
    if Path(config["folder"]).is_dir():
        os.chdir(config["folder"])
    job = parse_job(config["job"], filename="job.yaml")
    run = RunDir(config["runs_dir"], job.name)
    run.join(config["lock"])
    world: World = (
        TorchWorld(context.get_local_rank(), job.cluster.collective_timeout_s, node)
        if context.get_world_size() > 1
        else SoloWorld()
    )
    reporter = HubReporter(hub, rank, world.size)
    logger = log.get(rank, None)
    try:
        _check_versions(world, config["versions"])
        _check_shared(world, run, config["token"])
        logger = log.get(rank, run.logs)
        result = fit(job, run, world, reporter)
    except DistaugError as error:
        # A restart would only meet it again, so this rank returns rather than raises, and the driver ends the others.
        logger.error(str(error))
        ray.get(hub.fail.remote(error))
    except Exception:
        # Most often another rank is gone; another group goes on.
        logger.error(traceback.format_exc())
        raise
    else:
        if rank == 0:
            ray.get(hub.finish.remote(result))
    finally:
        reporter.close()
        log.get(rank, None)  # which closes the file: what is left of it may have to be put into a store


def _leave_with(driver: int) -> None:
    """End this process within half a second of the driver's end: another driver may go on with the run from then on.

    Ray's own watch takes the init process for the only one that adopts orphans, and where another one does (systemd's
    of a user session, say) its workers train on for about a minute.
    """

    def watch(began: str | None) -> None:
        while began is not None and _began(driver) == began:
            sleep(_LOOK_EVERY_S)
        os._exit(1)

    threading.Thread(target=watch, args=(_began(driver),), name="driver", daemon=True).start()


def _began(pid: int) -> str | None:
    """Return when a process began, in ticks since the boot; None where it is no more."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else rest[18]


def _check_versions(world: World, drivers: dict[str, str]) -> None:
    """Refuse nodes that would compute with other code than the driver's, on all ranks alike."""
    names = ("distaug", "torch")
    found = sorted(set(world.gather((world.node, *(versions()[name] for name in names)))))
    other = [
        f"{node} has {name} {version}, the driver {drivers[name]}"
        for node, *installed in found
        for name, version in zip(names, installed, strict=True)
        if version != drivers[name]
    ]
    if other:
        raise ClusterError(f"{'; '.join(other)}: install the same versions on all nodes")


def _check_shared(world: World, run: RunDir, token: str) -> None:
    """Refuse nodes that do not see the driver's run folder, on all ranks alike."""
    limit = monotonic() + _APPEARS_WITHIN_S
    while not (seen := (run.root / token).exists()) and monotonic() < limit:
        sleep(0.2)
    if blind := sorted({node for node, sees in world.gather((world.node, seen)) if not sees}):
        raise ClusterError(
            f"{', '.join(blind)}: no run folder of the driver at {run.root}; "
            "set runs_dir to storage that all nodes share at the same path"
        )


def causes(failures: dict[int, Exception], nodes: dict[int, tuple[str, str]]) -> list[str]:
    """Return a line for each failed rank: its node where there are several, and what ended it.

    Args:
        failures: What ended each rank.
        nodes: Id and name of each rank's node.
    """
    several = len(set(nodes.values())) > 1
    lines = []
    for rank, failure in sorted(failures.items()):
        place = f" on {nodes[rank][1]}" if several and rank in nodes else ""
        message = str(failure).strip().splitlines()
        lines.append(f"rank {rank}{place}: {type(failure).__name__}: {message[-1] if message else 'no message'}")
    return lines


def cause(failure: BaseException, names: dict[str, str]) -> str:
    """Return a line for what ended workers before they began: the node, where that is known, and why.

    Args:
        failure: What ended them.
        names: Names of the nodes by address.
    """
    text = str(failure).strip()
    at = _ADDRESS.search(text)
    place = f"{names.get(at[1], at[1])}: " if at else ""
    return place + (text.splitlines()[-1] if text else type(failure).__name__)

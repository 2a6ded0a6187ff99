"""A job that was submitted to a cluster: groups of workers, one after another, while nodes die, leave and come.

Each group has as many workers as there is room for when it starts. It ends when it loses a worker, or when its workers
were asked to save and leave, because a node of theirs is being taken away or because there is room for more of them.
"""

from collections.abc import Callable
from contextlib import closing
from functools import partial
from time import monotonic, sleep
from typing import TYPE_CHECKING, Literal

from distaug.cluster import nodes
from distaug.cluster.group import Group
from distaug.cluster.private import goes_on
from distaug.cluster.scale import Scale, of_cluster
from distaug.cluster.session import Session
from distaug.errors import ClusterError, InterruptedRunError
from distaug.spec.job import JobSpec
from distaug.store.records import Result
from distaug.store.rundir import RunDir
from distaug.train.claim import settle

if TYPE_CHECKING:
    from distaug.cluster.hub import News

__all__ = ["Elastic"]

_LOOK_EVERY_S = 0.2
_LOOK_AROUND_EVERY_S = 1.0
_STEADY_S = 3.0
"""Room counts once it has stayed the same for so long: nodes come one after another."""
_GROW_EVERY_S = 60.0
_SAME_FAILED_STARTS = 5
"""Failed starts for one reason after which it is taken for one that stays; Ray finds a dead node in less time."""


class _Steady:
    """A number that counts once it has stayed the same for a while."""

    def __init__(self) -> None:
        self._value, self._since = -1, monotonic()

    def note(self, value: int) -> bool:
        """Take note of the number as it is now; return whether it counts."""
        if value != self._value:
            self._value, self._since = value, monotonic()
        return monotonic() - self._since >= _STEADY_S


class _Growth:
    """When a job may leave to grow: once, then a minute later, and twice as late each time it got nothing by it.

    Two jobs that both want more than there is would otherwise take each other's places without end.
    """

    def __init__(self) -> None:
        self._pause_s, self._left_with, self._from = _GROW_EVERY_S, 0, monotonic()

    def allowed(self) -> bool:
        """Return whether there may be one now."""
        return monotonic() >= self._from

    def left(self, workers: int) -> None:
        """Take note that so many workers leave for a larger group."""
        self._left_with = workers

    def began(self, workers: int) -> None:
        """Take note of the size of a group that begins."""
        if self._left_with:
            self._pause_s = _GROW_EVERY_S if workers > self._left_with else 2 * self._pause_s
            self._left_with, self._from = 0, monotonic() + self._pause_s


class _Lookout:
    """Looks around for a group of workers: is there a reason to save, leave, and go on as another group?

    Args:
        group: The group.
        ask: Asks the cluster for places for the workers that the job may have beside those of the group.
        growth: Says when the group may leave to grow.
        line: Told the reason.
    """

    def __init__(
        self, group: Group, ask: Callable[[], nodes.Places], growth: _Growth, line: Callable[[str], None]
    ) -> None:
        self._group, self._ask, self._growth, self._line = group, ask, growth, line
        self._places: nodes.Places | None = None
        self._steady, self._due = _Steady(), monotonic()
        self._training = False
        self.reason: Literal["", "driver", "drain", "room"] = ""

    def look(self, news: "News") -> bool:
        """Return whether the workers are to save and leave; asks Ray about once a second."""
        self._training |= any(rank.progress is not None for rank in news.ranks)
        if monotonic() < self._due:
            return False
        self._due = monotonic() + _LOOK_AROUND_EVERY_S
        draining = nodes.draining()
        if nodes.own_node() in draining:
            self.reason = "driver"
            self._line("the node of the driver is being taken away: saving the state")
        elif leaving := {name for node, name in self._group.nodes.values() if node in draining}:
            self.reason = "drain"
            self._line(f"{', '.join(sorted(leaving))} is being taken away: saving the state and moving")
        elif more := self._room():
            self.reason = "room"
            self._line(f"there is room for {self._group.workers + more} workers: saving the state and growing")
        return bool(self.reason)

    def _room(self) -> int:
        """Return for how many more workers there is room, if that has settled."""
        if self._places is None and len(self._group.nodes) == self._group.workers and self._growth.allowed():
            # Not before all have begun: what is asked for earlier takes the places of the group itself.
            self._places = self._ask()
        if self._places is None or not self._training:  # Before the training there is nothing to be saved.
            return 0
        more = self._places.had()
        return more if self._steady.note(more) else 0

    def close(self) -> None:
        """Give the places back."""
        if self._places is not None:
            self._places.close()


class Elastic:
    """Trains a job on a cluster.

    Args:
        job: The job.
        run_dir: Its run folder.
        session: Connected with the cluster; shows what happens.
        stops: One entry a signal.
    """

    def __init__(self, job: JobSpec, run_dir: RunDir, session: Session, stops: list[int]) -> None:
        self._job, self._run_dir, self._session, self._stops = job, run_dir, session, stops
        self._line = session.screen.line
        self._trained_at = monotonic()
        self._growth = _Growth()
        self._lost = self._preempted = self._failed_starts = 0
        self._causes: list[str] = []

    def train(self) -> Result:
        """Train until there is a result.

        Raises:
            DistaugError: What ended the training; InterruptedRunError after a signal, with the state saved.
        """
        while True:
            job, scale, workers = self._wait_for_room()
            self._growth.began(workers)
            group = Group(job, self._run_dir, self._session, workers=workers, scale=scale, retries=0)
            missing = partial(nodes.Places, 0, scale.most - workers, scale.share, job)
            with closing(_Lookout(group, missing, self._growth, self._line)) as lookout:
                result = group.watch(self._stops, lookout.look)
            if result is not None:
                return result
            if group.nodes:
                self._trained_at = monotonic()
            self._judge(group, lookout.reason)

    def _wait_for_room(self) -> tuple[JobSpec, Scale, int]:
        """Return the job with all that depends on the cluster decided, and how many workers there is room for.

        Raises:
            ClusterError: It was not enough for as long as `cluster.start_timeout_min`.
            InterruptedRunError: A signal came meanwhile.
        """
        had = None
        while had is None:
            # What the run decided at its first start stays; until then, nodes that come count.
            job = settle(self._job, self._run_dir)
            scale = of_cluster(job, nodes.nodes(job))
            with closing(nodes.Places(scale.least, scale.most, scale.share, job)) as places:
                had = self._had(places, scale, job)
        if job.cluster.gpus_per_worker == "auto" and not scale.gpus:
            self._line("no node has a GPU: the run is trained on CPUs, also when GPUs come later")
        if had < scale.most:
            self._line(f"there is room for {had} of {scale.most} workers: they do the work of all")
        return _decided(job, scale), scale, had

    def _had(self, places: nodes.Places, scale: Scale, job: JobSpec) -> int | None:
        """Return how many places there are, once that is enough; None when another scale is to be asked for."""
        steady, told = _Steady(), False
        while True:
            if self._stops:
                raise InterruptedRunError(f"stopped while waiting for room; {goes_on(self._session.run_dir.name)}")
            if of_cluster(job, nodes.nodes(job)) != scale:
                return None
            had = places.had()
            counts = steady.note(had)
            if had == scale.most or (counts and had >= scale.least):
                return had
            if self._overdue():
                raise self._gave_up(f"{_shortage(scale, job)}: add nodes, ask for less, or wait longer")
            if counts and not told:
                told = True
                self._line(f"waiting up to {job.cluster.start_timeout_min:g} min: {_shortage(scale, job)}")
            sleep(_LOOK_EVERY_S)

    def _overdue(self) -> bool:
        return monotonic() - self._trained_at > 60 * self._job.cluster.start_timeout_min

    def _gave_up(self, why: str) -> ClusterError:
        minutes = self._job.cluster.start_timeout_min
        return ClusterError(f"no worker for longer than cluster.start_timeout_min = {minutes:g}: {why}")

    def _judge(self, group: Group, reason: str) -> None:
        """Take note of how a group ended without a result; raise when there must not be another one."""
        allowed, again = self._job.cluster, goes_on(self._session.run_dir.name)
        if reason == "driver":
            raise InterruptedRunError(f"the node of the driver is being taken away; {again}")
        if reason == "drain":
            self._preempted += 1
            if self._preempted > allowed.preemption_retries:
                raise ClusterError(
                    f"nodes were taken away {self._preempted} times, and cluster.preemption_retries is "
                    f"{allowed.preemption_retries}; {again}"
                )
        elif group.failed and not group.nodes:
            self._retry_start(group)
        elif group.failed:
            self._lost += 1
            if self._lost > allowed.retries:
                raise group.explain()
            self._line(f"workers lost ({self._lost} of {allowed.retries} retries): {'; '.join(group.causes())}")
        elif not reason:
            raise group.explain()
        if reason == "room":
            self._growth.left(group.workers)

    def _retry_start(self, group: Group) -> None:
        """Wait a little after a group that did not begin, twice as long each time the causes are the same.

        Raises:
            ClusterError: It will not begin, or did not for too long.
        """
        nodes.give_back_all()
        causes = group.causes()
        self._failed_starts = self._failed_starts + 1 if causes == self._causes and not group.crowded_out else 1
        self._causes, told = causes, "; ".join(causes)
        if self._failed_starts == _SAME_FAILED_STARTS:
            raise ClusterError(f"the workers did not begin, {_SAME_FAILED_STARTS} times for the same reason: {told}")
        if self._overdue():
            raise self._gave_up(told)
        self._line(f"the workers did not begin, trying again: {told}")
        until = monotonic() + _LOOK_AROUND_EVERY_S * 2**self._failed_starts
        while not self._stops and monotonic() < until:
            sleep(_LOOK_EVERY_S)


def _decided(job: JobSpec, scale: Scale) -> JobSpec:
    """Return the job with what the cluster decides for the life of its run: shards, threads, and kind of device."""
    shards = scale.most if job.train.shards == "auto" else job.train.shards
    cluster = job.cluster.model_copy(update={"cpus_per_worker": scale.cores, "gpus_per_worker": scale.gpus})
    return job.model_copy(update={"cluster": cluster, "train": job.train.model_copy(update={"shards": shards})})


def _shortage(scale: Scale, job: JobSpec) -> str:
    """Say what is asked for, and what there is."""
    free, whole = nodes.free(job), nodes.nodes(job)
    return (
        f"the job asks for {scale}, and there is room for {scale.fits(free)} of them "
        f"(free: {nodes.describe(free)}; in all: {nodes.describe(whole)})"
    )

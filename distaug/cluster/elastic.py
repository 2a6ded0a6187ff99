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
from distaug.cluster.scale import of_cluster
from distaug.cluster.session import Session
from distaug.errors import ClusterError, InterruptedRunError
from distaug.spec.job import JobSpec
from distaug.store.records import Result
from distaug.store.rundir import RunDir

if TYPE_CHECKING:
    from distaug.cluster.hub import News

__all__ = ["Elastic"]

_LOOK_EVERY_S = 0.2
_LOOK_AROUND_EVERY_S = 1.0
_STEADY_S = 3.0
"""Room counts once it has stayed the same for so long: nodes come one after another."""


class _Steady:
    """A number that counts once it has stayed the same for a while."""

    def __init__(self) -> None:
        self._value, self._since = -1, monotonic()

    def note(self, value: int) -> bool:
        """Take note of the number as it is now; return whether it counts."""
        if value != self._value:
            self._value, self._since = value, monotonic()
        return monotonic() - self._since >= _STEADY_S


class _Lookout:
    """Looks around for a group of workers: is there a reason to save, leave, and go on as another group?

    Args:
        group: The group.
        ask: Asks the cluster for places for the workers that the job may have beside those of the group.
        line: Told the reason.
        stops: Gets an entry when the driver's own node is being taken away.
    """

    def __init__(
        self, group: Group, ask: Callable[[], nodes.Places], line: Callable[[str], None], stops: list[int]
    ) -> None:
        self._group, self._ask, self._line, self._stops = group, ask, line, stops
        self._places: nodes.Places | None = None
        self._steady, self._due = _Steady(), monotonic()
        self._training = False
        self.reason: Literal["", "drain", "room"] = ""

    def look(self, news: "News") -> bool:
        """Return whether the workers are to save and leave; asks Ray about once a second."""
        self._training |= any(rank.progress is not None for rank in news.ranks)
        if monotonic() < self._due:
            return False
        self._due = monotonic() + _LOOK_AROUND_EVERY_S
        draining = nodes.draining()
        if nodes.own_node() in draining and not self._stops:
            self._line("the node of the driver is being taken away; submit the job again to go on elsewhere")
            self._stops.append(1)
        elif leaving := {name for node, name in self._group.nodes.values() if node in draining}:
            self.reason = "drain"
            self._line(f"{', '.join(sorted(leaving))} is being taken away: saving the state and moving")
        elif more := self._room():
            self.reason = "room"
            self._line(f"there is room for {self._group.workers + more} workers: saving the state and growing")
        return bool(self.reason)

    def _room(self) -> int:
        """Return for how many more workers there is room, if that has settled."""
        if self._places is None and len(self._group.nodes) == self._group.workers:
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
        self._scale = of_cluster(job, nodes.nodes())
        # The number of threads is part of the arithmetic: it stays as it is when nodes come and go.
        cluster = job.cluster.model_copy(update={"cpus_per_worker": self._scale.cores})
        self._job = job.model_copy(update={"cluster": cluster})
        self._run_dir, self._session, self._stops = run_dir, session, stops
        self._line = session.screen.line
        self._trained_at = monotonic()
        self._lost = self._preempted = 0

    def train(self) -> Result:
        """Train until there is a result.

        Raises:
            DistaugError: What ended the training; InterruptedRunError after a signal, with the state saved.
        """
        while True:
            workers = self._wait_for_room()
            group = Group(self._job, self._run_dir, self._session, workers=workers, scale=self._scale, retries=0)
            missing = partial(self._places, self._scale.most - workers)
            with closing(_Lookout(group, missing, self._line, self._stops)) as lookout:
                result = group.watch(self._stops, lookout.look)
            if result is not None:
                return result
            if group.nodes:
                self._trained_at = monotonic()
            self._judge(group, lookout.reason)

    def _places(self, count: int) -> nodes.Places:
        return nodes.Places(count, self._scale.share, self._job)

    def _wait_for_room(self) -> int:
        """Return how many workers there is room for, once that is enough.

        Raises:
            ClusterError: It was not enough for as long as `cluster.start_timeout_min`.
            InterruptedRunError: A signal came meanwhile.
        """
        most, steady, told = self._scale.most, _Steady(), False
        with closing(self._places(most)) as places:
            while True:
                had = places.had()
                counts = steady.note(had)
                if had == most or (counts and had >= self._scale.least):
                    break
                if self._stops:
                    raise InterruptedRunError("stopped while waiting for room; the same command goes on from there")
                if self._overdue():
                    raise self._gave_up(f"{self._shortage(had)}: add nodes, ask for less, or wait longer")
                if counts and not told:
                    told = True
                    self._line(f"waiting up to {self._job.cluster.start_timeout_min:g} min: {self._shortage(had)}")
                sleep(_LOOK_EVERY_S)
        if had < most:
            self._line(f"there is room for {had} of {most} workers: they do the work of all")
        return had

    def _shortage(self, had: int) -> str:
        there = nodes.describe(nodes.nodes())
        return f"the job asks for {self._scale}, and there is room for {had} of them ({there})"

    def _overdue(self) -> bool:
        return monotonic() - self._trained_at > 60 * self._job.cluster.start_timeout_min

    def _gave_up(self, why: str) -> ClusterError:
        minutes = self._job.cluster.start_timeout_min
        return ClusterError(f"no worker for longer than cluster.start_timeout_min = {minutes:g}: {why}")

    def _judge(self, group: Group, reason: str) -> None:
        """Take note of how a group ended without a result; raise when there must not be another one."""
        allowed = self._job.cluster
        if reason == "drain":
            self._preempted += 1
            if self._preempted > allowed.preemption_retries:
                raise ClusterError(
                    f"nodes were taken away {self._preempted} times, and cluster.preemption_retries is "
                    f"{allowed.preemption_retries}; `distaug resume {self._session.run_dir.name}` goes on"
                )
        elif group.failed and not group.nodes:
            causes = "; ".join(group.causes())
            if self._overdue():
                raise self._gave_up(causes)
            self._line(f"the workers did not begin, trying again: {causes}")
            sleep(_LOOK_AROUND_EVERY_S)
        elif group.failed:
            self._lost += 1
            if self._lost > allowed.retries:
                raise group.explain()
            self._line(f"workers lost ({self._lost} of {allowed.retries} retries): {'; '.join(group.causes())}")
        elif not reason:
            raise group.explain()

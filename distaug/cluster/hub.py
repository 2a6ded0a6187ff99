"""The actor between the ranks and whoever watches: progress and records up, the wish to stop down."""

from dataclasses import dataclass, field

from distaug.errors import DistaugError
from distaug.store.records import EpochRecord, Result
from distaug.telemetry.meter import RankStats

__all__ = ["Hub", "News"]


@dataclass
class News:
    """What happened since the last look."""

    ranks: list[RankStats] = field(default_factory=list)
    """What ranks pushed, in the order of their numbers."""
    records: list[EpochRecord] = field(default_factory=list)
    """Epochs that ended."""
    lines: list[str] = field(default_factory=list)
    """Lines for the user."""
    nodes: dict[int, tuple[str, str]] = field(default_factory=dict)
    """Id and name of each rank's node, once the rank has begun."""
    error: DistaugError | None = None
    """What ended the training for good."""
    result: Result | None = None
    """The result, once there is one."""


class Hub:
    """Gathers what the ranks push, without ever making them wait; run as a Ray actor."""

    def __init__(self) -> None:
        self._news = News()
        self._ranks: dict[int, RankStats] = {}
        self._nodes: dict[int, tuple[str, str]] = {}
        self._stop = False

    def enter(self, rank: int, node: str, name: str) -> bool:
        """Take note that a rank begins, and on which node.

        Returns:
            Whether the training has ended, well or not, so that restarted workers need not begin.
        """
        self._nodes[rank] = (node, name)
        return self._news.error is not None or self._news.result is not None

    def push(self, stats: RankStats) -> bool:
        """Take note of what a rank has done; return whether a stop was requested."""
        self._ranks[stats.rank] = stats
        return self._stop

    def record(self, record: EpochRecord) -> None:
        """Take note of a finished epoch."""
        self._news.records.append(record)

    def line(self, message: str) -> None:
        """Pass a line on to the user."""
        self._news.lines.append(message)

    def fail(self, error: DistaugError) -> None:
        """Take note of an error that a restart would only repeat; the first one counts."""
        if self._news.error is None:
            self._news.error = error

    def finish(self, result: Result) -> None:
        """Take note of the result."""
        self._news.result = result

    def request_stop(self) -> None:
        """Ask all ranks to save and leave."""
        self._stop = True

    def look(self) -> News:
        """Return the news since the last look."""
        news, self._news = self._news, News(error=self._news.error, result=self._news.result)
        news.ranks = [self._ranks[rank] for rank in sorted(self._ranks)]
        news.nodes = dict(self._nodes)
        self._ranks = {}
        return news

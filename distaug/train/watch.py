"""Between steps: whether anybody asked to stop, and whether a save is due, agreed by all ranks."""

from time import monotonic

from distaug.train.world import World

__all__ = ["Watch"]

_LOOK_EVERY_S = 0.5
_MOST_STEPS = 200


class Watch:
    """Asks the other ranks about every half second, counted in steps so that all ask at the same one.

    Args:
        world: The ranks.
        every_minutes: Longest time between saves in mid-epoch.
    """

    def __init__(self, world: World, every_minutes: float) -> None:
        self._world, self._save_every_s = world, 60 * every_minutes
        self._saved_at = self._looked_at = monotonic()
        self._steps, self._every = 0, 1
        self._stop = False

    def saved(self) -> None:
        """Take note that a checkpoint was just written."""
        self._saved_at = monotonic()

    def look(self, *, stop: bool) -> tuple[bool, bool]:
        """Count a step, and ask the others when it is time.

        Args:
            stop: Whether this rank was asked to stop.

        Returns:
            Whether all stop, and whether all save; the same on every rank.
        """
        self._stop |= stop
        self._steps += 1
        if self._steps < self._every:
            return False, False
        now = monotonic()
        pace = max(1e-4, (now - self._looked_at) / self._steps)
        # Due as well when the next look would come too late, so that no more than that is ever lost.
        due = self._world.rank == 0 and now - self._saved_at + now - self._looked_at >= self._save_every_s
        # The slowest rank sets the number of steps until all look again.
        most = min(_MOST_STEPS, max(1, int(_LOOK_EVERY_S / pace)))
        stop_all, save_all, fewest = self._world.max([float(self._stop), float(due), -float(most)])
        self._steps, self._every, self._looked_at = 0, int(-fewest), now
        return bool(stop_all), bool(save_all)

"""An iterator that a background thread keeps a few items ahead."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

__all__ = ["Ahead"]

T = TypeVar("T")
_PATIENCE_S = 2.0


class _End:
    """Stands for the end of the items, with the error that caused it, if any."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class Ahead(Generic[T]):
    """Hands on items that a thread makes, up to `depth` of them in advance.

    An error in the thread is raised where its item would have come. Closing ends the thread after the item
    that it is making.
    """

    def __init__(self, make: Callable[[], Iterator[T]], depth: int) -> None:
        """Start the thread; `make` is called in it and its iterator closed there."""
        self._items: queue.SimpleQueue[T | _End] = queue.SimpleQueue()
        self._room = threading.Semaphore(depth)
        self._stop = threading.Event()
        self._done = False
        self._thread = threading.Thread(
            target=_work,
            args=(make, self._items, self._room, self._stop),
            name="distaug-batches",
            daemon=True,
        )
        self._thread.start()

    def __iter__(self) -> Iterator[T]:
        """Return itself."""
        return self

    def __next__(self) -> T:
        """Wait for the next item."""
        if self._done:
            raise StopIteration
        item = self._items.get()
        if not isinstance(item, _End):
            self._room.release()
            return item
        self._done = True
        if item.error is not None:
            raise item.error
        raise StopIteration

    def close(self) -> None:
        """Stop the thread; an item that takes long to make is left to end by itself."""
        self._done = True
        self._stop.set()
        self._room.release()
        self._thread.join(_PATIENCE_S)

    def __del__(self) -> None:
        """Let the thread go when nobody takes its items any more."""
        self._stop.set()
        self._room.release()


# Not a method: the thread must not hold the iterator, or it would never be collected.
def _work(
    make: Callable[[], Iterator[T]],
    items: "queue.SimpleQueue[T | _End]",
    room: threading.Semaphore,
    stop: threading.Event,
) -> None:
    error: BaseException | None = None
    try:
        made = make()
        try:
            room.acquire()
            while not stop.is_set():
                try:
                    item = next(made)
                except StopIteration:
                    break
                items.put(item)
                del item
                room.acquire()
        finally:
            if close := getattr(made, "close", None):
                close()
    except BaseException as raised:
        error = raised
    items.put(_End(error))

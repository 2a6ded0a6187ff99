"""The background thread: order, bounded advance, errors, and a prompt end."""

import gc
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from distaug.data.prefetch import Ahead


def wait_until(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.002)


def running() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "distaug-batches"]


def test_items_come_in_order_and_end_once() -> None:
    ahead = Ahead(lambda: iter(range(50)), 3)
    assert list(ahead) == list(range(50))
    assert list(ahead) == []


def test_no_more_than_the_depth_is_made_in_advance() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for i in range(100):
            made.append(i)
            yield i

    ahead = Ahead(items, 3)
    wait_until(lambda: len(made) == 3)
    time.sleep(0.05)
    assert len(made) == 3
    assert next(ahead) == 0
    wait_until(lambda: len(made) == 4)
    ahead.close()


def test_an_error_comes_after_what_was_made_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("the third")

    ahead = Ahead(items, 5)
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(ValueError, match="the third"):
        next(ahead)
    with pytest.raises(StopIteration):
        next(ahead)


@pytest.mark.parametrize("taken", [0, 1])
@pytest.mark.parametrize("how", ["close", "forget"])
def test_the_thread_ends_when_nobody_takes_items_any_more(how: str, taken: int) -> None:
    closed = threading.Event()

    def items() -> Iterator[int]:
        try:
            while True:
                yield 0
        finally:
            closed.set()

    before = len(running())
    ahead = Ahead(items, 2)
    for _ in range(taken):
        next(ahead)
    if how == "close":
        ahead.close()
        assert len(running()) == before
        with pytest.raises(StopIteration):
            next(ahead)
    else:
        del ahead
        gc.collect()
        wait_until(lambda: len(running()) == before)
    assert closed.is_set()

"""Work done by several threads or processes, its results taken in the order of the jobs."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Executor, Future, wait
from typing import TypeVar

__all__ = ["in_order"]

Job = TypeVar("Job")
Result = TypeVar("Result")


_LOOK_EVERY_S = 1.0


def in_order(
    pool: Executor,
    function: Callable[[Job], Result],
    jobs: Iterable[Job],
    ahead: int,
    look: Callable[[], None] = lambda: None,
) -> Generator[Result, None, None]:
    """Yield function(job) for each job, in order.

    An exception of the function is raised where its result would have come. Closing the iterator drops what
    has not been started.

    Args:
        pool: Who does the work.
        function: The work.
        jobs: What it is done on; taken no faster than needed.
        ahead: How many jobs may be worked on, or be done and wait to be taken.
        look: Called every second of a longer wait; may see to it that it ends.
    """
    waiting: deque[Future[Result]] = deque()
    try:
        for job in jobs:
            waiting.append(pool.submit(function, job))
            if len(waiting) >= ahead:
                yield _result(waiting.popleft(), look)
        while waiting:
            yield _result(waiting.popleft(), look)
    finally:
        for future in waiting:
            future.cancel()


def _result(future: Future[Result], look: Callable[[], None]) -> Result:
    while not wait([future], _LOOK_EVERY_S).done:
        look()
    return future.result()

"""Work done by several threads or processes, its results taken in the order of the jobs."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Executor, Future
from typing import TypeVar

__all__ = ["in_order"]

Job = TypeVar("Job")
Result = TypeVar("Result")


def in_order(
    pool: Executor, function: Callable[[Job], Result], jobs: Iterable[Job], ahead: int
) -> Generator[Result, None, None]:
    """Yield function(job) for each job, in order.

    An exception of the function is raised where its result would have come. Closing the iterator drops what
    has not been started.

    Args:
        pool: Who does the work.
        function: The work.
        jobs: What it is done on; taken no faster than needed.
        ahead: How many jobs may be worked on, or be done and wait to be taken.
    """
    waiting: deque[Future[Result]] = deque()
    try:
        for job in jobs:
            waiting.append(pool.submit(function, job))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()

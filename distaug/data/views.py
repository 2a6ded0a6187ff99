"""Loader processes: pictures of different sizes, decoded and cropped in every epoch.

A request holds all there is to know (where the pictures are, and each one's crop), so the processes keep no
state, and neither their number nor their order changes a pixel. They are started by a fork server: a plain
fork of a process with threads, or of one that has touched CUDA, is not safe.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

import numpy as np

from distaug.data.decode import DamagedPicture, Pixels, Reference, eval_view, load, train_view
from distaug.data.node import available_cores
from distaug.data.order import in_order
from distaug.errors import ClusterError, DataError

__all__ = ["Request", "Views"]


@dataclass(frozen=True)
class Request:
    """Some pictures to decode."""

    references: list[Reference]
    names: list[str]
    crops: list[list[float]] | None
    """Uniforms of each random resized crop; None: the evaluation view."""
    size: int
    max_pixels: int


def decode_request(request: Request) -> Pixels:
    """Return (b, 3, size, size) uint8.

    Raises:
        DataError: A picture has been removed or damaged since it was checked.
    """
    out = np.empty((len(request.references), 3, request.size, request.size), np.uint8)
    for i, reference in enumerate(request.references):
        try:
            pixels = load(reference, request.max_pixels)
        except DamagedPicture as error:
            raise DataError(f"{request.names[i]} was sound when the data was checked: {error}") from None
        if request.crops is None:
            view = eval_view(pixels, request.size)
        else:
            view = train_view(pixels, request.size, request.crops[i])
        out[i] = view.transpose(2, 0, 1)
    return out


def _start() -> None:
    # Ctrl-C and a scheduler's SIGTERM reach the whole process group; the rank decides, and needs its loaders.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()


def _leave_with(parent: Any) -> None:
    parent.join()
    os._exit(1)  # a rank that was killed cannot close its pool


class _Inline(Executor):
    """Does the work in the thread that asks for it."""

    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class Views:
    """A pool of loader processes, started when first needed."""

    def __init__(self, workers: int | str) -> None:
        """Fix the number of processes; 0: the asking thread decodes; "auto": the rank's cores, at most 8."""
        share = max(1, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
        self._workers = min(8, share) if isinstance(workers, str) else workers
        self._pool: Executor | None = None

    def decoded(self, requests: Iterable[Request]) -> Generator[Pixels, None, None]:
        """Yield the pictures of each request, in order.

        Raises:
            DataError: A picture has been removed or damaged since it was checked.
            ClusterError: A loader process was killed.
        """
        if self._pool is None:
            context = multiprocessing.get_context("forkserver")
            self._pool = ProcessPoolExecutor(self._workers, context, _start) if self._workers else _Inline()
        try:
            yield from in_order(self._pool, decode_request, requests, max(1, 3 * self._workers), self.look)
        except BrokenProcessPool as error:
            self.close()
            raise ClusterError(
                f"one of {self._workers} loader processes died, perhaps for want of memory; "
                "set data.loader_workers lower. In a script of your own, start the run under "
                "`if __name__ == '__main__':`"
            ) from error

    def look(self) -> None:
        """See to it that a pool of which a process died says so.

        It does by itself, unless the process died while it sent a result: then the pool waits for the rest, which comes
        to an end only when nobody can send any more, this process included.
        """
        pool = self._pool
        if not isinstance(pool, ProcessPoolExecutor) or all(p.is_alive() for p in list(pool._processes.values())):
            return
        for process in list(pool._processes.values()):
            process.kill()
        pool._result_queue._writer.close()  # type: ignore[attr-defined]

    def close(self) -> None:
        """End the processes; they leave when what they are decoding is done."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

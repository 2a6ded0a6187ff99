"""A Ray cluster seen from outside, through its Job API: what was submitted to it, how it goes, what it says."""

import asyncio
import logging
import os
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from time import monotonic, sleep
from typing import Any
from urllib.parse import urlsplit

import ray.exceptions
import requests
from ray.job_submission import JobDetails, JobSubmissionClient

from distaug.cluster.package import Order
from distaug.cluster.private import ADDRESS, STOP_WITHIN_S
from distaug.errors import ClusterError, JobError

__all__ = ["Cluster", "Job"]

_RUN, _TEXT, _FOLDER = "distaug_run", "distaug_job", "distaug_folder"
_REACHED_WITHIN_S = 10.0
_POLL_EVERY_S = 0.3
_TALKATIVE = ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk")


@dataclass(frozen=True)
class Job:
    """One submission of a run, or of a study."""

    id: str
    """Its submission id: the run's name, with a number behind it from the second submission of the run on."""
    run: str
    """Name of the run or study."""
    text: str
    """Its job or study file."""
    folder: str
    """Path or URL of its folder."""
    state: str
    """Ray's word: PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED."""
    over: bool
    """Whether it has ended."""
    message: str
    """What Ray says about the state."""
    exit_code: int | None
    """Of the driver, once it has one."""
    started_at: float | None
    """Seconds since 1970."""
    ended_at: float | None
    """Seconds since 1970."""


class Cluster:
    """The cluster behind a dashboard address.

    Args:
        address: `http://host:8265`, as in a browser; by default that of the environment's RAY_API_SERVER_ADDRESS.

    Raises:
        JobError: It is no such address.
        ClusterError: Nobody answers there, or without the token that it wants.
    """

    def __init__(self, address: str | None = None) -> None:
        self.address = _checked(address or os.environ.get(ADDRESS, ""))
        self._reach()
        for name in _TALKATIVE:
            logging.getLogger(name).setLevel(logging.WARNING)
        with self._asking(), _only_address(self.address):
            self._client = JobSubmissionClient(self.address)

    def _reach(self) -> None:
        """Connect once, because Ray's client would wait for minutes where nobody answers."""
        parts = urlsplit(self.address)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            socket.create_connection((parts.hostname or "", port), _REACHED_WITHIN_S).close()
        except OSError as error:
            raise ClusterError(
                f"no cluster answers at {self.address} ({error.strerror or error}); give the address of the dashboard "
                "of a running head node, http://HOST:8265"
            ) from error

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Turn what Ray's client raises into a ClusterError."""
        try:
            yield
        except ray.exceptions.AuthenticationError as error:
            raise ClusterError(
                f"the cluster at {self.address} refuses this token, or there is none: set RAY_AUTH_MODE=token and "
                "RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH as on its head node"
            ) from error
        except (requests.exceptions.RequestException, ConnectionError) as error:
            raise ClusterError(f"the cluster at {self.address} does not answer: {error}") from error
        except RuntimeError as error:
            raise ClusterError(f"the cluster at {self.address} refused: {error}") from error

    def ray_version(self) -> str:
        """Return the version of Ray that the head node runs."""
        with self._asking():
            answer: dict[str, str] = self._client._do_request("GET", "/api/version").json()
        return answer["ray_version"]

    def submit(self, order: Order, entrypoint: str, package: Path) -> str:
        """Submit a job or study; return the id of the submission.

        Args:
            order: By whose name and text the submission is known.
            entrypoint: The command that runs it.
            package: Zip file that becomes its working directory.

        Raises:
            ClusterError: The run waits or works there already.
        """
        before = [one for one in self.jobs() if one.run == order.name]
        if active := [one for one in before if not one.over]:
            raise ClusterError(
                f"{order.command} {order.name!r} is on this cluster already, as {active[0].id} "
                f"({active[0].state.lower()}); wait for it, `distaug cancel {active[0].id}`, or give another --name"
            )
        with self._asking():
            return self._client.submit_job(
                entrypoint=entrypoint,
                submission_id=_next_id(order.name, [one.id for one in before]),
                metadata={
                    _RUN: order.name,
                    _TEXT: order.text,
                    _FOLDER: f"{order.home.rstrip('/')}/{order.name}",
                },
                runtime_env={
                    "working_dir": str(package),
                    # Ray kills what it stops after 3 s; a run saves first.
                    "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WITHIN_S)},
                },
            )

    def output(self, name: str, entrypoint: str, within_s: float = 60.0) -> tuple[int | None, str]:
        """Run a short command on the head node; return its exit code and what it printed, and leave no trace."""
        with self._asking():
            self._client.submit_job(entrypoint=entrypoint, submission_id=name)
            try:
                until = monotonic() + within_s
                while not (info := self._client.get_job_info(name)).status.is_terminal():
                    if monotonic() > until:
                        raise ClusterError(f"the cluster at {self.address} ran no short command in {within_s:g} s")
                    sleep(_POLL_EVERY_S)
                return info.driver_exit_code, self._client.get_job_logs(name)
            finally:
                with suppress(RuntimeError):  # it cannot be removed before it has ended
                    self._client.stop_job(name)
                    self._client.delete_job(name)

    def jobs(self) -> list[Job]:
        """Return all submissions of runs, the newest first."""
        with self._asking():
            found = [_job(details) for details in self._client.list_jobs() if _RUN in (details.metadata or {})]
        return sorted(found, key=lambda job: (job.started_at or 0.0, job.id), reverse=True)

    def find(self, name: str) -> Job:
        """Return the newest submission of a run, or the one that has this id.

        Raises:
            ClusterError: There is none.
        """
        jobs = self.jobs()
        for job in jobs:
            if name in (job.id, job.run):
                return job
        known = ", ".join(job.id for job in jobs[:10]) or "none yet; submit one with `distaug submit JOB`"
        raise ClusterError(f"there is no run {name!r} on the cluster at {self.address}; it knows {known}")

    def log(self, job: Job) -> str:
        """Return everything that the job's driver has printed."""
        with self._asking():
            return self._client.get_job_logs(job.id)

    def follow(self, job: Job) -> Iterator[str]:
        """Yield what the job's driver prints, from the first line to its end."""
        pieces: SimpleQueue[str | Exception | None] = SimpleQueue()

        async def tail() -> None:
            stream: AsyncIterator[str] = self._client.tail_job_logs(job.id)
            async for piece in stream:
                pieces.put(piece)

        def read() -> None:
            try:
                asyncio.run(tail())
                pieces.put(None)
            except Exception as error:
                pieces.put(error)

        # In a thread, because only so can the main one be interrupted at any time.
        threading.Thread(target=read, name="tail", daemon=True).start()
        while (piece := pieces.get()) is not None:
            if isinstance(piece, Exception):
                raise ClusterError(f"the cluster at {self.address} broke off the log: {piece}") from piece
            yield piece

    def ended(self, job: Job, within_s: float) -> Job:
        """Wait for the end of a job, which may be a moment after that of its log; return it.

        Raises:
            ClusterError: It does not end.
        """
        until = monotonic() + within_s
        while not (now := self._now(job)).over:
            if monotonic() > until:
                raise ClusterError(
                    f"{job.id} is still {now.state.lower()} after {within_s:g} s; `distaug logs {job.id}`"
                )
            sleep(_POLL_EVERY_S)
        return now

    def _now(self, job: Job) -> Job:
        with self._asking():
            return _job(self._client.get_job_info(job.id))

    def cancel(self, job: Job) -> Job:
        """Ask a job to save and stop, and wait until it has; return it."""
        if not job.over:
            with self._asking():
                self._client.stop_job(job.id)
        return self.ended(job, STOP_WITHIN_S + 30.0)


def _next_id(run: str, before: list[str]) -> str:
    """Return an id for a submission that none before it had, also where some of them were deleted."""
    numbers = [int(number) if number.isdecimal() else 1 for number in (one.removeprefix(f"{run}.") for one in before)]
    return f"{run}.{max(numbers) + 1}" if numbers else run


def _job(details: JobDetails) -> Job:
    metadata: dict[str, Any] = details.metadata or {}
    return Job(
        id=str(details.submission_id),
        run=metadata[_RUN],
        text=metadata[_TEXT],
        folder=metadata[_FOLDER],
        state=details.status.value,
        over=details.status.is_terminal(),
        # Ray puts the end of the log behind its words.
        message=(details.message or "").partition(", last available logs")[0],
        exit_code=details.driver_exit_code,
        started_at=details.start_time / 1000 if details.start_time else None,
        ended_at=details.end_time / 1000 if details.end_time else None,
    )


def _checked(address: str) -> str:
    """Return the address without what a browser puts behind it."""
    if not address:
        raise JobError(f"which cluster? give --address http://HOST:8265, or set {ADDRESS}")
    if "://" not in address:
        raise JobError(f"the address {address} has no scheme: give http://{address}")
    parts = urlsplit(address)
    try:
        good = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:  # the port
        good = False
    if not good:
        raise JobError(f"the address {address} is not that of a dashboard; give http://HOST:8265")
    if parts.username or parts.password:
        raise JobError("the address holds a password; a cluster's token comes from the environment: RAY_AUTH_TOKEN")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"


@contextmanager
def _only_address(address: str) -> Iterator[None]:
    """Have Ray's client take this address, in place of which it would take one from the environment."""
    before = os.environ.get(ADDRESS)
    os.environ[ADDRESS] = address
    try:
        yield
    finally:
        if before is None:
            del os.environ[ADDRESS]
        else:
            os.environ[ADDRESS] = before

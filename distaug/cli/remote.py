"""The commands that ask a Ray cluster; each imports what it needs when it runs."""

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from distaug.cli.local import read_job, read_job_or_study
from distaug.cli.tables import print_table
from distaug.errors import ClusterError, InterruptedRunError

if TYPE_CHECKING:
    from distaug.cluster.jobs import Cluster, Job
    from distaug.cluster.status import Status

_NEWEST = 20
_SHORT_WAIT_S = 30.0
"""From the end of a job's output to the end of the job."""


def asks_cluster(arguments: argparse.Namespace) -> bool:
    """Say whether a command that works on this machine as well was given a cluster."""
    from distaug.cluster.private import ADDRESS

    return bool(arguments.address or os.environ.get(ADDRESS))


def _cluster(arguments: argparse.Namespace) -> "Cluster":
    from distaug.cluster.jobs import Cluster

    return Cluster(arguments.address)


def submit(arguments: argparse.Namespace) -> int:
    job = read_job_or_study(arguments)
    from distaug.cluster import submit

    cluster = _cluster(arguments)
    unique, folder = arguments.name is None, arguments.working_dir
    submitted = submit.submit(job, cluster, unique=unique, working_dir=folder, say=_say)
    return _submitted(cluster, submitted, arguments.follow)


def resume(arguments: argparse.Namespace) -> int:
    from distaug.cluster import submit

    cluster = _cluster(arguments)
    folder, workers = arguments.working_dir, arguments.workers
    submitted = submit.resume(arguments.run, cluster, workers=workers, working_dir=folder, say=_say)
    return _submitted(cluster, submitted, follow=False)


def _submitted(cluster: "Cluster", name: str, follow: bool) -> int:
    print(name, flush=True)
    where = f"{name} --address {cluster.address}"
    _say(f"submitted; `distaug logs -f {where}` follows it, `distaug cancel {where}` saves and stops it")
    return _follow(cluster, cluster.find(name)) if follow else 0


def _follow(cluster: "Cluster", job: "Job") -> int:
    """Print what a job says to its end; return its exit code."""
    try:
        for piece in cluster.follow(job):
            print(piece, end="", flush=True)
        job = cluster.ended(job, _SHORT_WAIT_S)
    except KeyboardInterrupt:
        _say(f"{job.id} goes on; `distaug cancel {job.id} --address {cluster.address}` saves and stops it")
        return InterruptedRunError.exit_code
    _say(f"{job.id}: {job.message}")
    if job.exit_code is not None:
        return job.exit_code
    # Ray knows no exit code of a job that was stopped.
    return {"SUCCEEDED": 0, "STOPPED": InterruptedRunError.exit_code}.get(job.state, ClusterError.exit_code)


def status(arguments: argparse.Namespace) -> int:
    from distaug.cluster import status

    if asks_cluster(arguments):
        cluster = _cluster(arguments)
        jobs = [cluster.find(arguments.run)] if arguments.run else cluster.jobs()
        rows = [status.of_job(cluster, job, time.time()) for job in jobs[:_NEWEST]]
        if len(jobs) > _NEWEST:
            _say(f"the newest {_NEWEST} of {len(jobs)}; `distaug status ID` shows any of them")
    else:
        rows = [status.of_run(run) for run in status.runs(arguments.run)]
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    elif arguments.run and len(rows) == 1:
        print_table(("", rows[0].run), [(name, text) for name, text in _details(rows[0]) if text])
    else:
        titles = ("run", "state", "epoch", "images/s", "top-1", "left", "took")
        print_table(titles, [_row(row) for row in rows])
    return 0


def logs(arguments: argparse.Namespace) -> int:
    cluster = _cluster(arguments)
    job = cluster.find(arguments.run)
    if arguments.follow:
        return _follow(cluster, job)
    print(cluster.log(job), end="")
    return 0


def cancel(arguments: argparse.Namespace) -> int:
    from distaug.cluster.status import of_job

    cluster = _cluster(arguments)
    job = cluster.find(arguments.run)
    if job.over:
        raise ClusterError(f"{job.id} has ended already ({job.state.lower()}): {job.message}")
    now = of_job(cluster, cluster.cancel(job), time.time())
    print(f"{job.id} is {now.state}: {(now.message.splitlines() or ['no output'])[-1]}")
    return 0


def manifest(arguments: argparse.Namespace) -> int:
    job = read_job(arguments)
    from distaug.cluster import kuberay

    volumes, together = dict(arguments.volumes), arguments.workers_per_pod
    print(kuberay.manifest(job, image=arguments.image, volumes=volumes, workers_per_pod=together), end="")
    return 0


def _row(row: "Status") -> tuple[str, ...]:
    return (row.id or row.run, row.state, *(text for _, text in _figures(row)))


def _details(row: "Status") -> list[tuple[str, str]]:
    return [
        ("id", row.id or ""),
        ("state", row.state),
        *_figures(row),
        ("folder", row.place),
        ("says", row.message),
    ]


def _figures(row: "Status") -> list[tuple[str, str]]:
    from distaug.telemetry.lines import duration

    return [
        ("epoch", "" if row.epoch is None else f"{row.epoch}/{row.epochs}"),
        ("images/s", "" if row.images_per_second is None else f"{row.images_per_second:,.0f}"),
        ("best top-1", "" if row.top1 is None else f"{100 * row.top1:.2f} %"),
        ("left", "" if row.left_s is None else duration(row.left_s)),
        ("took", "" if row.seconds is None else duration(row.seconds)),
    ]


def _say(line: str) -> None:
    print(line, file=sys.stderr)

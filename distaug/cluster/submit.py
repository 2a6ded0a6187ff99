"""Submitting: a job, or a run that goes on, as a command that the cluster's head node runs."""

import importlib.metadata
import json
import os
import secrets
import shlex
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from distaug.cluster.jobs import Cluster
from distaug.cluster.package import JOB_FILE, Order, pack
from distaug.errors import ClusterError, JobError
from distaug.spec.conflicts import check
from distaug.spec.job import JobSpec
from distaug.spec.load import parse_job
from distaug.study.load import is_study, parse_study
from distaug.study.plan import Plan

__all__ = ["resume", "submit"]

Say = Callable[[str], None]

_ALIKE = ("distaug", "ray", "torch")
_LONGEST_NAME = 80
"""Leaves room for what makes a name unique."""
_LARGEST_JOB = 64_000
"""Bytes; Ray passes it on in one environment variable, which may have 128 KiB."""
_ASK_VERSIONS = """
import importlib.metadata, json
def version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
print("versions", json.dumps({name: version(name) for name in %r}))
"""


def submit(what: JobSpec | Plan, cluster: Cluster, *, unique: bool, working_dir: Path, say: Say) -> str:
    """Check a job or study, pack it with the user's code, and hand it to a cluster.

    Args:
        what: The job or study.
        cluster: Where it goes.
        unique: Give it a name that no other has; otherwise one of this name goes on.
        working_dir: The folder that travels with it, from which its relative paths start.
        say: Gets lines for the user.

    Returns:
        The id of the submission.

    Raises:
        JobError: The job cannot work on a cluster.
        ClusterError: The cluster has other versions, or has the run already.
    """
    order = Order.of(what)
    for job in order.jobs:
        check(job)
    folder = Path(os.path.abspath(working_dir))
    if not folder.is_dir():
        raise JobError(f"--working-dir: {folder} is no folder")
    if unique:
        stamp = f"{datetime.now(UTC):%m%d-%H%M%S}-{secrets.token_hex(1)}"
        order = Order.of(what, f"{order.name[:_LONGEST_NAME]}-{stamp}")
    _check_home(order)
    if (size := len(order.text.encode())) > _LARGEST_JOB:
        raise JobError(f"the job has {size:,} bytes with its defaults; jobs of up to {_LARGEST_JOB:,} can be submitted")
    _check_versions(cluster)
    with tempfile.TemporaryDirectory(prefix="distaug-package-") as scratch:
        package = Path(scratch) / "package.zip"
        packed = pack(order, folder, package)
        say(packed.data)
        say(f"{folder} travels with the job: files {packed.files:,}, packed {packed.bytes / 1e3:,.0f} kB")
        return cluster.submit(order, f"python -m distaug {order.command} {JOB_FILE} --name {order.name}", package)


def resume(run: str, cluster: Cluster, *, workers: int | None, working_dir: Path, say: Say) -> str:
    """Have a run or study go on that was submitted to the cluster before; see `submit`.

    Args:
        run: Its name, or the id of its submission.
        cluster: Where it was.
        workers: Overrides `cluster.workers`.
        working_dir: As for `submit`.
        say: Gets lines for the user.
    """
    text, filename = cluster.find(run).text, f"job of {run}"
    sets = [] if workers is None else [f"cluster.workers={workers}"]
    what = (
        parse_study(text, filename, sets) if is_study(text, filename) else parse_job(text, filename=filename, sets=sets)
    )
    return submit(what, cluster, unique=False, working_dir=working_dir, say=say)


def _check_versions(cluster: Cluster) -> None:
    """Compare distaug, Ray and torch here with those of the cluster's head node.

    Raises:
        ClusterError: They differ; all that do are named, with both versions.
    """
    there: dict[str, str | None] = {"ray": cluster.ray_version()}
    if there["ray"] == _version("ray"):  # with another one, nothing further can be relied on
        name = f"distaug-versions-{secrets.token_hex(4)}"
        code, log = cluster.output(name, shlex.join(["python", "-c", _ASK_VERSIONS % (_ALIKE,)]))
        found = [line for line in log.splitlines() if line.startswith("versions {")]
        if not found:
            last = log.strip().splitlines()[-1:] or ["nothing"]
            raise ClusterError(
                f"`python` does not work on the head node of {cluster.address} (exit code {code}): {last[0]}; start "
                "Ray there with the environment active that distaug is installed in"
            )
        there = json.loads(found[0].removeprefix("versions "))
        if there["distaug"] is None:
            raise ClusterError(
                f"the `python` of the head node of {cluster.address} has no distaug; install it there, and start Ray "
                "with that environment active"
            )
    wrong = [
        f"{name} {theirs or 'is not installed'} there and {_version(name)} here"
        for name, theirs in there.items()
        if _public(theirs) != _public(_version(name))
    ]
    if wrong:
        raise ClusterError(
            f"the cluster at {cluster.address} has other versions: {'; '.join(wrong)}; install the same in both places"
        )


def _version(name: str) -> str:
    return importlib.metadata.version(name)


def _public(version: str | None) -> str | None:
    """Return a version without its local part: torch's `+cpu` and `+cu130` are the same code."""
    return None if version is None else version.partition("+")[0]


def _check_home(order: Order) -> None:
    """Refuse a folder of runs or studies that the nodes of a cluster cannot share.

    Raises:
        JobError: It is a relative path.
    """
    if not order.home.startswith("/") and "://" not in order.home:
        field, name = ("runs_dir", "runs") if order.command == "run" else ("studies_dir", "studies")
        raise JobError(
            f"{field}: {order.home} is relative, and the nodes of a cluster have no working directory in common; give "
            f"a folder that all of them share, or a URL: --set {field}=/shared/{name} or s3://bucket/{name}"
        )

"""What travels with a submission: its file, the user's code as it lies there, and the data if it is beside it."""

import os
import subprocess
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal

from distaug.errors import DataError, JobError
from distaug.spec.job import JobSpec
from distaug.spec.load import dump_job
from distaug.study.plan import Plan

__all__ = ["JOB_FILE", "LIMIT_BYTES", "Order", "Package", "pack"]

JOB_FILE = "distaug-job.yaml"
"""Name of the job's file in the package."""
LIMIT_BYTES = 100 * 2**20
"""Of a package that Ray's Job API takes."""
_LEFT_OUT = {"venv", "node_modules", "__pycache__", "runs"}
_NAMED = 5


@dataclass(frozen=True)
class Order:
    """What is submitted: a job, or a study with all its jobs."""

    command: Literal["run", "study"]
    name: str
    text: str
    """Its file."""
    home: str
    """Path or URL of the folder that all of its kind are in."""
    jobs: Sequence[JobSpec]
    """Whose data and weights it needs."""

    @classmethod
    def of(cls, what: JobSpec | Plan, name: str | None = None) -> "Order":
        """Return the order for a job or study, under another name if one is given."""
        if isinstance(what, JobSpec):
            job = what if name is None else what.model_copy(update={"name": name})
            return cls("run", job.name, dump_job(job), job.runs_dir, [job])
        plan = what if name is None else what.named(name)
        return cls("study", plan.spec.name, plan.text, plan.spec.studies_dir, [v.job for v in plan.variants])


@dataclass(frozen=True)
class Package:
    """A zip file and what is in it."""

    files: int
    """Number of files, without the job's."""
    bytes: int
    """Size of the zip file."""
    data: str
    """Where the nodes find the data, in words."""


def pack(order: Order, folder: Path, target: Path) -> Package:
    """Write the zip file that becomes the working directory of what is submitted.

    In a git repository the files that git knows or would add, as they are now; elsewhere all but virtual environments,
    caches, runs and studies. Hidden files go only where git knows them: they are where people keep keys. What a job
    names by a relative path goes along in any case. The same files and order always make the same package.

    Args:
        order: The job or study.
        folder: The user's working directory, absolute.
        target: The zip file.

    Raises:
        DataError: The data's relative path leads to nothing.
        JobError: A relative path leads out of the folder, or the package is larger than Ray takes.
    """
    files = {name: folder / name for name in _names(folder)}
    data: dict[str, Path] = {}
    for field, given in dict.fromkeys(named for job in order.jobs for named in _named(job)):
        if _is_beside(given) and (field == "data.path" or (folder / given).exists()):
            found = _named_files(field, given, folder)
            files |= found
            data |= found if field == "data.path" else {}
    files.pop(JOB_FILE, None)
    written = 0
    with zipfile.ZipFile(target, "w") as archive:
        for name, path in sorted(files.items()):
            written += _add(archive, name, path.read_bytes(), path.stat().st_mode)
            if written > LIMIT_BYTES:
                raise JobError(_too_large(folder, files))
        _add(archive, JOB_FILE, order.text.encode(), 0o644)
    own = sum(path.stat().st_size for path in data.values())
    return Package(len(files), target.stat().st_size, _data_in_words(order.jobs[0], own))


def _named(job: JobSpec) -> Iterator[tuple[str, str]]:
    """Yield (field, path or URL) of what a job reads."""
    teacher = None if job.train.distill is None else job.train.distill.teacher
    for field, given in (
        ("data.path", job.data.path),
        ("model.weights", job.model.weights),
        ("train.distill.teacher", teacher),
    ):
        if given is not None:
            yield field, given


def _is_beside(path: str) -> bool:
    """Return whether a path of a job is relative, so that it lies in the working directory."""
    return "://" not in path and not path.startswith("~") and not os.path.isabs(path)


def _names(folder: Path) -> Iterator[str]:
    """Yield the paths, from the folder, of the files that belong to the user's code."""
    try:
        known = _git(folder, "--cached", "--recurse-submodules")
        new = _git(folder, "--others", "--exclude-standard")
    except (OSError, subprocess.CalledProcessError):
        yield from _own_files(folder)
        return
    for name in known:
        if (folder / name).is_file():  # not one that was removed since it was added
            yield name
    studies: dict[PurePath, bool] = {}
    for name in filter(_is_shown, new):
        parents = PurePath(name).parents[:-1]
        for parent in parents:
            if parent not in studies:
                studies[parent] = _is_study(folder / parent)
        if not any(studies[parent] for parent in parents):
            yield name


def _git(folder: Path, *which: str) -> list[str]:
    command = ["git", "-C", str(folder), "ls-files", "-z", *which]
    listed = subprocess.run(command, capture_output=True, check=True).stdout
    return [name for name in listed.decode(errors="surrogateescape").split("\0") if name]


def _is_shown(name: str) -> bool:
    return not any(part.startswith(".") for part in name.split("/"))


def _is_study(folder: Path) -> bool:
    """Say whether a folder is that of a study, with all its runs."""
    return (folder / "study.yaml").is_file() and (folder / "results.json").is_file()


def _own_files(folder: Path) -> Iterator[str]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [n for n in folders if _is_shown(n) and n not in _LEFT_OUT and not _is_study(Path(parent) / n)]
        for path in (Path(parent) / name for name in names if _is_shown(name)):
            if path.is_file():
                yield path.relative_to(folder).as_posix()


def _named_files(field: str, given: str, folder: Path) -> dict[str, Path]:
    """Return all files at or below a relative path of the job, by their paths from the folder."""
    place = Path(os.path.normpath(folder / given))
    if not place.is_relative_to(folder):
        raise JobError(
            f"{field}: {given} leads out of the working directory {folder}, so it cannot travel with the job; give an "
            "absolute path that the nodes have, a URL, or another --working-dir"
        )
    files = [place] if place.is_file() else list(_below(place, frozenset()))
    if not files:
        raise DataError(
            f"{field}: {given} is not in the working directory {folder}; put it there, or give an absolute path that "
            "the nodes have, or a URL"
        )
    return {path.relative_to(folder).as_posix(): path for path in files}


def _below(folder: Path, above: frozenset[Path]) -> Iterator[Path]:
    """Yield the files below a folder, through links as well, but not round in a circle."""
    if not folder.is_dir() or (real := folder.resolve()) in above:
        return
    for path in folder.iterdir():
        if path.is_dir():
            yield from _below(path, above | {real})
        elif path.is_file():
            yield path


def _add(archive: zipfile.ZipFile, name: str, data: bytes, mode: int) -> int:
    """Add a file; return its size in the package."""
    # Always the same date: a package that is the same as an earlier one need not be sent again.
    entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = (mode & 0xFFFF) << 16
    archive.writestr(entry, data, compresslevel=1)
    return entry.compress_size


def _too_large(folder: Path, files: dict[str, Path]) -> str:
    tops: dict[str, int] = {}
    for name, path in files.items():
        top = name.split("/")[0]
        tops[top] = tops.get(top, 0) + path.stat().st_size
    largest = sorted(tops.items(), key=lambda item: -item[1])[:_NAMED]
    listed = ", ".join(f"{name} {size / 1e6:,.1f} MB" for name, size in largest)
    return (
        f"{folder} has {sum(tops.values()) / 1e6:,.1f} MB that would travel with the job, and Ray takes at most "
        f"{LIMIT_BYTES / 1e6:,.0f} MB packed; the largest: {listed}. Give another --working-dir, or put data and "
        "weights where the nodes reach them (an absolute path or a URL)"
    )


def _data_in_words(job: JobSpec, own: int) -> str:
    path = job.data.path
    if path is None:
        return f"data.source {job.data.source} needs no files of yours"
    if _is_beside(path):
        return f"data.path {path} travels with the job: {own / 1e6:,.1f} MB of at most {LIMIT_BYTES / 1e6:,.0f} MB"
    if "://" in path:
        return f"data.path {path} is a URL: each node fetches it once"
    return f"data.path {path} is expected on every node"

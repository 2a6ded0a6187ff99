"""What travels with a submitted job: its file, the user's code as it lies there, and the data if it is beside it."""

import os
import subprocess
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from distaug.errors import DataError, JobError
from distaug.spec.job import JobSpec
from distaug.spec.load import dump_job

__all__ = ["JOB_FILE", "LIMIT_BYTES", "Package", "pack"]

JOB_FILE = "distaug-job.yaml"
"""Name of the job's file in the package."""
LIMIT_BYTES = 500 * 2**20
"""Of a package that Ray takes."""
_LEFT_OUT = {".git", ".venv", "venv", "node_modules", "__pycache__", "runs"}
_NAMED = 5


@dataclass(frozen=True)
class Package:
    """A zip file and what is in it."""

    files: int
    """Number of files, without the job's."""
    bytes: int
    """Size of the zip file."""
    data: str
    """Where the nodes find the data, in words."""


def pack(job: JobSpec, folder: Path, target: Path) -> Package:
    """Write the zip file that becomes the working directory of a submitted job.

    In a git repository the files that git knows or would add, as they are now; elsewhere all but virtual environments,
    caches and runs. What the job names by a relative path goes along in any case.

    Args:
        job: The job.
        folder: The user's working directory.
        target: The zip file.

    Raises:
        DataError: The data's relative path leads to nothing.
        JobError: A relative path leads out of the folder, or the files together are more than Ray takes.
    """
    files = {name: folder / name for name in sorted(_names(folder))}
    named = {"data.path": job.data.path, "model.weights": job.model.weights}
    if job.train.distill is not None:
        named["train.distill.teacher"] = job.train.distill.teacher
    for field, given in named.items():
        if given is not None and _is_local(given) and (field == "data.path" or (folder / given).exists()):
            files |= _named_files(field, given, folder)
    files.pop(JOB_FILE, None)
    sizes = {name: path.stat().st_size for name, path in files.items()}
    if sum(sizes.values()) > LIMIT_BYTES:
        raise JobError(_too_large(folder, sizes))
    with zipfile.ZipFile(target, "w") as archive:
        for name, path in files.items():
            _add(archive, name, path.read_bytes(), path.stat().st_mode)
        _add(archive, JOB_FILE, dump_job(job).encode(), 0o644)
    return Package(len(files), target.stat().st_size, _data_in_words(job, sizes))


def _is_local(path: str) -> bool:
    return "://" not in path and not path.startswith("~") and not os.path.isabs(path)


def _names(folder: Path) -> Iterator[str]:
    """Yield the paths, from the folder, of the files that belong to the user's code."""
    try:
        command = ["git", "-C", str(folder), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        yield from _walk(folder, folder)
        return
    for name in filter(None, listed.decode(errors="surrogateescape").split("\0")):
        if (folder / name).is_file():  # neither removed since it was added, nor another repository
            yield name


def _walk(top: Path, folder: Path) -> Iterator[str]:
    for parent, folders, names in os.walk(top):
        folders[:] = sorted(name for name in folders if name not in _LEFT_OUT)
        for name in names:
            if (path := Path(parent) / name).is_file():
                yield path.relative_to(folder).as_posix()


def _named_files(field: str, path: str, folder: Path) -> dict[str, Path]:
    """Return the files below a relative path of the job, by their paths from the folder."""
    place = Path(os.path.normpath(folder / path))
    if not place.is_relative_to(folder):
        raise JobError(
            f"{field}: {path} leads out of the working directory {folder}, so it cannot travel with the job; give an "
            "absolute path that the nodes have, a URL, or another --working-dir"
        )
    if place.is_file():
        return {place.relative_to(folder).as_posix(): place}
    found = {name: folder / name for name in _walk(place, folder)}
    if not found:
        raise DataError(
            f"{field}: {path} is not in the working directory {folder}; put it there, or give an absolute path that "
            "the nodes have, or a URL"
        )
    return found


def _add(archive: zipfile.ZipFile, name: str, data: bytes, mode: int) -> None:
    # Always the same date, so that the same files make the same package, which Ray then need not be sent again.
    entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = (mode & 0xFFFF) << 16
    archive.writestr(entry, data, compresslevel=1)


def _too_large(folder: Path, sizes: dict[str, int]) -> str:
    tops: dict[str, int] = {}
    for name, size in sizes.items():
        top = name.split("/")[0]
        tops[top] = tops.get(top, 0) + size
    largest = sorted(tops.items(), key=lambda item: -item[1])[:_NAMED]
    listed = ", ".join(f"{name} {size / 1e6:,.1f} MB" for name, size in largest)
    return (
        f"{folder} has {sum(sizes.values()) / 1e6:,.1f} MB that would travel with the job, and Ray takes at most "
        f"{LIMIT_BYTES / 1e6:,.0f} MB; the largest: {listed}. Give another --working-dir, or put data and weights "
        "where the nodes reach them (an absolute path or a URL)"
    )


def _data_in_words(job: JobSpec, sizes: dict[str, int]) -> str:
    path = job.data.path
    if path is None:
        return f"data.source {job.data.source} needs no files of yours"
    if "://" in path:
        return f"data.path {path} is a URL: each node fetches it once"
    if not _is_local(path):
        return f"data.path {path} is expected on every node"
    below = os.path.normpath(path)
    own = sum(size for name, size in sizes.items() if name == below or name.startswith(f"{below}/") or below == ".")
    return f"data.path {path} travels with the job: {own / 1e6:,.1f} MB of at most {LIMIT_BYTES / 1e6:,.0f} MB"

"""Disks that are small or not writable."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


def _mount(folder: Path, options: str) -> None:
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"NOT TESTED: mounting a tmpfs is not permitted here ({done.stderr.strip()})")


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """An empty file system of 1 MiB."""
    folder = Path(tempfile.mkdtemp())
    _mount(folder, "size=1m")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
        folder.rmdir()


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder in which nothing can be written."""
    folder = tmp_path / "read-only"
    folder.mkdir()
    if os.geteuid() != 0:
        folder.chmod(0o500)
        yield folder
        folder.chmod(0o700)
        return
    _mount(folder, "ro")  # permissions do not stop root
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)

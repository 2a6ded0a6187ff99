"""The manifests of the checkpoints in a folder: which there are, whether they are whole, which are kept.

`manifest.json` holds format, versions, epoch, step, the size and sha256 of each file beside it, whatever the
caller added (`score`, digests of job and data), and its own sha256.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distaug.errors import StorageError
from distaug.store.place import Place
from distaug.store.whole import SAVING, finish_folder, remove_folder

__all__ = ["DamagedError", "content", "found", "rank", "read", "retain", "score", "seal", "settle"]

FORMAT = 1
MANIFEST = "manifest.json"
_NAME = re.compile(r"epoch-(\d{4,})-step-(\d{7,})")
_NEWEST_KEPT = 2

Manifest = dict[str, Any]


class DamagedError(Exception):
    """A checkpoint that cannot be used; the text says what is wrong with it."""


def folder_name(epoch: int, step: int) -> str:
    """Return the name of the checkpoint from which a run goes on at this position."""
    return f"epoch-{epoch:04d}-step-{step:07d}"


def _position(path: Place) -> tuple[int, int]:
    """Return (epoch, step) of a checkpoint's folder, under its final or its temporary name; else (-1, -1)."""
    match = _NAME.fullmatch(path.name.removeprefix(SAVING))
    return (int(match[1]), int(match[2])) if match else (-1, -1)


def found(folder: Place) -> list[Place]:
    """Return the folders with a manifest, the newest first.

    One with a temporary name is complete too: its writer was killed between manifest and renaming. It is
    newer than one of the same position with the final name.
    """
    paths = [path.parent for path in folder.glob(f"*/{MANIFEST}") if _position(path.parent) >= (0, 0)]
    return sorted(paths, key=lambda path: (_position(path), path.name.startswith(SAVING)), reverse=True)


def seal(manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> Manifest:
    """Return the manifest with its format, the sizes and sha256 of the files, and its own sha256.

    A score that is not finite becomes None. The files are hashed in memory, on their way to the disk: what a
    bad disk makes of them shows when they are read.
    """
    listed = {name: {"sha256": _sha256(data), "bytes": len(data)} for name, data in files.items()}
    value = score(manifest)
    if value is not None and not abs(value) < float("inf"):
        manifest = {**manifest, "score": None}
    # Through JSON and back, so that the digest is that of what will be read: keys are text there.
    sealed: Manifest = json.loads(json.dumps({"format": FORMAT, **manifest, "files": listed}, allow_nan=False))
    return sealed | {"sha256": _own_digest(sealed)}


def read(path: Place) -> Manifest:
    """Return the manifest of a checkpoint's folder.

    Raises:
        DamagedError: It cannot be read or is not as it was written.
        StorageError: It has a newer format.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
    except OSError as error:
        raise DamagedError(f"{MANIFEST}: {error.strerror}") from error
    except ValueError as error:
        raise DamagedError(f"{MANIFEST} is not JSON") from error
    number = manifest.get("format") if isinstance(manifest, dict) else None
    if not isinstance(number, int):
        raise DamagedError(f"{MANIFEST} has no format number")
    if number > FORMAT:
        raise StorageError(
            f"checkpoint {path} has format {number}; this version of distaug reads formats up to {FORMAT}: "
            "use the version that wrote it, or a newer one"
        )
    if manifest.get("sha256") != _own_digest(manifest):
        raise DamagedError(f"{MANIFEST} is not as it was written")
    return dict(manifest)


def content(path: Place, listed: Mapping[str, Any]) -> bytes:
    """Return the content of a file if it has the size and sha256 of its entry in the manifest.

    Raises:
        DamagedError: It has not, or it cannot be read.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise DamagedError(f"{path.name} is missing") from error
    except OSError as error:
        raise DamagedError(f"{path.name}: {error.strerror}") from error
    if len(data) != listed["bytes"]:
        raise DamagedError(f"{path.name} has {len(data):,} of {listed['bytes']:,} bytes")
    if _sha256(data) != listed["sha256"]:
        raise DamagedError(f"{path.name} does not have the sha256 that its manifest lists")
    return data


def score(manifest: Mapping[str, Any]) -> float | None:
    """Return what the best is picked by, higher is better; None in mid-epoch or without validation."""
    value = manifest.get("score")
    return None if value is None else float(value)


def rank(manifest: Mapping[str, Any]) -> tuple[float, int, int]:
    """Return a key that sorts manifests with a score: the best first, of equal ones the earlier."""
    value = score(manifest)
    assert value is not None
    return -value, manifest["epoch"], manifest["step"]


def settle(folder: Place) -> None:
    """Clear up after a killed save or removal: complete what has its manifest, remove what has none."""
    for path in found(folder):
        if isinstance(path, Path) and path.name.startswith(SAVING):
            finish_folder(path.with_name(path.name.removeprefix(SAVING)), seal=MANIFEST)
    complete = found(folder)
    below: list[Place] = [*folder.iterdir()]
    for path in below:
        if _position(path) >= (0, 0) and path not in complete:
            remove_folder(path, seal=MANIFEST)


def retain(folder: Place, saved: Place, manifest: Manifest, keep_best: int) -> None:
    """Remove the checkpoints that are no longer needed.

    Kept are the two newest and the `keep_best` best. What lies beyond the position just saved is of a past
    that was given up, being damaged, or else the run would have gone on from there: it goes, lest it count as
    the newest.

    Args:
        folder: Folder of the checkpoints.
        saved: The one just written, which is valid for certain and never removed.
        manifest: Its manifest.
        keep_best: Number of best ones to keep.
    """
    candidates = [(saved, manifest)]
    for path in found(folder):
        if path == saved:
            continue
        try:
            other = read(path)
        except (DamagedError, StorageError):
            # Left alone: a newer version may be able to read it, or this one once the disk answers again.
            continue
        if _position(path) < _position(saved) and _sizes_fit(path, other):
            candidates.append((path, other))
        else:
            remove_folder(path, seal=MANIFEST)
    scored = sorted((c for c in candidates if score(c[1]) is not None), key=lambda c: rank(c[1]))
    kept = {path for path, _ in candidates[:_NEWEST_KEPT] + scored[:keep_best]}
    for path, _ in candidates:
        if path not in kept:
            remove_folder(path, seal=MANIFEST)


def _sizes_fit(path: Place, manifest: Manifest) -> bool:
    """Whether all files are there with their sizes; reading them after each save would cost too much."""
    listed = {name: entry["bytes"] for name, entry in manifest["files"].items()}
    if not isinstance(path, Path):
        found = path.files()
        return all(name in found and found[name]["size"] == size for name, size in listed.items())
    try:
        return all((path / name).stat().st_size == size for name, size in listed.items())
    except OSError:
        return False


def _own_digest(manifest: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    return _sha256(json.dumps(rest, sort_keys=True).encode())


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()

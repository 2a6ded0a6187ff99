"""Checkpoints: the state of a run at one position, on disk, checked before it is believed.

`checkpoints/epoch-EEEE-step-SSSSSSS/` holds the position that the run goes on from (epoch in progress, steps
of it done): `model.safetensors`, `ema.safetensors` where there is one, `state.pt` (loadable with
`weights_only=True`), and `manifest.json`, without which the checkpoint does not exist.
"""

import hashlib
import io
import json
import platform
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from distaug import __version__
from distaug.errors import StorageError
from distaug.store import manifests
from distaug.store.manifests import MANIFEST, DamagedError
from distaug.store.place import Place
from distaug.store.whole import storing, write_folder

__all__ = [
    "Checkpoint",
    "Weights",
    "best",
    "decode_weights",
    "encode_weights",
    "newest",
    "save",
    "versions",
    "weights_digest",
]

STATE = "state.pt"

Weights = Mapping[str, Tensor]
"""A state dict: tensors by name."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in its place."""

    path: Place
    manifest: dict[str, Any]

    @property
    def epoch(self) -> int:
        """The epoch in progress, from 0."""
        return int(self.manifest["epoch"])

    @property
    def size(self) -> int:
        """Bytes of its files, without the manifest."""
        return sum(file["bytes"] for file in self.manifest["files"].values())

    @property
    def step(self) -> int:
        """Steps of that epoch that are done."""
        return int(self.manifest["step"])

    @property
    def score(self) -> float | None:
        """What the best is picked by, higher is better; None in mid-epoch or without validation."""
        return manifests.score(self.manifest)

    @property
    def parts(self) -> tuple[str, ...]:
        """The sets of weights in it: `model`, and `ema` where there is one."""
        return tuple(name.removesuffix(".safetensors") for name in self.manifest["files"] if name != STATE)

    def weights(self, which: str) -> dict[str, Tensor]:
        """Return one of `parts` as contiguous tensors on the CPU.

        Raises:
            KeyError: There is no such part.
            StorageError: The file was damaged since the checkpoint was chosen.
        """
        if which not in self.parts:
            raise KeyError(f"{self.path} holds {', '.join(self.parts)}, not {which!r}")
        return decode_weights(self._read(f"{which}.safetensors"))

    def state(self) -> dict[str, Any]:
        """Return the rest of the state, tensors on the CPU with the strides they had.

        Raises:
            StorageError: The file was damaged since the checkpoint was chosen.
        """
        stored = torch.load(io.BytesIO(self._read(STATE)), map_location="cpu", weights_only=True)
        return dict(stored)

    def _read(self, name: str) -> bytes:
        try:
            return manifests.content(self.path / name, self.manifest["files"][name])
        except DamagedError as error:
            raise StorageError(
                f"checkpoint {self.path} is damaged: {error}; resume the run, which then uses another"
            ) from error


def save(
    folder: Place,
    *,
    epoch: int,
    step: int,
    weights: Mapping[str, Weights],
    state: Mapping[str, Any],
    manifest: Mapping[str, Any],
    keep_best: int,
) -> Checkpoint:
    """Write a checkpoint, whole or absent, then remove those that are no longer needed.

    Kept are the two newest and the `keep_best` best by score; what lies beyond the saved position goes.

    Args:
        folder: The run's `checkpoints` folder.
        epoch: Epoch in progress, from 0.
        step: Steps of it that are done.
        weights: State dicts by part, `model` and optionally `ema`; on any device, with any strides.
        state: The rest: nested mappings, lists and tuples of tensors, numbers, text and None.
        manifest: Further JSON values: digests of job and data, `score` (NaN and infinity count as None).
        keep_best: Number of best checkpoints to keep.

    Raises:
        StorageError: Disk full or folder not writable; the earlier checkpoints stay valid.
        TypeError: `state` holds something that could not be loaded without pickle.
    """
    files = {f"{part}.safetensors": encode_weights(tensors) for part, tensors in weights.items()}
    files[STATE] = _encode_state(state)
    own = {"versions": versions(), "epoch": epoch, "step": step}
    if clash := manifest.keys() & {*own, "format", "files", "sha256"}:
        raise ValueError(f"the manifest's keys {', '.join(sorted(clash))} are written by save() itself")
    sealed = manifests.seal({**own, **manifest}, files)
    files[MANIFEST] = json.dumps(sealed, indent=1).encode()
    path = folder / manifests.folder_name(epoch, step)
    with storing(folder, sum(map(len, files.values()))):
        folder.mkdir(parents=True, exist_ok=True)
        manifests.settle(folder)
        write_folder(path, files, seal=MANIFEST)
        manifests.retain(folder, path, sealed, keep_best)
    return Checkpoint(path, sealed)


def newest(folder: Place, *, warn: Callable[[str], None]) -> Checkpoint | None:
    """Return the newest checkpoint whose files are all as they were written; None when none was ever saved.

    Reads only, so all ranks may ask at once.

    Args:
        folder: The run's `checkpoints` folder.
        warn: Gets one line for each damaged checkpoint that is passed over.

    Raises:
        StorageError: There are checkpoints but none is valid, or the newest has a newer format.
    """
    return _first_valid(manifests.found(folder), folder, warn)


def best(folder: Place, *, warn: Callable[[str], None]) -> Checkpoint | None:
    """Return the valid checkpoint with the highest score, of equal ones the earlier; None without scores.

    Args:
        folder: The run's `checkpoints` folder.
        warn: Gets one line for each damaged checkpoint that is passed over.

    Raises:
        StorageError: There are scored checkpoints but none is valid, or one has a newer format.
    """
    scored = []
    for path in manifests.found(folder):
        try:
            manifest = manifests.read(path)
        except DamagedError as error:
            warn(f"checkpoint {path} is damaged ({error}) and is not considered")
            continue
        if manifests.score(manifest) is not None:
            scored.append((manifests.rank(manifest), path))
    return _first_valid([path for _, path in sorted(scored)], folder, warn)


def _first_valid(paths: Iterable[Place], folder: Place, warn: Callable[[str], None]) -> Checkpoint | None:
    damaged = []
    for path in paths:
        try:
            manifest = manifests.read(path)
            for name, listed in manifest["files"].items():
                manifests.content(path / name, listed)
        except DamagedError as error:
            damaged.append(f"{path.name}: {error}")
            warn(f"checkpoint {path} is damaged ({error}); the one before it is used if there is one")
        else:
            return Checkpoint(path, manifest)
    if not damaged:
        return None
    raise StorageError(
        f"none of the {len(damaged)} checkpoints in {folder} is valid: {'; '.join(damaged)}; "
        "put a copy of one there, or start afresh under another name with --name"
    )


def encode_weights(weights: Weights) -> bytes:
    """Return a state dict as the content of a safetensors file, bit by bit.

    Safetensors takes neither shared storage nor other strides than the plain ones, so each tensor is copied.
    """
    plain = {
        name: tensor.detach().to("cpu").clone(memory_format=torch.contiguous_format) for name, tensor in weights.items()
    }
    return safetensors.torch.save(plain)


def decode_weights(data: bytes) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, contiguous, on the CPU.

    Raises:
        StorageError: It is no such file.
    """
    try:
        return safetensors.torch.load(data)
    except SafetensorError as error:
        raise StorageError(f"the weights are no safetensors file: {error}") from error


def weights_digest(state_dict: Weights) -> str:
    """Return the sha256 over the tensors' names, types, shapes and bytes in the order of their names.

    Neither the device nor the strides change it: two models with one digest are equal bit by bit.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(state_dict.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().to("cpu").contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Return the versions that a file was made with: distaug, torch, python."""
    return {"distaug": __version__, "torch": torch.__version__, "python": platform.python_version()}


def _encode_state(state: Mapping[str, Any]) -> bytes:
    file = io.BytesIO()
    torch.save(_loadable(state, "state"), file)
    return file.getvalue()


def _loadable(value: Any, place: str) -> Any:
    """Copy a nested value to what `weights_only=True` loads; tensors keep their strides.

    The optimizer's momentum has the strides of its channels_last weights: with others a resumed run would go
    through other kernels, which need not give the same last bit. A copy also leaves behind the rest of a
    storage that the tensor only views.
    """
    if isinstance(value, Tensor):
        return value.detach().to("cpu").clone(memory_format=torch.preserve_format)
    if isinstance(value, Mapping):
        return {_loadable(k, place): _loadable(v, f"{place}[{k!r}]") for k, v in value.items()}
    if isinstance(value, list | tuple):
        copies = [_loadable(v, f"{place}[{i}]") for i, v in enumerate(value)]
        return copies if isinstance(value, list) else tuple(copies)
    if value is None:
        return None
    for kind in (bool, int, float, str):  # of a subclass (numpy's float64) the plain value
        if isinstance(value, kind):
            return kind(value)
    raise TypeError(f"{place} is a {type(value).__name__}; a checkpoint holds tensors, numbers, text and None")

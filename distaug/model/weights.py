"""Starting weights: from a file, or under a name of torchvision's."""

import io
import pickle
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn
from torchvision import models
from torchvision.models.resnet import ResNet

from distaug.errors import DataError, JobError
from distaug.model.sources import torchvision_names
from distaug.store.place import Place, place

__all__ = ["Weights", "load_weights", "read_weights"]

_NESTED_UNDER = ("state_dict", "model")
# The prefixes that DistributedDataParallel and torch.compile put before every name.
_WRAPPED = re.compile(r"(module\.|_orig_mod\.)+")
_LISTED = 5


@dataclass(frozen=True)
class Weights:
    """Starting weights, and the normalisation of the pictures they were trained on where it is known."""

    state: Mapping[str, Tensor]
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None


def read_weights(weights: str, model: str) -> Weights:
    """Read the starting weights that a job names.

    Args:
        weights: Path or URL of a .safetensors, .pt or .pth file, or one of torchvision's names: IMAGENET1K_V1.
        model: The job's `model.name`.

    Raises:
        JobError: No such file or name, or a file that does not hold weights.
        DataError: torchvision's weights could not be downloaded.
    """
    if weights.endswith((".safetensors", ".pt", ".pth")):
        return Weights(_read_file(place(weights)))
    return _download(weights, model)


def _read_file(path: Place) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise JobError(f"model.weights: no file {path}")
    try:
        if path.suffix == ".safetensors":
            content: Any = load(path.read_bytes())
        else:
            content = torch.load(io.BytesIO(path.read_bytes()), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise JobError(
            f"model.weights: {path} is damaged or holds more than tensors, which could run foreign code when "
            "opened. Save the weights alone: torch.save(model.state_dict(), path)"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError) as error:
        raise JobError(f"model.weights: {path} cannot be read: {error}") from error
    for key in _NESTED_UNDER:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise JobError(
            f"model.weights: {path} holds no weights by name. It must be a state_dict, plain or under "
            f"{' or '.join(_NESTED_UNDER)}"
        )
    if all(_WRAPPED.match(name) for name in content):
        content = {_WRAPPED.sub("", name): tensor for name, tensor in content.items()}
    state: Mapping[str, Tensor] = content
    return state


def _download(weights: str, model: str) -> Weights:
    if model not in torchvision_names():
        raise JobError(
            f"model.weights: found `{weights}`, but only torchvision's models have weights by name, and "
            f"`{model}` is none. Give a .safetensors, .pt or .pth file"
            + (", or set `options: {pretrained: true}` for timm's own" if model.startswith("timm/") else "")
        )
    names = models.get_model_weights(model).__members__
    if weights not in names:
        raise JobError(
            f"model.weights: `{model}` has no weights `{weights}`. It has {', '.join(names)}; "
            "or give a .safetensors, .pt or .pth file"
        )
    chosen = names[weights]
    try:
        # Through torchvision's own builder, which knows the old names in its files.
        published = models.get_model(model, weights=chosen, progress=False)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"model.weights: `{weights}` of {model} could not be downloaded from {chosen.url}: {error}. "
            "Without network: fetch that file elsewhere and give its path"
        ) from error
    transforms = chosen.transforms()
    return Weights(published.state_dict(), mean=tuple(transforms.mean), std=tuple(transforms.std))


def load_weights(module: nn.Module, weights: Weights, head: Collection[str], label: str) -> None:
    """Put starting weights into a network; a head for another number of classes stays as it was initialised.

    Args:
        module: The network, changed in place.
        weights: What `read_weights` returned.
        head: Names of the head's parameters.
        label: What the job calls the weights, for the message.

    Raises:
        JobError: The names or shapes differ otherwise than in the head; lists them.
    """
    own, given = module.state_dict(), dict(weights.state)
    replaced = {name for name in given.keys() & head if _other_classes(given[name], own[name])}
    # Files from before 2018 lack this counter, which nothing reads.
    missing = [name for name in own.keys() - given.keys() if not name.endswith("num_batches_tracked")]
    unexpected = given.keys() - own.keys()
    shapes = {
        name: f"{name} {_size(given[name])} for {_size(own[name])}"
        for name in (own.keys() & given.keys()) - replaced
        if given[name].shape != own[name].shape
    }
    kernel = given["conv1.weight"].shape[-1] if "conv1.weight" in shapes else 0
    if isinstance(module, ResNet) and kernel in (3, 7) and kernel != module.conv1.kernel_size[-1]:
        stem = "small" if kernel == 3 else "standard"
        raise JobError(
            f"model.weights: {label} starts with a {kernel}×{kernel} convolution, but the network has the "
            f"other stem. Set `model.stem: {stem}`"
        )
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": shapes.values()}
    wrong = [f"{len(found)} {what}: {_some(found)}" for what, found in problems.items() if found]
    if wrong:
        raise JobError(
            f"model.weights: {label} does not fit the network: {'; '.join(wrong)}. Only the head's number of "
            "classes may differ"
        )
    fitting = {name: tensor for name, tensor in given.items() if name not in replaced}
    module.load_state_dict(fitting, strict=False)


def _other_classes(given: Tensor, own: Tensor) -> bool:
    return given.ndim == own.ndim and given.shape[:1] != own.shape[:1] and given.shape[1:] == own.shape[1:]


def _size(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "scalar"


def _some(names: Collection[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(sorted(names)[:_LISTED]) + more

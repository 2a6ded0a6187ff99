"""From the section `model` to a network that is ready to train, and from a model folder to one that is ready to use."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from distaug.errors import JobError, StorageError
from distaug.model.resize import resize
from distaug.model.sources import make
from distaug.model.weights import Weights, load_weights, read_weights
from distaug.spec.model import ModelSpec
from distaug.store.model_files import read_model
from distaug.store.place import Place

__all__ = ["Built", "build", "head_of", "load", "rebuild"]

_REMEDIES = {
    "model.name": "Set `data.image_size` to what it takes, or `model.name`",
    "model.resize": "At the sizes in `model.weights` it can only run if its code takes them from its layers",
}


@dataclass(frozen=True)
class Built:
    """A network, in training mode on the CPU, and what its trainer must know about it."""

    module: nn.Module
    """(B, 3, H, W) normalised pictures to (B, K) logits."""
    head: frozenset[str]
    """Names of the parameters of the classification head."""
    trainable: frozenset[str]
    """Names of the parameters that the network leaves open to training; a network may hold fixed ones."""
    mean: tuple[float, float, float] | None
    """Of the pictures that the starting weights were trained on, for values in [0, 1]; None where unknown."""
    std: tuple[float, float, float] | None
    """Likewise."""


def build(spec: ModelSpec, *, num_classes: int, image_size: int, seed: int) -> Built:
    """Build the network of a job.

    The initial weights are a function of the seed alone, the same in every process, and torch's global
    generator is left as it was. A forward pass of two blank pictures shows that the network takes pictures
    of this size and returns logits; with `resize` another one shows the same of the resized network.

    Args:
        spec: The section `model`.
        num_classes: Number of classes, K.
        image_size: Side of the pictures, in pixels.
        seed: Seed of the job.

    Raises:
        JobError: There is no such network, or it does not fit the options, the pictures or the weights.
        DataError: Weights had to be downloaded and could not.
    """
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would reach the generators of the GPUs as well.
        torch.default_generator.manual_seed(seed)
        module = make(spec, num_classes, image_size)
        _try_out(module, spec.name, num_classes, image_size, "model.name")
        head = head_of(module, num_classes)
        if not head and (spec.head_lr_multiplier != 1 or spec.freeze_epochs):
            raise JobError(
                "model: `head_lr_multiplier` and `freeze_epochs` are for the head, and no layer of "
                f"`{spec.name}` has {num_classes} outputs: give the network an attribute `head`"
            )
        weights = _starting_weights(module, spec, head)
        if spec.resize:
            _try_out(module, spec.name, num_classes, image_size, "model.resize")
    if spec.channels_last:
        module.to(memory_format=torch.channels_last)
    trainable = frozenset(name for name, parameter in module.named_parameters() if parameter.requires_grad)
    return Built(module, head, trainable, weights.mean, weights.std)


def load(folder: Place) -> tuple[nn.Module, dict[str, Any]]:
    """Make the network of a model folder, as `rebuild` does; return it and the folder's card.

    Raises:
        JobError: The network's code is out of reach.
        StorageError: There is no model, it is damaged, of a newer format, or does not fit the network.
    """
    weights, card = read_model(folder)
    try:
        return rebuild(card, weights), card
    except StorageError as error:
        raise StorageError(f"{folder}: {error}") from error


def rebuild(card: Mapping[str, Any], weights: Mapping[str, Tensor]) -> nn.Module:
    """Make a trained network again, without the weights it started from: their file may be gone.

    Args:
        card: Content of its model.json.
        weights: Its state dict, which also has the sizes of its layers if the job had `model.resize`.

    Returns:
        The network, on the CPU, with these weights; torch's global generator is left as it was.

    Raises:
        JobError: The network's code is out of reach.
        StorageError: The weights are those of another network.
    """
    section = dict(card["model"])
    if section["name"].startswith("timm/"):
        section["options"] = {k: v for k, v in section["options"].items() if k != "pretrained"}
    spec = ModelSpec.model_validate(section)
    with torch.random.fork_rng(devices=[]):  # for the weights it gets, which are replaced at once
        module = make(spec, len(card["classes"]), card["image_size"])
    if card["precision"] == "fp64":
        module.double()  # before the loading, which would round
    if spec.resize:
        resize(module, weights)
    try:
        module.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise StorageError(
            f"the weights do not fit the model {spec.name!r} as it is now: {error}; use the code it was trained with"
        ) from error
    if spec.channels_last:
        module.to(memory_format=torch.channels_last)
    return module


def _try_out(module: nn.Module, name: str, num_classes: int, image_size: int, field: str) -> None:
    """Run the network once, in evaluation mode so that its statistics stay as they are; `field` is blamed."""
    pictures = torch.zeros(2, 3, image_size, image_size)
    module.eval()
    try:
        with torch.no_grad():
            logits = module(pictures)
    except Exception as error:
        raise JobError(
            f"{field}: `{name}` failed on pictures of {image_size}×{image_size} pixels: "
            f"{type(error).__name__}: {error}. {_REMEDIES[field]}"
        ) from error
    module.train()
    found = tuple(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
    if found != (2, num_classes):
        raise JobError(
            f"{field}: for 2 pictures of {num_classes} classes `{name}` returned {found}; "
            f"it must return one tensor of logits, (2, {num_classes})"
        )


def head_of(module: nn.Module, num_classes: int) -> frozenset[str]:
    """Name the parameters of `module.head`, or else of the last layer with an output per class."""

    def layers_with_logits(part: nn.Module) -> list[str]:
        return [
            name
            for name, layer in part.named_modules()
            if any(p.ndim > 1 and p.shape[0] == num_classes for p in layer.parameters(recurse=False))
        ]

    head = getattr(module, "head", None)
    if isinstance(head, nn.Module) and layers_with_logits(head):
        return frozenset(f"head.{name}" for name, _ in head.named_parameters())
    layers = layers_with_logits(module)
    if not layers:
        return frozenset()
    last = module.get_submodule(layers[-1])
    return frozenset(f"{layers[-1]}.{name}".lstrip(".") for name, _ in last.named_parameters(recurse=False))


def _starting_weights(module: nn.Module, spec: ModelSpec, head: frozenset[str]) -> Weights:
    """Load what the job names; return what is known of its pictures."""
    if spec.weights is not None:
        weights = read_weights(spec.weights, spec.name)
        if spec.resize:
            resize(module, weights.state)
        load_weights(module, weights, head, spec.weights)
        return weights
    published: Any = getattr(module, "pretrained_cfg", None)
    if published and spec.options.get("pretrained"):  # timm has loaded its own
        return Weights({}, mean=tuple(published["mean"]), std=tuple(published["std"]))
    return Weights({})

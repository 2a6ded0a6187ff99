"""From the section `model` to a network that is ready to train."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from distaug.errors import JobError
from distaug.model.sources import make
from distaug.model.weights import Weights, load_weights, read_weights
from distaug.spec.model import ModelSpec

__all__ = ["Built", "build"]


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
    of this size and returns logits.

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
        _try_out(module, spec.name, num_classes, image_size)
        head = _head(module, num_classes)
        if not head and (spec.head_lr_multiplier != 1 or spec.freeze_epochs):
            raise JobError(
                "model: `head_lr_multiplier` and `freeze_epochs` are for the head, and no layer of "
                f"`{spec.name}` has {num_classes} outputs: give the network an attribute `head`"
            )
        weights = _starting_weights(module, spec, head)
    if spec.channels_last:
        module.to(memory_format=torch.channels_last)
    trainable = frozenset(name for name, parameter in module.named_parameters() if parameter.requires_grad)
    return Built(module, head, trainable, weights.mean, weights.std)


def _try_out(module: nn.Module, name: str, num_classes: int, image_size: int) -> None:
    """Run the network once, in evaluation mode so that its statistics stay as they are."""
    pictures = torch.zeros(2, 3, image_size, image_size)
    module.eval()
    try:
        with torch.no_grad():
            logits = module(pictures)
    except Exception as error:
        raise JobError(
            f"model.name: `{name}` failed on pictures of {image_size}×{image_size} pixels: "
            f"{type(error).__name__}: {error}. Set `data.image_size` to what it takes, or `model.name`"
        ) from error
    module.train()
    found = tuple(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
    if found != (2, num_classes):
        raise JobError(
            f"model.name: for 2 pictures of {num_classes} classes `{name}` returned {found}; "
            f"it must return one tensor of logits, (2, {num_classes})"
        )


def _head(module: nn.Module, num_classes: int) -> frozenset[str]:
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
        load_weights(module, weights, head, spec.weights)
        return weights
    published: Any = getattr(module, "pretrained_cfg", None)
    if published and spec.options.get("pretrained"):  # timm has loaded its own
        return Weights({}, mean=tuple(published["mean"]), std=tuple(published["std"]))
    return Weights({})

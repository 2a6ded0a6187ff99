"""Layers of other sizes: those of a network whose channels were pruned."""

from collections.abc import Mapping
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.lazy import LazyModuleMixin

__all__ = ["resize"]


def resize(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give every parameter and buffer the shape that it has in a state dict; all values are left to the loading.

    Depthwise convolutions stay depthwise, other groups keep their number. What is missing in the state dict, has
    another number of dimensions or another kernel there, is no pruned version of this network: it stays as it is,
    so that a strict loading names all of it.

    Args:
        module: The network, changed in place. Its parameters stay the same objects, as trainable as they were, on the
            same device and in the same memory format.
        state: State dict of the pruned network.
    """
    for prefix, layer in module.named_modules():
        if isinstance(layer, LazyModuleMixin):
            continue  # It will take its size from what is loaded.
        for name, own in chain(layer.named_parameters(recurse=False), layer.named_buffers(recurse=False)):
            given = state.get(f"{prefix}.{name}".lstrip("."))
            if given is not None and given.shape != own.shape and _is_pruned(given, own):
                order = sorted(range(own.ndim), key=own.stride, reverse=True)  # of the dimensions in memory
                own.data = torch.empty_permuted(given.shape, order, dtype=own.dtype, device=own.device).zero_()
        _note_sizes(layer)


def _is_pruned(given: Tensor, own: Tensor) -> bool:
    return given.ndim == own.ndim and (own.ndim < 4 or given.shape[2:] == own.shape[2:])


def _note_sizes(layer: nn.Module) -> None:
    """Set a layer's own account of its sizes to those of its tensors, where it has tensors."""
    match layer:
        case nn.Conv2d():
            outputs, inputs = layer.weight.shape[:2]
            if 1 < layer.groups == layer.in_channels:
                layer.groups = outputs * layer.in_channels // layer.out_channels
            layer.in_channels, layer.out_channels = inputs * layer.groups, outputs
        case nn.Linear():
            layer.out_features, layer.in_features = layer.weight.shape
        case _NormBase(weight=Tensor() as sizes) | _NormBase(running_mean=Tensor() as sizes):
            layer.num_features = len(sizes)
        case nn.GroupNorm(affine=True):
            layer.num_channels = len(layer.weight)
        case nn.LayerNorm(elementwise_affine=True):
            layer.normalized_shape = tuple(layer.weight.shape)
        case nn.PReLU():
            layer.num_parameters = len(layer.weight)

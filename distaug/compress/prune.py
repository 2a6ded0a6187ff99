"""Smaller networks: zeros in place of small weights, and fewer channels."""

import copy
import difflib
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch_pruning
from torch import nn
from torch.nn.utils import prune

from distaug.errors import JobError
from distaug.spec.compress import ChannelsSpec, MagnitudeSpec

__all__ = ["Size", "magnitude", "remove_channels"]

_prune: Any = prune  # some of it has no types
_NARROW = 64
"""Layers with fewer channels than this are pruned in smaller multiples."""
_HALVINGS = 10
_Layer = nn.Conv2d | nn.Linear


class Size:
    """What a network weighs: parameters, those that are not 0, and multiplications with addition for one picture."""

    def __init__(self, module: nn.Module, image_size: int) -> None:
        tensors = list(module.parameters())
        self.parameters = sum(tensor.numel() for tensor in tensors)
        self.nonzeros = sum(int(tensor.count_nonzero()) for tensor in tensors)
        self.macs = _macs(module, image_size)


def _macs(module: nn.Module, image_size: int) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        macs, _ = torch_pruning.utils.count_ops_and_params(module, torch.zeros(1, 3, image_size, image_size))
    return int(macs)


def _layers(module: nn.Module) -> dict[str, _Layer]:
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, _Layer)}


def magnitude(module: nn.Module, spec: MagnitudeSpec, target: float | None) -> None:
    """Set the weights of convolutions and linear layers that are nearest to 0 to 0 (arXiv:1506.02626).

    Weights that are 0 already are among them, so that targets one after the other do not add up.

    Args:
        module: The network, changed in place.
        spec: The stage's section.
        target: Share of the weights that is 0 afterwards; None: `spec.amounts` says it layer by layer.

    Raises:
        JobError: `amounts` names a layer that does not exist.
    """
    module.to(memory_format=torch.contiguous_format)  # torch's pruning takes no other
    layers = _layers(module)
    if target is None:
        assert spec.amounts is not None
        for name, amount in spec.amounts.items():
            if name not in layers:
                near = difflib.get_close_matches(name, layers, n=3, cutoff=0.4) or list(layers)[:5]
                raise JobError(
                    f"compress.stages: magnitude.amounts: the network has no layer `{name}` with weights; "
                    f"it has {', '.join(near)}"
                )
            _prune.l1_unstructured(layers[name], "weight", amount)
            _keep(layers[name])
        return
    # What a network holds fixed, it needs as it is.
    pruned = [layer for layer in layers.values() if layer.weight.requires_grad]
    if spec.scope == "global":
        _prune.global_unstructured([(layer, "weight") for layer in pruned], _prune.L1Unstructured, amount=target)
    for layer in pruned:
        if spec.scope == "layer":
            _prune.l1_unstructured(layer, "weight", target)
        _keep(layer)


def _keep(layer: _Layer) -> None:
    """Make the zeros of a pruned layer part of its weights."""
    _prune.remove(layer, "weight")
    layer.weight.data += 0.0  # the mask has made −0 of negative weights: other bytes, for the same number


def remove_channels(
    module: nn.Module, spec: ChannelsSpec, image_size: int, head: frozenset[str], log: Callable[[str], None]
) -> nn.Module:
    """Remove the channels whose weights are shortest, together with all that depends on them (arXiv:2301.12900).

    Layers that are joined by additions lose the same channels. The head keeps its outputs; layers that the network
    holds fixed, and those that have no more channels than the multiple, stay whole.

    Args:
        module: The network; it stays as it is.
        spec: The stage's section.
        image_size: Side of the pictures in pixels.
        head: Names of the parameters of the classification head.
        log: Takes a line for the user.

    Returns:
        A smaller network.

    Raises:
        JobError: A layer would be left empty, or the network's structure cannot be followed.
    """
    fixed = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
    widths = {
        name: layer.weight.shape[0] for name, layer in _layers(module).items() if f"{name}.weight" not in head | fixed
    }
    multiple = (8 if min(widths.values(), default=0) >= _NARROW else 4) if spec.round_to == "auto" else spec.round_to
    widths = {name: width for name, width in widths.items() if width > multiple}  # others have none to lose
    if not widths:
        raise JobError(
            "compress.stages: channels: before its head the network has no convolution or linear layer of more than "
            f"{multiple} channels"
        )
    kept = [name for name in _layers(module) if name not in widths]
    narrowest = min(widths, key=lambda name: widths[name])
    most = 1 - multiple / widths[narrowest]
    if spec.ratio is not None:
        if int(widths[narrowest] * (1 - spec.ratio)) < multiple:
            raise JobError(
                f"compress.stages: channels.ratio: {spec.ratio:g} leaves layer `{narrowest}` none of its "
                f"{widths[narrowest]} channels, in multiples of {multiple}; allowed is less than {most:g}"
            )
        return _with_ratio(module, spec.ratio, image_size, kept, multiple)
    assert spec.macs is not None
    goal = spec.macs * _macs(module, image_size)
    low, high, best = 0.0, most, None
    for _ in range(_HALVINGS):
        ratio = (low + high) / 2
        smaller = _with_ratio(module, ratio, image_size, kept, multiple)
        if _macs(smaller, image_size) <= goal:
            high, best = ratio, smaller
        else:
            low = ratio
    if best is None:
        raise JobError(
            f"compress.stages: channels.macs: {spec.macs:g} of the multiplications cannot be reached by removing "
            f"channels in multiples of {multiple}; raise it or lower `round_to`"
        )
    log(f"channels: a ratio of {high:.3f} leaves {_macs(best, image_size):,} multiplications")
    return best


def _with_ratio(module: nn.Module, ratio: float, image_size: int, kept: list[str], multiple: int) -> nn.Module:
    smaller = copy.deepcopy(module).eval()
    trained = {name: parameter.requires_grad for name, parameter in smaller.named_parameters()}
    # The structure is followed along the gradient, through fixed layers as well.
    smaller.requires_grad_(True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            torch_pruning.pruner.BasePruner(
                smaller,
                torch.zeros(1, 3, image_size, image_size),
                importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
                pruning_ratio=ratio,
                ignored_layers=[smaller.get_submodule(name) for name in kept],
                round_to=multiple,
            ).step()
            with torch.no_grad():
                smaller(torch.zeros(2, 3, image_size, image_size))
        except Exception as error:
            raise JobError(
                f"compress.stages: channels: the channels of this network cannot be removed "
                f"({type(error).__name__}: {error}); take `magnitude` or `int8` for it"
            ) from error
    for name, parameter in smaller.named_parameters():
        parameter.requires_grad_(trained[name])
    return smaller

"""Work on a batch part by part."""

import math
from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor

__all__ = ["by_parts", "pictures_at_once"]

_VALUES = 1 << 19
"""Values that a CPU works on at a time: as float32 they fit in its caches, and their memory is used again at once."""


def pictures_at_once(images: Tensor) -> int:
    """Return how many of the pictures (B, C, H, W) their device should work on at a time."""
    return _VALUES // math.prod(images.shape[1:]) + 1 if images.device.type == "cpu" else max(1, len(images))


def by_parts(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Let a function of pictures (B, C, H, W) and further (B, …) tensors work part by part where that is faster.

    Only for functions that treat every picture by itself: the result is the same.
    """

    @wraps(function)
    def each(images: Tensor, *parameters: Tensor) -> Tensor:
        size = pictures_at_once(images)
        if len(images) <= size:
            return function(images, *parameters)
        parts = zip(*(torch.split(tensor, size) for tensor in (images, *parameters)), strict=True)
        return torch.cat([function(*part) for part in parts])

    return each

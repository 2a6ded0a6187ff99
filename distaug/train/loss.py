"""Weights of the classes in the training loss."""

from typing import Literal

import torch
from torch import Tensor

__all__ = ["class_weights"]


def class_weights(counts: Tensor, kind: Literal["none", "inverse_frequency", "effective_number"]) -> Tensor | None:
    """Weigh classes by how rare they are, so that the mean weight of the training pictures is 1.

    With `effective_number` a class of n pictures counts as (1 - β^n) / (1 - β) of them (Cui et al. 2019,
    arXiv:1901.05555), with β = (N - 1) / N for N training pictures.

    Args:
        counts: (K,) int64 training pictures of each class, at least one.
        kind: What the weights are inverse to.

    Returns:
        (K,) float32; None for `none`.
    """
    if kind == "none":
        return None
    sizes, n = counts.double(), counts.sum()
    if kind == "effective_number":
        sizes = -torch.expm1(sizes * torch.log1p(-1 / n))  # 1 - β^n; its factor 1 / (1 - β) cancels out
    weights = 1 / sizes
    return (weights * n / (counts * weights).sum()).float()

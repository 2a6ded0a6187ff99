"""A small convolutional network that trains fast on a CPU.

After the published "airbench" networks for CIFAR-10 (Keller Jordan, arXiv:2404.00498): a fixed stem of 2×2
convolutions that whitens the picture, wide 3×3 convolutions with early max pooling, no shortcuts, and a head
whose logits are scaled down. There the whitening is computed from the training pictures; here it is that of
natural pictures in general, so that the weights stay a function of the seed alone.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["DEFAULT_WIDTHS", "SmallNet"]

DEFAULT_WIDTHS = (64, 128, 256)
"""Channels of the groups of a SmallNet."""

# The principal components of small patches of natural pictures are, whatever the pictures, close to the products of
# three colour directions and the four Haar patterns of 2×2 pixels. Only their sizes have to be measured: here the
# deviations of each (colour × pattern) over the training pictures of CIFAR-10, each channel normalised.
_COLOURS = ((1.0, 1.0, 1.0), (1.0, 0.0, -1.0), (1.0, -2.0, 1.0))
_PATTERNS = ((1.0, 1.0, 1.0, 1.0), (1.0, -1.0, 1.0, -1.0), (1.0, 1.0, -1.0, -1.0), (1.0, -1.0, -1.0, 1.0))
_DEVIATIONS = ((3.2, 0.6, 0.6, 0.24), (0.9, 0.12, 0.12, 0.045), (0.45, 0.07, 0.07, 0.03))
# Logits that start small keep a high learning rate stable in the first steps.
_HEAD_SCALE = 1 / 9


def _whitening() -> nn.Conv2d:
    """Return the fixed stem: 12 uncorrelated views of each 2×2 patch, of unit variance, and their negatives.

    Both signs, because the activation that follows keeps only one of them.
    """
    colours = F.normalize(torch.tensor(_COLOURS), dim=1)
    patterns = F.normalize(torch.tensor(_PATTERNS), dim=1)
    filters = torch.einsum("ac,bk->abck", colours, patterns) / torch.tensor(_DEVIATIONS)[:, :, None, None]
    filters = filters.reshape(12, 3, 2, 2)
    conv = nn.Conv2d(3, 24, kernel_size=2, bias=False)
    conv.weight = nn.Parameter(torch.cat([filters, -filters]), requires_grad=False)
    return conv


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    """Return a 3×3 convolution whose first outputs start as copies of the inputs.

    Without shortcuts, this identity is what carries the signal, and its gradient, through a new network.
    """
    conv = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False)
    nn.init.dirac_(conv.weight.data[:inputs])
    return conv


def _group(inputs: int, outputs: int) -> nn.Sequential:
    # Pooling comes before the norm and the activation, which then have a quarter of the work.
    return nn.Sequential(
        _conv(inputs, outputs),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(outputs),
        nn.GELU(),
        _conv(outputs, outputs),
        nn.BatchNorm2d(outputs),
        nn.GELU(),
    )


class SmallNet(nn.Module):
    """Whitening stem, groups of two 3×3 convolutions that each halve the picture, global max pooling, linear head.

    With the default widths it has 1.2 million parameters and takes pictures of 9 pixels and more.

    Args:
        num_classes: Number of logits, K.
        widths: Channels of each group. Every group halves the picture, so n groups need 2^n + 1 pixels.
    """

    def __init__(self, num_classes: int, widths: Sequence[int] = DEFAULT_WIDTHS) -> None:
        super().__init__()
        whitening = _whitening()
        self.stem = nn.Sequential(whitening, nn.GELU())
        inputs = [whitening.out_channels, *widths[:-1]]
        self.groups = nn.Sequential(*(_group(i, o) for i, o in zip(inputs, widths, strict=True)))
        self.head = nn.Linear(widths[-1], num_classes, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Turn (B, 3, H, W) normalised pictures into (B, K) logits."""
        features = F.adaptive_max_pool2d(self.groups(self.stem(images)), 1).flatten(1)
        logits: Tensor = self.head(features)
        return logits * _HEAD_SCALE

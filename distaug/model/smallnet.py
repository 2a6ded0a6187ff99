"""A small convolutional network that trains fast on a CPU.

After the published "airbench" networks for CIFAR-10 (Keller Jordan, arXiv:2404.00498): a stem of 2×2
convolutions that looks at the picture in fine detail, wide 3×3 convolutions with early max pooling, no
shortcuts, and a head whose logits are scaled down. The stem is learned here instead of computed from the
pictures, so that the weights stay a function of the seed alone.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["DEFAULT_WIDTHS", "SmallNet"]

DEFAULT_WIDTHS = (64, 128, 256)
"""Channels of the groups of a SmallNet."""

_STEM_CHANNELS = 24
# Logits that start small keep a high learning rate stable in the first steps.
_HEAD_SCALE = 1 / 9


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
    """Stem, groups of two 3×3 convolutions that each halve the picture, global max pooling, linear head.

    With the default widths it has 1.2 million parameters and takes pictures of 9 pixels and more.

    Args:
        num_classes: Number of logits, K.
        widths: Channels of each group. Every group halves the picture, so n groups need 2^n + 1 pixels.
    """

    def __init__(self, num_classes: int, widths: Sequence[int] = DEFAULT_WIDTHS) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, _STEM_CHANNELS, kernel_size=2), nn.GELU())
        inputs = [_STEM_CHANNELS, *widths[:-1]]
        self.groups = nn.Sequential(*(_group(i, o) for i, o in zip(inputs, widths, strict=True)))
        self.head = nn.Linear(widths[-1], num_classes, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Turn (B, 3, H, W) normalised pictures into (B, K) logits."""
        features = F.adaptive_max_pool2d(self.groups(self.stem(images)), 1).flatten(1)
        logits: Tensor = self.head(features)
        return logits * _HEAD_SCALE

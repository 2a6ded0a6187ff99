"""The random numbers of an operation for the samples of a shard, and pictures sorted by what was drawn for them.

Both live on the host, where the sample ids are: what depends on a choice is sorted there, and the device is never
waited for.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from distaug import draws

__all__ = ["Draws", "sorted_by"]

_CHOICE = -1
"""Number of the draw that says whether a picture undergoes the operation at all."""


@dataclass(frozen=True)
class Draws:
    """The numbers that one operation draws for some samples, each a function of its coordinates alone."""

    seed: int
    epoch: int
    ids: Tensor
    """(b,) int64 sample ids, on the host."""
    key: str
    """Name of the operation and its place in the list."""

    def uniforms(self, count: int) -> Tensor:
        """Return (count, b) float32 uniforms in [0, 1) on the host: the draws 0 … count − 1."""
        return draws.uniforms(self.seed, self.epoch, self.ids, self.key, count)

    def pixel_bits(self, count: int, device: torch.device) -> Tensor:
        """Return (b, count) int64 random bits on a device."""
        ids = self.ids.to(device, non_blocking=True)
        return draws.pixel_bits(self.seed, self.epoch, ids, self.key, count=count)

    def chosen(self, chance: float | Tensor) -> Tensor | None:
        """Return (b,) bool on the host, true with probability `chance`; None: true for all."""
        if isinstance(chance, float) and chance == 1:
            return None
        return draws.uniform(self.seed, self.epoch, self.ids, self.key, _CHOICE) < chance

    def at(self, index: Tensor) -> "Draws":
        """Return the same for the samples at some places of the batch."""
        return Draws(self.seed, self.epoch, self.ids[index], self.key)


def sorted_by(choices: Tensor, images: Tensor, apply: Callable[[int, int, Tensor, Tensor], Tensor]) -> Tensor:
    """Let each picture undergo what was chosen for it, in one step after the other.

    In each step the pictures are sorted by their choice, so that those of each lie together, and in the end they are
    put back: whole pictures are copied once more than there are steps, whatever the number of choices.

    Args:
        choices: (steps, B) int64 on the host, at least 0; 0 changes nothing.
        images: (B, C, H, W).
        apply: From the number of a step, a choice above 0, its pictures (b, C, H, W) and their places in the batch
            (b,) int64, on the host, to pictures.

    Returns:
        (B, C, H, W), a new tensor where any picture was chosen.
    """
    lies_at: Tensor | None = None  # the place of each picture of the batch as they are sorted now
    for step, choice in enumerate(choices):
        counts = choice.bincount().tolist()
        if counts[0] == len(images):
            continue
        order = choice.argsort(stable=True)
        source = order if lies_at is None else lies_at[order]
        images, lies_at = images.index_select(0, source.to(images.device, non_blocking=True)), order.argsort()
        pieces = zip(torch.split(images, counts), torch.split(order, counts), strict=True)
        for number, (some, places) in enumerate(pieces):
            if number and len(places):
                some.copy_(apply(step, number, some, places))
    return images if lies_at is None else images.index_select(0, lies_at.to(images.device, non_blocking=True))

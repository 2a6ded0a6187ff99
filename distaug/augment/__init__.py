"""Augmentation of whole batches on their device, with parameters of its own for every sample.

`Augment` turns uint8 pictures and labels into normalised pictures and soft targets, in anybody's training loop.
"""

from distaug.augment.pipeline import Augment, normalise

__all__ = ["Augment", "normalise"]

"""Test-time augmentation: the mean of a model's answers to several views of a picture."""

import math
from collections.abc import Collection, Iterator

import torch
from torch import Tensor, nn

__all__ = ["Averaged", "views"]


def views(images: Tensor, kinds: Collection[str]) -> Iterator[Tensor]:
    """Yield the pictures as they are, then their other views.

    Args:
        images: (B, C, H, W), any dtype.
        kinds: `flip` adds the mirrored pictures, `shift` those moved by one pixel down, up, right and left, reflected
            at the edge; both add all combinations.

    Yields:
        (B, C, H, W) each: 2, 5 or 10 of them.
    """
    for pictures in (images, images.flip(3)) if "flip" in kinds else (images,):
        yield pictures
        if "shift" in kinds:
            for axis in (2, 3):
                last = pictures.shape[axis] - 1
                yield torch.cat([pictures.narrow(axis, 1, 1), pictures.narrow(axis, 0, last)], axis)
                yield torch.cat([pictures.narrow(axis, 1, last), pictures.narrow(axis, last - 1, 1)], axis)


class Averaged(nn.Module):
    """A model whose probabilities are the mean of another's over the views of a picture.

    Args:
        module: The other model: (B, C, H, W) to logits (B, K).
        kinds: As for `views`.
    """

    def __init__(self, module: nn.Module, kinds: Collection[str]) -> None:
        super().__init__()
        self.module, self.kinds = module, kinds
        self.train(module.training)

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, K) logarithms of the mean probabilities of (B, C, H, W) images, in float32 or more."""
        logits = [self.module(view) for view in views(images, self.kinds)]
        dtype = torch.promote_types(logits[0].dtype, torch.float32)
        logs = torch.stack([one.to(dtype).log_softmax(1) for one in logits])
        return logs.logsumexp(0) - math.log(len(logs))

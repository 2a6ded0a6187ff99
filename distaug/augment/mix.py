"""Soft targets, Mixup and CutMix: pairs of samples within a shard become one.

Both methods are one formula, x̃ = w·x + (1 − w)·x', with a weight per pixel: the constant λ for Mixup, 0 in the box
and 1 outside for CutMix, 1 where nothing is mixed. The weight of the target is the mean of w, so that CutMix's λ is
that of the box as it was really cut.
"""

import torch
from torch import Tensor

from distaug.draws import beta, uniforms
from distaug.spec.augment import MixSpec

__all__ = ["cutmix_weights", "mix", "mix_weights", "soft_targets"]


def soft_targets(labels: Tensor, classes: int, smoothing: float = 0.0) -> Tensor:
    """Turn labels into distributions: 1 − ε + ε/K for the label, ε/K elsewhere (arXiv:1512.00567).

    Args:
        labels: (B,) int64.
        classes: K.
        smoothing: ε, the mass spread evenly over all classes.

    Returns:
        (B, K) float32, rows summing to 1.
    """
    targets = torch.full((len(labels), classes), smoothing / classes, device=labels.device)
    return targets.scatter_(1, labels[:, None], 1 - smoothing + smoothing / classes)


def cutmix_weights(lam: Tensor, centre_y: Tensor, centre_x: Tensor, height: int, width: int) -> Tensor:
    """Return the pixel weights of CutMix (arXiv:1905.04899): 0 inside each sample's box, 1 outside.

    Args:
        lam: (B,) float32 in [0, 1]; the box has sides height·√(1 − λ) and width·√(1 − λ) before it is clipped.
        centre_y: (B,) float32 uniforms in [0, 1) that place the centre of the box.
        centre_x: (B,) likewise.
        height: H in pixels.
        width: W in pixels.

    Returns:
        (B, 1, H, W) float32.
    """

    def inside(centre: Tensor, size: int) -> Tensor:
        half = (size * (1 - lam).sqrt()).to(torch.int64) // 2
        middle = (centre * size).to(torch.int64)
        place = torch.arange(size, device=lam.device)
        return (place >= (middle - half)[:, None]) & (place < (middle + half)[:, None])

    box = inside(centre_y, height)[:, None, :, None] & inside(centre_x, width)[:, None, None, :]
    return 1.0 - box.to(torch.float32)


def mix_weights(
    spec: MixSpec,
    ids: Tensor,
    height: int,
    width: int,
    *,
    seed: int,
    epoch: int,
    step: int,
    shard: int,
    device: torch.device | None = None,
) -> Tensor:
    """Draw the pixel weights of a shard.

    Args:
        spec: Section `mix` of the job, with `mixup` or `cutmix` on.
        ids: (B,) int64 sample ids, on the host.
        height: H in pixels.
        width: W in pixels.
        seed: Seed of the job.
        epoch: Epoch from 0.
        step: Step within the epoch from 0.
        shard: Shard within the step from 0.
        device: Where the weights are wanted; None: on the host.

    Returns:
        (B, 1, H, W) float32, or a shape that broadcasts to it: 1 for B in the mode `batch`, for H and W without CutMix.
    """
    if spec.mode == "batch":
        keys, operation = torch.full((1,), step << 16 | shard), "mix.batch"
    elif spec.mode == "pair":
        # Both halves of a pair, sample i and its mirror image B − 1 − i, draw with the smaller of their ids.
        keys, operation = torch.minimum(ids, ids.flip(0)), "mix.sample"
    else:
        keys, operation = ids, "mix.sample"

    u = uniforms(seed, epoch, keys, operation, 5)
    chance_of_cutmix = spec.switch_probability if spec.mixup and spec.cutmix else float(spec.cutmix is not None)
    mixed, cut = u[0] < spec.probability, u[1] < chance_of_cutmix
    # Whoever is cut is blended with a share of 1, and whoever is blended has a box without pixels.
    blend = torch.where(mixed & ~cut, beta(u[2], spec.mixup.alpha), 1.0) if spec.mixup else torch.ones(len(keys))
    if not spec.cutmix:
        return blend.to(device, non_blocking=True)[:, None, None, None]
    box = torch.where(mixed & cut, beta(u[2], spec.cutmix.alpha), 1.0)
    blend, box, middle_y, middle_x = torch.stack([blend, box, u[3], u[4]]).to(device, non_blocking=True)
    weights: Tensor = cutmix_weights(box, middle_y, middle_x, height, width) * blend[:, None, None, None]
    return weights


def mix(images: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Mix every sample i with its partner B − 1 − i; in an odd batch the middle one is its own partner.

    Args:
        images: (B, C, H, W) float.
        targets: (B, K) float.
        weights: (B, 1, H, W) float, or a shape that broadcasts to it: the share of sample i at each pixel.

    Returns:
        Images and targets of the same shapes.
    """
    share = weights.mean(dim=(1, 2, 3))[:, None]
    mixed = torch.lerp(images.flip(0), images, weights.to(images.dtype))
    return mixed, torch.lerp(targets.flip(0), targets, share.to(targets.dtype))

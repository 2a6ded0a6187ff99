"""The augmentation of a batch from uint8 pictures and labels to what the model and the loss see."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from distaug.augment.geometry import crop, hflip
from distaug.augment.mix import mix, mix_weights, soft_targets
from distaug.draws import uniform
from distaug.spec.augment import AugmentSpec, CropSpec, FlipSpec, MixSpec, OpSpec

__all__ = ["Augment", "normalise"]

Draw = Callable[[int], Tensor]
"""The k-th uniform of each sample for the operation at hand: (B,) float32 in [0, 1)."""


def normalise(
    images: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Tensor:
    """Scale uint8 pictures to [0, 1], then to zero mean and unit deviation per channel.

    Args:
        images: (B, C, H, W) uint8.
        mean: C means in units of the [0, 1] range.
        std: C deviations in units of the [0, 1] range.
        dtype: Type of the result.
        memory_format: Layout of the result.

    Returns:
        (B, C, H, W) of `dtype`.
    """
    compute = torch.promote_types(dtype, torch.float32)
    scale = torch.tensor([1 / (255 * s) for s in std], dtype=compute).view(1, -1, 1, 1)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], dtype=compute).view(1, -1, 1, 1)
    floats = images.to(compute, memory_format=memory_format)
    scale, shift = scale.to(images.device, non_blocking=True), shift.to(images.device, non_blocking=True)
    return floats.mul_(scale).add_(shift).to(dtype)


def _crop(spec: CropSpec, images: Tensor, draw: Draw) -> Tensor:
    height, width = images.shape[2:]
    padding = max(height, width) // 8 if spec.padding == "auto" else spec.padding
    places = 2 * padding + 1
    top, left = ((draw(k) * places).to(torch.int64) for k in (0, 1))
    return crop(images, top, left, padding, spec.mode)


def _flip(spec: FlipSpec, images: Tensor, draw: Draw) -> Tensor:
    return hflip(images, draw(0) < spec.p)


_OPERATIONS: dict[str, Callable[[Any, Tensor, Draw], Tensor]] = {"crop": _crop, "flip": _flip}


class Augment:
    """The augmentation of a job, for one shard at a time.

    Everything random is a function of (seed, epoch, sample id, operation): calling it again with the same arguments
    gives the same result, whatever was called in between.

    Args:
        spec: Section `augment` of a job file, as mapping or object.
        image_size: Height and width of the pictures in pixels.
        num_classes: K, the width of the targets.
        mix: Section `mix` of a job file, as mapping or object; None mixes nothing.
        label_smoothing: ε of the soft targets.
        mean: Mean per channel in units of the [0, 1] range; None: 0.
        std: Deviation per channel in units of the [0, 1] range; None: 1.
        seed: Seed of all draws.
        dtype: Type of the resulting images.
        memory_format: Layout of the resulting images.
    """

    def __init__(
        self,
        spec: AugmentSpec | Mapping[str, Any],
        image_size: int,
        num_classes: int,
        *,
        mix: MixSpec | Mapping[str, Any] | None = None,
        label_smoothing: float = 0.0,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        spec = spec if isinstance(spec, AugmentSpec) else AugmentSpec.model_validate(spec)
        self.operations = spec.operations
        self.mix = mix if isinstance(mix, MixSpec) else MixSpec.model_validate(mix or {})
        self.image_size, self.num_classes, self.label_smoothing = image_size, num_classes, label_smoothing
        self.mean, self.std = mean or (0.0, 0.0, 0.0), std or (1.0, 1.0, 1.0)
        self.seed, self.dtype, self.memory_format = seed, dtype, memory_format

    def mixes(self, epoch: int) -> bool:
        """Say whether pictures are mixed in this epoch."""
        off = self.mix.off_after_epoch
        return bool(self.mix.mixup or self.mix.cutmix) and (off is None or epoch < off)

    def __call__(
        self, images: Tensor, labels: Tensor, sample_ids: Tensor, *, epoch: int, step: int, shard: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Augment one shard of a step.

        Args:
            images: (B, 3, H, W) uint8, on any device.
            labels: (B,) int64.
            sample_ids: (B,) int64, unique within the epoch.
            epoch: Epoch from 0.
            step: Step within the epoch from 0.
            shard: Shard within the step from 0.

        Returns:
            images (B, 3, H, W) of the asked dtype and layout, and targets (B, K) float32.

        Raises:
            ValueError: `images` is not a uint8 batch of the announced size.
        """
        size = self.image_size
        if images.dtype != torch.uint8 or images.shape[1:] != (3, size, size):
            found = f"{tuple(images.shape)} {images.dtype}"
            raise ValueError(f"images must be uint8 of shape (B, 3, {size}, {size}), found {found}")
        for place, operation in enumerate(self.operations):
            images = self._apply(operation, place, images, sample_ids, epoch)
        targets = soft_targets(labels, self.num_classes, self.label_smoothing)
        if not self.mixes(epoch):
            return normalise(images, self.mean, self.std, self.dtype, self.memory_format), targets
        floats = normalise(
            images, self.mean, self.std, torch.promote_types(self.dtype, torch.float32), self.memory_format
        )
        weights = mix_weights(self.mix, sample_ids, size, size, seed=self.seed, epoch=epoch, step=step, shard=shard)
        floats, targets = mix(floats, targets, weights)
        return floats.to(self.dtype), targets

    def _apply(self, operation: OpSpec, place: int, images: Tensor, ids: Tensor, epoch: int) -> Tensor:
        (name,) = operation.model_fields_set
        # The place in the list is part of the key, so that an operation given twice draws twice.
        key = f"{name}.{place}"
        return _OPERATIONS[name](getattr(operation, name), images, lambda k: uniform(self.seed, epoch, ids, key, k))

"""The augmentation of a batch from uint8 pictures and labels to what the model and the loss see."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from distaug.augment.geometry import hflip, vflip, warp
from distaug.augment.mix import mix, mix_weights, soft_targets
from distaug.augment.operations import MATRICES, OPERATIONS, Operation, erase_box
from distaug.augment.parts import pictures_at_once
from distaug.augment.sampling import Draws, sorted_by
from distaug.spec.augment import AugmentSpec, MixSpec, OpSpec

__all__ = ["Augment", "normalise"]

_Function = TypeVar("_Function", bound=Callable[..., Any])
# Compiled, the pipeline is many times slower, since every batch has groups of other sizes, and the compiler contracts
# and reorders arithmetic: the bits would be others (docs/augmentation.md has the numbers).
_never_compiled: Callable[[_Function], _Function] = torch.compiler.disable

_FLIPS = {"flip": hflip, "vflip": vflip}


@dataclass(frozen=True)
class _Step:
    """One operation of the list."""

    name: str
    settings: Any
    key: str
    """What it draws by."""

    @property
    def joins(self) -> bool:
        """Whether it can be one resampling with its neighbours."""
        return self.name in MATRICES and getattr(self.settings, "mode", "zero") == "zero"

    def chosen(self, draws: Draws, strength: float | Tensor) -> Tensor | None:
        """Return which pictures undergo it (b,), on the host; None: all."""
        chance = getattr(self.settings, "p", 1.0) * strength
        # All that a flip draws is whether; the others draw that apart.
        return draws.uniforms(1)[0] < chance if self.name in _FLIPS else draws.chosen(chance)


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
    scale, shift = scale.to(images.device, non_blocking=True), shift.to(images.device, non_blocking=True)
    result = torch.empty_like(images, dtype=dtype, memory_format=memory_format)
    # On a CPU part by part, so that what is multiplied and then shifted is still in its caches.
    size = pictures_at_once(images)
    for some, place in zip(torch.split(images, size), torch.split(result, size), strict=True):
        if dtype == compute:
            place.copy_(some).mul_(scale).add_(shift)
        else:
            place.copy_(some.to(compute).mul_(scale).add_(shift))
    return result


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
        classes: Names of the classes, by which `class_strength` calls them; None: their numbers.
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
        classes: Sequence[str] | None = None,
    ) -> None:
        spec = spec if isinstance(spec, AugmentSpec) else AugmentSpec.model_validate(spec)
        self.mix = mix if isinstance(mix, MixSpec) else MixSpec.model_validate(mix or {})
        self.image_size, self.num_classes, self.label_smoothing = image_size, num_classes, label_smoothing
        self.mean, self.std = mean or (0.0, 0.0, 0.0), std or (1.0, 1.0, 1.0)
        self.seed, self.dtype, self.memory_format = seed, dtype, memory_format
        levels = [round(255 * mean) for mean in self.mean]
        self._functions: dict[str, Operation] = OPERATIONS | {"erase": partial(erase_box, mean=levels)}
        self._runs = _runs(spec.operations, fuse=spec.fuse_geometry)
        self._strength = _strengths(spec, classes or [str(label) for label in range(num_classes)])

    @property
    def by_class(self) -> bool:
        """Whether some classes are augmented more than others."""
        return self._strength is not None

    def mixes(self, epoch: int) -> bool:
        """Say whether pictures are mixed in this epoch."""
        off = self.mix.off_after_epoch
        return bool(self.mix.mixup or self.mix.cutmix) and (off is None or epoch < off)

    @_never_compiled
    def __call__(
        self, images: Tensor, labels: Tensor, sample_ids: Tensor, *, epoch: int, step: int, shard: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Augment one shard of a step.

        Args:
            images: (B, 3, H, W) uint8, on any device.
            labels: (B,) int64; where `by_class`, on the host, or else the device is waited for.
            sample_ids: (B,) int64, unique within the epoch; on the host, or else the device is waited for.
            epoch: Epoch from 0.
            step: Step within the epoch from 0.
            shard: Shard within the step from 0.

        Returns:
            images (B, 3, H, W) of the asked dtype and layout, and targets (B, K) float32.

        Raises:
            ValueError: `images` is not a uint8 batch of the announced size, or the others do not fit to it.
        """
        size = self.image_size
        if images.dtype != torch.uint8 or images.shape[1:] != (3, size, size):
            found = f"{tuple(images.shape)} {images.dtype}"
            raise ValueError(f"images must be uint8 of shape (B, 3, {size}, {size}), found {found}")
        for name, tensor in (("labels", labels), ("sample_ids", sample_ids)):
            if tensor.dtype != torch.int64 or tensor.shape != images.shape[:1]:
                found = f"{tuple(tensor.shape)} {tensor.dtype}"
                raise ValueError(f"{name} must be int64 of shape ({len(images)},), one for each picture, found {found}")
        sample_ids = sample_ids.cpu()
        strength = 1.0 if self._strength is None else self._strength[labels.cpu()]
        for run in self._runs:
            draws = [Draws(self.seed, epoch, sample_ids, step.key) for step in run]
            if len(run) == 1:
                images = self._alone(run[0], images, draws[0], strength)
            else:
                images = _joined(run, images, draws, strength)
        targets = soft_targets(labels.to(images.device, non_blocking=True), self.num_classes, self.label_smoothing)
        if not self.mixes(epoch):
            return normalise(images, self.mean, self.std, self.dtype, self.memory_format), targets
        floats = normalise(
            images, self.mean, self.std, torch.promote_types(self.dtype, torch.float32), self.memory_format
        )
        where = {"seed": self.seed, "epoch": epoch, "step": step, "shard": shard}
        weights = mix_weights(self.mix, sample_ids, size, size, **where, device=images.device)
        floats, targets = mix(floats, targets, weights)
        return floats.to(self.dtype), targets

    def _alone(self, step: _Step, images: Tensor, draws: Draws, strength: float | Tensor) -> Tensor:
        """Let the pictures undergo one operation."""
        chosen = step.chosen(draws, strength)
        if step.name in _FLIPS:
            assert chosen is not None
            return _FLIPS[step.name](images, chosen.to(images.device, non_blocking=True))
        function = self._functions[step.name]
        if chosen is None:
            return function(step.settings, images, draws)
        return sorted_by(
            chosen.long()[None], images, lambda _, __, some, at: function(step.settings, some, draws.at(at))
        )


def _joined(run: Sequence[_Step], images: Tensor, draws: Sequence[Draws], strength: float | Tensor) -> Tensor:
    """Let the pictures undergo several geometric operations as one resampling; what is drawn is the same as alone."""
    nothing = torch.eye(3, dtype=torch.float64)
    matrix, fill = nothing, 0
    for step, drawn in zip(run, draws, strict=True):
        moved, chosen = MATRICES[step.name](step.settings, images, drawn), step.chosen(drawn, strength)
        if chosen is not None:
            moved = torch.where(chosen[:, None, None], moved, nothing)
        matrix, fill = matrix @ moved, getattr(step.settings, "fill", fill)
    return warp(images, matrix, interpolation="bilinear", fill=fill)


def _runs(operations: Sequence[OpSpec], *, fuse: bool) -> list[list[_Step]]:
    """Cut the list of operations into what is done at once: one, or all neighbours that can be joined."""
    runs: list[list[_Step]] = []
    for place, operation in enumerate(operations):
        # The place in the list is part of the key, so that an operation given twice draws twice.
        step = _Step(operation.name, operation.settings, f"{operation.name}.{place}")
        if fuse and step.joins and runs and runs[-1][-1].joins:
            runs[-1].append(step)
        else:
            runs.append([step])
    return runs


def _strengths(spec: AugmentSpec, classes: Sequence[str]) -> Tensor | None:
    """Return the (K,) strengths of the classes; None where all are 1.

    Raises:
        ValueError: A strength is given for a class that does not exist, or is still to be decided.
    """
    if spec.class_strength is None:
        return None
    if spec.class_strength == "auto":
        raise ValueError("class_strength: `auto` is decided by the job; give the strengths of the classes")
    if unknown := sorted(set(spec.class_strength) - set(classes)):
        raise ValueError(f"class_strength: there is no class {unknown[0]!r}; there are {', '.join(classes)}")
    return torch.tensor([spec.class_strength.get(name, 1.0) for name in classes])

"""Evaluation: every sample exactly once for any number of ranks; sums of counts, then one division."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from distaug.data.loader import Batch
from distaug.train.world import World

__all__ = ["Counts", "evaluate"]

_LARGEST_CONFUSION = 100


@dataclass(frozen=True)
class Counts:
    """What a model got right on a set, over all ranks."""

    confusion: Tensor
    """(K, K) int64: rows are true classes, columns predicted ones."""
    top5: int
    """Samples whose class is among the five likeliest."""
    loss_sum: float
    """Sum of the plain cross-entropy."""
    predictions: Tensor | None = None
    """(n, 3) float64 where they were kept: of each sample the predicted class, its probability, that of the label."""

    @property
    def samples(self) -> int:
        """Number of samples seen."""
        return int(self.confusion.sum())

    @property
    def per_class(self) -> list[float | None]:
        """Share of each class that was predicted right; None for a class without samples."""
        totals, hits = self.confusion.sum(1).tolist(), self.confusion.diagonal().tolist()
        return [hit / total if total else None for hit, total in zip(hits, totals, strict=True)]

    def to_dict(self) -> dict[str, Any]:
        """Return top1, top5, macro and per-class accuracy (0 to 1), loss and the number of samples."""
        present = [share for share in self.per_class if share is not None]
        return {
            "top1": int(self.confusion.diagonal().sum()) / self.samples,
            "top5": self.top5 / self.samples,
            "macro": sum(present) / len(present),
            "loss": self.loss_sum / self.samples,
            "per_class": self.per_class,
            "samples": self.samples,
        }

    def by_name(self, classes: Sequence[str]) -> dict[str, Any]:
        """Return the same with per_class by name and, for up to 100 classes, the confusion."""
        numbers = self.to_dict() | {"per_class": dict(zip(classes, self.per_class, strict=True))}
        if len(classes) <= _LARGEST_CONFUSION:
            numbers["confusion"] = self.confusion.tolist()
        return numbers


def evaluate(
    models: Mapping[str, nn.Module],
    batches: Iterable[tuple[int, Batch]],
    *,
    classes: int,
    total_batches: int,
    prepare: Callable[[Tensor], Tensor],
    autocast: Callable[[], AbstractContextManager[None]],
    world: World,
    device: torch.device,
    keep: int = 0,
) -> dict[str, Counts]:
    """Judge several models on the same batches.

    Args:
        models: Modules by name; each is in evaluation mode meanwhile.
        batches: This rank's (index, batch) pairs; all ranks together have each index once.
        classes: K.
        total_batches: Number of batches over all ranks.
        prepare: Turns uint8 pictures (B, 3, H, W) into the model's input.
        autocast: Makes the context of the forward pass.
        world: The ranks.
        device: Where the counting is done.
        keep: Number of samples over all ranks, to keep what each was taken for; 0: only counts.

    Returns:
        Counts by name, the same on every rank and, batch by batch, for every number of ranks.
    """
    was_training = {name: module.training for name, module in models.items()}
    confusion = {n: torch.zeros(classes * classes, dtype=torch.int64, device=device) for n in models}
    top5 = {n: torch.zeros((), dtype=torch.int64, device=device) for n in models}
    # One place for each batch: a sum with zeros from the other ranks is exact, and so is its order afterwards.
    losses = {n: torch.zeros(total_batches, dtype=torch.float64, device=device) for n in models}
    kept = {n: torch.zeros(keep, 3, dtype=torch.float64, device=device) for n in models if keep}
    for module in models.values():
        module.eval()
    with torch.inference_mode():
        for index, batch in batches:
            images = prepare(batch.images)
            for name, module in models.items():
                with autocast():
                    logits = module(images)
                logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
                top = logits.topk(min(5, classes), dim=1).indices
                confusion[name] += torch.bincount(batch.labels * classes + top[:, 0], minlength=classes**2)
                top5[name] += (top == batch.labels[:, None]).sum()
                losses[name][index] = torch.nn.functional.cross_entropy(logits, batch.labels, reduction="sum")
                if keep:
                    chances = logits.softmax(1).gather(1, torch.stack((top[:, 0], batch.labels), 1))
                    kept[name][batch.ids.to(device)] = torch.cat((top[:, :1].double(), chances.double()), 1)
    for name, module in models.items():
        module.train(was_training[name])
    return {
        name: Counts(
            world.sum(confusion[name]).view(classes, classes).cpu(),
            int(world.sum(top5[name])),
            float(world.sum(losses[name]).cpu().sum()),
            world.sum(kept[name]).cpu() if keep else None,
        )
        for name in models
    }

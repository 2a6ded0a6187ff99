"""The optimizer and the learning rate as a pure function of the step."""

import math
from bisect import bisect_right
from collections.abc import Iterable

import torch
from torch import nn

from distaug.spec.job import JobSpec
from distaug.spec.train import OptimizerSpec, ScheduleSpec

__all__ = ["build", "lr_factor", "peak_lr", "set_lr"]

DEFAULT_LR = {"sgd": 0.1, "adamw": 2.5e-4}
DEFAULT_WEIGHT_DECAY = {"sgd": 5e-4, "adamw": 0.05}


def peak_lr(spec: OptimizerSpec, global_batch: int) -> float:
    """Return the highest learning rate, scaled linearly with the global batch unless told not to."""
    lr = DEFAULT_LR[spec.name] if spec.lr == "auto" else spec.lr
    return lr if spec.lr_per_samples is None else lr * global_batch / spec.lr_per_samples


def lr_factor(spec: ScheduleSpec, step: int, steps_per_epoch: int, epochs: int) -> float:
    """Return the learning rate of a step as a share of the peak.

    Args:
        spec: The schedule.
        step: Steps done since the start of the training; the first step is 0.
        steps_per_epoch: Steps of an epoch.
        epochs: Epochs planned.

    Returns:
        A factor in [0, 1]. The warm-up gives (step + 1) / warm-up steps, so that no step has rate 0.
    """
    total = epochs * steps_per_epoch
    warmup = spec.warmup_epochs * steps_per_epoch
    if step < warmup:
        return (step + 1) / math.ceil(warmup)
    if spec.name == "constant":
        return 1.0
    if spec.name == "multi_step":
        return spec.gamma ** bisect_right(spec.milestones_epochs, step // steps_per_epoch)
    low = spec.final_lr_fraction
    if spec.name == "one_cycle":
        rise = spec.pct_start * total
        if step < rise:
            return (step + 1) / math.ceil(rise)
        return low + (1 - low) * (total - step) / (total - rise)
    # Cosine annealing (arXiv:1608.03983) over the steps after the warm-up.
    return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


def _without_decay(module: nn.Module) -> set[str]:
    """Name the parameters of norm layers and all biases (every parameter with one dimension or none)."""
    return {name for name, parameter in module.named_parameters() if parameter.ndim <= 1}


def build(job: JobSpec, module: nn.Module, head: Iterable[str]) -> torch.optim.Optimizer:
    """Make the optimizer, with groups for (head or not) × (weight decay or not).

    Each group carries `peak_lr`, which `set_lr` multiplies by the schedule's factor.
    """
    spec, head, bare = job.train.optimizer, set(head), _without_decay(module)
    decay = DEFAULT_WEIGHT_DECAY[spec.name] if spec.weight_decay == "auto" else spec.weight_decay
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((name in head, name in bare), []).append(parameter)
    lr = peak_lr(spec, job.train.global_batch)
    params = [
        {
            "params": parameters,
            "weight_decay": 0.0 if no_decay else decay,
            "peak_lr": lr * (job.model.head_lr_multiplier if in_head else 1.0),
        }
        for (in_head, no_decay), parameters in sorted(groups.items())
    ]
    # The fused kernels alone can be told on the device to leave everything as it is (`found_inf`).
    if spec.name == "sgd":
        sgd = torch.optim.SGD(
            params, lr=lr, momentum=spec.momentum, nesterov=spec.nesterov and spec.momentum > 0, fused=True
        )
        if spec.momentum > 0:
            # A first step that is withheld would leave the momentum as torch allocates it, with whatever was in memory.
            for parameter in (parameter for group in sgd.param_groups for parameter in group["params"]):
                sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return sgd
    return torch.optim.AdamW(params, lr=lr, betas=spec.betas, fused=True)


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's rate to its peak times the schedule's factor."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor

"""One step: augment, forward and backward per shard, one update for all."""

from collections.abc import Sequence
from time import perf_counter

import torch
from torch import Tensor

from distaug.data.loader import Batch
from distaug.draws import torch_seed
from distaug.train.optim import lr_factor, set_lr
from distaug.train.state import Training

__all__ = ["train_step"]


def train_step(t: Training, epoch: int, step: int, batches: Sequence[Batch]) -> None:
    """Train on one global batch; nothing here waits for the device.

    Args:
        t: The training.
        epoch: Epoch from 0.
        step: Step within the epoch from 0.
        batches: The own shards of the global batch, in order.
    """
    for shard, batch in zip(t.norms.shards(), batches, strict=True):
        assert shard == batch.shard
        began = perf_counter()
        known = t.data.train.labels  # on the host
        labels = known[batch.ids % len(known)] if t.augment.by_class else batch.labels
        images, targets = t.augment(batch.images, labels, batch.ids, epoch=epoch, step=step, shard=shard)
        t.augment_seconds += perf_counter() - began
        # Dropout and stochastic depth draw from torch's own generator: the same for this shard on any rank.
        torch.manual_seed(torch_seed(t.job.seed, epoch, step, shard))
        with t.gradients.backward(shard):
            with t.precision.autocast():
                logits = t.model(images)
            exact = torch.promote_types(logits.dtype, targets.dtype)
            scores, targets = logits.to(exact), targets.to(exact)
            # With soft targets even the weighted loss is divided by the number of pictures, so that shards add up.
            loss = torch.nn.functional.cross_entropy(scores, targets, t.class_weights)
            if t.teacher is not None:
                loss = t.teacher.blend(loss, scores, images)
            t.precision.scaler.scale(loss * t.gradients.loss_scale).backward()  # type: ignore[no-untyped-call]
        t.gradients.add(shard)
        t.tally.add(loss.detach(), logits.detach(), targets)
    _update(t, epoch, step)


def _update(t: Training, epoch: int, step: int) -> None:
    """Move the weights by the gradient of the global batch, unless that is not finite."""
    scaler, optimizer = t.precision.scaler, t.optimizer
    set_lr(optimizer, lr_factor(t.job.train.schedule, t.steps * epoch + step, t.steps, t.job.train.epochs))
    scaler.unscale_(optimizer)
    _keep_zeros(t)
    norm = torch.nn.utils.get_total_norm([p.grad for p in t.trained if p.grad is not None], foreach=True)
    finite = norm.isfinite()
    if t.job.train.clip_norm is not None:
        torch.nn.utils.clip_grads_with_norm_(t.trained, t.job.train.clip_norm, norm, foreach=True)
    _withhold(optimizer, finite)
    if scaler.is_enabled():  # else the training ends here anyway
        t.norms.withhold(finite)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    t.tally.note_update(finite)
    if t.ema is not None:
        t.ema.update(t.module, t.steps * epoch + step, finite)


def _keep_zeros(t: Training) -> None:
    """Take the gradient away from weights that stay 0: then they have no moments, and no share in the norm either."""
    masked = [(parameter.grad, mask) for parameter, mask in t.masks if parameter.grad is not None]
    if masked:
        torch._foreach_mul_(*zip(*masked, strict=True))


def _withhold(optimizer: torch.optim.Optimizer, finite: Tensor) -> None:
    """Tell the fused kernels, on the device, to leave weights and moments as they are where the gradient is not finite.

    Under fp16 the scaler does the same from its own finding, and overwrites this.
    """
    optimizer.grad_scale = None  # type: ignore[attr-defined]
    optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]

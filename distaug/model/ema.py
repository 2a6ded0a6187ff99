"""An exponential moving average of the weights, which is usually the better model."""

import copy

import torch
from torch import Tensor, nn

__all__ = ["Ema"]


class Ema:
    """Follow a model with ema ← d·ema + (1 - d)·weights.

    At update t, counted from 1, d is min(decay, (1 + t) / (10 + t)), so that a short run is not still
    averaging its random start. Only floating parameters are averaged. Buffers are copied: BatchNorm's
    running statistics are an average already, and an average of counters counts nothing.

    Nothing here waits for the device: no value is read back to the host, whatever `ok` is.

    Args:
        module: The model to follow, on its device; a copy of it is the start of the average.
        decay: The largest d, below 1.

    Attributes:
        module: The averaged model, in evaluation mode and without gradients. Its `state_dict` is all the
            state there is.
        decay: As given.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.module = copy.deepcopy(module).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, module: nn.Module, step: int, ok: Tensor | None = None) -> None:
        """Move the average towards the model's weights after a step of the optimizer.

        Args:
            module: The model that is followed, with the parameters and buffers of the one given at the start.
            step: Number of the step since the start of the training, from 0; steps without effect count too.
            ok: () bool on the model's device: False where the step had no effect, and nothing shall move.
                Such a step has left the weights as they were, so they are finite here even then; buffers,
                which the forward pass has written, need not be.
        """
        t = step + 1
        share: float | Tensor = 1.0 - min(self.decay, (1 + t) / (10 + t))
        averaged: list[Tensor] = [p for p in self.module.parameters() if p.is_floating_point()]
        latest: list[Tensor] = [p for p in module.parameters() if p.is_floating_point()]
        if ok is not None:
            share = ok.to(averaged[0].dtype) * share
        difference = torch._foreach_sub(latest, averaged)
        torch._foreach_mul_(difference, share)
        torch._foreach_add_(averaged, difference)
        # By dtype, so that the many small buffers of one can be joined.
        buffers: dict[torch.dtype, list[tuple[Tensor, Tensor]]] = {}
        for pair in zip(self.module.buffers(), module.buffers(), strict=True):
            buffers.setdefault(pair[0].dtype, []).append(pair)
        for pairs in buffers.values():
            kept, news = [list(tensors) for tensors in zip(*pairs, strict=True)]
            torch._foreach_copy_(kept, news if ok is None else _where(ok, news, kept))


def _where(ok: Tensor, new: list[Tensor], old: list[Tensor]) -> list[Tensor]:
    """Choose all of `new` or all of `old`, with a handful of kernels for any number of small tensors."""
    joined_new, joined_old = (torch.cat([tensor.flatten() for tensor in tensors]) for tensors in (new, old))
    chosen: Tensor = torch.where(ok, joined_new, joined_old)
    pieces = torch.split(chosen, [tensor.numel() for tensor in old])
    return [piece.view(tensor.shape) for piece, tensor in zip(pieces, old, strict=True)]

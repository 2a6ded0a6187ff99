"""Sums over shards: in one fixed order (exact), or as fast as the collectives go.

The fixed order is a binary tree over the shards 0 … S − 1: the node (level j, index k) covers the shards from k·2^j up
to (k + 1)·2^j, and is the sum of its two children, left plus right. A rank adds up the subtrees that lie within its own
shards; then each rank receives its slice of everybody's subtrees (all_to_all), adds them up in the order of the tree,
and shares the result (all_gather): the traffic of an ordinary all-reduce. Every addition of the tree is made once, with
the same operands, whichever rank makes it, so that the number of ranks changes no bit.
"""

import inspect
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from distaug.data.shard import own_shards
from distaug.train.world import World

__all__ = ["Gradients", "NormStatistics", "Tree", "distribute"]

Node = tuple[int, int, Tensor]
"""Level, index and sum of a subtree."""


class _Stack:
    """Subtrees in the order of their shards, joined as soon as both children of a node are there."""

    def __init__(self, shards: int) -> None:
        self.shards = shards
        self.nodes: list[Node] = []

    def push(self, level: int, index: int, value: Tensor) -> None:
        """Add the next subtree; `value` may be overwritten later."""
        while 1 << level < self.shards:
            if index % 2 == 0 and (index + 1) << level >= self.shards:
                pass  # No sibling on the right: the node stands for its parent as well.
            elif index % 2 and self.nodes and self.nodes[-1][:2] == (level, index - 1):
                value = self.nodes.pop()[2].add_(value)
            else:
                break
            level, index = level + 1, index // 2
        self.nodes.append((level, index, value))


class Tree:
    """The fixed order of a sum over shards, and the part of it that this rank does.

    Args:
        world: The ranks.
        shards: S, the number of shards of a step.
    """

    def __init__(self, world: World, shards: int) -> None:
        self.world, self.shards = world, shards
        self._places = [[node[:2] for node in self._subtrees(rank)] for rank in range(world.size)]
        self._most = max(len(places) for places in self._places)

    def _subtrees(self, rank: int) -> list[Node]:
        stack = self.start()
        for shard in own_shards(rank, self.world.size, self.shards):
            stack.push(0, shard, torch.zeros(()))
        return stack.nodes

    def start(self) -> _Stack:
        """Return an empty stack, to be given the flat tensor of each own shard in order."""
        return _Stack(self.shards)

    def join(self, nodes: list[Node]) -> Tensor:
        """Add up everybody's subtrees.

        Args:
            nodes: This rank's subtrees, each with a flat (n,) tensor.

        Returns:
            (n,) the sum over all shards, the same bits on every rank and for every number of ranks.
        """
        if self.world.size == 1:
            return nodes[0][2]
        n, size = nodes[0][2].numel(), self.world.size
        chunk = -(-n // size)
        parts = nodes[0][2].new_zeros(self._most, size * chunk)
        for row, (_, _, value) in zip(parts, nodes, strict=False):
            row[:n] = value
        received = self.world.exchange(parts.view(self._most, size, chunk).transpose(0, 1).contiguous())
        stack = self.start()
        for places, rows in zip(self._places, received, strict=True):
            for (level, index), row in zip(places, rows, strict=False):
                stack.push(level, index, row)
        ((_, _, root),) = stack.nodes
        return self.world.collect(root).view(-1)[:n]


def _in_memory_order(tensor: Tensor) -> Tensor:
    """View a dense tensor as flat, in the order of its memory (that of DDP's buckets)."""
    return tensor.as_strided((tensor.numel(),), (1,))


class Gradients:
    """The gradient of a step, from the backward passes of its shards.

    Args:
        model: What is called forward: the bare module, or DDP around it.
        tree: The fixed order; None: whatever the collectives do.
        world: The ranks.
        shards: S, the number of shards of a step.
    """

    def __init__(self, model: nn.Module, tree: Tree | None, world: World, shards: int) -> None:
        self._ddp = model if isinstance(model, DistributedDataParallel) else None
        self._params = [p for p in model.parameters() if p.requires_grad]
        self._tree = tree
        self._last = own_shards(world.rank, world.size, shards)[-1]
        self._stack = tree.start() if tree else None
        sizes = torch.tensor([0] + [p.numel() for p in self._params]).cumsum(0).tolist()
        self._places = {id(p): slice(*sizes[i : i + 2]) for i, p in enumerate(self._params)}
        averaged = self._ddp is not None and tree is None
        self.loss_scale = (world.size if averaged else 1) / shards
        """Factor of a shard's mean loss, so that the gradient is the mean over the global batch."""
        if self._ddp is not None and tree is not None:
            self._ddp.register_comm_hook(None, self._join_bucket)

    def backward(self, shard: int) -> AbstractContextManager[Any]:
        """Return the context of a shard's forward and backward pass: DDP communicates in the last one only."""
        return self._ddp.no_sync() if self._ddp is not None and shard != self._last else nullcontext()

    def add(self, shard: int) -> None:
        """Take in the gradient that the shard's backward pass left in the parameters."""
        if self._tree is None or self._stack is None:
            return
        if shard != self._last or (self._ddp is None and self._stack.nodes):
            grads = [_in_memory_order(p.grad) for p in self._params if p.grad is not None]
            self._stack.push(0, shard, torch.cat(grads))
            if shard != self._last:
                for parameter in self._params:
                    parameter.grad = None
                return
            root = self._tree.join(self._stack.nodes)
            for parameter, grad in zip(self._params, grads, strict=True):
                grad.copy_(root[self._places[id(parameter)]])
        self._stack = self._tree.start()

    # DDP itself checks the annotations of a hook, of which the type checker knows one only at run time.
    def _join_bucket(
        self,
        _: None,
        bucket: dist.GradBucket,  # type: ignore[name-defined]
    ) -> torch.futures.Future[Tensor]:
        """DDP's communication hook: the last shard's gradient joins the earlier ones of this rank, then the others'."""
        assert self._tree is not None and self._stack is not None
        stack = self._tree.start()
        for level, index, flat in self._stack.nodes:
            earlier = torch.cat([flat[self._places[id(p)]] for p in bucket.parameters()])
            stack.push(level, index, earlier)
        stack.push(0, self._last, bucket.buffer())
        done: torch.futures.Future[Tensor] = torch.futures.Future()
        done.set_result(self._tree.join(stack.nodes))
        return done


class NormStatistics:
    """Running statistics of BatchNorm: each shard starts from the same ones, then they are averaged over all shards.

    Args:
        module: The bare module.
        tree: The fixed order; None: whatever the collectives do.
        world: The ranks.
        shards: S, the number of shards of a step.
    """

    def __init__(self, module: nn.Module, tree: Tree | None, world: World, shards: int) -> None:
        norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        self._norms = norms
        buffers = [b for m in norms for b in (m.running_mean, m.running_var)]
        self._floats: list[Tensor] = [b for b in buffers if b is not None]
        self._counts: list[Tensor] = [m.num_batches_tracked for m in norms if m.num_batches_tracked is not None]
        self._tree, self._world, self._shards = tree, world, shards
        self._own = own_shards(world.rank, world.size, shards)
        self._start: list[Tensor] = []

    def shards(self) -> Iterator[int]:
        """Yield the own shards; around each, the statistics are reset before and taken in after."""
        self._start = []
        if not self._floats or not self._norms[0].training:
            yield from self._own
            return
        self._start, counts = [b.clone() for b in self._floats], [c.clone() for c in self._counts]
        stack = self._tree.start() if self._tree else None
        total: Tensor | None = None
        for shard in self._own:
            if shard != self._own[0]:
                torch._foreach_copy_(self._floats, self._start)
            yield shard
            flat = torch.cat([b.flatten() for b in self._floats])
            if stack is not None:
                stack.push(0, shard, flat)
            else:
                total = flat if total is None else total.add_(flat)
        if self._shards > 1:
            if self._tree is not None and stack is not None:
                total = self._tree.join(stack.nodes)
            else:
                assert total is not None
                total = self._world.sum(total)
            mean = torch.split(total / self._shards, [b.numel() for b in self._floats])
            torch._foreach_copy_(self._floats, [m.view_as(b) for m, b in zip(mean, self._floats, strict=True)])
        # One step, however many shards this rank had.
        torch._foreach_copy_(self._counts, torch._foreach_add(counts, 1))

    def withhold(self, finite: Tensor) -> None:
        """Put the statistics back to those before the step where it was not `finite` () bool; a NaN would stay."""
        for buffer, before in zip(self._floats, self._start, strict=False):
            buffer.copy_(torch.where(finite, buffer, before))


def distribute(module: nn.Module, world: World, device: torch.device) -> nn.Module:
    """Wrap the module in DistributedDataParallel where there are other ranks.

    DDP's own broadcast of buffers is off: `NormStatistics` keeps them the same on all ranks.
    """
    if world.size == 1 or not any(p.requires_grad for p in module.parameters()):
        return module
    # Renamed in torch 2.13.
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    flag = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    options: dict[str, Any] = {flag: False}
    if device.type == "cuda":
        options["device_ids"] = [device.index]
    return DistributedDataParallel(module, **options)

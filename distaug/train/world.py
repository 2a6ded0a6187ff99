"""The other ranks, as the loop sees them."""

import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Protocol, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from distaug.errors import DistaugError

__all__ = ["SoloWorld", "TorchWorld", "World", "by_rank_0", "together"]

T = TypeVar("T")


class World(Protocol):
    """Rank, size, and the few collectives that the loop needs; every rank calls each of them in the same order."""

    rank: int
    size: int
    local_rank: int
    node: str
    """Name of this rank's machine, for messages."""

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum over all ranks, on every rank; `tensor` may be overwritten."""

    def max(self, values: list[float]) -> list[float]:
        """Return the largest of each value over all ranks; never touches the device."""

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all ranks, in the order of their ranks, on every rank."""

    def broadcast(self, value: Any) -> Any:
        """Return rank 0's value on every rank."""

    def exchange(self, parts: Tensor) -> Tensor:
        """Send row r of (size, …) to rank r; return the (size, …) rows received, in the order of their senders."""

    def collect(self, part: Tensor) -> Tensor:
        """Return the (size, …) stack of everybody's part, on every rank."""


class SoloWorld:
    """One process alone."""

    rank = 0
    size = 1
    local_rank = 0
    node = socket.gethostname()

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the tensor itself."""
        return tensor

    def max(self, values: list[float]) -> list[float]:
        """Return the values themselves."""
        return values

    def gather(self, value: Any) -> list[Any]:
        """Return the value in a list."""
        return [value]

    def broadcast(self, value: Any) -> Any:
        """Return the value itself."""
        return value

    def exchange(self, parts: Tensor) -> Tensor:
        """Return the parts themselves."""
        return parts

    def collect(self, part: Tensor) -> Tensor:
        """Return the part as a stack of one."""
        return part[None]


class TorchWorld:
    """The ranks of torch.distributed's default process group, which must be initialised.

    Args:
        local_rank: Number of this process on its node.
        timeout_s: Longest wait for the other ranks.
        node: Name of this machine; by default what it calls itself.
    """

    def __init__(self, local_rank: int = 0, timeout_s: float = 300.0, node: str | None = None) -> None:
        self.rank, self.size, self.local_rank = dist.get_rank(), dist.get_world_size(), local_rank
        self.node = node or socket.gethostname()
        # Control messages never wait for the device: they have a gloo group of their own beside nccl.
        host_only = dist.get_backend() == "gloo"
        self._host: Any = None
        if not host_only:
            self._host = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum over all ranks, on every rank; `tensor` is overwritten."""
        dist.all_reduce(tensor)
        return tensor

    def max(self, values: list[float]) -> list[float]:
        """Return the largest of each value over all ranks."""
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX, group=self._host)
        return tensor.tolist()

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all ranks, in the order of their ranks."""
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self._host)
        return values

    def broadcast(self, value: Any) -> Any:
        """Return rank 0's value on every rank."""
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self._host)
        return box[0]

    def exchange(self, parts: Tensor) -> Tensor:
        """Send row r to rank r; return the rows received, in the order of their senders."""
        received = torch.empty_like(parts)
        dist.all_to_all_single(received, parts)
        return received

    def collect(self, part: Tensor) -> Tensor:
        """Return the stack of everybody's part."""
        whole = part.new_empty(self.size * part.numel())
        dist.all_gather_into_tensor(whole, part.reshape(-1))
        return whole.view(self.size, *part.shape)


def together(world: World, make: Callable[[], T]) -> T:
    """Do something on every rank that may fail on some, and raise on all of them if it does.

    So no rank waits for one that left. `make` must not call the world: a rank that failed would not be there.

    Raises:
        DistaugError: That of the lowest rank that has one; where only some nodes have one, it names them.
    """
    made, error = None, None
    try:
        made = make()
    except DistaugError as failed:
        error = failed
    found = world.gather((world.node, error))
    first = next((error for _, error in found if error is not None), None)
    if first is not None:
        nodes = {node for node, error in found if error is not None}
        if nodes < {node for node, _ in found}:
            raise type(first)(f"{', '.join(sorted(nodes))}: {first}")
        raise first
    return cast(T, made)


def by_rank_0(world: World, make: Callable[[], T]) -> T:
    """Do something on rank 0 alone, and return what came of it, or raise, on every rank.

    Raises:
        DistaugError: As `together`.
    """
    return cast(T, world.broadcast(together(world, lambda: make() if world.rank == 0 else None)))

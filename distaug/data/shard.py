"""Which rank reads which pictures: pure arithmetic on positions, no pictures and no torch.

A position is a place in the epoch's order. Step t takes the positions t*B to (t+1)*B for a global batch
of B; its shard s takes the s-th of `shards` equal parts. Ranks own whole shards, so their number changes no
batch.
"""

from distaug.errors import DataError, JobError

__all__ = ["eval_batches", "own_shards", "positions", "shard_size", "steps_per_epoch"]


def shard_size(global_batch: int, shards: int) -> int:
    """Return the number of pictures in one shard of a step.

    Raises:
        JobError: The batch cannot be divided evenly.
    """
    if global_batch % shards:
        raise JobError(
            f"train.global_batch = {global_batch} cannot be divided among {shards} shards; "
            f"use a multiple of {shards}, such as {-(-global_batch // shards) * shards}"
        )
    return global_batch // shards


def steps_per_epoch(n: int, global_batch: int) -> int:
    """Return the number of global batches in `n` training pictures; the incomplete last one is left out.

    Raises:
        DataError: There is not even one.
    """
    if n < global_batch:
        raise DataError(
            f"the training set has {n} pictures, fewer than one global batch of {global_batch}; "
            f"set train.global_batch to {n} or less"
        )
    return n // global_batch


def own_shards(rank: int, world: int, shards: int) -> range:
    """Return the contiguous shards that a rank computes: r*S/W to (r+1)*S/W.

    Raises:
        JobError: There are more ranks than shards, so that some would have nothing to do.
    """
    if world > shards:
        raise JobError(
            f"{world} workers, but only {shards} shards to work on; use at most {shards} workers "
            f"or set train.shards to {world} or more (for a new run)"
        )
    return range(rank * shards // world, (rank + 1) * shards // world)


def positions(step: int, shard: int, global_batch: int, shards: int) -> range:
    """Return the places in the epoch's order that one shard of one step takes.

    Raises:
        JobError: The batch cannot be divided evenly.
    """
    size = shard_size(global_batch, shards)
    start = step * global_batch + shard * size
    return range(start, start + size)


def eval_batches(n: int, batch: int, rank: int, world: int) -> list[tuple[int, int, int]]:
    """Cut `n` pictures into batches and return this rank's: batch i belongs to rank i % world.

    Returns:
        (i, start, stop) for each batch; over all ranks every picture appears exactly once. The last batch may
        be short.
    """
    count = -(-n // batch)
    return [(i, i * batch, min((i + 1) * batch, n)) for i in range(rank, count, world)]

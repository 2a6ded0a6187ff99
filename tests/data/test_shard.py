"""Shards cover each step exactly once, whatever the number of ranks."""

import pytest

from distaug.data.shard import eval_batches, own_shards, positions, shard_size, steps_per_epoch
from distaug.errors import DataError, JobError

WORLDS = (1, 2, 3, 4, 7)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("shards", [7, 8, 12])
def test_ranks_own_every_shard_once_and_in_order(world: int, shards: int) -> None:
    owned = [own_shards(rank, world, shards) for rank in range(world)]
    assert [shard for own in owned for shard in own] == list(range(shards))
    assert {len(own) for own in owned} <= {shards // world, -(-shards // world)}


@pytest.mark.parametrize("world", WORLDS)
def test_positions_of_all_ranks_are_the_epoch_without_its_rest(world: int) -> None:
    n, batch, shards = 1003, 84, 12
    steps = steps_per_epoch(n, batch)
    seen = [
        position
        for step in range(steps)
        for rank in range(world)
        for shard in own_shards(rank, world, shards)
        for position in positions(step, shard, batch, shards)
    ]
    assert steps == 11
    assert seen == list(range(11 * 84))


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("n", [1, 9, 10, 11, 64])
def test_evaluation_covers_each_picture_once(world: int, n: int) -> None:
    batches = sorted(batch for rank in range(world) for batch in eval_batches(n, 10, rank, world))
    assert [number for number, _, _ in batches] == list(range(-(-n // 10)))
    assert [i for _, start, stop in batches for i in range(start, stop)] == list(range(n))


def test_evaluation_batch_belongs_to_its_number_modulo_the_ranks() -> None:
    assert eval_batches(35, 10, 1, 3) == [(1, 10, 20)]
    assert eval_batches(35, 10, 0, 3) == [(0, 0, 10), (3, 30, 35)]
    assert eval_batches(5, 10, 2, 3) == []


def test_more_ranks_than_shards_is_refused_with_both_numbers() -> None:
    with pytest.raises(JobError, match="5 workers, but only 4 shards"):
        own_shards(0, 5, 4)


def test_batch_that_shards_do_not_divide_is_refused_with_the_next_that_works() -> None:
    with pytest.raises(JobError, match=r"100 cannot be divided among 8 shards.*such as 104"):
        shard_size(100, 8)
    with pytest.raises(JobError):
        positions(0, 0, 100, 8)


def test_training_set_smaller_than_a_batch_is_refused() -> None:
    with pytest.raises(DataError, match="127 pictures, fewer than one global batch of 128"):
        steps_per_epoch(127, 128)
    assert steps_per_epoch(128, 128) == 1

"""The fixed order of sums: the same bits for any number of ranks."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from distaug.data.shard import own_shards
from distaug.train.sums import Gradients, NormStatistics, Tree, distribute
from distaug.train.world import SoloWorld, World

SHARDS = (1, 2, 3, 4, 6, 7, 8)


def leaf(shard: int) -> torch.Tensor:
    """Numbers of very different sizes, so that another order of additions gives other bits."""
    generator = torch.Generator().manual_seed(shard)
    return torch.randn(1001, generator=generator) * 10.0 ** torch.randint(-4, 5, (1001,), generator=generator)


def tree_sum(world: World, shards: int) -> torch.Tensor:
    tree = Tree(world, shards)
    stack = tree.start()
    for shard in own_shards(world.rank, world.size, shards):
        stack.push(0, shard, leaf(shard))
    return tree.join(stack.nodes)


def all_tree_sums(world: World) -> dict[int, torch.Tensor]:
    return {shards: tree_sum(world, shards) for shards in SHARDS if shards >= world.size}


def recursive(first: int, level: int, shards: int) -> torch.Tensor:
    """The definition: a node is the sum of its children, left plus right."""
    if level == 0:
        return leaf(first)
    half = 1 << (level - 1)
    left = recursive(first, level - 1, shards)
    return left if first + half >= shards else left + recursive(first + half, level - 1, shards)


@pytest.mark.parametrize("shards", SHARDS)
def test_one_rank_follows_the_definition(shards: int) -> None:
    height = (shards - 1).bit_length()
    assert torch.equal(tree_sum(SoloWorld(), shards), recursive(0, height, shards))


@pytest.mark.parametrize("size", [2, 3, 4])
def test_any_number_of_ranks_gives_the_same_bits(ranks: Callable[..., list[Any]], size: int) -> None:
    for sums in ranks(size, all_tree_sums):
        for shards, found in sums.items():
            assert torch.equal(found, tree_sum(SoloWorld(), shards)), f"{shards} shards"


def small_model() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5))
    return net.to(memory_format=torch.channels_last)


def gradient_of_a_step(world: World, shards: int, exact: bool) -> dict[str, torch.Tensor]:
    module = small_model()
    tree = Tree(world, shards) if exact else None
    model = distribute(module, world, torch.device("cpu"))
    gradients, norms = Gradients(model, tree, world, shards), NormStatistics(module, tree, world, shards)
    for _ in range(2):  # DDP lays its buckets anew after the first backward pass.
        module.zero_grad(set_to_none=True)
        for shard in norms.shards():
            x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(shard))
            with gradients.backward(shard):
                (model(x).pow(2).mean() * gradients.loss_scale).backward()
            gradients.add(shard)
    found = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    return found | {name: b.clone() for name, b in module.named_buffers()}


def reference(shards: int) -> dict[str, torch.Tensor]:
    """Plain sums in double precision, written as simply as possible."""
    module = small_model().double()
    grads = {name: torch.zeros_like(p) for name, p in module.named_parameters()}
    for _ in range(2):
        start = {name: b.clone() for name, b in module.named_buffers()}
        after = {name: torch.zeros_like(b, dtype=torch.float64) for name, b in module.named_buffers()}
        grads = {name: torch.zeros_like(p) for name, p in module.named_parameters()}
        for shard in range(shards):
            module.load_state_dict(module.state_dict() | start)
            module.zero_grad()
            x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(shard)).double()
            module(x).pow(2).mean().backward()
            for name, p in module.named_parameters():
                assert p.grad is not None
                grads[name] += p.grad / shards
            for name, b in module.named_buffers():
                after[name] += b.double() / shards
        rounded = {n: a if start[n].is_floating_point() else a.round() for n, a in after.items()}
        module.load_state_dict(module.state_dict() | {n: a.to(start[n].dtype) for n, a in rounded.items()})
    return grads | dict(module.named_buffers())


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_gradient_and_statistics_are_means_over_the_global_batch(
    ranks: Callable[..., list[Any]], size: int, exact: bool
) -> None:
    want = reference(6)
    for found in ranks(size, gradient_of_a_step, 6, exact):
        assert found.keys() == want.keys()
        for name, value in found.items():
            torch.testing.assert_close(value.double(), want[name].double(), rtol=1e-4, atol=1e-6, msg=name)


def test_exact_gradients_do_not_depend_on_the_number_of_ranks(ranks: Callable[..., list[Any]]) -> None:
    one = gradient_of_a_step(SoloWorld(), 4, True)
    for size in (2, 4):
        for found in ranks(size, gradient_of_a_step, 4, True):
            assert all(torch.equal(found[name], one[name]) for name in one)


def test_statistics_of_a_step_that_is_withheld_are_put_back() -> None:
    module = small_model()
    norms = NormStatistics(module, None, SoloWorld(), 2)

    def step(value: float, *, finite: bool) -> list[torch.Tensor]:
        for _ in norms.shards():
            module(torch.full((4, 3, 8, 8), value))
        norms.withhold(torch.tensor(finite))
        norm = module[1]
        assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None
        return [norm.running_mean.clone(), norm.running_var.clone()]

    before = step(1.0, finite=True)
    after = step(float("inf"), finite=False)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert not torch.equal(step(2.0, finite=True)[0], before[0])

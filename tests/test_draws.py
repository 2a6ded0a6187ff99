"""Draws are pure functions of their coordinates, uniform, independent, and the same for ever."""

import pytest
import torch
from scipy import stats

from distaug import draws

IDS = torch.arange(50_000)
GOLDEN_BITS = [2770934099936481602, -1219454508889179671, -399220973643589370]
GOLDEN_ORDER = [7, 6, 3, 4, 2, 5, 1, 0]
GOLDEN_SEED = 8593584385200351535


def reference_mix(value: int) -> int:
    """splitmix64 in Python's own integers."""
    mask = (1 << 64) - 1
    value = (value + 0x9E3779B97F4A7C15) & mask
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
    return value ^ (value >> 31)


def test_tensor_arithmetic_is_that_of_unsigned_integers() -> None:
    values = [0, 1, 12345, 2**63 - 1, -1, -(2**63)]
    found = draws._mix(torch.tensor(values, dtype=torch.int64)).tolist()
    assert [f & (2**64 - 1) for f in found] == [reference_mix(v & (2**64 - 1)) for v in values]


def test_golden_draws() -> None:
    """Changing these changes what every old seed means: it needs a line in the CHANGELOG."""
    assert draws.bits(0, 0, torch.arange(3), "crop.0").tolist() == GOLDEN_BITS
    assert draws.permutation(7, 3, 8).tolist() == GOLDEN_ORDER
    assert draws.torch_seed(1, 2, 3, 4) == GOLDEN_SEED


@pytest.mark.parametrize("other", [{"seed": 1}, {"epoch": 1}, {"operation": "flip.1"}, {"draw": 1}, {"ids": IDS + 1}])
def test_every_coordinate_gives_an_independent_stream(other: dict[str, object]) -> None:
    base = {"seed": 0, "epoch": 0, "ids": IDS, "operation": "flip.0", "draw": 0}
    a, b = draws.uniform(**base), draws.uniform(**(base | other))  # type: ignore[arg-type]
    assert stats.kstest(b.numpy().astype("float64"), "uniform").pvalue > 1e-3
    assert abs(torch.corrcoef(torch.stack([a, b]))[0, 1]) < 0.02


def test_a_draw_does_not_depend_on_its_batch() -> None:
    whole = draws.uniform(3, 5, IDS, "x")
    assert torch.equal(whole[torch.tensor([17, 4242])], draws.uniform(3, 5, torch.tensor([17, 4242]), "x"))
    assert 0 <= float(whole.min()) and float(whole.max()) < 1


@pytest.mark.parametrize("alpha", [0.2, 0.4, 1.0, 2.0, 8.0])
def test_beta_has_its_quantiles(alpha: float) -> None:
    u = torch.arange(1, 4096, dtype=torch.float64) / 4096
    found = draws.beta(u.float(), alpha).double().numpy()
    assert abs(found - stats.beta(alpha, alpha).ppf(u.numpy())).max() < 1e-6


def test_pixel_bits_are_a_function_of_sample_and_place() -> None:
    whole = draws.pixel_bits(3, 5, IDS[:100], "noise.0", count=40)
    assert torch.equal(draws.pixel_bits(3, 5, torch.tensor([17, 42]), "noise.0", count=11), whole[[17, 42], :11])
    assert len(whole.unique()) == whole.numel()
    for other in ({"seed": 4}, {"epoch": 6}, {"operation": "noise.1"}, {"draw": 1}):
        arguments = {"seed": 3, "epoch": 5, "ids": IDS[:100], "operation": "noise.0", "count": 40} | other
        assert not (draws.pixel_bits(**arguments) == whole).any()  # type: ignore[arg-type]


def test_normals_are_normal_and_independent() -> None:
    """Over one hash's four, neighbouring hashes, and neighbouring ids."""
    normals = draws.normal_from_bits(draws.pixel_bits(0, 1, IDS[:2000], "noise.0", count=100)).double()
    assert normals.shape == (2000, 400)
    count = normals.numel()
    assert abs(normals.mean()) < 4 / count**0.5 and abs(normals.var() - 1) < 4 * (2 / count) ** 0.5
    assert stats.kstest(normals.flatten().numpy()[::7], "norm").pvalue > 1e-3
    for lag in (1, 2, 3, 4, 32):
        for a, b in ((normals[:, lag:], normals[:, :-lag]), (normals[lag:], normals[:-lag])):
            for power in (1, 2):
                pair = torch.stack([a.flatten() ** power, b.flatten() ** power])
                assert abs(torch.corrcoef(pair)[0, 1]) < 4.5 / count**0.5


def test_normals_are_the_quantiles_of_each_sixteen_bits() -> None:
    every = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16).view(torch.int64)
    wanted = stats.norm.ppf((torch.arange(1 << 16).double().numpy() + 0.5) / (1 << 16))
    assert abs(draws.normal_from_bits(every[None])[0].double().numpy() - wanted).max() < 1e-6


def test_permutation_holds_everything_once_and_changes_with_the_epoch() -> None:
    first, second = draws.permutation(0, 0, 1000), draws.permutation(0, 1, 1000)
    assert first.sort().values.tolist() == list(range(1000))
    assert not torch.equal(first, second)


def test_torch_seeds_differ() -> None:
    seeds = {draws.torch_seed(0, e, s, k) for e in range(5) for s in range(50) for k in range(8)}
    assert len(seeds) == 5 * 50 * 8 and all(0 <= seed < 2**63 for seed in seeds)

"""Soft targets, Mixup and CutMix against a plain loop over samples."""

import math

import pytest
import torch

from distaug.augment.mix import cutmix_weights, mix, mix_weights, soft_targets
from distaug.spec.augment import MixSpec

WHERE = {"seed": 1, "epoch": 2, "step": 3, "shard": 0}


def test_smoothing_is_the_papers() -> None:
    found = soft_targets(torch.tensor([2, 0]), 4, 0.1)
    low, high = 0.1 / 4, 1 - 0.1 + 0.1 / 4
    torch.testing.assert_close(found, torch.tensor([[low, low, high, low], [high, low, low, low]]))


def test_cutmix_boxes_are_clipped_and_weighed_as_cut() -> None:
    lam = torch.tensor([0.0, 0.75, 0.75, 1.0])
    centre = torch.tensor([0.5, 0.5, 0.0, 0.3])
    weights = cutmix_weights(lam, centre, centre, 8, 8)
    # λ = 0.75: side 4; in the middle whole, at the corner a quarter of it is left.
    assert weights.mean(dim=(1, 2, 3)).tolist() == [0.0, 1 - 16 / 64, 1 - 4 / 64, 1.0]


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("mode", ["batch", "pair", "sample"])
@pytest.mark.parametrize("which", ["mixup", "cutmix", "both"])
def test_mixing_equals_a_loop_over_samples(size: int, mode: str, which: str) -> None:
    on = {"mixup": {"alpha": 0.8}} if which != "cutmix" else {}
    on |= {"cutmix": {"alpha": 1.0}} if which != "mixup" else {}
    spec = MixSpec.model_validate(on | {"mode": mode, "probability": 0.7})
    generator = torch.Generator().manual_seed(size)
    images = torch.rand(size, 3, 6, 6, generator=generator)
    targets = soft_targets(torch.randint(0, 4, (size,), generator=generator), 4, 0.1)
    weights = mix_weights(spec, torch.arange(10, 10 + size), 6, 6, **WHERE).expand(size, 1, 6, 6)
    found, mixed_targets = mix(images, targets, weights)
    for i in range(size):
        j = size - 1 - i
        w = weights[i]
        share = float(w.mean())
        torch.testing.assert_close(found[i], w * images[i] + (1 - w) * images[j])
        torch.testing.assert_close(mixed_targets[i], share * targets[i] + (1 - share) * targets[j])
    torch.testing.assert_close(mixed_targets.sum(1), torch.ones(size))


def test_modes_share_what_they_say() -> None:
    ids = torch.arange(64)

    def shares(mode: str) -> torch.Tensor:
        spec = MixSpec.model_validate({"mixup": {"alpha": 1.0}, "mode": mode})
        return mix_weights(spec, ids, 4, 4, **WHERE).mean(dim=(1, 2, 3))

    assert shares("batch").shape == (1,)
    pair = shares("pair")
    assert torch.equal(pair, pair.flip(0)) and len(pair.unique()) == 32
    assert len(shares("sample").unique()) == 64


def test_probability_and_switch_are_frequencies() -> None:
    spec = MixSpec.model_validate(
        {"mixup": {}, "cutmix": {}, "mode": "sample", "probability": 0.6, "switch_probability": 0.25}
    )
    weights = mix_weights(spec, torch.arange(20_000), 8, 8, **WHERE)
    flat = weights.flatten(1)
    plain = (flat == 1).all(1)
    cut = ((flat == 0) | (flat == 1)).all(1) & ~plain
    blend = ~cut & ~plain
    # A few boxes are empty, which counts as plain: tolerance on that side.
    assert math.isclose(blend.float().mean(), 0.6 * 0.75, abs_tol=0.015)
    assert 0.6 * 0.25 * 0.85 < cut.float().mean() < 0.6 * 0.25 * 1.05


def test_draws_of_a_batch_change_with_step_and_shard() -> None:
    spec = MixSpec.model_validate({"mixup": {}})

    def share(**where: int) -> float:
        return float(mix_weights(spec, torch.arange(4), 2, 2, **(WHERE | where)).mean())

    assert len({share(), share(step=4), share(shard=1), share(epoch=9), share(seed=9)}) == 5

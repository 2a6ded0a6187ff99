"""The policies against torchvision's: its tables, its operations bit by bit, and its distribution of choices."""

import math
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from distaug.augment import policies
from distaug.augment.sampling import Draws
from distaug.spec.augment import OpSpec

SIDE = 32
IMAGES = torch.randint(0, 256, (8, 3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
THEIRS = {
    "Identity": "identity", "ShearX": "shear_x", "ShearY": "shear_y", "TranslateX": "translate_x",
    "TranslateY": "translate_y", "Rotate": "rotate", "Brightness": "brightness", "Color": "colour",
    "Contrast": "contrast", "Sharpness": "sharpness", "Posterize": "posterize", "Solarize": "solarize",
    "AutoContrast": "autocontrast", "Equalize": "equalize", "Invert": "invert",
}  # fmt: skip
POLICIES: dict[str, tuple[Any, int]] = {
    "autoaugment": (v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10), 10),
    "randaugment": (v2.RandAugment(), 31),
    "trivialaugment": (v2.TrivialAugmentWide(), 31),
    "augmix": (v2.AugMix(), 10),
}
MANY = 40_000
DRAWS = Draws(seed=0, epoch=1, ids=torch.arange(MANY), key="policy.0")


@pytest.mark.parametrize("name", ["cifar10", "imagenet", "svhn"])
def test_the_learned_pairs_are_torchvisions(name: str) -> None:
    theirs = v2.AutoAugment(v2.AutoAugmentPolicy(name))._policies
    assert policies.LEARNED[name] == tuple(
        tuple((THEIRS[operation], chance, level or 0) for operation, chance, level in pair) for pair in theirs
    )


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("size", [(32, 32), (224, 160)])
def test_magnitudes_are_torchvisions(policy: str, size: tuple[int, int]) -> None:
    transform, count = POLICIES[policy]
    table = policies._magnitudes(policy, count, *size)
    for name, (make, signed) in transform._AUGMENTATION_SPACE.items():
        place = list(policies.OPERATIONS).index(THEIRS[name])
        wanted = make(count, *size)
        wanted = torch.zeros(count) if wanted is None else wanted.float()
        if "Shear" in name:
            wanted = torch.rad2deg(wanted.double().atan()).float()
        assert torch.equal(table[place], wanted), name
        assert (place in policies._SIGNED) == signed, name


@pytest.mark.parametrize("name", THEIRS)
@pytest.mark.parametrize("policy", ["randaugment", "trivialaugment"])
def test_operations_are_torchvisions_bit_by_bit(policy: str, name: str) -> None:
    transform, levels = POLICIES[policy]
    make, signed = transform._AUGMENTATION_SPACE.get(name, (lambda *_: None, False))
    magnitudes = make(levels, SIDE, SIDE)
    chosen = torch.zeros(8) if magnitudes is None else magnitudes.float()[torch.tensor([0, 3, 7, 9, 15, 20, 28, 30])]
    chosen = torch.where(torch.arange(8) % 2 == 1, -chosen, chosen) if signed else chosen
    ours = torch.rad2deg(chosen.double().atan()).float() if "Shear" in name else chosen
    found = policies.OPERATIONS[THEIRS[name]](IMAGES, ours.double(), {"interpolation": "nearest", "fill": 7})
    for image, magnitude, got in zip(IMAGES, chosen.tolist(), found, strict=True):
        want = transform._apply_image_or_video_transform(image, name, magnitude, "nearest", {torch.Tensor: 7})
        assert torch.equal(got, want), magnitude


def choices(monkeypatch: pytest.MonkeyPatch, name: str, **settings: Any) -> list[tuple[Tensor, Tensor]]:
    """Return the operations and magnitudes of each step that a policy draws for many pictures."""
    seen: list[tuple[Tensor, Tensor]] = []

    def note(images: Tensor, operations: Tensor, magnitudes: Tensor, how: Any) -> Tensor:
        seen.extend(zip(operations, magnitudes, strict=True))
        return images

    monkeypatch.setattr(policies, "_apply", note)
    spec = OpSpec.model_validate({name: settings}).settings
    getattr(policies, name)(spec, torch.zeros(MANY, 3, 2, 2, dtype=torch.uint8), DRAWS)
    return seen


def surprising(counts: Counter[Any], chances: dict[Any, float], total: int) -> bool:
    """Whether a chi-square test rejects the counts at one in a thousand (Wilson and Hilferty's approximation)."""
    chances = {key: chance for key, chance in chances.items() if chance}
    assert counts.keys() <= chances.keys(), counts.keys() - chances.keys()
    statistic = sum((counts[key] - total * chance) ** 2 / (total * chance) for key, chance in chances.items())
    freedom = len(chances) - 1
    return statistic > freedom * (1 - 2 / (9 * freedom) + 3.09 * math.sqrt(2 / (9 * freedom))) ** 3


@pytest.mark.parametrize("policy", ["cifar10", "imagenet", "svhn"])
def test_autoaugment_draws_torchvisions_distribution(monkeypatch: pytest.MonkeyPatch, policy: str) -> None:
    transform = v2.AutoAugment(v2.AutoAugmentPolicy(policy))
    for step, (operation, magnitude) in enumerate(choices(monkeypatch, "autoaugment", policy=policy)):
        chances: Counter[tuple[int, float]] = Counter()
        for pair in transform._policies:
            name, chance, level = pair[step]
            make, signed = transform._AUGMENTATION_SPACE[name]
            size = 0.0 if level is None else float(make(10, 2, 2)[level])
            size = float(torch.rad2deg(torch.tensor(size).double().atan())) if "Shear" in name else size
            place = list(policies.OPERATIONS).index(THEIRS[name])
            for sign in (1, -1) if signed and size else (1,):
                chances[place, round(sign * size, 4)] += chance / 25 / (2 if signed and size else 1)
        chances[0, 0.0] = 1 - sum(chances.values())
        sizes = torch.where(operation == 0, 0, magnitude)
        counts = Counter((o, round(m, 4) + 0.0) for o, m in zip(operation.tolist(), sizes.tolist(), strict=True))
        assert not surprising(counts, dict(chances), MANY)


def test_randaugment_draws_evenly_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = choices(monkeypatch, "randaugment")
    even = dict.fromkeys(range(14), 1 / 14)
    for operation, magnitude in (first, second):
        assert not surprising(Counter(operation.tolist()), even, MANY)
        turned = magnitude[operation == 5]
        assert turned.abs().unique().tolist() == [9.0] and abs(turned.mean()) < 0.7
    pairs = Counter(zip(first[0].tolist(), second[0].tolist(), strict=True))
    assert not surprising(pairs, {(a, b): 1 / 196 for a in range(14) for b in range(14)}, MANY)


def test_trivialaugment_draws_one_operation_of_any_strength(monkeypatch: pytest.MonkeyPatch) -> None:
    ((operation, magnitude),) = choices(monkeypatch, "trivialaugment")
    assert not surprising(Counter(operation.tolist()), dict.fromkeys(range(14), 1 / 14), MANY)
    turned = magnitude[operation == 5]
    assert not surprising(
        Counter(turned.abs().div(4.5).round().int().tolist()), dict.fromkeys(range(31), 1 / 31), len(turned)
    )
    assert 0.45 < (turned < 0).float().mean() * 31 / 30 < 0.55


def test_augmix_draws_chains_of_one_to_three_and_weights_that_sum_to_one(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = choices(monkeypatch, "augmix", severity=3)
    assert len(steps) == 9
    for chain in range(3):
        depth = sum((steps[3 * chain + step][0] > 0).int() for step in range(3))
        assert not surprising(Counter(depth.tolist()), {1: 1 / 3, 2: 1 / 3, 3: 1 / 3}, MANY)
    operation, magnitude = steps[0]
    assert not surprising(Counter(operation.tolist()), dict.fromkeys(range(1, 14), 1 / 13), MANY)
    turned = magnitude[operation == 5].abs() * 9 / 30
    assert not surprising(Counter(turned.round().int().tolist()), {0: 1 / 3, 1: 1 / 3, 2: 1 / 3}, len(turned))
    # Chains that change nothing leave the picture as it was: the weights sum to 1.
    images = torch.arange(256, dtype=torch.uint8).view(256, 1, 1, 1).expand(256, 3, 2, 2)
    spec = OpSpec.model_validate({"augmix": {}}).settings
    found = policies.augmix(spec, images, Draws(0, 0, torch.arange(256), "augmix.0"))
    assert torch.equal(found, images)


def test_augmix_blends_as_a_loop_over_samples_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """With chains replaced by constants, the mean share of the picture itself is a half, of each chain a sixth."""
    levels = iter((30, 90, 240))

    def constant(images: Tensor, operations: Tensor, magnitudes: Tensor, how: Any) -> Tensor:
        return torch.full_like(images, next(levels))

    monkeypatch.setattr(policies, "_apply", constant)
    spec = OpSpec.model_validate({"augmix": {}}).settings
    found = policies.augmix(spec, torch.full((MANY, 3, 1, 1), 200, dtype=torch.uint8), DRAWS)
    assert abs(found.float().mean() - (200 / 2 + (30 + 90 + 240) / 6)) < 0.6
    assert found.min() < 60 and found.max() > 230

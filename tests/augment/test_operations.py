"""Every operation: each option does something, each parameter stays in its range, each sample is by itself."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from distaug.augment import Augment, geometry, operations
from distaug.augment.sampling import Draws, sorted_by
from distaug.spec.augment import AugmentSpec, OpSpec

B, SIDE = 64, 24
# Smooth, and neither black nor white anywhere: noise hides a shift, and a full range hides a stretch.
COARSE = torch.rand(B, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 180 + 40
IMAGES = F.interpolate(COARSE, size=SIDE, mode="bilinear", align_corners=False).to(torch.uint8)
LABELS, IDS = torch.arange(B) % 4, torch.arange(B) * 31 + 5
NAMES = list(OpSpec.model_fields)

CHANGES: dict[str, list[dict[str, Any]]] = {
    "crop": [{"padding": 5}, {"mode": "reflect"}],
    "flip": [{"p": 0.9}],
    "vflip": [{"p": 0.9}],
    "resized_crop": [{"scale": [0.3, 0.4]}, {"ratio": [2, 3]}, {"p": 0.5}],
    "rotate": [{"degrees": 60}, {"interpolation": "nearest"}, {"fill": [9, 99, 200]}, {"p": 0.5}],
    "affine": [
        {"degrees": 60}, {"translate": 0.5}, {"scale": [2, 3]}, {"shear": 30},
        {"interpolation": "nearest"}, {"fill": 200}, {"p": 0.5},
    ],
    "perspective": [{"distortion": 0.1}, {"interpolation": "nearest"}, {"fill": 200}, {"p": 1.0}],
    "jitter": [{"brightness": 0.5}, {"contrast": 0.9}, {"saturation": 0.9}, {"hue": 0.5}, {"p": 0.5}],
    "grayscale": [{"p": 0.9}],
    "posterize": [{"bits": 2}, {"p": 0.9}],
    "solarize": [{"threshold": 60}, {"p": 0.9}],
    "equalize": [{"p": 0.9}],
    "autocontrast": [{"p": 0.9}],
    "invert": [{"p": 0.9}],
    "sharpness": [{"factor": [5, 6]}, {"p": 0.9}],
    "blur": [{"kernel": 9}, {"sigma": [3, 4]}, {"p": 0.9}],
    "noise": [{"std": [0.3, 0.4]}, {"p": 0.9}],
    "salt_pepper": [{"amount": [0.3, 0.4]}, {"p": 0.9}],
    "erase": [{"area": [0.5, 0.6]}, {"ratio": [1, 1.1]}, {"fill": "noise"}, {"fill": "mean"}, {"p": 0.9}],
    "cutout": [{"size": 3}, {"p": 0.5}],
    "autoaugment": [{"policy": "svhn"}, {"interpolation": "bilinear"}, {"fill": 200}],
    "randaugment": [{"num_ops": 3}, {"magnitude": 20}, {"interpolation": "bilinear"}, {"fill": 200}],
    "trivialaugment": [{"interpolation": "bilinear"}, {"fill": 200}],
    "augmix": [{"severity": 9}, {"width": 1}, {"interpolation": "nearest"}, {"fill": 200}],
}  # fmt: skip


def levels(*ops: dict[str, Any], epoch: int = 0, **options: Any) -> Tensor:
    """Augment and undo the normalisation: (B, 3, H, W) uint8."""
    spec = {key: options.pop(key) for key in list(options) if key in AugmentSpec.model_fields}
    augment = Augment({"ops": list(ops), **spec}, SIDE, 4, seed=3, mean=(0.5,) * 3, std=(0.5,) * 3, **options)
    floats, _ = augment(IMAGES, LABELS, IDS, epoch=epoch, step=0)
    return ((floats / 2 + 0.5) * 255).round().to(torch.uint8)


def changed(found: Tensor) -> Tensor:
    return (found != IMAGES).flatten(1).any(1)


@pytest.mark.parametrize(
    ("name", "change"), [(n, c) for n in CHANGES for c in CHANGES[n]], ids=lambda part: str(part).replace(" ", "")
)
def test_each_option_changes_the_pictures(name: str, change: dict[str, Any]) -> None:
    default = {"policy": "cifar10"} if name == "autoaugment" else {}
    assert not torch.equal(levels({name: default}), levels({name: default | change}))


def test_no_option_is_left_out() -> None:
    for name in NAMES:
        section = type(OpSpec.model_validate({name: {}}).settings)
        assert {key for change in CHANGES[name] for key in change} == set(section.model_fields), name


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_is_augmented_alike_wherever_it_stands_and_whatever_stands_beside_it(name: str) -> None:
    augment = Augment({"ops": [{name: {}}]}, SIDE, 4, seed=3)
    before = IMAGES.clone()
    whole, _ = augment(IMAGES, LABELS, IDS, epoch=1, step=0)
    order = torch.randperm(B, generator=torch.Generator().manual_seed(1))[: B // 3]
    part, _ = augment(IMAGES[order], LABELS[order], IDS[order], epoch=1, step=5, shard=2)
    assert torch.equal(part, whole[order]) and torch.equal(IMAGES, before)
    one, _ = augment(IMAGES[7:8], LABELS[7:8], IDS[7:8], epoch=1, step=0)
    assert torch.equal(one[0], whole[7])
    assert not torch.equal(augment(IMAGES, LABELS, IDS, epoch=2, step=0)[0], whole), "epochs differ"


@pytest.mark.parametrize("name", [name for name in NAMES if "p" in CHANGES[name][-1]])
def test_probability_is_a_frequency(name: str) -> None:
    sure: dict[str, dict[str, Any]] = {
        "noise": {"std": [0.2, 0.2]},
        "erase": {"area": [0.3, 0.3], "ratio": [1, 1]},
        "sharpness": {"factor": [9, 9]},
        "blur": {"sigma": [2, 2]},
    }
    settings = sure.get(name, {})
    every = changed(levels({name: settings | {"p": 1.0}}))
    assert every.float().mean() > 0.9 and not changed(levels({name: settings | {"p": 0.0}})).any()
    found = torch.cat([changed(levels({name: settings | {"p": 0.3}}, epoch=epoch)) for epoch in range(8)])
    # Of 512 pictures, four deviations either way.
    assert 0.3 - 0.081 < found.float().mean() < 0.3 + 0.081


DRAWS = Draws(seed=1, epoch=2, ids=torch.arange(4000), key="op.0")
BLANK = torch.zeros(4000, 3, 16, 24, dtype=torch.uint8)


def parameters(monkeypatch: pytest.MonkeyPatch, module: Any, function: str, name: str, **settings: Any) -> list[Any]:
    """Return what an operation hands to the function that does its work."""
    seen: list[Any] = []

    def note(images: Tensor, *positional: Any, **named: Any) -> Tensor:
        seen.extend([*positional, *named.values()])
        return images

    monkeypatch.setattr(module, function, note)
    operation = operations.erase_box if name == "erase" else operations.OPERATIONS[name]
    more = {"mean": (0, 0, 0)} if name == "erase" else {}
    operation(OpSpec.model_validate({name: settings}).settings, BLANK, DRAWS, **more)
    return seen


def even(values: Tensor, low: float, high: float) -> bool:
    """Whether values fill a range evenly: Kolmogorov-Smirnov at 0.1 %."""
    share = ((values.double() - low) / (high - low)).sort().values
    steps = torch.arange(1, len(share) + 1) / len(share)
    distance = torch.maximum(steps - share, share - steps + 1 / len(share)).max()
    return bool((share >= 0).all() and (share <= 1).all() and distance < 1.95 / len(share) ** 0.5)


@pytest.mark.parametrize(
    ("module", "function", "name", "settings", "low", "high"),
    [
        (operations.colour, "sharpness", "sharpness", {"factor": [0.5, 3]}, 0.5, 3),
        (
            operations.colour,
            "brightness",
            "jitter",
            {"brightness": 0.4, "contrast": 0, "saturation": 0, "hue": 0},
            0.6,
            1.4,
        ),
        (
            operations.colour,
            "contrast",
            "jitter",
            {"brightness": 0, "contrast": 1.5, "saturation": 0, "hue": 0},
            0,
            2.5,
        ),
        (operations.colour, "hue", "jitter", {"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0.3}, -0.3, 0.3),
        (operations.noise, "gaussian_noise", "noise", {"std": [0.1, 0.2]}, 0.1, 0.2),
        (operations.noise, "salt_and_pepper", "salt_pepper", {"amount": [0, 0.4]}, 0, 0.4),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_parameters_fill_their_range(
    monkeypatch: pytest.MonkeyPatch,
    module: Any,
    function: str,
    name: str,
    settings: dict[str, Any],
    low: float,
    high: float,
) -> None:
    seen = [value for value in parameters(monkeypatch, module, function, name, **settings) if isinstance(value, Tensor)]
    assert even(seen[-1], low, high)


def test_rotation_draws_its_angle_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = parameters(monkeypatch, operations.geometry, "warp", "rotate", degrees=20)[0]
    assert even(torch.rad2deg(torch.atan2(matrix[:, 0, 1], matrix[:, 0, 0])), -20, 20)


def test_affine_draws_all_its_parameters_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Tensor] = {}

    def note(images: Tensor, **named: Tensor) -> Tensor:
        seen.update(named)
        return torch.eye(3).expand(len(images), 3, 3)

    monkeypatch.setattr(operations.geometry, "affine_matrix", note)
    spec = OpSpec.model_validate({"affine": {"degrees": 30, "translate": 0.25, "scale": [0.5, 2], "shear": 8}}).settings
    operations.OPERATIONS["affine"](spec, BLANK, DRAWS)
    assert even(seen["degrees"], -30, 30) and even(seen["scale"], 0.5, 2)
    assert even(seen["shear_x"], -8, 8) and even(seen["shear_y"], -8, 8)
    assert seen["translate_x"].abs().max() == 6 and seen["translate_y"].abs().max() == 4, "whole pixels of 24 and 16"
    pairs = itertools.combinations([value.double() for value in seen.values()], 2)
    assert all(abs(torch.corrcoef(torch.stack(pair))[0, 1]) < 0.07 for pair in pairs)


def test_boxes_have_the_area_and_shape_that_were_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    top, left, rows, columns, _ = parameters(monkeypatch, operations, "erase", "erase", area=[0.1, 0.3], ratio=[0.5, 2])
    share, shape = rows * columns / (16 * 24), rows / columns
    # Sides are whole pixels, so that the smallest boxes miss their area by up to a seventh.
    assert share.min() > 0.08 and share.max() < 0.34 and shape.min() > 0.38 and shape.max() < 2.6
    assert share.min() < 0.11 and share.max() > 0.29 and shape.min() < 0.55 and shape.max() > 1.8
    assert (top >= 0).all() and (top + rows <= 16).all() and (left >= 0).all() and (left + columns <= 24).all()
    assert (top == 0).any() and (top + rows == 16).any() and (left + columns == 24).any()
    top, left, rows, columns = parameters(
        monkeypatch, geometry, "resized_crop", "resized_crop", scale=[0.2, 0.6], ratio=[0.75, 1.3334]
    )
    share, shape = rows * columns / (16 * 24), columns / rows
    assert 0.17 < share.min() < 0.22 and 0.58 < share.max() < 0.65
    assert 0.65 < shape.min() < 0.8 and 1.25 < shape.max() < 1.5
    assert (top + rows <= 16).all() and (left + columns <= 24).all()


def test_a_box_that_never_fits_is_left_out() -> None:
    images = IMAGES[:8]
    augment = Augment({"ops": [{"erase": {"p": 1.0, "area": [1, 1], "ratio": [9, 10]}}]}, SIDE, 4)
    plain = Augment({"preset": "none"}, SIDE, 4)
    where = {"epoch": 0, "step": 0}
    assert torch.equal(augment(images, LABELS[:8], IDS[:8], **where)[0], plain(images, LABELS[:8], IDS[:8], **where)[0])


def test_erased_boxes_hold_what_was_asked_for() -> None:
    box = {"p": 1.0, "area": [0.3, 0.3], "ratio": [1, 1]}
    for fill, level in (("zero", 0), ("mean", 128)):
        found = levels({"erase": box | {"fill": fill}})
        gone = (found != IMAGES).any(1)
        assert (gone.sum((1, 2)) > 70).all() and (found.transpose(0, 1)[:, gone] == level).all()
    noise = levels({"erase": box | {"fill": "noise"}})
    values = noise.transpose(0, 1)[:, (noise != IMAGES).any(1)].double()
    assert abs(values.mean() - 127.5) < 2 and abs(values.std() - 73.9) < 2, "uniform bytes"
    assert not torch.equal(noise[0], noise[1])


def test_cutout_is_a_black_square_clipped_at_the_edge() -> None:
    found = levels({"cutout": {"size": 6}})
    sizes = (found == 0).all(1).sum((1, 2))
    assert sizes.max() == 36 and sizes.min() < 36


def test_joined_geometry_is_one_resampling_with_the_same_draws() -> None:
    exact: list[dict[str, Any]] = [{"crop": {"padding": 3}}, {"flip": {}}, {"vflip": {"p": 0.3}}]
    assert torch.equal(levels(*exact, fuse_geometry=True), levels(*exact)), "nothing falls between pixels"
    turns: list[dict[str, Any]] = [{"rotate": {"p": 0.5}}, {"flip": {}}, {"affine": {"scale": [1, 1.5], "fill": 77}}]
    joined, alone = levels(*turns, fuse_geometry=True).int(), levels(*turns).int()
    assert not torch.equal(joined, alone)
    inner = (joined - alone)[:, :, 5:-5, 5:-5].abs().float()
    assert inner.mean() < 2.5, "the same moves, but for the second blurring"
    # A colour change between them separates them.
    apart: list[dict[str, Any]] = [{"rotate": {}}, {"invert": {"p": 1.0}}, {"affine": {}}]
    assert torch.equal(levels(*apart, fuse_geometry=True), levels(*apart))


def test_strength_is_the_share_of_the_probability_for_a_class() -> None:
    ops: list[dict[str, Any]] = [{"invert": {"p": 1.0}}]
    weak = torch.cat(
        [changed(levels(*ops, class_strength={"0": 0.0, "1": 0.5}, epoch=e)).view(-1, 4) for e in range(8)]
    )
    assert not weak[:, 0].any() and weak[:, 2:].all() and 0.3 < weak[:, 1].float().mean() < 0.7
    flips: list[dict[str, Any]] = [{"flip": {"p": 1.0}}]
    assert not changed(levels(*flips, class_strength={"0": 0.0})).view(-1, 4)[:, 0].any()
    named = levels(*ops, class_strength={"cat": 0.0}, classes=["ant", "bee", "cat", "dog"])
    assert not changed(named).view(-1, 4)[:, 2].any() and changed(named).view(-1, 4)[:, 3].all()
    with pytest.raises(ValueError, match="there is no class 'cow'; there are ant, bee, cat, dog"):
        levels(*ops, class_strength={"cow": 0.0}, classes=["ant", "bee", "cat", "dog"])


@pytest.mark.parametrize("choices", [list(itertools.product(range(3), repeat=3))[n : n + 3] for n in range(25)])
def test_sorting_puts_every_picture_back(choices: list[tuple[int, ...]]) -> None:
    images = torch.arange(3).view(3, 1, 1, 1).expand(3, 1, 2, 2).contiguous()

    def apply(step: int, number: int, some: Tensor, places: Tensor) -> Tensor:
        # Not linear, so that a step too many, too few or in the wrong order is seen.
        return 7 * some + 10 * number + 100 * step + 1000 * places.view(-1, 1, 1, 1)

    want = [0, 1, 2]
    for step, choice in enumerate(choices):
        want = [7 * want[i] + 10 * c + 100 * step + 1000 * i if c else want[i] for i, c in enumerate(choice)]
    assert sorted_by(torch.tensor(choices), images, apply)[:, 0, 0, 0].tolist() == want
    assert images[:, 0, 0, 0].tolist() == [0, 1, 2]

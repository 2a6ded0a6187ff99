"""Operations that move pixels against torchvision, one sample at a time, and against the plain way of doing them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from distaug.augment import geometry, parts

B = 96
SHAPES = [(3, 32, 32), (1, 31, 33), (3, 7, 5), (1, 8, 9)]
FILLS = [0.0, 128, (10.0, 200.5, 255.0)]
AFFINE = ("degrees", "translate_x", "translate_y", "scale", "shear_x", "shear_y")


def pictures(b: int, shape: tuple[int, ...]) -> Tensor:
    return torch.randint(0, 256, (b, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def between(low: float, high: float, shape: tuple[int, ...] = (B,), seed: int = 0) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def one_by_one(function: Callable[..., Tensor], images: Tensor, *parameters: Tensor, **settings: Any) -> Tensor:
    """Call a function of torchvision for each picture with its own parameters, as numbers."""
    samples = zip(images, *(p.tolist() for p in parameters), strict=True)
    return torch.stack([function(image, *numbers, **settings) for image, *numbers in samples])


def assert_same(found: Tensor, want: Tensor, interpolation: str) -> None:
    """Nearest: bit by bit; bilinear: at most one level off, and that rarely."""
    off = (found.int() - want.int()).abs()
    assert found.dtype == torch.uint8 and found.shape == want.shape
    assert off.max() == 0 if interpolation == "nearest" else off.max() <= 1 and (off > 0).float().mean() < 1e-3


def parameters(kind: str, height: int, width: int) -> dict[str, Tensor]:
    if kind == "random":
        ranges = [(-400, 400), (-width, width), (-height, height), (0.3, 3), (-50, 50), (-50, 50)]
        return {name: between(*ends, seed=k) for k, (name, ends) in enumerate(zip(AFFINE, ranges, strict=True))}
    # Round numbers bring places halfway between two pixels.
    turns, shifts = [0.0, 0, 30, 45, -45, 60, 90, -90, 180, 270, 360], [0, 0.5, 1, -1.5, 2, 3.25]
    choices = [turns, shifts, shifts, [1, 1, 0.5, 2, 0.25, 1.5], [0, 0, 45, -45], [0, 0, 0, -45]]
    picked = (torch.tensor(choice)[between(0, len(choice), seed=k).long()] for k, choice in enumerate(choices))
    return dict(zip(AFFINE, picked, strict=True))


@pytest.mark.parametrize("mode", ["zero", "reflect"])
@pytest.mark.parametrize("shape", [(9, 3, 32, 32), (4, 1, 7, 5), (1, 3, 8, 8)])
def test_crop_is_a_window_of_the_padded_picture(shape: tuple[int, ...], mode: str) -> None:
    b, _, h, w = shape
    images = pictures(b, shape[1:])
    top, left = between(0, 7, (2, b)).long()
    found = geometry.crop(images, top, left, 3, mode)
    padded = F.pad(images.float(), (3,) * 4, mode="reflect" if mode == "reflect" else "constant").byte()
    for i in range(b):
        assert torch.equal(found[i], padded[i, :, top[i] : top[i] + h, left[i] : left[i] + w])
    assert torch.equal(geometry.crop(images.to(memory_format=torch.channels_last), top, left, 3, mode), found)


@pytest.mark.parametrize(("flip", "axis"), [(geometry.hflip, 2), (geometry.vflip, 1)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_flip_mirrors_only_the_chosen(flip: Callable[..., Tensor], axis: int, dtype: torch.dtype) -> None:
    images = pictures(2, (3, 4, 5)).to(dtype)
    before = images.clone()
    found = flip(images, torch.tensor([True, False]))
    assert torch.equal(found[0], images[0].flip(axis)) and torch.equal(found[1], images[1])
    assert torch.equal(images, before)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize("kind", ["random", "round"])
@pytest.mark.parametrize("shape", SHAPES)
def test_affine_is_torchvisions(shape: tuple[int, int, int], kind: str, interpolation: str) -> None:
    images, values = pictures(B, shape), parameters(kind, *shape[1:])

    def torchvisions(image: Tensor, *numbers: float, **settings: Any) -> Tensor:
        degrees, x, y, scale, *shear = numbers
        return tv.affine(image, degrees, [x, y], scale, shear, InterpolationMode(interpolation), **settings)

    corner = (-shape[2] / 2, -shape[1] / 2)
    for centre, fill in zip(((0.0, 0.0), corner, (0.0, 0.0)), FILLS, strict=True):
        levels = fill[: shape[0]] if isinstance(fill, tuple) else fill
        found = geometry.affine(images, **values, centre=centre, interpolation=interpolation, fill=levels)
        where = [0, 0] if centre == corner else None
        want = one_by_one(torchvisions, images, *values.values(), center=where, fill=levels)
        assert_same(found, want, interpolation)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize("shape", SHAPES)
def test_rotate_is_torchvisions(shape: tuple[int, int, int], interpolation: str) -> None:
    images = pictures(B, shape)
    degrees = between(-360, 360).where(torch.arange(B) % 2 == 0, 15 * (torch.arange(B) - B / 2))
    found = geometry.rotate(images, degrees, interpolation=interpolation, fill=3.0)
    want = one_by_one(tv.rotate, images, degrees, interpolation=InterpolationMode(interpolation), fill=3.0)
    assert_same(found, want, interpolation)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize("rounded", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_perspective_is_torchvisions(shape: tuple[int, int, int], rounded: bool, interpolation: str) -> None:
    images, (_, h, w) = pictures(B, shape), shape
    start = [[0, 0], [w - 1, 0], [w - 1, h - 1], [0, h - 1]]
    signs = torch.tensor([[1, 1], [-1, 1], [-1, -1], [1, -1]])
    corners = torch.tensor(start) + signs * between(-0.1, 0.3, (B, 4, 2)) * torch.tensor([w, h])
    corners[: B // 4] = corners[: B // 4, :1] + torch.tensor(start)  # moved, not bent
    corners = corners.round() if rounded else corners

    def torchvisions(image: Tensor, end: list[list[float]]) -> Tensor:
        return tv.perspective(image, start, end, InterpolationMode(interpolation), fill=7.0)

    found = geometry.perspective(images, corners, interpolation=interpolation, fill=7.0)
    assert_same(found, one_by_one(torchvisions, images, corners), interpolation)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize("shape", SHAPES)
def test_resized_crop_is_torchvisions(shape: tuple[int, int, int], interpolation: str) -> None:
    images, (_, h, w) = pictures(B, shape), shape
    height, width = (between(1, h + 1, seed=1)).long(), between(1, w + 1, seed=2).long()
    height[0], width[:2] = h, w
    top, left = (between(0, 1, seed=3) * (h - height + 1)).long(), (between(0, 1, seed=4) * (w - width + 1)).long()
    found = geometry.resized_crop(images, top, left, height, width, interpolation=interpolation)
    settings = {"size": [h, w], "interpolation": InterpolationMode(interpolation), "antialias": True}
    want = one_by_one(tv.resized_crop, images, top, left, height, width, **settings)
    assert_same(found, want, interpolation)
    assert torch.equal(found[0], images[0])


def test_one_number_serves_all() -> None:
    images = pictures(3, (3, 9, 8))
    found = geometry.affine(images, degrees=20, scale=1.5, fill=9)
    want = geometry.affine(images, degrees=torch.full((3,), 20.0), scale=torch.full((3,), 1.5), fill=(9, 9, 9))
    assert torch.equal(found, want) and torch.equal(geometry.rotate(images, -20), geometry.affine(images, degrees=20))


@pytest.mark.parametrize("shape", SHAPES)
def test_crops_and_flips_are_matrices_too(shape: tuple[int, int, int]) -> None:
    images, chosen = pictures(B, shape), between(0, 1) < 0.5
    top, left = between(0, 5, (2, B)).long()
    cut = geometry.affine_matrix(images, translate_x=2 - left, translate_y=2 - top)
    aside, over = geometry.flip_matrix(chosen, "x"), geometry.flip_matrix(~chosen, "y")
    assert torch.equal(geometry.warp(images, cut), geometry.crop(images, top, left, 2))
    assert torch.equal(geometry.warp(images, aside), geometry.hflip(images, chosen))
    assert torch.equal(geometry.warp(images, over), geometry.vflip(images, ~chosen))


def test_the_product_of_matrices_does_the_left_one_first() -> None:
    images, chosen = pictures(B, (3, 32, 32)), between(0, 1) < 0.5
    top, left = between(0, 9, (2, B), seed=1).long()
    cut = geometry.affine_matrix(images, translate_x=4 - left, translate_y=4 - top)
    one_step = geometry.warp(images, cut @ geometry.flip_matrix(chosen, "x"))
    assert torch.equal(one_step, geometry.hflip(geometry.crop(images, top, left, 4), chosen))


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_a_sample_does_not_depend_on_its_batch(interpolation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    images, degrees, side = pictures(B, (3, 8, 9)), between(-90, 90), between(1, 9).long()
    zero = torch.zeros_like(side)

    def both(images: Tensor, degrees: Tensor, zero: Tensor, side: Tensor) -> Tensor:
        turned = geometry.rotate(images, degrees, interpolation=interpolation)
        return geometry.resized_crop(turned, zero, zero, side, side, interpolation=interpolation)

    whole = both(images, degrees, zero, side)
    monkeypatch.setattr(parts, "_VALUES", 3 * 8 * 9 * 10)
    assert torch.equal(both(images, degrees, zero, side), whole)
    order = torch.tensor([B - 1, 0, 17])
    assert torch.equal(both(images[order], degrees[order], zero[order], side[order]), whole[order])


def test_autocast_changes_nothing() -> None:
    images, corners = pictures(B, (3, 32, 32)), torch.tensor([[2.0, 1], [30, 4], [28, 31], [-3, 29]]).expand(B, 4, 2)
    plain = geometry.rotate(images, between(-30, 30)), geometry.perspective(images, corners)
    with torch.autocast("cpu", torch.bfloat16):
        found = geometry.rotate(images, between(-30, 30)), geometry.perspective(images, corners)
    assert torch.equal(found[0], plain[0]) and torch.equal(found[1], plain[1])

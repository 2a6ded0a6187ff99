"""Every colour operation against torchvision, sample by sample, to the bit."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from distaug.augment import colour

SHAPES = [(c, h, w) for c in (1, 3) for h, w in ((32, 32), (31, 33), (7, 5), (3, 3), (2, 9), (1, 1))]
FACTORS = [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0, 1.1, 1.3, 1.5, 1.7, 1.9, 2.0]
SHIFTS = [-0.5, -1 / 3, -0.1, -1e-9, 0.0, 1e-9, 0.1, 1 / 6, 0.25, 1 / 3, 0.5]
THRESHOLDS = [0.0, 0.4, 1.0, 127.5, 128.0, 254.0, 254.00001, 254.99999999, 255.0]


def pictures(shape: tuple[int, int, int], seed: int = 0, each: int = 13) -> Tensor:
    """Random, graded, plain, two-level, dark, grey and nearly plain pictures: (7·each, *shape)."""
    c, h, w = shape
    generator = torch.Generator().manual_seed(seed)

    def draw(*size: int) -> Tensor:
        return torch.randint(0, 256, (each, *size), generator=generator)

    noise, level = draw(c, h, w), draw(c, 1, 1)
    graded = (torch.arange(h * w).view(h, w) * 255 // max(h * w - 1, 1)).expand_as(noise)
    two = torch.where(noise < draw(1, 1, 1), level, draw(c, 1, 1))
    dark = level // 2 + noise % (1 + draw(1, 1, 1) // 8)
    few = torch.where(noise < 250, level, noise)
    kinds = (noise, graded, level.expand_as(noise), two, dark, noise[:, :1].expand_as(noise), few)
    return torch.cat(kinds).to(torch.uint8)


def cycle(values: list[float], count: int, low: float, high: float) -> list[float]:
    """Given values and random ones in turn."""
    drawn = (low + (high - low) * torch.rand(count, generator=torch.Generator().manual_seed(1))).tolist()
    return [values[i // 2 % len(values)] if i % 2 else drawn[i] for i in range(count)]


def contrast_of_tall(picture: Tensor, factor: float) -> Tensor:
    """torchvision's contrast of sixteen copies, of which the first is returned.

    The mean is the picture's own. In a tensor whose size is no multiple of 16, torch rounds product and sum apart in
    some of the last elements, and only there.
    """
    return tv.adjust_contrast(picture.repeat(1, 16, 1), factor)[:, : picture.shape[1]]


OPERATIONS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], tuple[list[float], float, float]]] = {
    "brightness": (colour.brightness, tv.adjust_brightness, (FACTORS, 0, 2)),
    "contrast": (colour.contrast, contrast_of_tall, (FACTORS, 0, 2)),
    "saturation": (colour.saturation, tv.adjust_saturation, (FACTORS, 0, 2)),
    "sharpness": (colour.sharpness, tv.adjust_sharpness, (FACTORS, 0, 2)),
    "hue": (colour.hue, tv.adjust_hue, (SHIFTS, -0.5, 0.5)),
    "solarize": (colour.solarize, tv.solarize, (THRESHOLDS, 0, 255)),
}
PLAIN: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "grayscale": (colour.grayscale, lambda picture: tv.rgb_to_grayscale(picture, num_output_channels=len(picture))),
    "equalize": (colour.equalize, tv.equalize),
    "autocontrast": (colour.autocontrast, tv.autocontrast),
    "invert": (colour.invert, tv.invert),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", OPERATIONS)
def test_equals_torchvision_with_a_parameter_of_its_own(
    name: str, shape: tuple[int, int, int], dtype: torch.dtype
) -> None:
    ours, theirs, values = OPERATIONS[name]
    images = pictures(shape)
    parameters = torch.tensor(cycle(values[0], len(images), *values[1:]), dtype=dtype)
    before = images.clone()
    found = ours(images, parameters)
    want = [theirs(picture, parameter) for picture, parameter in zip(images, parameters.tolist(), strict=True)]
    assert found.dtype == torch.uint8 and torch.equal(found, torch.stack(want))
    assert torch.equal(images, before)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", PLAIN)
def test_equals_torchvision(name: str, shape: tuple[int, int, int]) -> None:
    ours, theirs = PLAIN[name]
    images = pictures(shape)
    before = images.clone()
    found = ours(images)
    assert found.dtype == torch.uint8 and torch.equal(found, torch.stack([theirs(picture) for picture in images]))
    assert torch.equal(images, before)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_posterize_equals_torchvision_for_every_number_of_bits(shape: tuple[int, int, int]) -> None:
    images = pictures(shape)
    bits = torch.arange(len(images)) % 9
    want = [tv.posterize(picture, int(kept)) for picture, kept in zip(images, bits, strict=True)]
    assert torch.equal(colour.posterize(images, bits), torch.stack(want))


def test_hue_of_every_colour_on_a_grid() -> None:
    """With both ends of the range and all thirds and sixths of the circle, where sectors meet."""
    levels = torch.tensor([*range(0, 256, 9), 1, 254, 255], dtype=torch.uint8)
    grid = torch.stack(torch.meshgrid(levels, levels, levels, indexing="ij")).flatten(2)
    shifts = torch.tensor(SHIFTS, dtype=torch.float64)
    found = colour.hue(grid.expand(len(shifts), *grid.shape), shifts)
    assert torch.equal(found, torch.stack([tv.adjust_hue(grid, shift) for shift in SHIFTS]))


def test_equalize_and_autocontrast_of_pictures_larger_than_the_number_of_levels() -> None:
    images = pictures((3, 96, 80), each=1)
    assert torch.equal(colour.equalize(images), torch.stack([tv.equalize(picture) for picture in images]))
    assert torch.equal(colour.autocontrast(images), torch.stack([tv.autocontrast(picture) for picture in images]))


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_picture_comes_out_the_same_whatever_its_batch(name: str) -> None:
    ours, _, values = OPERATIONS[name]
    images = pictures((3, 31, 33), each=2)
    parameters = torch.tensor(cycle(values[0], len(images), *values[1:]))
    alone = [ours(images[i : i + 1], parameters[i : i + 1]) for i in range(len(images))]
    assert torch.equal(ours(images, parameters), torch.cat(alone))


@pytest.mark.parametrize("name", PLAIN)
def test_grey_pictures_keep_their_channels(name: str) -> None:
    assert PLAIN[name][0](pictures((1, 8, 8))).shape[1] == 1


def test_identities() -> None:
    """A factor of 1, no shift, all bits, and inverting twice leave pictures as they are."""
    images = pictures((3, 8, 8))
    one = torch.ones(len(images))
    for operation in (colour.brightness, colour.contrast, colour.saturation, colour.sharpness):
        assert torch.equal(operation(images, one), images)
    assert torch.equal(colour.posterize(images, torch.full((len(images),), 8)), images)
    assert torch.equal(colour.invert(colour.invert(images)), images)

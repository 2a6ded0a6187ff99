"""The operations of a job file: from an operation's section and its draws to the function that does the work.

Parameters are drawn on the host, one of each for every sample, and sent to the pictures' device without waiting for it;
matrices are made before that, so that sines and solutions have the same bits for any device.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from distaug.augment import colour, geometry, noise, policies
from distaug.augment.erase import erase
from distaug.augment.sampling import Draws
from distaug.draws import log_uniform
from distaug.spec.augment import (
    AffineSpec,
    BlurSpec,
    CropSpec,
    CutoutSpec,
    EraseSpec,
    JitterSpec,
    NoiseSpec,
    PerspectiveSpec,
    PosterizeSpec,
    ResizedCropSpec,
    RotateSpec,
    SaltPepperSpec,
    SharpnessSpec,
    SolarizeSpec,
)

__all__ = ["MATRICES", "OPERATIONS", "Operation", "erase_box"]

Operation = Callable[[Any, Tensor, Draws], Tensor]
"""From the operation's section, pictures (b, C, H, W) uint8 and the draws of the b samples to pictures."""

_ATTEMPTS = 10
"""Boxes that are drawn for a picture until one fits into it."""


def _sent(images: Tensor, *parameters: Tensor) -> list[Tensor]:
    return [parameter.to(images.device, non_blocking=True) for parameter in parameters]


def _between(u: Tensor, ends: Sequence[float]) -> Tensor:
    return ends[0] + u * (ends[1] - ends[0])


def _around(u: Tensor, most: float) -> Tensor:
    return (2 * u - 1) * most


def _boxes(
    u: Tensor, area: Sequence[float], ratio: Sequence[float], height: int, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw the sides of a box from (2·attempts, b) uniforms: the first that fits into height × width.

    Args:
        u: Uniforms; the first half for the areas, the second for the shapes.
        area: Range of the box's area, as a share of the picture's.
        ratio: Range of height over width, whose logarithm is uniform.
        height: H in pixels.
        width: W in pixels.

    Returns:
        Rows and columns (b,) int64, and (b,) bool: whether any fitted.
    """
    shares, shapes = u.chunk(2)
    pixels, shape = _between(shares, area) * (height * width), log_uniform(shapes, *ratio)
    rows, columns = (pixels * shape).sqrt().round().long(), (pixels / shape).sqrt().round().long()
    fits = (rows >= 1) & (columns >= 1) & (rows <= height) & (columns <= width)
    first = fits.long().argmax(0, keepdim=True)
    return rows.gather(0, first)[0], columns.gather(0, first)[0], fits.any(0)


def _window(spec: CropSpec, images: Tensor, draws: Draws) -> tuple[int, Tensor, Tensor]:
    height, width = images.shape[2:]
    padding = max(height, width) // 8 if spec.padding == "auto" else spec.padding
    top, left = (draws.uniforms(2) * (2 * padding + 1)).long()
    return padding, top, left


def _crop(spec: CropSpec, images: Tensor, draws: Draws) -> Tensor:
    padding, top, left = _window(spec, images, draws)
    top, left = _sent(images, top, left)
    return geometry.crop(images, top, left, padding, spec.mode)


def _resized_crop(spec: ResizedCropSpec, images: Tensor, draws: Draws) -> Tensor:
    height, width = images.shape[2:]
    u = draws.uniforms(2 * _ATTEMPTS + 2)
    rows, columns, fits = _boxes(u[2:], spec.scale, (1 / spec.ratio[1], 1 / spec.ratio[0]), height, width)
    rows, columns = torch.where(fits, rows, height), torch.where(fits, columns, width)
    top, left = (u[0] * (height - rows + 1)).long(), (u[1] * (width - columns + 1)).long()
    return geometry.resized_crop(images, *_sent(images, top, left, rows, columns))


def _crop_matrix(spec: CropSpec, images: Tensor, draws: Draws) -> Tensor:
    padding, top, left = _window(spec, images, draws)
    return geometry.affine_matrix(images, translate_x=padding - left, translate_y=padding - top)


def _rotate(spec: RotateSpec, images: Tensor, draws: Draws) -> Tensor:
    matrix = _rotate_matrix(spec, images, draws)
    return geometry.warp(images, matrix, interpolation=spec.interpolation, fill=spec.fill)


def _rotate_matrix(spec: RotateSpec, images: Tensor, draws: Draws) -> Tensor:
    return geometry.affine_matrix(images, degrees=-_around(draws.uniforms(1)[0], spec.degrees))


def _affine(spec: AffineSpec, images: Tensor, draws: Draws) -> Tensor:
    matrix = _affine_matrix(spec, images, draws)
    return geometry.warp(images, matrix, interpolation=spec.interpolation, fill=spec.fill)


def _affine_matrix(spec: AffineSpec, images: Tensor, draws: Draws) -> Tensor:
    height, width = images.shape[2:]
    u = draws.uniforms(6)
    return geometry.affine_matrix(
        images,
        degrees=_around(u[0], spec.degrees),
        translate_x=_around(u[1], spec.translate * width).round(),
        translate_y=_around(u[2], spec.translate * height).round(),
        scale=_between(u[3], spec.scale),
        shear_x=_around(u[4], spec.shear),
        shear_y=_around(u[5], spec.shear),
    )


def _perspective(spec: PerspectiveSpec, images: Tensor, draws: Draws) -> Tensor:
    height, width = images.shape[2:]
    inwards = draws.uniforms(8).T.reshape(-1, 4, 2) * (spec.distortion / 2) * torch.tensor([width, height])
    ends = torch.tensor([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]])
    signs = torch.tensor([[1, 1], [-1, 1], [-1, -1], [1, -1]])
    return geometry.perspective(images, ends + signs * inwards, interpolation=spec.interpolation, fill=spec.fill)


def _jitter(spec: JitterSpec, images: Tensor, draws: Draws) -> Tensor:
    u = draws.uniforms(4)
    ranges = (spec.brightness, spec.contrast, spec.saturation)
    for number, (change, most) in enumerate(
        zip((colour.brightness, colour.contrast, colour.saturation), ranges, strict=True)
    ):
        if most:
            images = change(images, *_sent(images, _between(u[number], (max(0.0, 1 - most), 1 + most))))
    return colour.hue(images, *_sent(images, _around(u[3], spec.hue))) if spec.hue else images


def _posterize(spec: PosterizeSpec, images: Tensor, draws: Draws) -> Tensor:
    return colour.posterize(images, torch.full((len(images),), spec.bits, device=images.device))


def _solarize(spec: SolarizeSpec, images: Tensor, draws: Draws) -> Tensor:
    return colour.solarize(images, torch.full((len(images),), float(spec.threshold), device=images.device))


def _sharpness(spec: SharpnessSpec, images: Tensor, draws: Draws) -> Tensor:
    return colour.sharpness(images, *_sent(images, _between(draws.uniforms(1)[0], spec.factor)))


def _blur(spec: BlurSpec, images: Tensor, draws: Draws) -> Tensor:
    return noise.gaussian_blur(images, spec.kernel, _between(draws.uniforms(1)[0], spec.sigma))


def _noise(spec: NoiseSpec, images: Tensor, draws: Draws) -> Tensor:
    bits = draws.pixel_bits(-(-images[0].numel() // 4), images.device)
    return noise.gaussian_noise(images, bits, *_sent(images, _between(draws.uniforms(1)[0], spec.std)))


def _salt_pepper(spec: SaltPepperSpec, images: Tensor, draws: Draws) -> Tensor:
    bits = draws.pixel_bits(-(-images[0, 0].numel() // 4), images.device)
    return noise.salt_and_pepper(images, bits, *_sent(images, _between(draws.uniforms(1)[0], spec.amount)))


def erase_box(spec: EraseSpec, images: Tensor, draws: Draws, *, mean: Sequence[int]) -> Tensor:
    """Fill a random box; `mean` are the levels of the data set's mean colour, one a channel."""
    height, width = images.shape[2:]
    u = draws.uniforms(2 * _ATTEMPTS + 2)
    rows, columns, fits = _boxes(u[2:], spec.area, spec.ratio, height, width)
    top, left = (u[0] * (height - rows + 1)).long(), (u[1] * (width - columns + 1)).long()
    fill: Tensor | None = None
    if spec.fill == "noise":
        # Eight bytes in each hash.
        bits = draws.pixel_bits(-(-images[0].numel() // 8), images.device)
        fill = bits.view(torch.uint8)[:, : images[0].numel()].view(images.shape)
    elif spec.fill == "mean":
        fill = torch.tensor(mean, dtype=torch.uint8).to(images.device, non_blocking=True).view(1, -1, 1, 1)
    top, left, rows, columns = _sent(images, top, left, rows * fits, columns)
    return erase(images, top, left, rows, columns, fill)


def _cutout(spec: CutoutSpec, images: Tensor, draws: Draws) -> Tensor:
    height, width = images.shape[2:]
    side = max(height, width) // 2 if spec.size == "auto" else spec.size
    middle_y, middle_x = draws.uniforms(2)
    top, left = ((u * size).long() - side // 2 for u, size in ((middle_y, height), (middle_x, width)))
    top, left, sides = _sent(images, top, left, torch.full_like(top, side))
    return erase(images, top, left, sides, sides, None)


OPERATIONS: dict[str, Operation] = {
    "crop": _crop,
    "resized_crop": _resized_crop,
    "rotate": _rotate,
    "affine": _affine,
    "perspective": _perspective,
    "jitter": _jitter,
    "grayscale": lambda spec, images, draws: colour.grayscale(images),
    "posterize": _posterize,
    "solarize": _solarize,
    "equalize": lambda spec, images, draws: colour.equalize(images),
    "autocontrast": lambda spec, images, draws: colour.autocontrast(images),
    "invert": lambda spec, images, draws: colour.invert(images),
    "sharpness": _sharpness,
    "blur": _blur,
    "noise": _noise,
    "salt_pepper": _salt_pepper,
    "cutout": _cutout,
    "autoaugment": policies.autoaugment,
    "randaugment": policies.randaugment,
    "trivialaugment": policies.trivialaugment,
    "augmix": policies.augmix,
}
"""The operations that pictures undergo or not, but for `erase`, which must know the mean colour as well."""

MATRICES: dict[str, Operation] = {
    "crop": _crop_matrix,
    "flip": lambda spec, images, draws: geometry.flip_matrix(torch.ones(len(images), dtype=torch.bool), "x"),
    "vflip": lambda spec, images, draws: geometry.flip_matrix(torch.ones(len(images), dtype=torch.bool), "y"),
    "rotate": _rotate_matrix,
    "affine": _affine_matrix,
}
"""Those that can be joined with their neighbours: to the (b, 3, 3) matrices of what they do."""

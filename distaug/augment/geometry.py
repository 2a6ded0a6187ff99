"""Operations that move pixels: pure functions of whole batches, with parameters of their own for every sample.

Parameters are (B,) tensors on the device of the pictures; those that only matrices are made of (angles, shifts,
corners) may lie on the host instead, and then give the same bits for any device. `affine`, `rotate`, `perspective` and
`resized_crop` do to each sample what torchvision.transforms.v2.functional does to it alone, in the same arithmetic, so
that on a CPU even places halfway between two pixels go to the same one.

Geometric operations can be joined into one resampling. The matrix of an operation leads from a place in the result to
its source, both in pixels right and down of the picture's middle; `first @ second` is the matrix of doing `first` and
then `second`, and `warp` resamples with it. As a matrix, `crop` is the translation padding − left, padding − top.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from distaug.augment.parts import by_parts

__all__ = [
    "affine",
    "affine_matrix",
    "crop",
    "flip_matrix",
    "hflip",
    "perspective",
    "resized_crop",
    "rotate",
    "vflip",
    "warp",
]

Interpolation = Literal["nearest", "bilinear"]
"""The nearest pixel, or a weighted mean of the four around."""

Fill = float | Sequence[float]
"""Level of what comes from outside a picture, 0 … 255: one, or one for each channel."""


def _rows(images: Tensor, rows: Tensor) -> Tensor:
    """Turn rows (B, N) of each picture into (B·C·N,) rows of the whole batch, one after the other in memory."""
    b, c, h, _ = images.shape
    planes = torch.arange(b * c, device=images.device).view(b, c, 1)
    return (planes * h + rows[:, None]).view(-1)


def crop(images: Tensor, top: Tensor, left: Tensor, padding: int, mode: str = "zero") -> Tensor:
    """Cut windows of the old size out of padded pictures.

    Args:
        images: (B, C, H, W), any dtype.
        top: (B,) int64 first row of each window in the padded picture, 0 … 2·padding.
        left: (B,) int64 first column, likewise.
        padding: Pixels added on each side.
        mode: `zero` (black) or `reflect` (mirrored at the edge).

    Returns:
        (B, C, H, W) of the same dtype.
    """
    b, c, h, w = images.shape
    padded = F.pad(images, (padding,) * 4, mode="reflect" if mode == "reflect" else "constant")
    rows = _rows(padded, top[:, None] + torch.arange(h, device=images.device)).view(b, c, h)
    starts = rows * (w + 2 * padding) + left[:, None, None]
    # A view of every run of w pixels, wherever it starts: rows of a window are copied whole, not pixel by pixel.
    runs = padded.reshape(-1).unfold(0, w, 1)
    return runs.index_select(0, starts.view(-1)).view(b, c, h, w)


def _choose(images: Tensor, changed: Tensor, chosen: Tensor) -> Tensor:
    """Overwrite `changed` with `images` where not `chosen`: changed = images ^ (images ^ changed & all ones or none).

    On a CPU six times as fast as torch.where with one condition per picture.
    """
    ones = -chosen.to(images.dtype)[:, None, None, None]
    return changed.bitwise_xor_(images).bitwise_and_(ones).bitwise_xor_(images)


def hflip(images: Tensor, chosen: Tensor) -> Tensor:
    """Mirror the chosen pictures left to right.

    Args:
        images: (B, C, H, W) of an integer type.
        chosen: (B,) bool.

    Returns:
        (B, C, H, W) of the same type.
    """
    return _choose(images, images.flip(3), chosen)


def vflip(images: Tensor, chosen: Tensor) -> Tensor:
    """Mirror the chosen pictures top to bottom; arguments as for `hflip`."""
    return _choose(images, images.flip(2), chosen)


def _stretch(images: Tensor, start: Tensor, length: Tensor, interpolation: Interpolation) -> Tensor:
    """Stretch rows start … start + length − 1 of each picture over its whole height."""
    b, c, h, w = images.shape
    flat, row = images.reshape(-1, w), torch.arange(h, device=images.device)

    def take(rows: Tensor) -> Tensor:
        return flat.index_select(0, _rows(images, start[:, None] + rows)).view(b, c, h, w)

    if interpolation == "nearest":
        return take((row * (length.to(torch.float32) / h)[:, None]).to(torch.int64))
    place = ((row + 0.5) * (length.to(torch.float64) / h)[:, None] - 0.5).clamp(min=0)
    above = place.to(torch.int64)
    below = torch.minimum(above + 1, length[:, None] - 1)
    # Weights in whole 1/2^14 are torchvision's on a CPU; with them float32 is exact.
    weight = ((place - above) * 2**14).round().to(torch.float32)[:, None, :, None] / 2**14
    mean = take(above).to(torch.float32).lerp_(take(below).to(torch.float32), weight)
    return mean.add_(0.5).to(torch.int32).to(torch.uint8)


def resized_crop(
    images: Tensor,
    top: Tensor,
    left: Tensor,
    height: Tensor,
    width: Tensor,
    *,
    interpolation: Interpolation = "bilinear",
) -> Tensor:
    """Cut boxes out of pictures and stretch them to the size of the pictures.

    A box lies inside its picture. So nothing ever shrinks, and there is nothing for antialiasing to do.

    Args:
        images: (B, C, H, W) uint8.
        top: (B,) int64 first row of each box.
        left: (B,) int64 first column.
        height: (B,) int64 rows, 1 … H − top.
        width: (B,) int64 columns, 1 … W − left.
        interpolation: `nearest` or `bilinear`.

    Returns:
        (B, C, H, W) uint8.
    """

    def stretch(images: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor) -> Tensor:
        # Columns first, and rounded before the rows, as in torchvision.
        return _stretch(_stretch(images.mT, left, width, interpolation).mT, top, height, interpolation)

    return by_parts(stretch)(images, top, left, height, width)


def affine_matrix(
    images: Tensor,
    *,
    degrees: Tensor | float = 0.0,
    translate_x: Tensor | float = 0.0,
    translate_y: Tensor | float = 0.0,
    scale: Tensor | float = 1.0,
    shear_x: Tensor | float = 0.0,
    shear_y: Tensor | float = 0.0,
    centre: tuple[Tensor | float, Tensor | float] = (0.0, 0.0),
) -> Tensor:
    """Return the matrices that shear, scale and turn pictures about a centre, and then move them.

    Args:
        images: (B, C, H, W), of which only the shape matters.
        degrees: (B,) angles, clockwise. Like all that follow also one number for all.
        translate_x: (B,) pixels to the right.
        translate_y: (B,) pixels down.
        scale: (B,) factors above 0.
        shear_x: (B,) degrees by which columns lean to the right.
        shear_y: (B,) degrees by which rows lean upwards at their right.
        centre: What stays in place, in pixels right and down of the picture's middle.

    Returns:
        (B, 3, 3) float64, from result to source, on the device of the parameters.
    """
    given = (degrees, translate_x, translate_y, scale, shear_x, shear_y, *centre)
    device = next((value.device for value in given if isinstance(value, Tensor)), None)

    def each(value: Tensor | float) -> Tensor:
        if isinstance(value, Tensor):
            return value.to(torch.float64)
        return torch.full(images.shape[:1], value, dtype=torch.float64, device=device)

    turn, lean_x, lean_y = (each(value) * (math.pi / 180) for value in (degrees, shear_x, shear_y))
    scale, zero, one = each(scale), each(0), each(1)
    # The forward map without its scale is [[p, q], [r, s]], with determinant 1.
    p, r = (turn - lean_y).cos() / lean_y.cos(), (turn - lean_y).sin() / lean_y.cos()
    q, s = -(p * lean_x.tan() + turn.sin()), turn.cos() - r * lean_x.tan()
    p, q, r, s = s / scale, -q / scale, -r / scale, p / scale
    x, y = (each(value) for value in centre)
    moved_x, moved_y = each(translate_x) + x, each(translate_y) + y
    right, down = x - p * moved_x - q * moved_y, y - r * moved_x - s * moved_y
    return torch.stack((p, q, right, r, s, down, zero, zero, one), dim=1).view(-1, 3, 3)


def flip_matrix(chosen: Tensor, axis: Literal["x", "y"]) -> Tensor:
    """Return the (B, 3, 3) float64 matrices that mirror the chosen (B,) pictures along x (`hflip`) or y (`vflip`)."""
    diagonal = torch.ones(len(chosen), 3, dtype=torch.float64, device=chosen.device)
    diagonal[:, "xy".index(axis)] -= 2 * chosen
    return torch.diag_embed(diagonal)


def _linear(coefficients: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return ax + by + c (B, K, H, W) for coefficients (B, K, 3), x (W,) and y (H,).

    Neither by a matrix product nor by addcmul: both may leave out a rounding, and the former may compute in a shorter
    type, under autocast or with TF32 allowed. The last bit decides between two pixels.
    """
    a, b, c = coefficients[..., None, None].unbind(2)
    return (a * x + b * y[:, None]).add_(c)


def _half_sizes(images: Tensor, matrix: Tensor) -> Tensor:
    h, w = images.shape[2:]
    return torch.tensor([[w / 2], [h / 2]], dtype=torch.float32).to(matrix.device, non_blocking=True)


def _read(images: Tensor, places: Tensor, interpolation: Interpolation) -> Tensor:
    grid = places.permute(0, 2, 3, 1)
    return F.grid_sample(images, grid, mode=interpolation, padding_mode="zeros", align_corners=False)


def _nearest(images: Tensor, places: Tensor, levels: Sequence[float]) -> Tensor:
    # A float32 holds every whole number of three bytes, so that all channels of a pixel are read as one. The number is
    # counted from that of the fill, because what is read outside is 0.
    ground = sum(round(level) << 8 * channel for channel, level in enumerate(levels))
    first, *others = torch.split(images, 1, dim=1)
    pixels = first.to(torch.float32)
    if ground:
        pixels.sub_(ground)
    for channel, plane in enumerate(others, start=1):
        pixels.add_(plane.to(torch.float32), alpha=1 << 8 * channel)
    pixels = _read(pixels, places, "nearest").to(torch.int32)
    if ground:
        pixels.add_(ground)
    result = torch.empty_like(images)
    for plane in torch.split(result, 1, dim=1):
        plane.copy_(pixels)  # the lowest byte
        pixels >>= 8
    return result


def _bilinear(images: Tensor, places: Tensor, levels: Sequence[float]) -> Tensor:
    # The last layer becomes the share of each pixel that comes from inside the picture.
    b, c, h, w = images.shape
    layers = torch.ones(b, c + 1, h, w, dtype=torch.float32, device=images.device)
    layers[:, :c] = images
    values, inside = torch.split(_read(layers, places, "bilinear"), [c, 1], dim=1)
    fill = torch.tensor(levels, dtype=torch.float32).view(-1, 1, 1).to(images.device, non_blocking=True)
    return values.sub_(fill).mul_(inside).add_(fill).round_().to(torch.int32).to(torch.uint8)


def _sample(images: Tensor, places: Tensor, interpolation: Interpolation, fill: Fill) -> Tensor:
    """Read pictures at places (B, 2, H, W), x and y, where the edges of a picture are at −1 and 1."""
    levels = (float(fill),) * images.shape[1] if isinstance(fill, int | float) else fill
    return (_nearest if interpolation == "nearest" else _bilinear)(images, places, levels)


def warp(images: Tensor, matrix: Tensor, *, interpolation: Interpolation = "nearest", fill: Fill = 0.0) -> Tensor:
    """Resample pictures through affine matrices.

    Args:
        images: (B, C, H, W) uint8, C up to 3.
        matrix: (B, 3, 3), from result to source; the last row is taken to be 0, 0, 1.
        interpolation: `nearest` or `bilinear`.
        fill: Level of what comes from outside the picture.

    Returns:
        (B, C, H, W) uint8.
    """
    h, w = images.shape[2:]
    x, y = (torch.arange(size, dtype=torch.float32, device=images.device) - (size - 1) / 2 for size in (w, h))

    def resample(images: Tensor, coefficients: Tensor) -> Tensor:
        return _sample(images, _linear(coefficients, x, y), interpolation, fill)

    coefficients = matrix[:, :2].to(torch.float32) / _half_sizes(images, matrix)
    return by_parts(resample)(images, coefficients.to(images.device, non_blocking=True))


def affine(
    images: Tensor,
    *,
    degrees: Tensor | float = 0.0,
    translate_x: Tensor | float = 0.0,
    translate_y: Tensor | float = 0.0,
    scale: Tensor | float = 1.0,
    shear_x: Tensor | float = 0.0,
    shear_y: Tensor | float = 0.0,
    centre: tuple[Tensor | float, Tensor | float] = (0.0, 0.0),
    interpolation: Interpolation = "nearest",
    fill: Fill = 0.0,
) -> Tensor:
    """Shear, scale, turn and move pictures; arguments as for `affine_matrix` and `warp`."""
    matrix = affine_matrix(
        images,
        degrees=degrees,
        translate_x=translate_x,
        translate_y=translate_y,
        scale=scale,
        shear_x=shear_x,
        shear_y=shear_y,
        centre=centre,
    )
    return warp(images, matrix, interpolation=interpolation, fill=fill)


def rotate(
    images: Tensor, degrees: Tensor | float, *, interpolation: Interpolation = "nearest", fill: Fill = 0.0
) -> Tensor:
    """Turn pictures about their middle, counter-clockwise by (B,) degrees; other arguments as for `warp`."""
    return affine(images, degrees=-degrees, interpolation=interpolation, fill=fill)


def perspective(
    images: Tensor, corners: Tensor, *, interpolation: Interpolation = "nearest", fill: Fill = 0.0
) -> Tensor:
    """Pull the corners of pictures to given places, as if the pictures were seen at a slant.

    Args:
        images: (B, C, H, W) uint8, C up to 3, H and W above 1.
        corners: (B, 4, 2) float, the x and y where the corner pixels go, counted in pixels from the top left one: of
            the top left, the top right, the bottom right and the bottom left.
        interpolation: `nearest` or `bilinear`.
        fill: Level of what comes from outside the picture.

    Returns:
        (B, C, H, W) uint8.
    """
    b, _, h, w = images.shape
    # Each corner (x, y) with its source (u, v) gives two equations in a … h: u (gx + hy + 1) = ax + by + c and
    # v (gx + hy + 1) = dx + ey + f.
    sources = torch.tensor([[0, 0], [w - 1, 0], [w - 1, h - 1], [0, h - 1]], dtype=torch.float32)
    sources = sources.to(corners.device, non_blocking=True)
    system = torch.zeros(b, 4, 2, 8, dtype=torch.float32, device=corners.device)
    system[:, :, 0, :3] = system[:, :, 1, 3:6] = F.pad(corners, (0, 1), value=1.0)
    system[:, :, :, 6:] = -sources[:, :, None] * corners[:, :, None]
    # Not torch.linalg.solve: it would make the host wait to hear whether every system has a solution.
    solved = torch.linalg.solve_ex(system.view(b, 8, 8).to(torch.float64), sources.view(8, 1).to(torch.float64))
    matrix = F.pad(solved.result.view(b, 8).to(torch.float32), (0, 1), value=1.0).view(b, 3, 3)
    matrix[:, :2] /= _half_sizes(images, matrix)
    x, y = (torch.arange(size, dtype=torch.float32, device=images.device) + 0.5 for size in (w, h))

    def resample(images: Tensor, coefficients: Tensor) -> Tensor:
        places = _linear(coefficients, x, y)
        return _sample(images, (places[:, :2] / places[:, 2:]).sub_(1), interpolation, fill)

    return by_parts(resample)(images, matrix.to(images.device, non_blocking=True))

"""Operations that move pixels: pure functions of pictures and per-sample parameters."""

import torch
from torch import Tensor

__all__ = ["crop", "hflip"]


def _window(start: Tensor, length: int) -> Tensor:
    """Return (B, length) indices that count up from `start` (B,)."""
    return start[:, None] + torch.arange(length, device=start.device)


def _reflect(index: Tensor, length: int) -> Tensor:
    """Mirror indices that lie outside 0 … length − 1 at the edge pixels, which are not repeated."""
    return (length - 1) - ((length - 1) - index.abs()).abs()


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
    if mode == "reflect":
        rows, columns, width = _reflect(_window(top - padding, h), h), _reflect(_window(left - padding, w), w), w
    else:
        images = torch.nn.functional.pad(images, (padding,) * 4)
        rows, columns, width = _window(top, h), _window(left, w), w + 2 * padding
    pixel = (rows[:, :, None] * width + columns[:, None, :]).reshape(b, 1, h * w)
    return images.reshape(b, c, -1).gather(2, pixel.expand(-1, c, -1)).view(b, c, h, w)


def hflip(images: Tensor, chosen: Tensor) -> Tensor:
    """Mirror the chosen pictures left to right.

    Args:
        images: (B, C, H, W), any dtype.
        chosen: (B,) bool.

    Returns:
        (B, C, H, W) of the same dtype.
    """
    return torch.where(chosen[:, None, None, None], images.flip(3), images)

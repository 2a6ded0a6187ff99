"""Boxes of pixels that are taken out of pictures."""

import torch
from torch import Tensor

__all__ = ["erase"]


def erase(images: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor, fill: Tensor) -> Tensor:
    """Fill a box in each picture (arXiv:1708.04896, arXiv:1708.04552).

    Args:
        images: (B, C, H, W) uint8.
        top: (B,) int64 first row of the box; a box may lie partly or wholly outside.
        left: (B,) int64 first column.
        height: (B,) int64 number of rows.
        width: (B,) int64 number of columns.
        fill: uint8, what the box holds, broadcast to (B, C, H, W).

    Returns:
        (B, C, H, W) uint8.
    """

    def inside(first: Tensor, length: Tensor, size: int) -> Tensor:
        place = torch.arange(size, device=images.device)
        return (place >= first[:, None]) & (place < (first + length)[:, None])

    rows, columns = inside(top, height, images.shape[2]), inside(left, width, images.shape[3])
    # A mask of all bits or none: & and | choose far faster than `where`.
    gone = (rows[:, None, :, None] & columns[:, None, None, :]).view(torch.uint8).neg()
    return (images & ~gone) | (fill & gone)

"""Blur and noise: pure functions of pictures, per-sample parameters and random bits.

The bits come from `distaug.draws.pixel_bits`, so that the noise depends on (seed, epoch, sample, operation) alone.
"""

import math

import torch
from torch import Tensor

from distaug.draws import normal_from_bits

__all__ = ["gaussian_blur", "gaussian_noise", "salt_and_pepper"]


def gaussian_blur(images: Tensor, kernel_size: int, sigma: Tensor) -> Tensor:
    """Blur with torchvision's Gaussian kernel, to within one level of its gaussian_blur.

    Args:
        images: (B, C, H, W) uint8, mirrored at the edges; H and W above kernel_size // 2.
        kernel_size: Width of the kernel in pixels, odd.
        sigma: (B,) float above 0, standard deviation in pixels; may lie on the host.

    Returns:
        (B, C, H, W) uint8.
    """
    reach = kernel_size // 2
    # Offsets in units of √2 pixels: e^−x² is then the normal density.
    end = reach / math.sqrt(2)
    offset = torch.linspace(-end, end, kernel_size, device=sigma.device)
    kernel = torch.softmax(-(offset / sigma.to(torch.float32)[:, None]).square(), dim=1)
    kernel = kernel.to(images.device, non_blocking=True)
    blurred = torch.nn.functional.pad(images.to(torch.float32), (reach,) * 4, mode="reflect")
    for dim in (2, 3):
        size = images.shape[dim]
        total = torch.zeros_like(blurred.narrow(dim, 0, size))
        for k in range(kernel_size):
            total.addcmul_(blurred.narrow(dim, k, size), kernel[:, k, None, None, None])
        blurred = total
    return blurred.round_().to(torch.int32).to(torch.uint8)


def gaussian_noise(images: Tensor, bits: Tensor, std: Tensor) -> Tensor:
    """Add normal noise of its own to every channel of every pixel.

    Args:
        images: (B, C, H, W) uint8.
        bits: (B, n) int64 random bits, n ≥ C·H·W/4.
        std: (B,) float from 0, in units of the [0, 1] range.

    Returns:
        (B, C, H, W) uint8, rounded and clamped, the same on every device.
    """
    noise = normal_from_bits(bits)[:, : math.prod(images.shape[1:])].reshape(images.shape)
    noise.mul_(std.to(torch.float32)[:, None, None, None] * 255)
    return noise.add_(images).round_().clamp_(0, 255).to(torch.int32).to(torch.uint8)


def salt_and_pepper(images: Tensor, bits: Tensor, amount: Tensor) -> Tensor:
    """Set pixels to white or black, all channels together.

    Args:
        images: (B, C, H, W) uint8.
        bits: (B, n) int64 random bits, n ≥ H·W/4.
        amount: (B,) float in [0, 1], the probability of a pixel to be set; half of it for either colour.

    Returns:
        (B, C, H, W) uint8.
    """
    b, _, h, w = images.shape
    # Sixteen bits a pixel, from -32768 to 32767: the lowest turn black, the highest, whose complements are the lowest,
    # turn white.
    draw = bits.view(torch.int16)[:, : h * w].reshape(b, 1, h, w)
    limit = ((amount.to(torch.float32) * 32768).round() - 32768).to(torch.int16)[:, None, None, None]
    # Masks of all bits or none: & and | choose far faster than `where`.
    kept, white = (chosen.view(torch.uint8).neg() for chosen in (draw >= limit, ~draw < limit))
    return (images & kept) | white

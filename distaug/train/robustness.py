"""The test pictures turned, moved, lit, blurred and made noisy, ever more strongly, by the engine's own operations."""

from dataclasses import replace

import torch

from distaug.augment.colour import brightness, contrast
from distaug.augment.geometry import affine, rotate
from distaug.augment.noise import gaussian_blur, gaussian_noise, salt_and_pepper
from distaug.data.loader import Batch
from distaug.draws import pixel_bits

__all__ = ["STRENGTHS", "changed"]

STRENGTHS: dict[str, tuple[float, ...]] = {
    "rotation_degrees": (6, 12, 18, 24, 30),
    "shift_share": (0.03, 0.06, 0.09, 0.12, 0.15),
    "brightness_change": (0.15, 0.3, 0.45, 0.6, 0.75),
    "contrast_change": (0.15, 0.3, 0.45, 0.6, 0.75),
    "blur_sigma_pixels": (0.4, 0.8, 1.2, 1.6, 2.0),
    "noise_std": (0.04, 0.08, 0.12, 0.16, 0.2),
    "salt_pepper_share": (0.02, 0.04, 0.06, 0.08, 0.1),
}
"""The strengths of each change, rising.

A shift is a share of the side, along both axes; brightness and contrast are factors that differ from 1 by the strength;
the noise's deviation is for pixels in 0 to 1; salt and pepper take a share of the pixels.
"""


def changed(batch: Batch, change: str, strength: float) -> Batch:
    """Change the pictures of a batch; where there are two directions, every other picture takes the same.

    Args:
        batch: Pictures as evaluation shows them, with their indices as ids.
        change: A key of `STRENGTHS`.
        strength: How strongly.

    Returns:
        The batch with other pictures, which depend on nothing but its own pictures and ids.
    """
    images, ids = batch.images, batch.ids.to(batch.images.device, non_blocking=True)
    height, width = images.shape[2:]
    alike = torch.full((len(ids),), strength, device=ids.device)
    first, second = (alike * (1 - 2 * (ids >> bit & 1)) for bit in (0, 1))  # the four pairs of signs in turn
    match change:
        case "rotation_degrees":
            images = rotate(images, first, interpolation="bilinear")
        case "shift_share":
            x, y = first * width, second * height
            images = affine(images, translate_x=x, translate_y=y, interpolation="bilinear")
        case "brightness_change":
            images = brightness(images, 1 + first)
        case "contrast_change":
            images = contrast(images, 1 + first)
        case "blur_sigma_pixels":
            images = gaussian_blur(images, 5, alike)
        case "noise_std":
            count = -(-images[0].numel() // 4)  # four draws of sixteen bits in each
            images = gaussian_noise(images, pixel_bits(0, 0, ids, "robustness.noise", count=count), alike)
        case "salt_pepper_share":
            count = -(-height * width // 4)
            images = salt_and_pepper(images, pixel_bits(0, 0, ids, "robustness.salt_pepper", count=count), alike)
        case _:
            raise ValueError(f"found {change}; allowed: {', '.join(STRENGTHS)}")
    return replace(batch, images=images)

"""Operations that change colours: pure functions of pictures and per-sample parameters.

Each is the function of the same purpose in torchvision.transforms.v2.functional on a uint8 tensor, with a parameter of
its own for every sample and the same result to the bit; the order of operations below is what keeps it so.
"""

import torch
from torch import Tensor

from distaug.augment.parts import by_parts

__all__ = [
    "autocontrast",
    "brightness",
    "contrast",
    "equalize",
    "grayscale",
    "hue",
    "invert",
    "posterize",
    "saturation",
    "sharpness",
    "solarize",
]


def _each(values: Tensor) -> Tensor:
    """Return (B,) parameters as float32 that broadcasts over pictures."""
    return values.to(torch.float32)[:, None, None, None]


def _levels(values: Tensor) -> Tensor:
    """Cut floats of 0 to below 256 down to uint8; on a CPU the way over int32 is three times as fast."""
    return values.to(torch.int32).to(torch.uint8)


def _mask(condition: Tensor) -> Tensor:
    """Return uint8 with all bits set where the condition holds: `&` and `|` then choose far faster than `where`."""
    return condition.view(torch.uint8).neg()


def _luma(images: Tensor) -> Tensor:
    """Return the (B, 1, H, W) float32 grey levels of pictures, cut to whole numbers."""
    if images.shape[1] == 1:
        return images.to(torch.float32)
    red, green, blue = images.unbind(1)
    return red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114).floor_()[:, None]


def _blend(floats: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    """Return factor · floats + (1 − factor) · other as uint8; the first argument is overwritten."""
    # addcmul rounds its product and sum once, as torchvision's addition with `alpha` does.
    return _levels(floats.mul_(_each(factor)).addcmul_(other, _each(1 - factor)).clamp_(0, 255))


@by_parts
def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Multiply every level.

    Args:
        images: (B, C, H, W) uint8.
        factor: (B,) float from 0; 0 is black, 1 the picture itself.

    Returns:
        (B, C, H, W) uint8.
    """
    return _levels(images.to(torch.float32).mul_(_each(factor)).clamp_(max=255))


@by_parts
def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Spread the levels around the picture's mean grey.

    Args:
        images: (B, C, H, W) uint8, C = 1 or 3.
        factor: (B,) float from 0; 0 is a plain grey, 1 the picture itself.

    Returns:
        (B, C, H, W) uint8.
    """
    luma = _luma(images)
    # The mean is written out over the picture, since torch vectorises over one broadcast operand but not over two.
    mean = luma.copy_(luma.mean(dim=(1, 2, 3), keepdim=True))
    return _blend(images.to(torch.float32), mean, factor)


@by_parts
def saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Move every pixel away from its own grey; pictures of one channel stay as they are.

    Args:
        images: (B, C, H, W) uint8, C = 1 or 3.
        factor: (B,) float from 0; 0 is grey, 1 the picture itself.

    Returns:
        (B, C, H, W) uint8.
    """
    if images.shape[1] == 1:
        return images
    return _blend(images.to(torch.float32), _luma(images), factor)


@by_parts
def hue(images: Tensor, shift: Tensor) -> Tensor:
    """Turn the circle of hues; pictures of one channel stay as they are.

    Args:
        images: (B, C, H, W) uint8, C = 1 or 3.
        shift: (B,) float in [-0.5, 0.5], in turns of the circle.

    Returns:
        (B, C, H, W) uint8.
    """
    if images.shape[1] == 1:
        return images
    red, green, blue = images.unbind(1)
    top = torch.maximum(torch.maximum(red, green), blue)
    is_red = _mask(red == top)
    is_green = _mask(green == top) & ~is_red
    is_blue = ~(is_red | is_green)
    # To HSV. The hue is the third of the circle that the highest channel opens, plus the lead of one of the others.
    ahead = (blue & is_red) | (red & is_green) | (green & is_blue)
    behind = (green & is_red) | (blue & is_green) | (red & is_blue)
    third = (is_green & 2) | (is_blue & 4)
    value, ahead, behind = (plane.to(torch.float32).mul_(1 / 255) for plane in (top, ahead, behind))
    chroma = value - torch.minimum(ahead, behind)
    # The bounds lie below one level: they only keep 0 / 0 from greys and from black.
    divisor = chroma.clamp(min=1e-3)
    turn = (value - ahead).div_(divisor).add_(third).sub_((value - behind).div_(divisor))
    turn = turn.mul_(1 / 6).add_(1).frac_().add_(_each(shift)[..., 0])
    strength = chroma.div_(value.clamp(min=1e-3))
    # Back to RGB: in each sixth of the circle one channel is at the top, one at the bottom, one rising or falling.
    six = turn.sub_(turn.floor()).mul_(6)
    sixth = six.floor()
    change = six.sub_(sixth).mul_(strength)
    rest = 1 - strength
    falling = _levels((1 - change).mul_(value).mul_(255.999))
    rising = _levels(change.add_(rest).mul_(value).mul_(255.999))
    bottom = _levels(rest.mul_(value).mul_(255.999))
    sector = _levels(sixth)
    odd = (sector & 1).neg()
    between = (falling & odd) | (rising & ~odd)
    one, two, three, four, five = (_mask(sector == k) for k in range(1, 6))
    # Rounding may end at a whole turn, sector 6, which is sector 0.
    zero = ~(one | two | three | four | five)
    at_top = (zero | five, one | two, three | four)
    in_between = (one | four, zero | three, two | five)
    channels = [(top & t) | (between & b) | (bottom & ~(t | b)) for t, b in zip(at_top, in_between, strict=True)]
    return torch.stack(channels, dim=1)


@by_parts
def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Move every pixel away from the mean of its neighbourhood; the outermost pixels stay as they are.

    Args:
        images: (B, C, H, W) uint8.
        factor: (B,) float from 0; 0 is smoothed, 1 the picture itself, 2 sharpened.

    Returns:
        (B, C, H, W) uint8.
    """
    if min(images.shape[2:]) <= 2:
        return images
    levels = images.to(torch.int16)
    rows = levels[:, :, :-2] + levels[:, :, 1:-1] + levels[:, :, 2:]
    centre = levels[:, :, 1:-1, 1:-1]
    # The centre counts five times. The sum is a whole number, and a thirteenth of it is never half-way between two
    # levels, so that any order of summation rounds to the same level.
    total = (rows[..., :-2] + rows[..., 1:-1]).add_(rows[..., 2:]).add_(centre, alpha=4)
    smooth = total.to(torch.float32).mul_(1 / 13).round_()
    inner = centre.to(torch.float32)
    result = images.clone()
    result[:, :, 1:-1, 1:-1] = _levels(inner.addcmul_(smooth.sub_(inner), _each(1 - factor)).clamp_(0, 255))
    return result


def grayscale(images: Tensor) -> Tensor:
    """Give all channels the grey level of their pixel.

    Args:
        images: (B, C, H, W) uint8, C = 1 or 3.

    Returns:
        (B, C, H, W) uint8, C equal channels.
    """
    return _levels(_luma(images)).expand_as(images).contiguous()


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep the highest bits of every level.

    Args:
        images: (B, C, H, W) uint8.
        bits: (B,) int64 from 0 (black) to 8 (the picture itself).

    Returns:
        (B, C, H, W) uint8.
    """
    # The conversion to uint8 leaves the lowest eight bits.
    return images & (0xFF00 >> bits).to(torch.uint8)[:, None, None, None]


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Invert the levels that reach a threshold.

    Args:
        images: (B, C, H, W) uint8.
        threshold: (B,) float in [0, 255], compared as float32.

    Returns:
        (B, C, H, W) uint8.
    """
    level = _levels(_each(threshold).ceil())
    # x ≥ t as max(x, t) = x: torch does not vectorise a comparison that broadcasts.
    return images ^ _mask(torch.maximum(images, level) == images)


@by_parts
def equalize(images: Tensor) -> Tensor:
    """Spread the levels of each channel so that their histogram becomes even, by Pillow's integer rule.

    Args:
        images: (B, C, H, W) uint8.

    Returns:
        (B, C, H, W) uint8; a channel in which too few pixels lie below its highest level stays as it is.
    """
    pixels = images.flatten(2).to(torch.int64)
    # below[v] is the number of pixels below level v, the cumulated histogram moved by one.
    below = torch.zeros(*images.shape[:2], 257, dtype=torch.int32, device=images.device)
    below[..., 1:].scatter_add_(2, pixels, torch.ones_like(pixels, dtype=torch.int32))
    below = below.cumsum(2, dtype=torch.int32)[..., :256]
    step = below.gather(2, pixels.amax(2, keepdim=True)) // 255
    table = ((below + step // 2) // step.clamp(min=1)).clamp_(max=255).to(torch.uint8)
    unchanged = torch.arange(256, dtype=torch.uint8, device=images.device)
    table = torch.where(step == 0, unchanged, table)
    return table.gather(2, pixels).view(images.shape)


@by_parts
def autocontrast(images: Tensor) -> Tensor:
    """Stretch the levels of each channel to the full range; a channel of one level stays as it is.

    Args:
        images: (B, C, H, W) uint8.

    Returns:
        (B, C, H, W) uint8.
    """
    low, high = (bound(dim=(2, 3), keepdim=True).to(torch.float32) for bound in (images.amin, images.amax))
    plain = low == high
    scale = (high - low).mul_(1 / 255).masked_fill_(plain, 1)
    return _levels(images.to(torch.float32).sub_(low.masked_fill_(plain, 0)).div_(scale))


def invert(images: Tensor) -> Tensor:
    """Turn every level x into 255 − x; images: (B, C, H, W) uint8, as is the result."""
    return ~images

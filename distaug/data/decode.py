"""Turn an encoded picture into RGB pixels, and cut the square that the model sees out of it.

Loader processes import this module and little else, so it needs numpy and Pillow only.
"""

import math
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

__all__ = [
    "CROP_DRAWS",
    "DamagedPicture",
    "Pixels",
    "Reference",
    "Slice",
    "decode",
    "eval_view",
    "load",
    "train_view",
]

Pixels = npt.NDArray[np.uint8]
"""(H, W, 3) uint8 RGB."""

CROP_DRAWS = 4
"""Uniforms that one random resized crop takes: area, ratio, and place across and down."""
EVAL_SHARE = 0.875
"""Part of the shorter side that the centre crop keeps: 224 of 256."""
_AREA = (0.08, 1.0)
_LOG_RATIO = (math.log(3 / 4), math.log(4 / 3))
_ORIENTATION_TAG = 0x0112
# EXIF 2.3, tag 0x0112: what brings a picture stored in this orientation upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BACKGROUND = (255, 255, 255, 255)


class DamagedPicture(ValueError):
    """A picture that cannot be used; the message says why in a few words."""


class Readable(Protocol):
    """Something that names encoded bytes and can be sent to another process."""

    def read(self) -> bytes:
        """Return the encoded picture."""


class Slice(NamedTuple):
    """A stretch of bytes in a file."""

    path: str
    offset: int
    length: int

    def read(self) -> bytes:
        """Return the encoded picture."""
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            return file.read(self.length)


Reference = Path | bytes | Readable | npt.NDArray[np.uint8]
"""A picture not decoded yet: a file, its bytes, where to find those, or plain (H, W) or (H, W, 3) pixels."""


def load(reference: Reference, max_pixels: int) -> Pixels:
    """Return the pixels a reference stands for; raises as `decode` does."""
    if isinstance(reference, np.ndarray):
        return reference if reference.ndim == 3 else np.repeat(reference[:, :, None], 3, axis=2)
    if isinstance(reference, bytes | Path):
        return decode(reference, max_pixels)
    try:
        encoded = reference.read()
    except OSError as error:
        raise DamagedPicture(f"cannot be read: {error}") from error
    return decode(encoded, max_pixels)


def decode(source: bytes | Path, max_pixels: int) -> Pixels:
    """Decode a picture as RGB, upright by its EXIF orientation.

    Grey of 16 bits is scaled to 8; transparent parts show a white ground.

    Args:
        source: Encoded picture, or the file that holds it; of an animation the first frame is taken.
        max_pixels: Largest width times height; the header is asked before anything is decoded.

    Raises:
        DamagedPicture: Truncated, unreadable, too large, or of a kind without a fixed range of brightness.
    """
    try:
        with Image.open(BytesIO(source) if isinstance(source, bytes) else source) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise DamagedPicture(
                    f"{width}x{height} is {width * height} pixels, more than data.max_pixels = {max_pixels}"
                )
            image.load()
            return np.ascontiguousarray(_rgb(_upright(image)))
    except DamagedPicture:
        raise
    except UnidentifiedImageError as error:
        raise DamagedPicture("not a picture of a known format") from error
    # A parser of foreign bytes raises whatever it stumbles over (struct.error, SyntaxError, KeyError, ...).
    except Exception as error:
        raise DamagedPicture(f"{type(error).__name__}: {error}") from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG)
    except Exception:
        return image  # damaged metadata around sound pixels
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _rgb(image: Image.Image) -> Pixels:
    if image.mode.startswith("I") or image.mode == "F":
        return _grey_of_many_bits(image)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, _BACKGROUND), layer)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _grey_of_many_bits(image: Image.Image) -> Pixels:
    """Scale 0..65535 to 0..255, rounded; Pillow's own conversion would cut everything above 255 off."""
    values = np.asarray(image)
    if values.dtype.kind == "f" or values.min() < 0 or values.max() > 0xFFFF:
        raise DamagedPicture(f"mode {image.mode} has no fixed range of brightness; convert it to 8 or 16 bits")
    grey = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def eval_view(pixels: Pixels, size: int, share: float = EVAL_SHARE) -> Pixels:
    """Scale the shorter side to size / share and cut the centre out: what validation and test sets show.

    Args:
        pixels: (H, W, 3) uint8.
        size: Side of the result.
        share: Part of the shorter side that is kept; 1 keeps all of it.

    Returns:
        (size, size, 3) uint8; `pixels` themselves when there is nothing to do.
    """
    height, width = pixels.shape[:2]
    side = max(1, round(min(height, width) * size / round(size / share)))
    return _resized(pixels, (height - side) // 2, (width - side) // 2, side, side, size)


def train_view(pixels: Pixels, size: int, uniforms: Sequence[float]) -> Pixels:
    """Random resized crop: a box of random area (8-100 %), ratio (3/4 to 4/3) and place, scaled to a square.

    A box that would stick out is made narrower or lower, so every draw gives a crop.

    Args:
        pixels: (H, W, 3) uint8.
        size: Side of the result.
        uniforms: `CROP_DRAWS` numbers in [0, 1): area, ratio, place across, place down.

    Returns:
        (size, size, 3) uint8.
    """
    height, width = pixels.shape[:2]
    area = height * width * (_AREA[0] + (_AREA[1] - _AREA[0]) * uniforms[0])
    ratio = math.exp(_LOG_RATIO[0] + (_LOG_RATIO[1] - _LOG_RATIO[0]) * uniforms[1])
    box_width = min(width, max(1, round(math.sqrt(area * ratio))))
    box_height = min(height, max(1, round(math.sqrt(area / ratio))))
    left = int((width - box_width + 1) * uniforms[2])
    top = int((height - box_height + 1) * uniforms[3])
    return _resized(pixels, top, left, box_height, box_width, size)


def _resized(pixels: Pixels, top: int, left: int, height: int, width: int, size: int) -> Pixels:
    """Cut a box out and scale it to a square: bilinear, antialiased, in Pillow's fixed-point arithmetic."""
    box = pixels[top : top + height, left : left + width]
    if height == width == size:
        return box
    image = Image.fromarray(np.ascontiguousarray(box))
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))

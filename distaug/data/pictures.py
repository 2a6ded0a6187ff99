"""Pictures as a user gives them: shown as the evaluation shows them, and named with what a model makes of them."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from distaug.data import decode
from distaug.errors import DataError

__all__ = ["Picture", "classify", "look"]

Picture = str | Path | bytes | Image.Image | decode.Pixels
"""A file, an encoded picture, an opened one, or (H, W) or (H, W, 3) uint8 pixels."""

_BATCH = 64
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")


def classify(
    images: Picture | Sequence[Picture],
    top: int,
    classes: Sequence[str],
    view: Callable[[Picture, str], decode.Pixels],
    probabilities: Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.floating]],
) -> list[dict[str, Any]]:
    """Classify pictures of any size, some at a time.

    Args:
        images: Pictures; a single one stands for a list of one.
        top: Number of classes to name for each.
        classes: Names of all K classes.
        view: Makes what the model sees, (S, S, 3) uint8, of a picture and its name.
        probabilities: Turns (B, 3, S, S) uint8 into (B, K).

    Returns:
        For each picture `{"image": name, "predictions": [{"class": …, "probability": …}, …]}`, the
        likeliest first; a picture that is not a file is named by its place in the list.

    Raises:
        DataError: A picture cannot be read; the message names it.
    """
    if top < 1:
        raise ValueError(f"top must be at least 1, found {top}")
    single = isinstance(images, str | Path | bytes | Image.Image)
    single = single or (isinstance(images, np.ndarray) and images.ndim < 4)
    pictures: Sequence[Any] = [images] if single else images  # type: ignore[assignment]
    results = []
    for start in range(0, len(pictures), _BATCH):
        batch = pictures[start : start + _BATCH]
        names = [
            str(picture) if isinstance(picture, str | Path) else f"image {number}"
            for number, picture in enumerate(batch, start)
        ]
        views = np.stack([view(picture, name) for picture, name in zip(batch, names, strict=True)])
        shares = probabilities(views.transpose(0, 3, 1, 2))
        places = np.argsort(-shares, axis=1, kind="stable")[:, :top]
        results += [
            {"image": name, "predictions": [{"class": classes[k], "probability": float(row[k])} for k in ks]}
            for name, row, ks in zip(names, shares, places, strict=True)
        ]
    return results


def look(picture: Picture, name: str, size: int, geometry: str, max_pixels: int) -> decode.Pixels:
    """Return what the evaluation would show of a picture.

    Args:
        picture: The picture.
        name: What an error calls it.
        size: Side S of the result.
        geometry: `resize` keeps all of the shorter side, `resize_crop` the part that the data's crop keeps.
        max_pixels: Largest width times height.

    Returns:
        (S, S, 3) uint8.

    Raises:
        DataError: It cannot be read.
    """
    try:
        pixels = decode.load(_reference(picture), max_pixels)
    except decode.DamagedPicture as error:
        raise DataError(f"{name} cannot be classified: {error}") from error
    return decode.eval_view(pixels, size, 1.0 if geometry == "resize" else decode.EVAL_SHARE)


def _reference(picture: Picture) -> Path | bytes | decode.Pixels:
    """Return a picture as `decode.load` takes it, so that it goes the way of the data set's pictures."""
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim not in (2, 3) or picture.shape[2:] not in ((), (3,)):
            raise decode.DamagedPicture(
                f"its pixels are {picture.dtype} {picture.shape}; allowed are uint8 (H, W) and (H, W, 3)"
            )
        return picture
    if isinstance(picture, Image.Image):
        return _encoded(picture)
    return picture if isinstance(picture, bytes) else Path(picture)


def _encoded(picture: Image.Image) -> bytes:
    """Write an opened picture to memory without loss, as a file of its kind would have been."""
    file = io.BytesIO()
    try:
        upright = ImageOps.exif_transpose(picture)
        many_bits = upright.mode[0] in "IF"  # a PNG would cut them off
        if not many_bits and upright.mode not in _PNG_MODES:
            upright = upright.convert("RGB")
        upright.save(file, "TIFF" if many_bits else "PNG")
    except (OSError, SyntaxError, ValueError) as error:
        raise decode.DamagedPicture(f"{type(error).__name__}: {error}") from error
    return file.getvalue()

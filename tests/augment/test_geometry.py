"""Crop and flip against the plain way of doing them."""

import pytest
import torch
from torch.nn import functional as F

from distaug.augment.geometry import crop, hflip


@pytest.mark.parametrize("mode", ["zero", "reflect"])
@pytest.mark.parametrize("shape", [(9, 3, 32, 32), (4, 1, 7, 5), (1, 3, 8, 8)])
def test_crop_is_a_window_of_the_padded_picture(shape: tuple[int, ...], mode: str) -> None:
    b, _, h, w = shape
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    top, left = torch.randint(0, 7, (b,)), torch.randint(0, 7, (b,))
    found = crop(images, top, left, 3, mode)
    padded = F.pad(images.float(), (3,) * 4, mode="reflect" if mode == "reflect" else "constant").byte()
    for i in range(b):
        assert torch.equal(found[i], padded[i, :, top[i] : top[i] + h, left[i] : left[i] + w])


def test_flip_mirrors_only_the_chosen() -> None:
    images = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    found = hflip(images, torch.tensor([True, False]))
    assert torch.equal(found[0], images[0].flip(2)) and torch.equal(found[1], images[1])

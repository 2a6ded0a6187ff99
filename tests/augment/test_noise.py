"""Blur against torchvision; noise by its distribution and as a function of its bits."""

import pytest
import torch
from scipy import stats
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from distaug import draws
from distaug.augment.noise import gaussian_blur, gaussian_noise, salt_and_pepper


def pictures(count: int, *shape: int) -> Tensor:
    """Random ones, and among them smooth ones."""
    noise = torch.randint(0, 256, (count, *shape), generator=torch.Generator().manual_seed(0))
    graded = torch.arange(shape[1] * shape[2]).view(shape[1:]) * 255 // (shape[1] * shape[2])
    noise[::3] = graded
    noise[1::6] = noise[1::6, :, :1, :1]
    return noise.to(torch.uint8)


def bits(ids: Tensor, pixels: int) -> Tensor:
    return draws.pixel_bits(0, 0, ids, "noise.0", count=-(-pixels // 4))


@pytest.mark.parametrize("kernel_size", [1, 3, 5, 7])
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 31, 33), (3, 7, 5)])
def test_blur_is_torchvisions_to_within_a_level(shape: tuple[int, int, int], kernel_size: int) -> None:
    if min(shape[1:]) <= kernel_size // 2:
        pytest.skip("torch mirrors no further than the picture")
    images = pictures(24, *shape)
    sigma = torch.linspace(0.1, 2, 24)
    found = gaussian_blur(images, kernel_size, sigma)
    want = torch.stack([tv.gaussian_blur(p, kernel_size, s) for p, s in zip(images, sigma.tolist(), strict=True)])
    difference = (found.int() - want.int()).abs()
    assert found.dtype == torch.uint8 and difference.max() <= 1
    # Only sums that lie half-way between two levels may round to the other side.
    assert (difference > 0).float().mean() < 1e-4


def test_blur_does_not_depend_on_the_batch() -> None:
    images, sigma = pictures(7, 3, 31, 33), torch.linspace(0.1, 2, 7)
    alone = [gaussian_blur(images[i : i + 1], 5, sigma[i : i + 1]) for i in range(7)]
    assert torch.equal(gaussian_blur(images, 5, sigma), torch.cat(alone))


def test_gaussian_noise_has_each_samples_own_deviation() -> None:
    images = torch.full((3, 3, 63, 65), 128, dtype=torch.uint8)
    std = torch.tensor([0.0, 0.02, 0.1])
    change = gaussian_noise(images, bits(torch.arange(3), 3 * 63 * 65), std).double() - 128
    assert change[0].abs().max() == 0
    for sample, deviation in ((1, 0.02), (2, 0.1)):
        # Rounding to whole levels adds a variance of 1/12.
        wanted = ((255 * deviation) ** 2 + 1 / 12) ** 0.5
        assert abs(change[sample].mean()) < 4 * wanted / change[sample].numel() ** 0.5
        assert abs(change[sample].std() / wanted - 1) < 0.02
    channels = change[2].flatten(1)
    assert (torch.corrcoef(channels) - torch.eye(3)).abs().max() < 0.06
    assert stats.kstest(channels.flatten()[::7].numpy() / 25.5, "norm").pvalue > 1e-3


def test_gaussian_noise_is_clamped() -> None:
    images = torch.tensor([0, 255], dtype=torch.uint8).repeat(2, 1, 32, 16)
    found = gaussian_noise(images, bits(torch.arange(2), 32 * 32), torch.full((2,), 0.05)).int()
    assert (found[..., ::2] < 100).all() and (found[..., 1::2] > 155).all()
    assert abs((found[..., ::2] == 0).float().mean() - 0.5) < 0.05


def test_salt_and_pepper_sets_whole_pixels_with_each_samples_own_probability() -> None:
    images = torch.full((4, 3, 101, 99), 128, dtype=torch.uint8)
    amount = torch.tensor([0.0, 0.1, 0.5, 1.0])
    found = salt_and_pepper(images, bits(torch.arange(4), 101 * 99), amount)
    assert torch.equal(found[:, :1].expand_as(found), found)
    for sample, chance in enumerate(amount.tolist()):
        for level in (0, 255):
            count = int((found[sample, 0] == level).sum())
            assert count == 0 if chance == 0 else stats.binomtest(count, 101 * 99, chance / 2).pvalue > 1e-3
    assert set(found.unique().tolist()) == {0, 128, 255} and not (found[3] == 128).any()


@pytest.mark.parametrize("operation", [gaussian_noise, salt_and_pepper])
def test_noise_is_a_function_of_the_sample(operation: object) -> None:
    """The same in any batch and order, another one for every sample, and the pictures given stay untouched."""
    images, ids = torch.full((6, 3, 7, 5), 99, dtype=torch.uint8), torch.arange(6)
    strength = torch.full((6,), 0.3)

    def run(order: Tensor) -> Tensor:
        return operation(images[order], bits(ids[order], 3 * 7 * 5), strength[order])  # type: ignore[operator]

    whole = run(ids)
    order = torch.tensor([4, 0, 3])
    assert torch.equal(run(order), whole[order])
    assert len({tuple(picture.flatten().tolist()) for picture in whole}) == 6
    assert (images == 99).all()

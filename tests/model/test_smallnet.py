"""The small network for CPUs."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import nn

from distaug.errors import JobError
from distaug.model.registry import build
from distaug.model.smallnet import SmallNet
from distaug.spec.model import ModelSpec


@pytest.mark.parametrize("size", [16, 28, 32, 33, 48, 96])
def test_any_picture_size(size: int) -> None:
    assert SmallNet(10)(torch.rand(2, 3, size, size)).shape == (2, 10)


def test_size() -> None:
    assert sum(p.numel() for p in SmallNet(10).parameters()) == 1_161_248


def test_widths() -> None:
    spec = ModelSpec(name="smallnet", options={"widths": [8, 16]})
    module = build(spec, num_classes=5, image_size=16, seed=0).module
    assert len(module.groups) == 2
    assert module.head.weight.shape == (5, 16)


@pytest.mark.parametrize("widths", [[], [8, 0], [8, 1.5], [True], "8", 8])
def test_bad_widths(widths: object) -> None:
    spec = ModelSpec(name="smallnet", options={"widths": widths})
    with pytest.raises(JobError, match=r"model\.options\.widths: .* is not a list of channels"):
        build(spec, num_classes=5, image_size=32, seed=0)


def test_unknown_option_names_the_nearest() -> None:
    spec = ModelSpec(name="smallnet", options={"width": [8]})
    with pytest.raises(JobError, match="`smallnet` has no argument `width`; nearest: widths"):
        build(spec, num_classes=5, image_size=32, seed=0)


def test_the_stem_whitens_photos() -> None:
    """On two photos that it has never seen, the 12 views are far less correlated than the 12 values of a patch."""
    stem = SmallNet(10).stem[0]
    conditions = []
    for photo in load_sample_images().images:
        small = Image.fromarray(photo).resize((80, 53), Image.Resampling.BOX)
        pixels = torch.from_numpy(np.array(small)).permute(2, 0, 1).double()
        pixels = (pixels - pixels.mean((1, 2), keepdim=True)) / pixels.std((1, 2), keepdim=True)
        patches = nn.functional.unfold(pixels[None], 2)[0]
        views = (stem.double()(pixels[None])[0, :12]).flatten(1).detach()
        conditions.append([torch.linalg.cond(x @ x.T).item() for x in (patches, views)])
    for patches_condition, views_condition in conditions:
        assert views_condition < patches_condition / 20


def test_convolutions_start_by_passing_their_inputs_on() -> None:
    conv = SmallNet(10).groups[0][0]
    assert isinstance(conv, nn.Conv2d)
    pictures = torch.rand(1, conv.in_channels, 9, 9)
    assert torch.allclose(conv(pictures)[:, : conv.in_channels], pictures)


def test_it_learns() -> None:
    torch.manual_seed(0)
    images, labels = torch.rand(32, 3, 16, 16), torch.arange(32) % 4
    images += labels.view(-1, 1, 1, 1) * 0.5
    module = SmallNet(4, widths=(16, 32))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.2, momentum=0.9)
    losses = []
    for _ in range(30):
        loss = nn.functional.cross_entropy(module(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(torch.tensor(4.0).log().item(), abs=0.2)
    assert losses[-1] < 0.1

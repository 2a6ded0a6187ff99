"""Test-time augmentation: the views, and the mean of the probabilities."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distaug.augment.tta import Averaged, views

IMAGES = torch.randint(0, 256, (4, 3, 5, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def padded(images: Tensor) -> Tensor:
    return nn.functional.pad(images.double(), (1, 1, 1, 1), mode="reflect").to(images.dtype)


@pytest.mark.parametrize(("kinds", "number"), [(["flip"], 2), (["shift"], 5), (["flip", "shift"], 10)])
def test_views_are_all_combinations_and_begin_with_the_picture_itself(kinds: list[str], number: int) -> None:
    found = [view.flatten().tolist() for view in views(IMAGES, kinds)]
    assert found[0] == IMAGES.flatten().tolist()
    windows = [(1, 1), (0, 1), (2, 1), (1, 0), (1, 2)] if "shift" in kinds else [(1, 1)]
    sides = [IMAGES, IMAGES.flip(3)] if "flip" in kinds else [IMAGES]
    want = [padded(s)[:, :, y : y + 5, x : x + 6].flatten().tolist() for s in sides for y, x in windows]
    assert len(found) == number and sorted(found) == sorted(want)


class Linear(nn.Module):
    """Logits that depend on every pixel."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        weights = torch.randn(5, 90, generator=torch.Generator().manual_seed(1))
        self.weights, self.dtype = nn.Parameter(weights), dtype

    def forward(self, images: Tensor) -> Tensor:
        return (images.flatten(1) @ self.weights.T).to(self.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_answer_is_the_mean_of_the_probabilities(dtype: torch.dtype) -> None:
    images, model = IMAGES / 255, Linear(dtype)
    with torch.no_grad():
        found = Averaged(model, ["flip", "shift"])(images)
        want = torch.stack([model(view).float().softmax(1) for view in views(images, ["flip", "shift"])]).mean(0)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.exp(), want)
    assert not torch.allclose(found.exp(), model(images).float().softmax(1), atol=0.01)


def test_certain_answers_stay_finite() -> None:
    class Certain(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.tensor([[1e4, -1e4]]).expand(len(images), 2)

    assert Averaged(Certain(), ["flip"])(IMAGES).isfinite().all()


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_the_model_is_not_changed(training: bool) -> None:
    model: Any = nn.Sequential(nn.Dropout()).train(training)
    averaged = Averaged(model, ["flip"])
    assert averaged.training == model.training == model[0].training == training

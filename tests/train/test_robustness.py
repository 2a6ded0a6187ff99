"""The changed test pictures: ever further from the old ones, and a function of picture and index alone."""

from dataclasses import replace

import pytest
import torch

from distaug.data.loader import Batch
from distaug.train.robustness import STRENGTHS, changed

SMOOTH = torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
IMAGES = (torch.nn.functional.interpolate(SMOOTH, size=32, mode="bilinear") * 255).to(torch.uint8)
BATCH = Batch(IMAGES, torch.zeros(8, dtype=torch.int64), torch.arange(8), 0)


@pytest.mark.parametrize("change", STRENGTHS)
def test_a_stronger_change_takes_every_picture_further_away(change: str) -> None:
    assert len(STRENGTHS[change]) == 5
    distances = [torch.zeros(8)]
    for strength in STRENGTHS[change]:
        found = changed(BATCH, change, strength).images
        assert found.shape == IMAGES.shape and found.dtype == torch.uint8
        distances.append((found.float() - IMAGES.float()).abs().mean((1, 2, 3)))
    assert all((after > before).all() for before, after in zip(distances, distances[1:], strict=False))


@pytest.mark.parametrize("change", STRENGTHS)
def test_a_picture_is_changed_alike_in_any_batch(change: str) -> None:
    strength, some = STRENGTHS[change][2], torch.tensor([6, 1, 3])
    whole = changed(BATCH, change, strength)
    part = changed(Batch(IMAGES[some], BATCH.labels[some], some, 0), change, strength)
    assert torch.equal(part.images, whole.images[some]) and torch.equal(part.ids, some)
    assert torch.equal(whole.images, changed(BATCH, change, strength).images)


@pytest.mark.parametrize("change", ["rotation_degrees", "shift_share", "brightness_change", "contrast_change"])
def test_both_directions_are_taken_in_turn(change: str) -> None:
    same = replace(BATCH, images=IMAGES[:1].expand(8, -1, -1, -1).contiguous())
    found = changed(same, change, STRENGTHS[change][2]).images
    assert torch.equal(found[:4], found[4:]) and not torch.equal(found[0], found[1])


def test_an_unknown_change_is_refused() -> None:
    with pytest.raises(ValueError, match="found fog; allowed: rotation_degrees, "):
        changed(BATCH, "fog", 0.5)

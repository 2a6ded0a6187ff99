"""Class weights: the formulas, and that they keep the scale of the loss."""

from typing import Literal

import pytest
import torch

from distaug.train.loss import class_weights

COUNTS = torch.tensor([500, 100, 20, 1])


@pytest.mark.parametrize("kind", ["inverse_frequency", "effective_number"])
def test_the_mean_weight_of_the_training_pictures_is_one(
    kind: Literal["inverse_frequency", "effective_number"],
) -> None:
    weights = class_weights(COUNTS, kind)
    assert weights is not None and weights.dtype == torch.float32
    assert (COUNTS * weights).sum() / COUNTS.sum() == pytest.approx(1, rel=1e-6)
    assert weights.tolist() == sorted(weights.tolist()) and weights[3] > 2 * weights[0]
    torch.testing.assert_close(class_weights(torch.full((3,), 7), kind), torch.ones(3))


def test_weights_are_the_inverse_of_the_frequency() -> None:
    weights = class_weights(COUNTS, "inverse_frequency")
    torch.testing.assert_close(weights, 621 / (4 * COUNTS.float()))


def test_weights_are_the_inverse_of_the_effective_number() -> None:
    beta = 620 / 621
    effective = [(1 - beta**n) / (1 - beta) for n in COUNTS.tolist()]
    weights = class_weights(COUNTS, "effective_number")
    assert weights is not None
    ratios = [float(weights[0]) / float(w) for w in weights]
    assert ratios == pytest.approx([e / effective[0] for e in effective], rel=1e-6)


def test_none_is_no_weight_at_all() -> None:
    assert class_weights(COUNTS, "none") is None

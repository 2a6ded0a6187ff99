"""Bins of confidence, and the gap between confidence and accuracy."""

import pytest

from distaug.train.calibration import BINS, Bin, calibration_error, reliability


def test_each_answer_is_in_the_bin_of_its_probability() -> None:
    bins = reliability([(0.05, False), (1 / 15, True), (0.5, True), (0.52, False), (1.0, True)])
    assert [one.count for one in bins] == [2, *[0] * 6, 2, *[0] * 6, 1] and len(bins) == BINS
    assert bins[0] == Bin(2, pytest.approx((0.05 + 1 / 15) / 2), 0.5)
    assert bins[7] == Bin(2, pytest.approx(0.51), 0.5)


def test_the_error_is_the_gap_weighted_by_pictures() -> None:
    # 3 pictures 90 % sure and 2 of them right; 1 picture 40 % sure and right.
    bins = reliability([(0.9, True), (0.9, True), (0.9, False), (0.4, True)])
    assert calibration_error(bins) == pytest.approx((3 * (0.9 - 2 / 3) + (1 - 0.4)) / 4)


def test_a_model_that_is_as_sure_as_right_has_no_error() -> None:
    assert calibration_error(reliability([(0.75, True)] * 3 + [(0.75, False)])) == pytest.approx(0)

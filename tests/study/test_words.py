"""Figures are written in their unit, and a difference says what it means."""

import pytest

from distaug.study.statistics import Difference, Spread
from distaug.study.table import METRICS
from distaug.study.words import change, figure


@pytest.mark.parametrize(
    ("metric", "found", "text"),
    [
        ("top1", Spread(3, 0.912345, 0.0031), "91.23 ± 0.31 %"),
        ("top1", Spread(1, 1.0, None), "100.00 %"),
        ("top1", None, "-"),
        ("loss", Spread(2, 0.4567, 0.01), "0.4567 ± 0.0100"),
        ("epochs", Spread(3, 9.5, 0.5), "9.5 ± 0.5"),
        ("epochs", Spread(3, 50.0, 0.0), "50.0 ± 0.0"),
        ("loss", Spread(3, 50.0, 0.5), "50.00 ± 0.50"),
        ("images_per_second", Spread(2, 12345.6, 789.4), "12,346 ± 789"),
        ("seconds", Spread(1, 1234.5, None), "1,234.50 s"),
        ("peak_memory_bytes", Spread(2, 1.5 * 2**30, 2.0**29), "1.50 ± 0.50 GiB"),
        ("gap", Spread(2, -0.0125, 0.0), "-1.25 ± 0.00 %"),
    ],
)
def test_a_figure_is_the_mean_with_its_deviation(metric: str, found: Spread | None, text: str) -> None:
    assert figure(METRICS[metric], found) == text


@pytest.mark.parametrize(
    ("metric", "found", "text", "meaning"),
    [
        ("top1", Difference(3, 0.012, 0.0045), "+1.20 ± 0.45", "better"),
        ("top1", Difference(3, -0.012, 0.0045), "-1.20 ± 0.45", "worse"),
        ("top1", Difference(3, -0.004, 0.0045), "-0.40 ± 0.45", "within noise"),
        ("top1", Difference(3, 0.0, 0.0), "+0.00 ± 0.00", "within noise"),
        ("top1", Difference(3, -0.00001, 0.1), "+0.00 ± 10.00", "within noise"),
        ("ece", Difference(3, 0.012, 0.0045), "+1.20 ± 0.45", "worse"),
        ("loss", Difference(3, -0.5, 0.25), "-0.5000 ± 0.2500", "better"),
        ("loss", Difference(3, -0.00004, 0.001), "+0.0000 ± 0.0010", "within noise"),
        ("epochs", Difference(3, 2.0, 0.0), "+2.0 ± 0.0", "differs"),
        ("epochs", Difference(3, -20.0, 0.5), "-20.0 ± 0.5", "differs"),
        ("images_per_second", Difference(2, 1234.4, 100.2), "+1,234 ± 100", "better"),
        ("top1", Difference(1, 0.5, None), "+50.00", "one seed"),
        ("top1", Difference(2, 0.5, None), "+50.00", ""),
        ("top1", None, "", ""),
    ],
)
def test_a_difference_says_what_it_means(metric: str, found: Difference | None, text: str, meaning: str) -> None:
    assert change(METRICS[metric], found) == (text, meaning)

"""Charts show their numbers at the right places."""

import math
import re

import pytest

from distaug.report import charts, plane
from distaug.report.charts import Point, Series
from distaug.train.calibration import reliability
from tests.report.test_page import Reader


def curves(svg: str) -> list[list[tuple[float, float]]]:
    """Return the places of each stretch of the lines."""
    found = Reader(svg).of("polyline")
    return [[tuple(map(float, pair.split(","))) for pair in (a["points"] or "").split()] for a in found]  # type: ignore[misc]


def hints(svg: str) -> list[str]:
    return re.findall(r"<title>(.*?)</title>", svg)


def test_a_line_goes_up_with_its_values_over_even_epochs() -> None:
    (line,) = curves(charts.lines("Loss", [Series("train", [1.0, 3.0, 2.0])]))
    (x1, y1), (x2, y2), (x3, y3) = line
    assert x3 - x2 == pytest.approx(x2 - x1) and x1 < x2
    assert y2 < y3 < y1 and y3 - y2 == pytest.approx(y1 - y3, abs=0.2)


def test_what_is_not_finite_is_a_gap() -> None:
    values = [1.0, 2.0, math.nan, 3.0, None, math.inf, 2.0, 2.0]
    svg = charts.lines("Loss", [Series("train", values)])
    assert [len(line) for line in curves(svg)] == [2, 1, 2]
    assert [text for text in hints(svg) if "nan" in text or "inf" in text] == []
    assert "train, epoch 4: 3" in hints(svg)


def test_one_epoch_is_a_dot() -> None:
    svg = charts.lines("Loss", [Series("train", [0.25])])
    assert [a["class"] for a in Reader(svg).of("circle")] == ["dot"]
    assert hints(svg) == ["train, epoch 1: 0.25"]


@pytest.mark.parametrize("values", [[], [None, math.nan]], ids=["no epochs", "no values"])
def test_nothing_is_drawn_of_nothing(values: list[float | None]) -> None:
    assert charts.lines("Loss", [Series("val", values)]) == ""


@pytest.mark.parametrize("value", [0.0, 1.0, 1e-9, -3.0, 1e12])
def test_a_flat_line_is_drawn(value: float) -> None:
    (line,) = curves(charts.lines("x", [Series("x", [value] * 3)]))
    assert len({y for _, y in line}) == 1 and all(0 <= y <= 230 for _, y in line)


def test_several_lines_have_keys_and_colours_of_their_own() -> None:
    svg = charts.lines("Loss", [Series("train", [1.0, 2.0]), Series("<val>", [1.0, 2.0], dashed=True)])
    assert "--colour:var(--0)" in svg and "--colour:var(--1);--gaps" in svg and "&lt;val&gt;" in svg
    assert 'class="key"' not in charts.lines("Loss", [Series("train", [1.0, 2.0])])


def test_an_epoch_is_marked_where_it_is() -> None:
    svg = charts.lines("Loss", [Series("train", [3.0, 2.0, 1.0])], marked=(1, "best"))
    (mark,) = (a for a in Reader(svg).of("line") if a["class"] == "mark")
    assert float(mark["x1"] or 0) == curves(svg)[0][1][0] and ">best<" in svg


def test_a_long_run_tells_about_a_hundred_values() -> None:
    assert 90 <= len(hints(charts.lines("x", [Series("x", [float(k) for k in range(1000)])]))) <= 100


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.013, 0.87), (-5, 3), (0, 2e-6), (97.2, 99.1), (1e3, 1.7e6)])
def test_ticks_are_few_round_and_span_everything(low: float, high: float) -> None:
    ticks = plane.ticks(low, high, 4)
    assert ticks[0] <= low + 1e-9 * abs(low) and ticks[-1] >= high - 1e-9 * abs(high) and 2 <= len(ticks) <= 7
    step = ticks[1] - ticks[0]
    assert f"{step:.1e}"[:3] in ("1.0", "2.0", "2.5", "5.0")


def test_names_of_points_that_lie_together_do_not_cover_each_other() -> None:
    found = [Point(f"file {k}", 1.0, 95.0, "") for k in range(6)]
    svg = charts.points("Accuracy", found, "size", charts.plain, charts.plain)
    heights = sorted(float(y) for y in re.findall(r'y="([\d.]+)"[^>]*>file', svg))
    assert len(heights) == 6 and min(b - a for a, b in zip(heights, heights[1:], strict=False)) >= 11


def test_refused_points_are_hollow_and_the_result_is_strong() -> None:
    found = [Point("a", 1.0, 95.0, "told", strong=True), Point("b", 2.0, 94.0, "", hollow=True)]
    svg = charts.points("Accuracy", found, "size", charts.plain, charts.plain, level=94.5)
    assert "told" in hints(svg) and svg.count("dot hollow") == 1
    assert re.search(r'class="strong"[^>]*>a<', svg) and not re.search(r'class="strong"[^>]*>b<', svg)
    assert svg.count('class="mark"') == 1


def test_a_bar_is_as_high_as_the_bin_was_right() -> None:
    svg = charts.reliability(reliability([(0.9, True)] * 3 + [(0.9, False)] + [(0.5, True)]))
    bars = Reader(svg).of("rect")
    heights = sorted(float(a["height"] or 0) for a in bars)
    assert len(bars) == 2 and heights[0] / heights[1] == pytest.approx(0.75, abs=0.01)
    assert "4 pictures, 90.0 % sure, 75.0 % right" in hints(svg)


def test_a_confusion_matrix_has_a_cell_for_each_pair_that_was_seen() -> None:
    svg = charts.confusion([[3, 1], [0, 2]], ["cat", "<dog>"])
    assert sorted(hints(svg)) == [
        "&lt;dog&gt; taken for &lt;dog&gt;: 2 of 2 (100.0 %)",
        "cat taken for &lt;dog&gt;: 1 of 4 (25.0 %)",
        "cat taken for cat: 3 of 4 (75.0 %)",
    ]
    assert [a["class"] for a in Reader(svg).of("rect")] == ["grid", "cell", "cell wrong", "cell"]


def test_a_large_matrix_has_no_numbers_and_no_names() -> None:
    many = [[1] * 50 for _ in range(50)]
    svg = charts.confusion(many, [f"name{k}" for k in range(50)])
    texts = re.findall(r"<text[^>]*>([^<]+)</text>", svg)
    assert set(texts) == {"predicted", "true"} and len(hints(svg)) == 2500

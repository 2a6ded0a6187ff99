"""Bars and trends show their numbers at the right places, whatever the numbers are."""

import math
import re
from typing import Any

import pytest

from distaug.report.bars import Bar, Trend, bars, trends
from distaug.report.charts import plain
from tests.report.test_charts import curves, hints
from tests.report.test_page import Reader

WIDTH = 380


def shapes(svg: str, name: str, kind: str | None = None) -> list[dict[str, Any]]:
    """Return the elements of one kind, numbers as numbers."""
    found = [dict(one) for one in Reader(svg).of(name) if kind is None or one.get("class") == kind]
    return [{k: float(v) if re.fullmatch(r"-?[\d.]+", v or "") else v for k, v in one.items()} for one in found]


def inside(svg: str) -> bool:
    """Return whether all that is drawn is on the picture."""
    (box,) = Reader(svg).of("svg")
    width, height = (float(x) for x in (box["viewbox"] or "").split()[2:])
    places = re.findall(r' (x|y|x1|x2|y1|y2|cx|cy)="([^"]+)"', svg)
    return all(0 <= float(value) <= (width if "x" in axis else height) for axis, value in places)


def test_a_bar_is_as_long_as_its_value_and_tells_it() -> None:
    svg = bars("Accuracy, %", [Bar("a", 10.0), Bar("<b>", 20.0, 2.5), Bar("c", 5.0)], plain)
    rects = shapes(svg, "rect")
    assert [rect["width"] / rects[0]["width"] for rect in rects] == pytest.approx([1, 2, 0.5], abs=0.01)
    assert len({rect["x"] for rect in rects}) == 1
    assert hints(svg) == ["a: 10", "&lt;b&gt;: 20 ± 2.5", "c: 5"]
    assert re.findall(r'class="strong">(.*?)<', svg) == ["10", "20", "5"] and "<b>" not in svg
    assert [rect["y"] for rect in rects] == sorted(rect["y"] for rect in rects)


def test_a_whisker_spans_the_interval_around_the_end() -> None:
    svg = bars("x", [Bar("a", 10.0, 5.0), Bar("b", 20.0)], plain)
    first, second = shapes(svg, "rect")
    across, low, high = shapes(svg, "line", "whisker")
    unit, start = second["width"] / 20, first["x"]
    assert (across["x1"], across["x2"]) == pytest.approx((start + 5 * unit, start + 15 * unit), abs=0.2)
    assert low["x1"] == across["x1"] and high["x1"] == across["x2"] and across["y1"] == across["y2"]


def test_differences_go_to_both_sides_of_zero() -> None:
    svg = bars("x", [Bar("worse", -2.0, 1.0), Bar("better", 1.0, 0.5), Bar("none", 0.0, 0.25)], plain)
    worse, better, none = shapes(svg, "rect")
    (axis,) = shapes(svg, "line", "axis")
    assert worse["x"] + worse["width"] == pytest.approx(axis["x1"], abs=0.15) and better["x"] == axis["x1"] == none["x"]
    assert worse["width"] / better["width"] == pytest.approx(2, abs=0.02) and none["width"] == 1
    assert inside(svg)
    signed = bars("x", [Bar("better", 1.0, 0.5)], "{:+g}".format)
    assert hints(signed) == ["better: +1 ± 0.5"] and ">+1<" in signed


def test_bars_that_need_not_begin_at_zero_show_what_is_between_them() -> None:
    found = [Bar("a", 91.0, 0.1), Bar("b", 92.0, 0.1)]
    (near, far), (low, high) = (shapes(bars("x", found, plain, zero=zero), "rect") for zero in (False, True))
    assert far["width"] > 1.5 * near["width"] and high["width"] == pytest.approx(low["width"], rel=0.02)


@pytest.mark.parametrize("zero", [True, False])
@pytest.mark.parametrize(
    "found",
    [
        [Bar("one", 5.0)],
        [Bar("one", 0.0, 0.0)],
        [Bar("a", 3.0, 0.0), Bar("b", 3.0, 0.0)],
        [Bar("a", 0.0), Bar("b", 0.0)],
        [Bar("a", -3.0), Bar("b", -5.0, 4.0)],
        [Bar("a", -3.0), Bar("b", -3.0)],
        [Bar("a", 2e-7), Bar("b", 3e-7, 1e-7)],
        [Bar("a", 1e12), Bar("b", 3e11, 1e11)],
        [Bar("a", 99.99, 0.02), Bar("b", 100.0, 0.0)],
        [Bar("a" * 60, 1.0), Bar("b", 2.0)],
    ],
    ids=["one", "nothing", "equal", "zeros", "negative", "equally negative", "tiny", "huge", "near 100", "long name"],
)
def test_any_bars_are_drawn_on_the_picture(found: list[Bar], zero: bool) -> None:
    svg = bars("x", found, plain, zero=zero)
    rects = shapes(svg, "rect")
    assert len(rects) == len(found) and inside(svg) and "nan" not in svg and "inf" not in svg
    assert all(1 <= rect["width"] < WIDTH for rect in rects)
    assert len(shapes(svg, "line", "whisker")) == 3 * sum(bar.half is not None for bar in found)


def test_pale_bars_colours_and_names() -> None:
    found = [Bar("a" * 30, 1.0, hollow=True), Bar("b", 2.0, colour=3), Bar("c", 2.0, colour=9)]
    svg = bars("Title", found, plain, label="points")
    assert [rect["fill-opacity"] for rect in shapes(svg, "rect")] == [0.35, 0.85, 0.85]
    assert [rect["style"] for rect in shapes(svg, "rect")] == ["fill:var(--0)", "fill:var(--3)", "fill:var(--1)"]
    assert f">{'a' * 23}…<" in svg and hints(svg)[0] == f"{'a' * 30}: 1" and ">points<" in svg
    (picture,) = Reader(svg).of("svg")
    assert picture["aria-label"] == "Title" and picture["role"] == "img"


def test_nothing_is_drawn_of_nothing() -> None:
    assert bars("x", [], plain) == ""
    assert trends("x", [], "n", plain, plain) == ""
    assert trends("x", [Trend("a", []), Trend("b", [(1.0, 2.0, None)])], "n", plain, plain) == ""


def test_a_trend_stands_over_its_numbers() -> None:
    svg = trends("x", [Trend("a", [(0.0, 1.0, None), (1.0, 3.0, None), (4.0, 2.0, None)])], "n", plain, plain)
    (x1, y1), (x2, y2), (x3, y3) = curves(svg)[0]
    assert (x3 - x1) / (x2 - x1) == pytest.approx(4, abs=0.02)
    assert y2 < y3 < y1 and y3 - y2 == pytest.approx(y1 - y3, abs=0.2)
    dots = shapes(svg, "circle", "dot")
    assert [dot["cx"] for dot in dots] == [x1, x2, x3] and [dot["cy"] for dot in dots] == [y1, y2, y3]
    assert hints(svg) == ["a 0: 1", "a 1: 3", "a 4: 2"]
    ticks = [text["x"] for text in shapes(svg, "text") if text.get("text-anchor") == "middle"]
    assert ticks[:3] == pytest.approx([x1, x2, x3], abs=0.1)


def test_numbers_far_apart_stand_at_their_logarithms() -> None:
    found = [Trend("a", [(10.0, 1.0, None), (100.0, 2.0, None), (1000.0, 3.0, None)])]
    svg = trends("x", found, "n", plain, plain, logarithmic=True)
    (x1, _), (x2, _), (x3, _) = curves(svg)[0]
    assert x3 - x2 == pytest.approx(x2 - x1, abs=0.2)
    assert {">10<", ">100<", ">1,000<"} <= set(re.findall(r">[\d,]+<", svg))


def test_a_spread_has_a_whisker_unless_it_is_zero() -> None:
    svg = trends("x", [Trend("a", [(1.0, 2.0, 1.0), (2.0, 2.0, 0.0), (3.0, 4.0, None)])], "n", plain, plain)
    (whisker,) = shapes(svg, "line", "whisker")
    (x1, y1), _, (_, y3) = curves(svg)[0]
    assert whisker["x1"] == whisker["x2"] == pytest.approx(x1, abs=0.1)
    assert abs(whisker["y1"] - whisker["y2"]) == pytest.approx(y1 - y3, abs=0.3)  # 1 to 3, and 2 to 4
    assert hints(svg) == ["a 1: 2 ± 1", "a 2: 2 ± 0", "a 3: 4"]


def test_lines_may_lack_numbers_and_have_colours_and_keys_of_their_own() -> None:
    found = [Trend("<a>", [(1.0, 1.0, None), (3.0, 2.0, None)]), Trend("b", [(2.0, 5.0, None)])]
    svg = trends("x", found, "n", plain, plain)
    assert [len(line) for line in curves(svg)] == [2, 1] and "&lt;a&gt;" in svg and "<a>" not in svg
    assert "--colour:var(--0)" in svg and "--colour:var(--1)" in svg and svg.count('class="key"') == 2
    assert 'class="key"' not in trends("x", found[:1], "n", plain, plain)
    first, last = curves(svg)[0]
    assert first[0] < curves(svg)[1][0][0] < last[0] and curves(svg)[1][0][1] < last[1]


@pytest.mark.parametrize(
    "points",
    [
        [(1.0, 3.0, None), (2.0, 3.0, None)],
        [(1.0, 0.0, 0.0), (2.0, 0.0, 0.0)],
        [(1.0, -3.0, 0.5), (2.0, -1.0, None)],
        [(1.0, -3.0, None), (2.0, -3.0, None)],
        [(1.0, 1.0, None), (1.0, 2.0, None)],
        [(1e-6, 1e-9, None), (1e-3, 1e9, None)],
    ],
    ids=["equal", "zeros", "negative", "equally negative", "one number", "far apart"],
)
@pytest.mark.parametrize("logarithmic", [False, True])
def test_any_trend_is_drawn_on_the_picture(points: list[tuple[float, float, float | None]], logarithmic: bool) -> None:
    svg = trends("x", [Trend("a", points)], "n", plain, plain, logarithmic=logarithmic)
    assert inside(svg) and len(shapes(svg, "circle", "dot")) == 2 and "nan" not in svg
    assert all(math.isfinite(x) and math.isfinite(y) for line in curves(svg) for x, y in line)

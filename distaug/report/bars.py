"""Charts that compare: bars with their spread, differences with their intervals, and figures over a number."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from distaug.report.page import Html, tag
from distaug.report.plane import COLOURS, LETTER, WIDTH, Format, Plane, dot, key, svg, ticks

__all__ = ["Bar", "Trend", "bars", "trends"]

_ROW, _TOP, _FOOT = 22.0, 6.0, 34.0
_FIGURE = 62.0
"""Room for the figure behind a bar."""
_LONGEST = 24


@dataclass(frozen=True)
class Bar:
    """A figure with its name."""

    name: str
    value: float
    half: float | None = None
    """Half of its spread or interval."""
    colour: int = 0
    hollow: bool = False
    """Drawn pale: it says nothing, or it is what the others are compared with."""


def bars(title: str, found: Sequence[Bar], text: Format, *, label: str = "", zero: bool = True) -> Html:
    """Draw one bar below the other, from 0 on, each with a whisker on both sides of its end.

    Args:
        title: With the unit.
        found: The bars; nothing is drawn without.
        text: How a figure is written.
        label: Below the axis.
        zero: Whether the axis begins at 0; otherwise near the smallest figure.
    """
    if not found:
        return Html()
    ends = [(bar.value - (bar.half or 0.0), bar.value + (bar.half or 0.0)) for bar in found]
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    else:
        below = low - max(high - low, 1e-9) / 4
        low = max(below, 0.0) if low >= 0 else below
    if math.isclose(low, high):
        high = low + (abs(low) or 1.0)
    marks = ticks(low, high, 4)
    names = [bar.name if len(bar.name) <= _LONGEST else f"{bar.name[: _LONGEST - 1]}…" for bar in found]
    left = 12 + LETTER * max(map(len, names))
    right, bottom = WIDTH - _FIGURE, _TOP + _ROW * len(found)

    def x(value: float) -> float:
        return left + (value - marks[0]) / (marks[-1] - marks[0]) * (right - left)

    drawn: list[Html] = []
    for mark in marks:
        drawn.append(tag("line", x1=x(mark), x2=x(mark), y1=_TOP, y2=bottom, class_="grid"))
        drawn.append(tag("text", text(mark), x=x(mark), y=bottom + 14, text_anchor="middle"))
    start = x(max(marks[0], 0.0) if zero else marks[0])
    for row, (bar, name) in enumerate(zip(found, names, strict=True)):
        middle, end = _TOP + (row + 0.5) * _ROW, x(bar.value)
        drawn.append(tag("text", name, x=left - 6, y=middle + 4, text_anchor="end"))
        hint = f"{bar.name}: {text(bar.value)}" + ("" if bar.half is None else f" ± {text(bar.half).removeprefix('+')}")
        shape = {"x": min(start, end), "y": middle - 7, "width": max(1.0, abs(end - start)), "height": 14.0}
        opacity = "0.35" if bar.hollow else "0.85"
        style = f"fill:var(--{bar.colour % COLOURS})"
        drawn.append(tag("rect", tag("title", hint), style=style, fill_opacity=opacity, **shape))
        if bar.half is not None:
            a, b = x(bar.value - bar.half), x(bar.value + bar.half)
            drawn.append(tag("line", x1=a, x2=b, y1=middle, y2=middle, class_="whisker"))
            drawn += (tag("line", x1=end, x2=end, y1=middle - 3, y2=middle + 3, class_="whisker") for end in (a, b))
        drawn.append(tag("text", text(bar.value), x=right + 8, y=middle + 4, class_="strong"))
    drawn.append(tag("line", x1=start, x2=start, y1=_TOP, y2=bottom, class_="axis"))
    if label:
        drawn.append(tag("text", label, x=(left + right) / 2, y=bottom + 28, text_anchor="middle"))
    return tag("figure", tag("figcaption", tag("span", title)), svg(WIDTH, bottom + _FOOT, title, drawn))


@dataclass(frozen=True)
class Trend:
    """A line over a number."""

    name: str
    points: Sequence[tuple[float, float, float | None]]
    """(x, y, half of its spread) in the order of x."""


def trends(
    title: str, found: Sequence[Trend], label: str, x_text: Format, y_text: Format, *, logarithmic: bool = False
) -> Html:
    """Draw lines over a number, with a tick at each of its values and whiskers for the spread.

    Args:
        title: With the unit.
        found: The lines; nothing is drawn where none has two points.
        label: Below the axis.
        x_text: How a number is written.
        y_text: How a height is written.
        logarithmic: Whether the numbers, all above 0, stand at their logarithms.
    """
    if not any(len(trend.points) > 1 for trend in found):
        return Html()

    def place(x: float) -> float:
        return math.log10(x) if logarithmic else x

    numbers = sorted({x for trend in found for x, _, _ in trend.points})
    ends = [y + sign * (half or 0.0) for trend in found for _, y, half in trend.points for sign in (-1, 1)]
    low, high = min(ends), max(ends)
    if math.isclose(low, high):
        low, high = min(low, 0.0), max(high, 0.0) or 1.0
    written = {place(number): x_text(number) for number in numbers}
    margin = (place(numbers[-1]) - place(numbers[0])) / 20 or 1.0
    across = (place(numbers[0]) - margin, place(numbers[-1]) + margin)
    plane = Plane(across, ticks(low, high, 4), list(written), written.__getitem__, y_text)
    for colour, trend in enumerate(found):
        spots = [(plane.x(place(x)), plane.y(y)) for x, y, _ in trend.points]
        parts = [tag("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in spots), class_="curve")]
        for (x, y), (number, height, half) in zip(spots, trend.points, strict=True):
            spread = "" if half is None else f" ± {y_text(half)}"
            if half:
                ends_at = (plane.y(height - half), plane.y(height + half))
                parts.append(tag("line", x1=x, x2=x, y1=ends_at[0], y2=ends_at[1], class_="whisker"))
            parts.append(dot(x, y, f"{trend.name} {x_text(number)}: {y_text(height)}{spread}", "dot"))
        plane.marks.append(tag("g", *parts, style=f"--colour:var(--{colour % COLOURS})"))
    keys = [key(trend.name, colour % COLOURS) for colour, trend in enumerate(found)]
    return plane.figure(title, label, keys if len(found) > 1 else ())

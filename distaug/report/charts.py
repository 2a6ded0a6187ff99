"""Charts as SVG, in the page's own colours: lines over epochs, points with names, reliability, confusion."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from distaug.report.page import Html, tag
from distaug.report.plane import COLOURS, LETTER, WIDTH, Format, Plane, dot, key, plain, share, svg, ticks
from distaug.train.calibration import BINS, Bin

__all__ = ["Format", "Point", "Series", "confusion", "lines", "plain", "points", "reliability", "share"]

_DOTS = 12
"""Up to so many places a line shows each of them."""
_HINTS = 100
"""About so many places of a line tell their values to the mouse; all of them would be most of the page."""
_NUMBERED, _NAMED = 20, 40
"""Up to so many classes a confusion matrix has numbers in its cells, and names at its sides."""


@dataclass(frozen=True)
class Series:
    """A line: one value an epoch, from the first on; None or not finite where there is none."""

    name: str
    values: Sequence[float | None]
    dashed: bool = False


@dataclass(frozen=True)
class Point:
    """A point with its name beside it."""

    name: str
    x: float
    y: float
    hint: str
    """What the mouse is told."""
    hollow: bool = False
    strong: bool = False


def lines(
    title: str,
    series: Sequence[Series],
    text: Format = plain,
    *,
    marked: tuple[int, str] | None = None,
    low: float | None = None,
    high: float | None = None,
) -> Html:
    """Draw lines over the epochs; nothing where no series has a value.

    Args:
        title: With the unit.
        series: The lines.
        text: How a value is written.
        marked: An epoch (from 0) to mark, and what to call it.
        low: Lowest value of the axis; None: that of the series.
        high: Highest value of the axis, likewise.
    """
    found = [value for one in series for run in _runs(one.values) for _, value in run]
    if not found:
        return Html()
    last = max(len(one.values) for one in series)
    low, high = min(found) if low is None else low, max(found) if high is None else high
    if math.isclose(low, high, rel_tol=1e-9):
        low, high = min(low, 0.0), max(high, 0.0) or 1.0
    # An epoch is a whole number, and one alone stands in the middle.
    x = (1.0, float(last)) if last > 1 else (0.0, 2.0)
    steps = [tick for tick in ticks(*x, 6) if tick == round(tick) and 1 <= tick <= last]
    plane = Plane(x, ticks(low, high, 4), steps or [1.0], plain, text)
    if marked is not None:
        plane.upright(marked[0] + 1, marked[1])
    for place, one in enumerate(series):
        plane.marks.append(_line(plane, one, text, place % COLOURS, dots=last <= _DOTS))
    keys = [key(one.name, place % COLOURS, one.dashed) for place, one in enumerate(series)]
    return plane.figure(title, "epoch", keys if len(series) > 1 else ())


def _line(plane: Plane, series: Series, text: Format, place: int, *, dots: bool) -> Html:
    curves = [
        tag("polyline", points=" ".join(f"{plane.x(epoch):.1f},{plane.y(value):.1f}" for epoch, value in run))
        for run in _runs(series.values)
    ]
    every = math.ceil(len(series.values) / _HINTS)
    shown = [
        dot(
            plane.x(epoch),
            plane.y(value),
            f"{series.name}, epoch {epoch}: {text(value)}",
            # A lone value between two that are missing has no line to be seen by.
            "dot" if dots or len(run) == 1 else "hint",
        )
        for run in _runs(series.values)
        for epoch, value in run
        if epoch % every == 0 or len(run) == 1
    ]
    gaps = ";--gaps:5 4" if series.dashed else ""
    return tag("g", tag("g", *curves, class_="curve"), *shown, style=f"--colour:var(--{place}){gaps}")


def _runs(values: Sequence[float | None]) -> Iterator[list[tuple[int, float]]]:
    """Yield the (epoch, value) pairs, from epoch 1, of each stretch without a gap."""
    run: list[tuple[int, float]] = []
    for epoch, value in enumerate((*values, None), start=1):
        if value is not None and math.isfinite(value):
            run.append((epoch, value))
        elif run:
            yield run
            run = []


def points(
    title: str, found: Sequence[Point], label: str, x_text: Format, y_text: Format, *, level: float | None = None
) -> Html:
    """Draw points with their names, and a line that joins none of them.

    Args:
        title: With the unit of the heights.
        found: The points; x begins at 0.
        label: Of the axis below.
        x_text: How a place is written.
        y_text: How a height is written.
        level: Height of a dashed line.
    """
    heights = [point.y for point in found] + ([] if level is None else [level])
    margin = max(max(heights) - min(heights), 1.0) / 8
    wide = ticks(0.0, 1.25 * max(point.x for point in found), 4)
    high = ticks(min(heights) - margin, max(heights) + margin, 4)
    plane = Plane((0.0, wide[-1]), high, wide, x_text, y_text)
    if level is not None:
        plane.level(level)
    taken = [(plane.x(point.x) - 6, plane.x(point.x) + 6, plane.y(point.y)) for point in found]
    for point in sorted(found, key=lambda point: -point.y):
        x, y = plane.x(point.x), plane.y(point.y)
        width = LETTER * len(point.name)
        side = 1 if x + 10 + width < WIDTH else -1
        start, end = sorted((x + side * 10, x + side * (10 + width)))
        # The nearest height at which nothing is written yet, over or under the point.
        nearest = (y + sign * step * 3 for step in range(100) for sign in (-1, 1))
        height = next(h for h in nearest if not any(start < e and s < end and abs(t - h) < 12 for s, e, t in taken))
        taken.append((start, end, height))
        if abs(height - y) > 6:
            plane.marks.append(tag("line", x1=x, y1=y, x2=x + side * 9, y2=height, class_="grid"))
        anchor = "start" if side > 0 else "end"
        kind = "strong" if point.strong else "weak"
        text = tag("text", point.name, x=x + side * 10, y=height + 4, text_anchor=anchor, class_=kind)
        plane.marks.append(text)
        plane.marks.append(dot(x, y, point.hint, "dot hollow" if point.hollow else "dot", 4.0))
    return tag("div", plane.figure(title, label), style="--colour:var(--0)")


def reliability(bins: Sequence[Bin]) -> Html:
    """Draw how often the model was right over how sure it was; a calibrated one is on the diagonal.

    Args:
        bins: As `distaug.train.calibration.reliability` returns them.
    """
    ticks = [0.0, 0.25, 0.5, 0.75, 1.0]
    plane = Plane((0.0, 1.0), ticks, ticks, share, share)
    most = max(one.count for one in bins)
    for place, one in enumerate(bins):
        if one.count:
            left, right, height = plane.x(place / BINS), plane.x((place + 1) / BINS), plane.y(one.accuracy)
            text = f"{one.count:,} pictures, {100 * one.confidence:.1f} % sure, {100 * one.accuracy:.1f} % right"
            # Bins of few pictures say little, and look it.
            opacity = 0.25 + 0.75 * math.sqrt(one.count / most)
            bar = tag(
                "rect",
                tag("title", text),
                x=left + 1,
                y=height,
                width=right - left - 2,
                height=plane.y(0) - height,
                class_="cell",
                fill_opacity=f"{opacity:.2f}",
            )
            plane.marks.append(bar)
            plane.marks.append(dot(plane.x(one.confidence), height, text, "dot", 2.5))
    ends = {"x1": plane.x(0), "y1": plane.y(0), "x2": plane.x(1), "y2": plane.y(1)}
    plane.marks.append(tag("line", class_="mark", **ends))
    return tag("div", plane.figure("Right, over how sure the model was", "probability"), style="--colour:var(--0)")


def confusion(counts: Sequence[Sequence[int]], classes: Sequence[str]) -> Html:
    """Draw a confusion matrix: a row for each true class, a column for each predicted one.

    Args:
        counts: (K, K) pictures.
        classes: (K,) names.
    """
    size = len(classes)
    cell = max(4.0, min(34.0, 460.0 / size))
    names = [_short(name) if size <= _NAMED else "" for name in classes]
    edge = 22 + LETTER * max(map(len, names))
    marks: list[Html] = []
    for row, (name, line) in enumerate(zip(classes, counts, strict=True)):
        middle, total = (row + 0.5) * cell, max(1, sum(line))
        marks.append(tag("text", names[row], x=edge - 6, y=edge + middle + 4, text_anchor="end"))
        turned = f"translate({edge + middle + 4:.1f} {edge - 6:.1f}) rotate(-90)"
        marks.append(tag("text", names[row], transform=turned))
        for column, count in enumerate(line):
            if not count:
                continue
            x, y = edge + column * cell, edge + row * cell
            part = count / total
            text = f"{name} taken for {classes[column]}: {count:,} of {total:,} ({100 * part:.1f} %)"
            # A single mistake among thousands must still be seen.
            opacity = 0.2 + 0.45 * math.sqrt(part)
            kind = "cell" if row == column else "cell wrong"
            place = {"x": x + 0.5, "y": y + 0.5, "width": cell - 1, "height": cell - 1}
            marks.append(tag("rect", tag("title", text), class_=kind, fill_opacity=f"{opacity:.2f}", **place))
            if size <= _NUMBERED:
                marks.append(
                    tag("text", str(count), x=x + cell / 2, y=y + cell / 2 + 4, text_anchor="middle", class_="strong")
                )
    side = edge + size * cell
    frame = tag("rect", x=edge, y=edge, width=size * cell, height=size * cell, fill="none", class_="grid")
    titles = [
        tag("text", "predicted", x=edge + size * cell / 2, y=11, text_anchor="middle"),
        tag("text", "true", text_anchor="middle", transform=f"translate(11 {edge + size * cell / 2:.1f}) rotate(-90)"),
    ]
    return tag("figure", svg(side + 1, side + 1, "Confusion matrix", [frame, *marks, *titles]))


def _short(name: str) -> str:
    return name if len(name) <= 14 else name[:13] + "…"

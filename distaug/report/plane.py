"""What all charts are made of: two axes with their ticks, dots, keys, and how numbers are written."""

import math
from collections.abc import Callable, Sequence

from distaug.report.page import Html, tag

__all__ = ["COLOURS", "LETTER", "WIDTH", "Format", "Plane", "dot", "key", "plain", "share", "svg", "ticks"]

WIDTH, _HEIGHT = 380.0, 230.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 12.0, 18.0, 34.0
COLOURS = 8
LETTER = 6.2
"""Width of a letter."""

Format = Callable[[float], str]


def plain(value: float) -> str:
    """Return a number with as few digits as needed: `1,200`, `0.05`, `2e-06`."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def share(value: float) -> str:
    """Return a share of 0 to 1 in %."""
    return f"{100 * value:.3g} %"


def ticks(low: float, high: float, most: int) -> list[float]:
    """Return at most `most` + 1 round numbers that span low to high."""
    wish = (high - low) / most
    size = 10.0 ** math.floor(math.log10(wish))
    step = next(factor * size for factor in (1, 2, 2.5, 5, 10) if factor * size >= wish * 0.999)
    first, last = math.floor(low / step + 1e-6), math.ceil(high / step - 1e-6)
    return [place * step for place in range(first, last + 1)]


class Plane:
    """Two axes and what is drawn between them.

    Args:
        x: The ends of the axis below.
        y: The ticks of the other, rising.
        x_ticks: The ticks of the axis below.
        x_text: How they are written.
        y_text: How those of the other are written.
    """

    def __init__(
        self, x: tuple[float, float], y: Sequence[float], x_ticks: Sequence[float], x_text: Format, y_text: Format
    ) -> None:
        self._x, self._y = x, (y[0], y[-1])
        self.marks: list[Html] = []
        right, bottom = WIDTH - _RIGHT, _HEIGHT - _BOTTOM
        for tick in y:
            height = self.y(tick)
            self.marks.append(tag("line", x1=_LEFT, x2=right, y1=height, y2=height, class_="grid"))
            self.marks.append(tag("text", y_text(tick), x=_LEFT - 6, y=height + 4, text_anchor="end"))
        for tick in x_ticks:
            self.marks.append(tag("text", x_text(tick), x=self.x(tick), y=bottom + 16, text_anchor="middle"))
        self.marks.append(tag("line", x1=_LEFT, x2=right, y1=bottom, y2=bottom, class_="axis"))

    def x(self, value: float) -> float:
        """Return where a value of the axis below is drawn."""
        low, high = self._x
        return _LEFT + (value - low) / (high - low) * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        """Return where a height is drawn."""
        low, high = self._y
        return _HEIGHT - _BOTTOM - (value - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    def upright(self, x: float, text: str) -> None:
        """Draw a dashed line from top to bottom, with a text at its head."""
        place = self.x(x)
        self.marks.append(tag("line", x1=place, x2=place, y1=_TOP, y2=_HEIGHT - _BOTTOM, class_="mark"))
        left = place < WIDTH / 2
        anchor = "start" if left else "end"
        self.marks.append(tag("text", text, x=place + (-3 if left else 3), y=_TOP - 6, text_anchor=anchor))

    def level(self, y: float) -> None:
        """Draw a dashed line from left to right."""
        height = self.y(y)
        self.marks.append(tag("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=height, y2=height, class_="mark"))

    def figure(self, title: str, label: str, keys: Sequence[str] = ()) -> Html:
        """Return the chart under its title, with a label below the axis and keys to its colours."""
        place = (_LEFT + WIDTH - _RIGHT) / 2
        self.marks.append(tag("text", label, x=place, y=_HEIGHT - 3, text_anchor="middle"))
        caption = tag("figcaption", tag("span", title), *keys)
        return tag("figure", caption, svg(WIDTH, _HEIGHT, title, self.marks))


def svg(width: float, height: float, title: str, marks: Sequence[Html]) -> Html:
    """Return a drawing."""
    return tag("svg", *marks, viewBox=f"0 0 {width:g} {height:g}", role="img", aria_label=title)


def key(name: str, place: int, dashed: bool = False) -> Html:
    """Return the key to a colour."""
    return tag("span", name, class_="key", style=f"--colour:var(--{place});--dash:{'dashed' if dashed else 'solid'}")


def dot(x: float, y: float, text: str, kind: str, radius: float = 3.0) -> Html:
    """Return a dot that tells the mouse something."""
    return tag("circle", tag("title", text), cx=x, cy=y, r=radius, class_=kind)

"""A web page in one file: markup that escapes whatever it is given, the parts all pages have, and their look."""

import html
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence

from distaug.store.place import Place
from distaug.store.whole import storing, write_whole

__all__ = ["Html", "cards", "details", "join", "note", "page", "picture", "save", "table", "tag"]


class Html(str):
    """Text that is markup already; every other text is escaped before it gets into a page."""

    __slots__ = ()


def tag(name: str, *children: str, **attributes: str | float) -> Html:
    """Return an element.

    Args:
        name: Its name.
        children: Markup as it is, other text escaped.
        attributes: Of `class_` and `stroke_width` become `class` and `stroke-width`; numbers get one decimal.
    """
    inside = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(_written(value))}"' for key, value in attributes.items()
    )
    return Html(f"<{name}{inside}>{join(*children)}</{name}>")


def _written(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.1f}".removesuffix(".0")


def join(*parts: str) -> Html:
    """Return parts one after the other: markup as it is, other text escaped."""
    return Html("".join(part if isinstance(part, Html) else html.escape(part) for part in parts))


def save(file: Place, text: str) -> Place:
    """Write a page, whole or absent, and return its file; folders that are missing are made.

    Raises:
        StorageError: It cannot be written.
    """
    with storing(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, text.encode("utf-8", "backslashreplace"))
    return file


def note(*children: str) -> Html:
    """Return a paragraph that explains."""
    return tag("p", *children, class_="note")


def details(title: str, *children: str) -> Html:
    """Return a part that opens when its title is clicked."""
    return tag("details", tag("summary", title), *children)


def cards(values: Iterable[tuple[str, str, str]]) -> Html:
    """Return figures in large type.

    Args:
        values: (name, figure, what else to say about it) of each.
    """
    parts = [
        tag("div", tag("dt", name), tag("dd", tag("b", figure), tag("small", more))) for name, figure, more in values
    ]
    return tag("dl", *parts, class_="cards")


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 1) -> Html:
    """Return a table that scrolls sideways where it is too wide.

    Args:
        head: Titles of the columns; none for a table without.
        rows: Cells; the first of a row names it.
        words: Number of columns, from the left, that hold words; the others hold figures and stand on the right.
    """

    def cells(kind: str, row: Sequence[str]) -> list[Html]:
        return [tag(kind, cell, class_="words" if column < words else "figure") for column, cell in enumerate(row)]

    titles = tag("thead", tag("tr", *cells("th", head))) if head else Html()
    body = tag("tbody", *(tag("tr", *cells("td", row)) for row in rows))
    return tag("div", tag("table", titles, body), class_="wide")


def picture(data: bytes, text: str) -> Html:
    """Return a PNG or JPEG picture, held in the page itself, with a text for those who do not see it."""
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
    source = f"data:image/{kind};base64,{b64encode(data).decode()}"
    return Html(f'<img src="{source}" alt="{html.escape(text)}">')


def page(title: str, heading: str, sections: Mapping[str, str]) -> str:
    """Return the whole page.

    Args:
        title: Of the window.
        heading: What stands above everything.
        sections: The parts under their titles; empty ones are left out.
    """
    shown = {name: body for name, body in sections.items() if body}
    links = [tag("a", name, href=f"#{_anchor(name)}") for name in shown]
    parts = [tag("section", tag("h2", name), body, id=_anchor(name)) for name, body in shown.items()]
    # Nothing is loaded from anywhere and nothing is executed, whatever a class or a file is called.
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        "<!doctype html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body>{tag('header', heading, tag('nav', *links))}{tag('main', *parts)}</body></html>\n"
    )


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --ink: #1b1f24; --soft: #5d6673; --line: #dfe3e8;
  --good: #1a7f4b; --bad: #c2352b; --warn: #8a5a00; --0: #2563c9; --1: #d9730d; --2: #1f8f5f; --3: #a63d9c;
  --4: #8a6d1d; --5: #0f8a9d; --6: #c23b4b; --7: #6b6f76; }
@media (prefers-color-scheme: dark) { :root { --page: #14171b; --card: #1d2126; --ink: #e6e9ed; --soft: #9aa4b1;
  --line: #343a42; --good: #4cc38a; --bad: #ff7b72; --warn: #e3b341; --0: #6ea8fe; --1: #f5a04c; --2: #55c995;
  --3: #dd83d4; --4: #d1b14b; --5: #4fc7d9; --6: #f4838f; --7: #a3a9b2; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI",
  Roboto, "Helvetica Neue", sans-serif; -webkit-text-size-adjust: 100%; }
header, main { max-width: 1120px; margin: 0 auto; padding: 0 20px; }
header { padding-top: 28px; }
h1 { font-size: 28px; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 0 0 12px; }
h3 { font-size: 15px; margin: 12px 0 8px; }
p { margin: 0 0 10px; max-width: 75ch; overflow-wrap: anywhere; }
a { color: var(--0); text-decoration: none; }
a:hover { text-decoration: underline; }
nav { display: flex; flex-wrap: wrap; gap: 4px 18px; padding: 12px 0 16px; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 20px;
  margin: 0 0 16px; }
.sub, .note { color: var(--soft); }
.wide, .charts, .side, .gallery { margin: 0 0 14px; }
.sub { margin: 4px 0 0; }
.state { display: inline-block; vertical-align: 4px; margin-left: 10px; padding: 1px 10px; border-radius: 99px;
  border: 1px solid; font-size: 13px; font-weight: 500; white-space: nowrap; }
.good { color: var(--good); } .bad { color: var(--bad); } .warn { color: var(--warn); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(158px, 1fr)); gap: 16px 20px;
  margin: 0 0 14px; }
.cards dt { color: var(--soft); font-size: 13px; }
.cards dd { margin: 0; }
.cards b { display: block; font-size: 24px; font-weight: 600; line-height: 1.25; font-variant-numeric: tabular-nums;
  overflow-wrap: anywhere; }
.cards small { color: var(--soft); font-size: 12.5px; display: block; line-height: 1.35; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px; }
th, td { padding: 5px 18px 5px 0; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap;
  vertical-align: top; }
th { color: var(--soft); font-weight: 500; }
tbody tr:last-child td { border-bottom: 0; }
.words { text-align: left; }
td.words { white-space: normal; overflow-wrap: break-word; }
.long { overflow-wrap: anywhere; }
td small { color: var(--soft); display: inline-block; white-space: normal; max-width: 26ch; line-height: 1.35; }
th:last-child, td:last-child { padding-right: 0; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(300px, 100%), 1fr)); gap: 22px 28px; }
.charts figure { display: flex; flex-direction: column; justify-content: space-between; gap: 4px; }
.side { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(400px, 100%), 1fr)); gap: 20px 36px;
  align-items: start; }
figure { margin: 0; min-width: 0; }
figcaption { font-weight: 600; font-size: 14px; display: flex; flex-wrap: wrap; gap: 0 14px; align-items: baseline; }
.key { font-weight: 400; font-size: 13px; color: var(--soft); min-width: 0; overflow-wrap: anywhere; }
.key::before { content: ""; display: inline-block; width: 14px; border-top: 2.5px var(--dash, solid) var(--colour);
  margin-right: 5px; vertical-align: 4px; }
svg { display: block; width: 100%; height: auto; max-width: 480px; font-size: 11px; overflow: visible; }
svg text { fill: var(--soft); } svg .strong { fill: var(--ink); font-weight: 600; }
svg .grid { stroke: var(--line); } svg .axis, svg .mark { stroke: var(--soft); } svg .mark { stroke-dasharray: 3 3; }
svg .curve { fill: none; stroke: var(--colour); stroke-width: 2; stroke-linejoin: round;
  stroke-dasharray: var(--gaps, none); }
svg .dot { fill: var(--colour); stroke: var(--colour); } svg .hollow { fill: var(--card); }
svg .hint { fill: var(--colour); stroke: none; opacity: 0; } svg .hint:hover { opacity: 1; }
svg .whisker { stroke: var(--ink); stroke-width: 1.2; opacity: .7; }
svg .cell { fill: var(--0); } svg .wrong { fill: var(--1); }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(92px, 1fr)); gap: 14px 12px; }
.gallery img { display: block; width: 100%; aspect-ratio: 1; object-fit: contain; image-rendering: pixelated;
  background: var(--page); border-radius: 4px; }
.gallery figcaption { display: block; font-weight: 400; font-size: 12.5px; line-height: 1.35; margin-top: 4px;
  overflow-wrap: anywhere; }
.gallery small { color: var(--soft); }
.bar { display: inline-block; width: 120px; height: 9px; border-radius: 2px; background: var(--line);
  overflow: hidden; }
.bar i { display: block; height: 100%; background: var(--0); }
details { margin-top: 14px; }
summary { cursor: pointer; color: var(--0); }
pre { overflow-x: auto; font: 12.5px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  background: var(--page); border-radius: 6px; padding: 12px; margin: 10px 0 0; }
.log { white-space: pre-wrap; overflow-wrap: anywhere; }
.plain { display: block; max-width: 100%; background: #fff; border-radius: 6px; padding: 8px; }
.plain img { display: block; max-width: 100%; }
@media (max-width: 600px) { header, main { padding-left: 12px; padding-right: 12px; } header { padding-top: 18px; }
  section { padding: 16px 14px; } h1 { font-size: 23px; } .cards { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .cards b { font-size: 20px; } th, td { padding-right: 11px; } .bar { width: 84px; }
  .gallery { grid-template-columns: repeat(auto-fill, minmax(72px, 1fr)); } }
@media print { section { break-inside: avoid; border: 0; } nav { display: none; } }
"""

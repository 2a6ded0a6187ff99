"""What a compression came to, on the page: the table of its files and the curves of what they cost."""

from distaug.report import charts
from distaug.report.charts import Point
from distaug.report.facts import Facts, percent
from distaug.report.page import Html, details, join, note, picture, table, tag
from distaug.store.stages import StageRow, Stages

__all__ = ["compression", "figure"]

_PICTURES = {"masks": "The weights that are left", "channels": "The channels that are left"}


def figure(facts: Facts) -> list[tuple[str, str, str]]:
    """Return the result of the compression in one figure, none where there is no result."""
    stages = facts.stages
    if stages is None or stages.artifact is None:
        return []
    first, last = stages.rows[0], stages.row(stages.artifact)
    speed = last.latency["1"]["speedup"]
    text = f"{last.name}: {first.bytes / last.bytes:.1f} × smaller, {speed:.1f} × faster, {_right(last)}"
    return [("Compressed", _size(last.bytes), text)]


def _right(row: StageRow) -> str:
    return f"test {percent(row.test['top1'])}" if row.test else f"val {percent(row.val['top1'])}"


def _size(count: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} B"


def compression(facts: Facts) -> Html:
    """Return the section about the compression; empty where there was none."""
    stages = facts.stages
    if stages is None or not stages.rows:
        return Html()
    engine = stages.rows[0].engine
    measured = ", ".join(f"{engine[key]}" for key in ("name", "version", "cpu") if engine.get(key))
    text = f"Exported files, measured in turns with the uncompressed one: {measured}, threads: {engine['threads']}. "
    if not stages.done:
        text += "The compression has not ended."
    elif stages.artifact is None:
        text += f"Nothing passed the gate: {stages.reason}."
    else:
        text += f"The result is {stages.artifact}."
    refused = [tag("p", tag("b", row.name), f": {row.reason}", class_="warn") for row in stages.rows if not row.passed]
    pictures = []
    for name, title in _PICTURES.items():
        path = facts.run.compressed / f"{name}.png"
        if path.is_file():
            pictures.append(details(title, tag("div", picture(path.read_bytes(), title), class_="plain")))
    return join(note(text), _table(stages), *refused, _curves(stages), *pictures)


def _table(stages: Stages) -> Html:
    first = stages.rows[0]
    head = ("file", "size", "of fp32", "zeros", "ms a picture", "faster", "val", "test", "agreement", "gate")
    rows = [
        (
            tag("b", row.name) if row.name == stages.artifact else row.name,
            _size(row.bytes),
            f"{row.bytes / first.bytes:.3f}",
            percent(1 - row.nonzeros / row.parameters, 0),
            f"{row.latency['1']['p50_ms']:.2f}",
            f"{row.latency['1']['speedup']:.2f} ×",
            percent(row.val["top1"]),
            percent(row.test["top1"]) if row.test else "–",
            percent(row.agreement, 1),
            tag("span", "passed", class_="good") if row.passed else tag("span", "refused", class_="bad"),
        )
        for row in stages.rows
    ]
    return table(head, rows)


def _curves(stages: Stages) -> Html:
    """Draw accuracy over size, over speed and, for magnitude pruning, over the share of zeros."""
    judged = all(row.test for row in stages.rows)
    right = {row.name: 100 * ((judged and row.test) or row.val)["top1"] for row in stages.rows}
    drop = stages.spec["gate"]["max_accuracy_drop"]
    limit = right[stages.rows[0].name] - drop
    # A file that only guesses would press all others into one line at the top; it stands on the lower edge.
    floor = limit - 4 * max(drop, 0.5)

    def points(rows: list[StageRow], place: dict[str, float]) -> list[Point]:
        return [
            Point(
                name=row.name if right[row.name] >= floor else f"{row.name} ↓ {right[row.name]:.1f} %",
                x=place[row.name],
                y=max(right[row.name], floor),
                hint=f"{row.name}: {right[row.name]:.2f} %, {_size(row.bytes)}, {speeds[row.name]:.2f} × faster",
                hollow=not row.passed,
                strong=row.name == stages.artifact,
            )
            for row in rows
        ]

    rows, title = list(stages.rows), f"{'Test' if judged else 'Validation'} accuracy"
    sizes = {row.name: float(row.bytes) for row in rows}
    speeds = {row.name: float(row.latency["1"]["speedup"]) for row in rows}
    zeros = {row.name: 1 - row.nonzeros / row.parameters for row in rows}
    sparse = [row for row in rows if row.name.partition("-")[0] == "magnitude"]

    def draw(over: str, found: list[Point], label: str, text: charts.Format) -> Html:
        return charts.points(f"{title} over {over}", found, label, text, lambda y: f"{y:.4g} %", level=limit)

    drawn = [
        draw("size", points(rows, sizes), "size of the file", _size),
        draw("speed", points(rows, speeds), "times as fast", lambda x: f"{x:.3g} ×"),
    ]
    if sparse:
        drawn.append(draw("zeros", points([rows[0], *sparse], zeros), "parameters that are zero", charts.share))
    legend = f"Dashed: the gate, {drop:g} % below {rows[0].name}; it decides on the validation set. Hollow: refused."
    return join(tag("div", *drawn, class_="charts"), note(legend))

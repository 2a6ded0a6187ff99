"""The report of a study: a web page in one file that says what each variant is worth, and how sure that is."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from distaug.report import charts
from distaug.report.bars import Bar, Trend, bars, trends
from distaug.report.charts import Series
from distaug.report.facts import percent
from distaug.report.page import Html, cards, details, join, note, page, save, table, tag
from distaug.report.summary import duration
from distaug.store.place import Place
from distaug.study.plan import ALL, NONE, Plan, Variant
from distaug.study.statistics import Difference
from distaug.study.summary import UNCOMPRESSED, Line, Summary
from distaug.study.table import METRICS, Metric, Outcome
from distaug.study.words import change, figure, scaled

__all__ = ["render", "write_study"]

_VERDICTS = {"better": "good", "worse": "bad"}
_MANY = 8
"""Lines that colours can tell apart."""


def write_study(plan: Plan, found: Sequence[Outcome], summary: Summary) -> Place:
    """Write the page of a study and return its file, `index.html` in the study's folder.

    Args:
        plan: The study.
        found: Its runs, in whatever state.
        summary: What they say together.

    Raises:
        StorageError: It cannot be written.
    """
    return save(plan.root / "index.html", render(plan, found, summary))


def render(plan: Plan, found: Sequence[Outcome], summary: Summary) -> str:
    """Return the page about a study."""
    return page(
        f"{plan.spec.name} – distaug",
        _heading(plan, found),
        {
            "Summary": _summary(plan, found, summary),
            "Results": _results(plan, summary),
            "Techniques": _techniques(plan, summary),
            "Worth in data": _worth(plan, summary),
            "Figures": _figures(plan, summary),
            "Curves": _curves(plan, found),
            "Compression": _files(plan, summary),
            "Runs": _runs(plan, found),
            "What is varied": _varied(plan),
        },
    )


def _heading(plan: Plan, found: Sequence[Outcome]) -> Html:
    done, base = sum(outcome.result is not None for outcome in found), plan.variants[0].job
    state, kind = ("finished", "good") if done == len(found) else (f"{done} of {len(found)} runs done", "warn")
    machine = next((o.result.machine for o in found if o.result is not None and o.result.machine), None)
    parts = [
        f"{base.model.name} on {base.data.path or base.data.source}",
        f"{len(plan.variants)} variants, seeds {', '.join(map(str, plan.spec.seeds))}",
    ]
    if machine:
        parts.append(str(machine.get("gpu") or machine.get("cpu")))
    made_up = Html()
    if base.data.source == "synthetic":
        made_up = tag("p", "The pictures are made up: the accuracies on this page mean nothing.", class_="warn")
    return join(
        tag("h1", plan.spec.name, tag("span", state, class_=f"state {kind}")),
        tag("p", " · ".join(parts), class_="sub"),
        made_up,
    )


def _first(plan: Plan) -> tuple[str, Metric]:
    name = plan.spec.metrics[0]
    return name, METRICS[name]


def _summary(plan: Plan, found: Sequence[Outcome], summary: Summary) -> Html:
    name, metric = _first(plan)
    known = [line for line in summary.lines if name in line.spreads]
    figures = []
    if known:
        sign = -1 if metric.better == "lower" else 1
        best = max(known, key=lambda line: sign * line.spreads[name].mean)
        figures.append((f"Best {metric.title}", figure(metric, best.spreads[name]), best.variant))
        if (apart := best.differences.get(name)) is not None:
            text, meaning = change(metric, apart)
            figures.append((f"Against {best.against}", text, meaning))
    seconds = [outcome.result.seconds for outcome in found if outcome.result is not None and outcome.result.seconds]
    done = sum(outcome.result is not None for outcome in found)
    figures.append(("Runs", f"{done} of {len(found)}", f"training took {duration(sum(seconds))} in all"))
    warnings = [
        tag(
            "p",
            f"{same.first} and {same.second} trained the same networks, bit by bit, so what differs between them had "
            f"no effect: {', '.join(same.fields)}.",
            class_="warn",
        )
        for same in summary.same
        if same.fields
    ]
    expected = [
        note(f"{same.first} and {same.second} trained the same networks, bit by bit, as they should.")
        for same in summary.same
        if not same.fields
    ]
    missing = [outcome.run.job.name for outcome in found if outcome.result is None]
    if missing:
        warnings.append(tag("p", f"Without a result: {', '.join(missing)}.", class_="warn"))
    return join(cards(figures), *warnings, *expected)


def _results(plan: Plan, summary: Summary) -> Html:
    names = plan.spec.metrics
    first, metric = _first(plan)
    published = any(line.published for line in summary.lines)
    compared = any(line.differences.get(first) for line in summary.lines)
    head = ["variant", *(METRICS[name].title for name in names)]
    head += ["against", "difference", ""] * compared + ["published"] * published
    rows = []
    for line in summary.lines:
        row: list[str] = [line.variant, *(figure(METRICS[name], line.spreads.get(name)) for name in names)]
        if compared:
            apart = line.differences.get(first)
            row += [line.against or "", *_judged(metric, apart)]
        rows.append(row + [line.published or ""] * published)
    text = (
        f"Mean ± standard deviation over seeds {', '.join(map(str, plan.spec.seeds))}. A difference is that of the "
        f"{metric.title}, over pairs of runs with the same seed, with its 95 % interval; the noise is taken to be "
        "alike in all variants that are compared with the same one. The intervals are not corrected for their number, "
        "and they speak of other seeds, not of other test pictures."
    )
    return join(table(head, rows), note(text))


def _judged(metric: Metric, apart: Difference | None) -> tuple[str, Html]:
    text, meaning = change(metric, apart)
    return text, tag("span", meaning, class_=_VERDICTS.get(meaning, "sub"))


def _techniques(plan: Plan, summary: Summary) -> Html:
    """Show what each technique of an ablation adds, alone and to all the others."""
    name, metric = _first(plan)
    lines = {line.variant: line for line in summary.lines}
    rows, alone, last = [], [], []
    for technique in dict.fromkeys(v.technique for v in plan.variants if v.technique):
        only, without = lines[f"only {technique}"], lines[f"all but {technique}"]
        adds = only.differences.get(name)
        lost = without.differences.get(name)
        gives = None if lost is None else Difference(lost.count, -lost.mean, lost.half)
        rows.append((technique, *_judged(metric, adds), *_judged(metric, gives), only.published or ""))
        alone += _bar(technique, metric, adds)
        last += _bar(technique, metric, gives)
    if not rows:
        return Html()
    whole = lines[ALL].differences.get(name)
    rows.append(("all together", *_judged(metric, whole), "", Html(), lines[ALL].published or ""))
    head = ("technique", f"added to {NONE}", "", "added to all others", "", "published")
    drawn = [
        bars(f"{metric.title}: added to none", alone + _bar("all together", metric, whole, 2), _signed),
        bars(f"{metric.title}: added to all others", last, _signed),
    ]
    text = "In points, with 95 % intervals; pale bars are within the noise."
    return join(table(head, rows), tag("div", *drawn, class_="charts"), note(text))


def _bar(name: str, metric: Metric, apart: Difference | None, colour: int = 0) -> list[Bar]:
    if apart is None:
        return []
    half = None if apart.half is None else scaled(metric, apart.half)
    return [Bar(name, scaled(metric, apart.mean), half, colour, hollow=apart.within_noise is not False)]


def _signed(value: float) -> str:
    return f"{value:+.3g}" if value else "0"


def _worth(plan: Plan, summary: Summary) -> Html:
    if not summary.worth:
        return Html()
    by_variant = {variant.name: variant for variant in plan.variants}
    rows = []
    for worth in summary.worth:
        labels = by_variant[worth.variant].labels
        rows.append((f"{worth.per_class:,}", labels[-1], f"{worth.bound} {worth.factor:.2g} ×".strip()))
    base = next(variant.labels[-1] for variant in plan.variants if variant.against is None)
    text = (
        f"How many times the pictures “{base}” would need for the same mean test accuracy, read off its own curve, "
        "straight between the sizes that were trained over their logarithm."
    )
    return join(table(("pictures of a class", "variant", "worth"), rows, words=2), note(text))


def _figures(plan: Plan, summary: Summary) -> Html:
    drawn = [*_over_numbers(plan, summary)]
    for name in plan.spec.metrics:
        metric = METRICS[name]
        found = [
            Bar(line.variant, scaled(metric, s.mean), None if s.sd is None else scaled(metric, s.sd), place)
            for place, line in enumerate(summary.lines)
            if (s := line.spreads.get(name)) is not None
        ]
        # A share of 100 % apart in the second digit would be a wall of equal bars.
        from_zero = metric.measured or name in ("ece", "gap")
        unit = f", {metric.unit}" if metric.unit else ""
        if len(found) > 1:
            drawn.append(bars(f"{metric.title}{unit} (± sd)", found, charts.plain, zero=from_zero))
    first, metric = _first(plan)
    apart = [bar for line in summary.lines for bar in _bar(line.variant, metric, line.differences.get(first))]
    if apart and not any(variant.technique for variant in plan.variants):
        drawn.insert(0, bars(f"Difference of the {metric.title} (95 % interval)", apart, _signed))
    return tag("div", *drawn, class_="charts")


def _over_numbers(plan: Plan, summary: Summary) -> Iterator[Html]:
    """Draw each figure over an axis of the grid that is a number."""
    lines = {line.variant: line for line in summary.lines}
    for place, axis in enumerate(plan.axes):
        labels = list(dict.fromkeys(variant.labels[place] for variant in plan.variants))
        numbers = {label: number for label in labels if (number := _number(label)) is not None}
        if len(numbers) < max(2, len(labels)):
            continue
        others: dict[str, list[Variant]] = {}
        for variant in plan.variants:
            rest = ", ".join(label for i, label in enumerate(variant.labels) if i != place)
            others.setdefault(rest, []).append(variant)
        far = min(numbers.values()) > 0 and max(numbers.values()) / min(numbers.values()) > 8
        for name in plan.spec.metrics:
            metric = METRICS[name]
            found = [
                Trend(rest or metric.title, _points(variants, place, numbers, lines, name))
                for rest, variants in others.items()
            ]
            unit = f", {metric.unit}" if metric.unit else ""
            label = axis.split(".")[-1].replace("_", " ")
            yield trends(f"{metric.title}{unit}", found[:_MANY], label, charts.plain, charts.plain, logarithmic=far)


def _points(
    variants: Sequence[Variant], place: int, numbers: Mapping[str, float], lines: Mapping[str, Line], name: str
) -> list[tuple[float, float, float | None]]:
    metric, found = METRICS[name], []
    for variant in variants:
        spread = lines[variant.name].spreads.get(name)
        if spread is not None:
            half = None if spread.sd is None else scaled(metric, spread.sd)
            found.append((numbers[variant.labels[place]], scaled(metric, spread.mean), half))
    return sorted(found)


def _number(label: str) -> float | None:
    try:
        return float(label)
    except ValueError:
        return None


def _curves(plan: Plan, found: Sequence[Outcome]) -> Html:
    """Draw the epochs of all variants that are compared with the same one, the mean over the seeds."""
    histories: dict[str, list[Outcome]] = {}
    for outcome in found:
        if outcome.history:
            histories.setdefault(outcome.run.variant, []).append(outcome)
    families: dict[str, list[str]] = {}
    for variant in plan.variants:
        families.setdefault(variant.against or variant.name, []).append(variant.name)
        if variant.against and variant.against not in families[variant.against]:
            families[variant.against].insert(0, variant.against)
    parts = []
    for base, names in families.items():
        shown = [name for name in names if name in histories][:_MANY]
        if not shown:
            continue

        def mean(key: str, shown: Sequence[str] = shown) -> list[Series]:
            return [Series(name, _mean(histories[name], key)) for name in shown]

        drawn = [
            charts.lines("Validation accuracy", mean("top1"), charts.share),
            charts.lines("Validation loss", mean("val_loss")),
            charts.lines("Training loss", mean("train_loss")),
        ]
        title = tag("h3", f"Compared with {base}") if len(families) > 1 else Html()
        parts += [title, tag("div", *drawn, class_="charts")]
    text = "Mean over the seeds. With smoothed or mixed targets a training loss is that of those targets."
    return join(*parts, note(text)) if parts else Html()


def _mean(outcomes: Sequence[Outcome], key: str) -> list[float | None]:
    """Return the mean of each epoch that all the runs have."""
    values = zip(*([getattr(record, key) for record in outcome.history] for outcome in outcomes), strict=False)
    return [None if None in one else sum(one) / len(one) for one in values]


def _files(plan: Plan, summary: Summary) -> Html:
    if not summary.files:
        return Html()
    metric = METRICS["top1"]
    rows = [
        (
            f"{file.variant}: {file.stage}" if len(plan.variants) > 1 else file.stage,
            percent(file.zeros, 0),
            f"{file.bytes:,.0f}",
            f"{file.speedup:.2f} ×",
            figure(metric, file.top1),
            *_judged(metric, file.difference),
            file.published or "",
        )
        for file in summary.files
    ]
    curves = []
    for variant in dict.fromkeys(file.variant for file in summary.files):
        points = sorted(
            (100 * file.zeros, scaled(metric, file.top1.mean), file.top1.sd and scaled(metric, file.top1.sd))
            for file in summary.files
            if file.variant == variant and (file.stage == UNCOMPRESSED or file.stage.startswith("magnitude"))
        )
        curves.append(Trend(variant, points))
    drawn = [
        trends("Test accuracy, % (± sd)", curves, "parameters that are zero, %", lambda x: f"{x:.0f}", charts.plain),
        bars(
            "Size of the file, kB",
            [Bar(file.stage, file.bytes / 1000, colour=1) for file in summary.files if file.variant == curves[0].name],
            charts.plain,
        ),
    ]
    head = ("file", "zeros", "bytes", "faster", "test accuracy", "to the uncompressed", "", "published")
    return join(table(head, rows), tag("div", *drawn, class_="charts"))


def _runs(plan: Plan, found: Sequence[Outcome]) -> Html:
    name, metric = _first(plan)
    rows = []
    for outcome in found:
        run, value, result = outcome.run, outcome.values()[name], outcome.result
        shown = "–" if value is None else f"{scaled(metric, value):,.2f} {metric.unit}"
        report = Path("runs") / run.job.name / "report" / "index.html"
        link = tag("a", run.job.name, href=str(report)) if result is not None else run.job.name
        took = duration(result.seconds) if result is not None and result.seconds else "–"
        rows.append((link, str(run.seed), outcome.state, shown, took))
    return details(f"All {len(rows)} runs", table(("run", "seed", "state", metric.title, "training time"), rows))


def _varied(plan: Plan) -> Html:
    rows = []
    for path, values in plan.differing():
        told: dict[str, list[str]] = {}
        for variant, value in zip(plan.variants, values, strict=True):
            told.setdefault(_written(value), []).append(variant.name)
        rows += [
            (
                path if place == 0 else "",
                tag("span", value, class_="long"),
                tag("span", ", ".join(names), class_="long"),
            )
            for place, (value, names) in enumerate(told.items())
        ]
    return join(
        table(("field", "value", "variants"), rows, words=3) if rows else note("Nothing: there is one variant."),
        details("The study file, with its base job", tag("pre", plan.text)),
    )


def _written(value: Any) -> str:
    if isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value):
        return " → ".join(", ".join(entry) for entry in value)
    return value if isinstance(value, str) else "–" if value is None else str(value)

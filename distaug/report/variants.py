"""Charts of a study: each figure over its variants, over the number that is varied, and over the epochs."""

from collections.abc import Iterator, Mapping, Sequence

from distaug.report import charts
from distaug.report.bars import Bar, Trend, bars, trends
from distaug.report.charts import Series
from distaug.report.page import Html, join, note, tag
from distaug.study.plan import Plan, Variant
from distaug.study.statistics import Difference
from distaug.study.summary import Line, Summary
from distaug.study.table import METRICS, Metric, Outcome
from distaug.study.words import scaled

__all__ = ["bar", "curves", "figures", "first_metric", "signed"]

_MANY = 8
"""Lines that colours can tell apart."""


def first_metric(plan: Plan) -> tuple[str, Metric]:
    """Return the metric that the study is about, and its name."""
    name = plan.spec.metrics[0]
    return name, METRICS[name]


def bar(name: str, metric: Metric, apart: Difference | None, colour: int = 0) -> list[Bar]:
    """Return the bar of a difference, pale where it is within the noise; none where there is no difference."""
    if apart is None:
        return []
    half = None if apart.half is None else scaled(metric, apart.half)
    return [Bar(name, scaled(metric, apart.mean), half, colour, hollow=apart.within_noise is not False)]


def signed(value: float) -> str:
    """Return a number with its sign."""
    return f"{value:+.3g}" if value else "0"


def figures(plan: Plan, summary: Summary) -> Html:
    """Draw each figure of the study over the variants and, in a grid, over what is varied."""
    drawn = [*_over_numbers(plan, summary)]
    in_lines = len(plan.axes) == 1 and any(drawn)  # which say all that bars could
    for name in () if in_lines else plan.spec.metrics:
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
    first, metric = first_metric(plan)
    apart = [one for line in summary.lines for one in bar(line.variant, metric, line.differences.get(first))]
    if apart and not any(variant.technique for variant in plan.variants):
        drawn.insert(0, bars(f"Difference of the {metric.title} (95 % interval)", apart, signed))
    return tag("div", *drawn, class_="charts") if any(drawn) else Html()


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
        label = axis.split(".")[-1].replace("_", " ")
        for name in plan.spec.metrics:
            metric = METRICS[name]
            found = [
                Trend(rest or metric.title, _points(variants, place, numbers, lines, name))
                for rest, variants in others.items()
            ]
            unit = f", {metric.unit}" if metric.unit else ""
            yield trends(f"{metric.title}{unit}", found[:_MANY], label, charts.plain, charts.plain, logarithmic=far)
        if left_out := [*others][_MANY:]:
            yield note(f"Not drawn over {label}, for want of colours: {'; '.join(left_out)}.")


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


def curves(plan: Plan, found: Sequence[Outcome]) -> Html:
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
        begun = [name for name in names if name in histories]
        shown = begun[:_MANY]
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
        if left_out := begun[_MANY:]:
            parts.append(note(f"Not drawn, for want of colours: {', '.join(left_out)}."))
    text = "Mean over the seeds. With smoothed or mixed targets a training loss is that of those targets."
    return join(*parts, note(text)) if parts else Html()


def _mean(outcomes: Sequence[Outcome], key: str) -> list[float | None]:
    """Return the mean of each epoch that all the runs have."""
    values = zip(*([getattr(record, key) for record in outcome.history] for outcome in outcomes), strict=False)
    return [None if None in one else sum(one) / len(one) for one in values]

"""The report of a study: a web page in one file that says what each variant is worth, and how sure that is."""

from collections.abc import Sequence
from typing import Any

from distaug.report import charts
from distaug.report.bars import Bar, Trend, bars, trends
from distaug.report.facts import percent
from distaug.report.page import Html, cards, details, join, note, page, save, table, tag
from distaug.report.summary import duration, made_up
from distaug.report.variants import bar, curves, figures, first_metric, signed
from distaug.store.place import Place
from distaug.study.plan import ALL, NONE, Plan
from distaug.study.statistics import Difference
from distaug.study.summary import UNCOMPRESSED, Summary
from distaug.study.table import METRICS, Metric, Outcome
from distaug.study.words import change, figure, scaled

__all__ = ["render", "write_study"]

_VERDICTS = {"better": "good", "worse": "bad"}


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
            "Figures": figures(plan, summary),
            "Curves": curves(plan, found),
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
        f"{len(plan.variants)} variant{'s' * (len(plan.variants) > 1)}, seeds {', '.join(map(str, plan.spec.seeds))}",
    ]
    if machine:
        parts.append(str(machine.get("gpu") or machine.get("cpu")))
    return join(
        tag("h1", plan.spec.name, tag("span", state, class_=f"state {kind}")),
        tag("p", " · ".join(parts), class_="sub"),
        made_up(base),
    )


def _summary(plan: Plan, found: Sequence[Outcome], summary: Summary) -> Html:
    name, metric = first_metric(plan)
    known = [line for line in summary.lines if name in line.spreads]
    told = []
    if known and metric.better != "neither":
        sign = -1 if metric.better == "lower" else 1
        best = max(known, key=lambda line: sign * line.spreads[name].mean)
        found_best = best.spreads[name]
        mean, _, more = figure(metric, found_best).partition(" ± ")
        unit = metric.unit if more else ""
        about = f", ± {more.removesuffix(unit).strip()} over {found_best.count} seeds" if more else ""
        told.append((f"Best {metric.title}", f"{mean} {unit}".strip(), f"{best.variant}{about}"))
        if (apart := best.differences.get(name)) is not None:
            text, meaning = change(metric, apart)
            told.append((f"Against {best.against}", text, meaning))
    seconds = [outcome.result.seconds for outcome in found if outcome.result is not None and outcome.result.seconds]
    done = sum(outcome.result is not None for outcome in found)
    told.append(("Runs", f"{done} of {len(found)}", f"training took {duration(sum(seconds))} in all"))
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
    return join(cards(told), *warnings, *expected)


def _results(plan: Plan, summary: Summary) -> Html:
    names = plan.spec.metrics
    judged = [name for name in names if METRICS[name].better != "neither"] or names[:1]
    published = any(line.published for line in summary.lines)
    rows, apart = [], []
    for line in summary.lines:
        seeds = max((spread.count for spread in line.spreads.values()), default=0)
        row: list[str] = [line.variant, *(figure(METRICS[name], line.spreads.get(name)) for name in names), str(seeds)]
        rows.append(row + [tag("small", line.published or "")] * published)
        if line.differences:
            changes = [_judged(METRICS[name], line.differences.get(name)) for name in judged]
            apart.append((line.variant, line.against or "", *(cell for both in changes for cell in both)))
    parts = [table(["variant", *(METRICS[name].title for name in names), "seeds", *["published"] * published], rows)]
    if apart:
        parts.append(tag("h3", "Differences, with their 95 % intervals"))
        parts.append(
            table(
                ["variant", "against", *(title for name in judged for title in (METRICS[name].title, ""))],
                apart,
                words=2,
            )
        )
    text = (
        "Mean ± standard deviation over the seeds. A difference is that of pairs of runs with the same seed; of two "
        "seeds the noise is taken to be alike in all variants that are compared with the same one, from three on each "
        "pair speaks for itself. The intervals are not corrected for their number: of twenty, one leaves out what is "
        "true. They speak of other seeds, not of other test pictures."
    )
    return join(*parts, note(text))


def _judged(metric: Metric, apart: Difference | None) -> tuple[str, Html]:
    text, meaning = change(metric, apart)
    return text, tag("span", meaning, class_=_VERDICTS.get(meaning, "sub"))


def _techniques(plan: Plan, summary: Summary) -> Html:
    """Show what each technique of an ablation adds, alone and to all the others."""
    name, metric = first_metric(plan)
    lines = {line.variant: line for line in summary.lines}
    rows, alone, last = [], [], []
    for technique in dict.fromkeys(v.technique for v in plan.variants if v.technique):
        only, without = lines[f"only {technique}"], lines.get(f"all but {technique}")
        adds = only.differences.get(name)
        lost = without.differences.get(name) if without else None
        gives = None if lost is None else Difference(lost.count, -lost.mean, lost.half)
        rows.append((technique, *_judged(metric, adds), *_judged(metric, gives), tag("small", only.published or "")))
        alone += bar(technique, metric, adds)
        last += bar(technique, metric, gives)
    if not rows:
        return Html()
    whole = lines[ALL].differences.get(name)
    rows.append(("all together", *_judged(metric, whole), "", Html(), tag("small", lines[ALL].published or "")))
    head = ("technique", f"added to {NONE}", "", "added to all others", "", "published")
    drawn = [
        bars(f"{metric.title}: added to none", alone + bar("all together", metric, whole, 2), signed),
        bars(f"{metric.title}: added to all others", last, signed),
    ]
    text = "In points, with 95 % intervals; pale bars are within the noise."
    return join(table(head, rows), tag("div", *drawn, class_="charts"), note(text))


def _worth(plan: Plan, summary: Summary) -> Html:
    if not summary.worth:
        return Html()
    by_variant = {variant.name: variant for variant in plan.variants}
    apart = {line.variant: line.differences.get("top1") for line in summary.lines}
    rows = []
    for worth in summary.worth:
        labels = by_variant[worth.variant].labels
        factor = f"{worth.bound} {charts.plain(float(f'{worth.factor:.2g}'))} ×".strip()
        difference = apart[worth.variant]
        clear = difference is not None and difference.within_noise is False
        unclear = change(METRICS["top1"], difference)[1] or "–"
        rows.append((f"{worth.per_class:,}", labels[-1], factor if clear else unclear))
    base = next(variant.labels[-1] for variant in plan.variants if variant.against is None)
    text = (
        f"How many times the pictures “{base}” would need for the same mean test accuracy, read off its own curve, "
        "straight between the sizes that were trained over their logarithm."
    )
    return join(table(("pictures of a class", "variant", "worth"), rows, words=2), note(text))


def _files(plan: Plan, summary: Summary) -> Html:
    if not summary.files:
        return Html()
    metric = METRICS["top1"]
    names = [f"{file.variant}: {file.stage}" if len(plan.variants) > 1 else file.stage for file in summary.files]
    rows = [
        (
            name,
            percent(file.zeros, 0),
            f"{file.bytes:,.0f}",
            f"{file.speedup:.2f} ×",
            figure(metric, file.top1),
            *_judged(metric, file.difference),
            tag("small", file.published or ""),
        )
        for name, file in zip(names, summary.files, strict=True)
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
            [Bar(name, file.bytes / 1000, colour=1) for name, file in zip(names, summary.files, strict=True)],
            charts.plain,
        ),
    ]
    head = ("file", "zeros", "bytes", "faster", "test accuracy", "to the uncompressed", "", "published")
    return join(table(head, rows), tag("div", *drawn, class_="charts"))


def _runs(plan: Plan, found: Sequence[Outcome]) -> Html:
    name, metric = first_metric(plan)
    rows = []
    for outcome in found:
        run, value, result = outcome.run, outcome.values()[name], outcome.result
        shown = "–" if value is None else f"{scaled(metric, value):,.2f} {metric.unit}"
        report = f"runs/{run.job.name}/report/index.html"
        link = tag("a", run.job.name, href=report) if (plan.root / report).exists() else run.job.name
        took = duration(result.seconds) if result is not None and result.seconds else "–"
        rows.append((link, str(run.seed), outcome.state, shown, took))
    return details(f"All {len(rows)} runs", table(("run", "seed", "state", metric.title, "training time"), rows))


def _varied(plan: Plan) -> Html:
    rows = []
    for path, values in plan.differing():
        texts = [_written(value) for value in values]
        if len(set(texts)) < len({str(value) for value in values}):  # lists that differ in more than their names
            texts = [str(value) for value in values]
        told: dict[str, list[str]] = {}
        for variant, text in zip(plan.variants, texts, strict=True):
            told.setdefault(text, []).append(variant.name)
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
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_written(inner)}" for key, inner in value.items())
    return value if isinstance(value, str) else "–" if value is None else str(value)

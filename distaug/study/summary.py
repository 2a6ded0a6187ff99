"""What the runs of a study say together: spreads, differences, contributions, and what is suspicious about them."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from distaug.spec.job import NOT_PART_OF_THE_TRAINING, differing
from distaug.study.plan import Plan, Variant
from distaug.study.statistics import Difference, Spread, differences, spread
from distaug.study.table import METRICS, Outcome

__all__ = ["FileLine", "Line", "Same", "Summary", "Worth", "summarise", "to_values"]

UNCOMPRESSED = "fp32"
"""The row of a compression that the others are compared with."""


@dataclass(frozen=True)
class Line:
    """A variant over its seeds; figures by the names of the metrics."""

    variant: str
    against: str | None
    spreads: Mapping[str, Spread]
    """Without the figures that no run has."""
    differences: Mapping[str, Difference]
    """To the variant that it is compared with."""
    published: str | None
    """What others found."""


@dataclass(frozen=True)
class FileLine:
    """A compressed file over the seeds."""

    variant: str
    stage: str
    zeros: float
    """Share of the parameters that are 0."""
    bytes: float
    """Mean size."""
    speedup: float
    """Mean, one picture at a time."""
    top1: Spread
    """On the test set."""
    difference: Difference | None
    """To the uncompressed file of the same run."""
    published: str | None


@dataclass(frozen=True)
class Same:
    """Two variants that trained the same networks, bit by bit."""

    first: str
    second: str
    fields: Sequence[str]
    """In which their trainings should differ; empty where they should not, e.g. in the number of workers alone."""


@dataclass(frozen=True)
class Worth:
    """How many times the pictures a variant is worth: those that the first of its axis needs to do as well."""

    variant: str
    per_class: int
    factor: float
    """Times the pictures."""
    bound: str
    """`at least` or `at most` where it lies beyond the sizes that were trained, else empty."""


@dataclass(frozen=True)
class Summary:
    """What a study found."""

    lines: Sequence[Line]
    files: Sequence[FileLine]
    same: Sequence[Same]
    worth: Sequence[Worth]


def summarise(plan: Plan, found: Sequence[Outcome]) -> Summary:
    """Return what the runs that are done say together."""
    done = [outcome for outcome in found if outcome.result is not None]
    by_metric = {name: _by_variant(done, metric.value) for name, metric in METRICS.items()}
    apart = {name: _differences(plan, values) for name, values in by_metric.items()}
    lines = [
        Line(
            v.name,
            v.against,
            {name: spread(list(values[v.name].values())) for name, values in by_metric.items() if v.name in values},
            {name: them[v.name] for name, them in apart.items() if v.name in them},
            _published(plan, v),
        )
        for v in plan.variants
    ]
    return Summary(lines, _files(plan, done), list(_same(plan, done)), list(_worth(plan, by_metric["top1"])))


def _published(plan: Plan, variant: Variant) -> str | None:
    names = (variant.name, variant.technique, *variant.labels[-1:])
    return next((plan.spec.published[name] for name in names if name in plan.spec.published), None)


def to_values(summary: Summary) -> dict[str, Any]:
    """Return plain values; those that are others each time stand under `times`."""
    values = asdict(summary)
    for line in values["lines"]:
        times = {}
        for part in ("spreads", "differences"):
            times[part] = {name: value for name, value in line[part].items() if METRICS[name].measured}
            line[part] = {name: value for name, value in line[part].items() if not METRICS[name].measured}
        line["times"] = times
    for file in values["files"]:
        file["times"] = {"speedup": file.pop("speedup")}
    return values


_Figures = dict[str, dict[int, float]]
"""By variant and seed."""


def _by_variant(done: Sequence[Outcome], read: Callable[[Outcome], float | None]) -> _Figures:
    found: _Figures = {}
    for outcome in done:
        value = read(outcome)
        if value is not None and math.isfinite(value):
            found.setdefault(outcome.run.variant, {})[outcome.run.seed] = value
    return found


def _differences(plan: Plan, values: _Figures) -> dict[str, Difference]:
    """Return each variant's difference to that which it is compared with; all with the same one share their noise."""
    families: dict[str, dict[str, dict[int, float]]] = {}
    for variant in plan.variants:
        if variant.against in values and variant.name in values:
            families.setdefault(str(variant.against), {})[variant.name] = values[variant.name]
    return {k: v for base, others in families.items() for k, v in differences(values[base], others).items()}


def _files(plan: Plan, done: Sequence[Outcome]) -> list[FileLine]:
    found: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
    for outcome in done:
        for row in (outcome.result.artifacts if outcome.result else None) or ():
            if row.get("test"):
                found.setdefault((outcome.run.variant, row["name"]), {})[outcome.run.seed] = row
    top1 = {key: {seed: row["test"]["top1"] for seed, row in rows.items()} for key, rows in found.items()}
    apart: dict[tuple[str, str], Difference] = {}
    for variant in dict.fromkeys(variant for variant, _ in found):
        whole = top1.get((variant, UNCOMPRESSED), {})
        for (v, stage), values in top1.items():
            # Each for itself: the more is taken away, the more the seeds are apart.
            if v == variant and stage != UNCOMPRESSED:
                alone = differences(whole, {stage: values})
                apart |= {(v, stage): alone[stage]} if stage in alone else {}
    return [
        FileLine(
            variant,
            stage,
            _mean([1 - row["nonzeros"] / row["parameters"] for row in rows.values()]),
            _mean([row["bytes"] for row in rows.values()]),
            _mean([row["latency"]["1"]["speedup"] for row in rows.values()]),
            spread(list(top1[variant, stage].values())),
            apart.get((variant, stage)),
            plan.spec.published.get(stage),
        )
        for (variant, stage), rows in found.items()
    ]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _same(plan: Plan, done: Sequence[Outcome]) -> list[Same]:
    """Find pairs of variants whose networks are the same: what differs between them had no effect."""
    curves: dict[str, dict[int, tuple[Any, ...]]] = {}
    for outcome in done:
        assert outcome.result is not None
        curve = tuple(record.train_loss for record in outcome.history)
        curves.setdefault(outcome.run.variant, {})[outcome.run.seed] = (outcome.result.weights_digest, curve)
    found = []
    for first, second in combinations((v for v in plan.variants if v.name in curves), 2):
        one, other = curves[first.name], curves[second.name]
        if (seeds := one.keys() & other.keys()) and all(one[seed] == other[seed] for seed in seeds):
            apart = differing([first.job, second.job], NOT_PART_OF_THE_TRAINING)
            found.append(Same(first.name, second.name, [path for path, _ in apart]))
    return found


def _worth(plan: Plan, top1: _Figures) -> list[Worth]:
    """Read off how many pictures the first of the last axis would need, where the other is the number of pictures."""
    if len(plan.axes) != 2:
        return []
    means = {name: _mean(list(values.values())) for name, values in top1.items()}
    rows: dict[str, dict[int, tuple[str, float]]] = {}
    for variant in plan.variants:
        if variant.labels and variant.job.data.per_class is not None and variant.name in means:
            row = rows.setdefault(variant.labels[-1], {})
            row[variant.job.data.per_class] = (variant.name, means[variant.name])
    if len(rows) < 2 or any(len(row) < 2 for row in rows.values()):
        return []
    base = rows.pop(plan.variants[0].labels[-1], {})
    if not base:  # of the one that the others are compared with no run is done
        return []
    curve = sorted((size, accuracy) for size, (_, accuracy) in base.items())
    found = []
    for row in rows.values():
        for size, (name, accuracy) in sorted(row.items()):
            needed, bound = _pictures_for(accuracy, curve)
            found.append(Worth(name, size, needed / size, bound))
    return found


def _pictures_for(accuracy: float, curve: Sequence[tuple[int, float]]) -> tuple[float, str]:
    """Return where a curve of accuracies over sizes reaches one, straight between them over the size's logarithm."""
    if accuracy <= curve[0][1]:
        return curve[0][0], "at most" if accuracy < curve[0][1] else ""
    for (small, low), (large, high) in zip(curve, curve[1:], strict=False):
        if low <= accuracy <= high and high > low:
            share = (accuracy - low) / (high - low)
            return math.exp(math.log(small) + share * math.log(large / small)), ""
    return curve[-1][0], "at least"

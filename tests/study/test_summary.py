"""What the runs of a study say together: differences, networks that are the same, worth in data, compressed files."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from distaug.study.plan import Plan
from distaug.study.statistics import Difference, Spread, differences
from distaug.study.summary import Same, Summary, Worth, summarise, to_values
from distaug.study.table import METRICS, outcomes
from tests.report.runs import record
from tests.study.studies import compressed, plan_of, train, train_all

THREE = "variants: {a: {}, b: {train.label_smoothing: 0.2}, c: {train.epochs: 8}}\n"
ABLATION = """\
ablate: {smooth: {train.label_smoothing: 0.2}, long: {train.epochs: 8}, mixed: {mix.mixup.alpha: 1.0}}
seeds: [0, 1]
"""
SIZES = "grid:\n  data.per_class: [100, 400]\n  policy: {none: {}, strong: {augment.preset: strong}}\nseeds: [0, 1]\n"


def summary_of(plan: Plan) -> Summary:
    return summarise(plan, outcomes(plan))


def test_each_variant_is_compared_over_the_seeds_that_both_have(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, THREE)
    top1 = {"a": [0.50, 0.51, 0.53], "b": [0.60, 0.62, 0.61], "c": [0.40, 0.45]}
    train_all(plan, top1)
    lines = {line.variant: line for line in summary_of(plan).lines}
    assert list(lines) == ["a", "b", "c"] and [line.against for line in lines.values()] == [None, "a", "a"]
    assert {name: (line.spreads["top1"].count, line.spreads["top1"].mean) for name, line in lines.items()} == {
        "a": (3, pytest.approx(0.54 - 0.08 / 3)),
        "b": (3, pytest.approx(0.61)),
        "c": (2, pytest.approx(0.425)),
    }
    assert lines["a"].differences == {}
    assert lines["b"].differences["top1"].mean == pytest.approx(0.29 / 3)
    assert lines["c"].differences["top1"] == Difference(2, pytest.approx(-0.08), lines["c"].differences["top1"].half)
    by_seed = {name: dict(enumerate(values)) for name, values in top1.items()}
    base = by_seed.pop("a")
    assert {n: lines[n].differences["top1"] for n in by_seed} == differences(base, by_seed), (
        "of two seeds they share their noise"
    )


def test_every_metric_that_the_runs_have_is_summed_up(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, THREE)
    for run in plan.runs[:2]:
        train(run, 0.5, train={"top1": 0.9})
    line, other, third = summary_of(plan).lines
    assert line.spreads.keys() == other.differences.keys() == METRICS.keys() - {"peak_memory_bytes"}
    assert line.spreads["gap"] == Spread(1, pytest.approx(0.27), None)
    assert other.differences["gap"] == Difference(1, 0.0, None)
    assert third.spreads == third.differences == {}


def test_in_an_ablation_what_lacks_one_technique_is_compared_with_all(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, ABLATION)
    top1 = {
        "none": 0.5,
        "all": 0.7,
        "only smooth": 0.55,
        "only long": 0.6,
        "all but smooth": 0.58,
        "all but long": 0.56,
        "only mixed": 0.48,
        "all but mixed": 0.71,
    }
    train_all(plan, {name: [value, value + 0.01] for name, value in top1.items()})
    found = {line.variant: line.differences["top1"].mean for line in summary_of(plan).lines if line.against}
    assert found == {
        "all": pytest.approx(0.2),
        "only smooth": pytest.approx(0.05),
        "only long": pytest.approx(0.1),
        "all but smooth": pytest.approx(-0.12),
        "all but long": pytest.approx(-0.14),
        "only mixed": pytest.approx(-0.02),
        "all but mixed": pytest.approx(0.01),
    }


def test_what_has_not_ended_or_is_not_finite_is_left_out(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, THREE)
    train_all(plan, {"b": [0.6, 0.7], "c": [0.5]})
    train(plan.runs[0], ended=False)
    train(plan.runs[8], 0.9, history=[record(0, train_loss=math.nan)])
    a, b, c = summary_of(plan).lines
    assert a.spreads == {} and b.differences == {} and b.spreads["top1"].count == 2
    assert c.spreads["top1"] == Spread(2, pytest.approx(0.7), pytest.approx(math.sqrt(0.08)))
    assert c.spreads["train_loss"].count == 1


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (THREE, {"b": "b"}),
        (ABLATION, {"only smooth": "smooth", "all but smooth": "smooth", "all": "all"}),
        (SIZES, {"per_class=100, strong": "strong", "per_class=400, strong": "strong"}),
    ],
    ids=["variant", "technique", "label"],
)
def test_what_others_found_stands_beside(tmp_path: Path, text: str, names: dict[str, str]) -> None:
    told = "published: {smooth: smooth, b: b, all: all, strong: strong, '400': nowhere}\n"
    lines = summary_of(plan_of(tmp_path, text + told)).lines
    assert {line.variant: line.published for line in lines if line.published} == names


def test_networks_that_are_the_same_are_told_with_what_had_no_effect(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, THREE)
    for run in plan.runs:
        train(run, twin="" if run.variant == "c" else "twin")
    assert summary_of(plan).same == [Same("a", "b", ["train.label_smoothing"])]


@pytest.mark.parametrize("change", ["cluster.workers: 2", "compress: {stages: [{int8: {}}]}"])
def test_what_does_not_belong_to_the_training_should_have_no_effect(tmp_path: Path, change: str) -> None:
    plan = plan_of(tmp_path, f"variants: {{a: {{}}, b: {{{change}}}}}\n")
    for run in plan.runs:
        train(run, twin="twin")
    assert summary_of(plan).same == [Same("a", "b", [])]


def test_networks_that_differ_in_one_seed_or_came_about_otherwise_are_not_the_same(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, THREE)
    other = [record(k, train_loss=0.5) for k in range(4)]
    for run in plan.runs:
        differs = run.variant == "b" and run.seed == 2
        train(run, twin="" if differs else "twin", history=other if run.variant == "c" else None)
    assert summary_of(plan).same == []


def test_only_runs_that_have_ended_can_be_the_same(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, THREE)
    for run in plan.runs:
        train(run, twin="twin", ended=run.seed == (1 if run.variant == "b" else 0))
    assert summary_of(plan).same == [Same("a", "c", ["train.epochs"])]


@pytest.mark.parametrize(
    ("strong", "factor", "bound"),
    [
        (0.625, 2.0, ""),  # half of the way from 100 to 400 over the logarithm
        (0.5625, math.sqrt(2), ""),
        (0.75, 4.0, ""),
        (0.5, 1.0, ""),
        (0.875, 4.0, "at least"),
        (0.25, 1.0, "at most"),
    ],
)
def test_augmentation_is_worth_the_pictures_that_would_do_as_well(
    tmp_path: Path, strong: float, factor: float, bound: str
) -> None:
    plan = plan_of(tmp_path, SIZES)
    none = {"per_class=100, none": [0.25, 0.75], "per_class=400, none": [0.75, 0.75]}
    train_all(plan, none | {"per_class=100, strong": [strong] * 2, "per_class=400, strong": [0.875] * 2})
    small, large = summary_of(plan).worth
    assert small == Worth("per_class=100, strong", 100, pytest.approx(factor), bound)
    assert large == Worth("per_class=400, strong", 400, 1.0, "at least")


def test_a_curve_that_falls_on_the_way_is_read_where_it_is_first_reached(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, SIZES.replace("[100, 400]", "[100, 200, 400, 800]").replace("[0, 1]", "[0]"))
    curves = {"none": (0.5, 0.75, 0.625, 1.0), "strong": (0.625, 0.875, 0.875, 0.875)}
    train_all(
        plan,
        {f"per_class={n}, {k}": [x] for k, v in curves.items() for n, x in zip((100, 200, 400, 800), v, strict=True)},
    )
    needed = [worth.factor * worth.per_class for worth in summary_of(plan).worth]
    third = 400 * 2 ** (2 / 3)
    assert needed == pytest.approx([100 * math.sqrt(2), third, third, third])


@pytest.mark.parametrize(
    ("text", "trained"),
    [
        (THREE, ["a", "b", "c"]),
        (SIZES, ["per_class=100, none", "per_class=100, strong"]),
        (SIZES, ["per_class=100, strong", "per_class=400, strong"]),
        ("grid: {policy: {none: {}, strong: {augment.preset: strong}}, data.per_class: [100, 400]}\n", []),
        ("grid: {data.per_class: [100, 400]}\n", ["per_class=100", "per_class=400"]),
        (SIZES.replace("  policy", "  train.epochs: [2, 3]\n  policy"), []),
    ],
    ids=["no sizes", "one size", "no base", "sizes last", "sizes alone", "three axes"],
)
def test_worth_needs_two_curves_over_sizes(tmp_path: Path, text: str, trained: list[str]) -> None:
    plan = plan_of(tmp_path, text)
    train_all(plan, {name: [0.5, 0.6] for name in trained or [v.name for v in plan.variants]})
    assert summary_of(plan).worth == []


def test_the_base_of_a_worth_is_the_first_label_even_where_its_runs_failed(tmp_path: Path) -> None:
    text = SIZES.replace("policy: {none: {},", "policy: {none: {}, weak: {augment.preset: weak},")
    plan = plan_of(tmp_path, text)
    train_all(plan, {f"per_class={n}, {k}": [0.5] for n in (100, 400) for k in ("weak", "strong")})
    assert summary_of(plan).worth == []


def files_of(plan: Plan) -> None:
    for run, (top1, int8) in zip(plan.runs, ((0.90, 0.89), (0.92, 0.90)), strict=True):
        rows: list[Any] = [
            compressed("fp32", top1),
            compressed("magnitude-50", top1, nonzeros=500),
            compressed("int8", int8, nonzeros=490 + 10 * run.seed, size=1000 + 100 * run.seed, speedup=2.0 + run.seed),
            compressed("dynamic", None),
        ]
        train(run, top1, artifacts=rows)


def test_a_compressed_file_is_compared_with_the_uncompressed_one_of_its_run(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "variants: {a: {}}\nseeds: [0, 1]\npublished: {int8: four times smaller}\n")
    files_of(plan)
    fp32, pruned, int8 = summary_of(plan).files
    assert (fp32.variant, fp32.stage, fp32.zeros, fp32.difference) == ("a", "fp32", 0.0, None)
    assert (pruned.stage, pruned.zeros, pruned.published) == ("magnitude-50", 0.5, None)
    assert (int8.stage, int8.bytes, int8.speedup, int8.published) == ("int8", 1050, 2.5, "four times smaller")
    assert int8.zeros == pytest.approx(0.505) and int8.top1.mean == pytest.approx(0.895)
    # Each by its own two pairs: what the other lost is not its noise.
    low, high = stats.ttest_rel([0.89, 0.90], [0.90, 0.92]).confidence_interval(0.95)
    assert int8.difference == Difference(2, pytest.approx(-0.015), pytest.approx((high - low) / 2))
    assert pruned.difference == Difference(2, 0.0, pytest.approx(0.0, abs=1e-9))


def test_plain_values_hold_what_is_exact_and_the_times_apart(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "variants: {a: {}, b: {train.label_smoothing: 0.2}}\nseeds: [0]\n")
    for run in plan.runs:
        train(run, twin="twin", artifacts=[compressed("fp32", 0.5), compressed("int8", 0.5)])
    summary = summary_of(plan)
    values = to_values(summary)
    exact = {name for name, metric in METRICS.items() if not metric.measured} - {"train_top1", "gap"}
    assert [set(line["spreads"]) for line in values["lines"]] == [exact, exact]
    assert [set(line["differences"]) for line in values["lines"]] == [set(), exact]
    times = {name for name, metric in METRICS.items() if metric.measured} - {"peak_memory_bytes"}
    assert [set(line["times"]["spreads"]) for line in values["lines"]] == [times, times]
    assert [set(line["times"]["differences"]) for line in values["lines"]] == [set(), times]
    assert values["lines"][0]["times"]["spreads"]["seconds"]["mean"] == 75.0
    assert values["files"][0].keys() == (vars(summary.files[0]).keys() - {"speedup"}) | {"times"}
    assert values["files"][1]["times"] == {"speedup": 1.0}
    assert values["same"] == [{"first": "a", "second": "b", "fields": ["train.label_smoothing"]}]
    assert values["worth"] == [] and json.loads(json.dumps(values)) == values
    faster = to_values(replace(summary, files=[replace(file, speedup=9.0) for file in summary.files]))
    assert [file.pop("times") for file in faster["files"]] == [{"speedup": 9.0}] * 4
    assert faster != values and [file.pop("times") for file in values["files"]] and faster == values

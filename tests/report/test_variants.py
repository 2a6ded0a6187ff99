"""The charts of a study: over its variants, over the number that is varied, and over the epochs."""

from pathlib import Path

import pytest

from tests.report.runs import record
from tests.report.test_study import VARIANTS, ended_study, figures, page_of, section
from tests.study.studies import plan_of, train, train_all


def test_figures_show_means_and_differences(tmp_path: Path) -> None:
    text = page_of(ended_study(tmp_path, VARIANTS, "metrics: [top1, epochs]\n"))
    found = figures(section(text, "figures"))
    assert found == {
        "Difference of the test accuracy (95 % interval)": ["b: +10 ± 1.76", "c: -9.5 ± 1.76"],
        "test accuracy, % (± sd)": ["a: 61 ± 1.414", "b: 71 ± 1.414", "c: 51.5 ± 2.121"],
        "epochs (± sd)": ["a: 4 ± 0", "b: 4 ± 0", "c: 4 ± 0"],
    }


def test_curves_are_means_over_the_seeds(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "variants: {a: {}, b: {train.label_smoothing: 0.2}}\nseeds: [0, 1]\n")
    for run in plan.runs:
        # The second run of each is not as far.
        epochs = 3 - run.seed
        train(
            run, history=[record(k, train_loss=1.0 + run.seed, top1=0.5 + k / 10) for k in range(epochs)], ended=False
        )
    found = figures(section(page_of(plan), "curves"))
    assert found["Training loss"] == [f"{name}, epoch {k}: 1.5" for name in "ab" for k in (1, 2)]
    assert found["Validation accuracy"][:2] == ["a, epoch 1: 50 %", "a, epoch 2: 60 %"]


@pytest.mark.parametrize(
    ("grid", "numbers"), [("train.epochs: [2, 3]", True), ("augment.preset: [weak, strong]", False)], ids=str
)
def test_what_is_drawn_as_a_line_over_its_number_has_no_bars(tmp_path: Path, grid: str, numbers: bool) -> None:
    plan = plan_of(tmp_path, f"grid: {{{grid}}}\nseeds: [0, 1]\n")
    first, second = (variant.name for variant in plan.variants)
    train_all(plan, {first: [0.5, 0.5], second: [0.75, 0.75]})
    found = figures(section(page_of(plan), "figures"))
    (difference,) = found.pop("Difference of the test accuracy (95 % interval)")
    assert difference.startswith(f"{second}: +25 ± ")
    line = {"test accuracy, %": ["test accuracy 2: 50 ± 0", "test accuracy 3: 75 ± 0"]}
    bars = {"test accuracy, % (± sd)": [f"{first}: 50 ± 0", f"{second}: 75 ± 0"]}
    assert found == (line if numbers else bars)


@pytest.mark.parametrize(("count", "left_out"), [(8, ""), (10, "v8, v9")])
def test_curves_that_are_not_drawn_are_named(tmp_path: Path, count: int, left_out: str) -> None:
    changes = ", ".join(f"v{k}: {{train.epochs: {k + 4}}}" for k in range(count + 1))
    plan = plan_of(tmp_path, f"variants: {{{changes}}}\nseeds: [0]\n")
    for run in plan.runs[:count]:  # of the last there is nothing to draw
        train(run, ended=False)
    part = section(page_of(plan), "curves")
    assert [hint for hint in figures(part)["Training loss"] if hint.endswith("epoch 1: 2")] == [
        f"v{k}, epoch 1: 2" for k in range(8)
    ]
    note = f"Not drawn, for want of colours: {left_out}."
    assert note in part if left_out else "Not drawn" not in part

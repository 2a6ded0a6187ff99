"""The page of a study says what each variant is worth, of whatever kind the study is and however far it is."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from distaug.report.study import render, write_study
from distaug.study.load import parse_study
from distaug.study.plan import Plan
from distaug.study.summary import summarise
from distaug.study.table import outcomes
from tests.report.test_charts import hints
from tests.report.test_page import Reader
from tests.study.studies import compressed, plan_of, train, train_all

VARIANTS = "variants: {a: {}, b: {train.label_smoothing: 0.2}, c: {train.epochs: 8}}\nseeds: [0, 1]\n"
ABLATION = """\
ablate: {smooth: {train.label_smoothing: 0.2}, long: {train.epochs: 8}, mixed: {mix.mixup.alpha: 1.0}}
seeds: [0, 1]
"""
SIZES = "grid:\n  data.per_class: [10, 100]\n  policy: {none: {}, strong: {augment.preset: strong}}\nseeds: [0, 1]\n"
ENDED = {
    VARIANTS: {"a": [0.60, 0.62], "b": [0.70, 0.72], "c": [0.50, 0.53]},
    ABLATION: {
        "none": [0.50, 0.52],
        "all": [0.70, 0.72],
        "only smooth": [0.55, 0.57],
        "only long": [0.60, 0.61],
        "all but smooth": [0.71, 0.75],
        "all but long": [0.50, 0.53],
        "only mixed": [0.50, 0.53],
        "all but mixed": [0.70, 0.71],
    },
    SIZES: {
        "per_class=10, none": [0.40, 0.42],
        "per_class=10, strong": [0.50, 0.52],
        "per_class=100, none": [0.60, 0.62],
        "per_class=100, strong": [0.70, 0.72],
    },
}


def page_of(plan: Plan) -> str:
    found = outcomes(plan)
    return render(plan, found, summarise(plan, found))


def words_of(text: str) -> str:
    return " ".join(" ".join(Reader(text).words).split())


def section(text: str, name: str) -> str:
    """Return one part of the page."""
    return re.split(r"</?section", text.split(f'id="{name}"')[1])[0]


def figures(text: str) -> dict[str, list[str]]:
    """Return what each figure tells the mouse, by its title."""
    found = re.findall(r"<figcaption><span>(.*?)</span>.*?</figcaption>(.*?)</figure>", text)
    return {title: hints(body) for title, body in found}


@pytest.fixture(params=ENDED, ids=["variants", "ablate", "grid"])
def ended(request: pytest.FixtureRequest, tmp_path: Path) -> Plan:
    plan = plan_of(tmp_path, request.param)
    train_all(plan, ENDED[request.param])
    return plan


def leave_reports(plan: Plan) -> None:
    for run in plan.runs:
        page = plan.root / "runs" / run.job.name / "report" / "index.html"
        page.parent.mkdir(parents=True)
        page.touch()


def ended_study(folder: Path, text: str, more: str = "") -> Plan:
    plan = plan_of(folder, text + more)
    train_all(plan, ENDED[text])
    return plan


def test_every_page_is_whole_and_alone(ended: Plan) -> None:
    leave_reports(ended)
    text = page_of(ended)
    found = Reader(text)
    names = [attributes["id"] for attributes in found.of("section")]
    links = [attributes["href"] or "" for attributes in found.of("a")]
    assert links[: len(names)] == [f"#{name}" for name in names]
    assert links[len(names) :] == [f"runs/{run.job.name}/report/index.html" for run in ended.runs]
    assert "http" not in text.replace("http-equiv", "") and not found.of("script") + found.of("img") + found.of("link")
    more = {"ablate": ["techniques"], "grid": ["worth-in-data"]}
    kind = "ablate" if ended.spec.ablate else "grid" if ended.spec.grid else ""
    assert names == ["summary", "results", *more.get(kind, []), "figures", "curves", "runs", "what-is-varied"]
    for variant in ended.variants:
        assert words_of(section(text, "results")).count(f" {variant.name} ") >= 1


def test_the_page_is_written_beside_the_runs(ended: Plan) -> None:
    found = outcomes(ended)
    file = write_study(ended, found, summarise(ended, found))
    assert file == ended.root / "index.html" and file.read_text() == page_of(ended)


def test_variants_are_compared_with_the_first(tmp_path: Path) -> None:
    text = page_of(ended_study(tmp_path, VARIANTS, "metrics: [top1, seconds]\npublished: {b: +9 points}\n"))
    words = words_of(text)
    assert "study finished smallnet on digits · 3 variants, seeds 0, 1 · a processor" in words
    assert "Best test accuracy 71.00 % b, ± 1.41 over 2 seeds Against a +10.00 ± 1.76 better" in words
    assert "Runs 6 of 6 training took 7 min 30 s in all" in words
    results = words_of(section(text, "results"))
    assert "variant test accuracy seconds of training seeds published a 61.00 ± 1.41 % 75.00 ± 0.00 s 2 b" in results
    assert "b 71.00 ± 1.41 % 75.00 ± 0.00 s 2 +9 points c 51.50 ± 2.12 % 75.00 ± 0.00 s 2 Differences" in results
    assert "variant against test accuracy seconds of training b a +10.00 ± 1.76 better +0.00 ± 0.00 within" in results
    assert "c a -9.50 ± 1.76 worse +0.00 ± 0.00 within noise Mean" in results
    judged = section(text, "results")
    assert 'class="good">better<' in judged and 'class="bad">worse<' in judged
    assert "a-s0 0 done 60.00 % 1 min 15 s b-s0 0 done 70.00 %" in words_of(section(text, "runs"))


def test_the_best_of_a_figure_that_is_to_be_low_is_the_lowest(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, VARIANTS + "metrics: [ece]\n")
    for run in plan.runs:
        train(run, test={"ece": {"a": 0.25, "b": 0.125, "c": 0.5}[run.variant]})
    assert "Best calibration error on test 12.50 % b" in words_of(page_of(plan))


def test_of_a_figure_that_is_good_neither_high_nor_low_there_is_no_best(tmp_path: Path) -> None:
    words = words_of(page_of(ended_study(tmp_path, VARIANTS, "metrics: [epochs, top1]\n")))
    assert "Best" not in words and "Against" not in words and "Runs 6 of 6" in words


def test_a_grid_is_drawn_over_its_numbers_and_told_in_pictures(tmp_path: Path) -> None:
    text = page_of(ended_study(tmp_path, SIZES))
    found = figures(section(text, "figures"))
    assert found["test accuracy, %"] == [
        "none 10: 41 ± 1.414",
        "none 100: 61 ± 1.414",
        "strong 10: 51 ± 1.414",
        "strong 100: 71 ± 1.414",
    ]
    # 51 % is half of the way from 41 to 61, and so from 10 to 100 over the logarithm.
    assert "10 strong 3.2 × 100 strong at least 1 ×" in words_of(section(text, "worth-in-data"))
    assert "pictures “none” would need" in text
    titles = re.findall("<h3>(.*?)</h3>", section(text, "curves"))
    assert titles == ["Compared with per_class=10, none", "Compared with per_class=100, none"]


def test_a_worth_of_many_times_is_a_plain_number(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, SIZES.replace("[10, 100]", "[10, 1234]"))
    low, high = [0.4, 0.4], [0.8, 0.8]
    train_all(
        plan,
        {
            f"per_class={n}, {k}": low if k + str(n) == "none10" else high
            for n in (10, 1234)
            for k in ("none", "strong")
        },
    )
    assert "10 strong 120 × 1,234 strong within noise" in words_of(section(page_of(plan), "worth-in-data"))


@pytest.mark.parametrize(
    ("none", "strong", "told"),
    [
        ([0.40, 0.42, 0.41], [0.50, 0.52, 0.53], "10 strong 3.4 ×"),
        ([0.40, 0.42, 0.41], [0.43, 0.40, 0.45], "10 strong within noise"),
        ([0.40], [0.50], "10 strong one seed"),
        ([0.40, 0.42], [None, None, 0.5], "10 strong –"),
    ],
    ids=["clear", "noise", "one seed", "no seed in common"],
)
def test_a_worth_is_told_where_the_difference_is_clear(
    tmp_path: Path, none: list[float], strong: list[float | None], told: str
) -> None:
    plan = plan_of(tmp_path, SIZES.replace("[0, 1]", "[0, 1, 2]"))
    large = {"per_class=100, none": [0.60, 0.62, 0.61], "per_class=100, strong": [0.70, 0.72, 0.72]}
    train_all(plan, {"per_class=10, none": none, **large})
    runs = (run for run in plan.runs if run.variant == "per_class=10, strong")
    for run, top1 in zip(runs, strong, strict=False):
        if top1 is not None:
            train(run, top1)
    assert f" {told} 100 strong at least 1 × " in words_of(section(page_of(plan), "worth-in-data"))


def test_an_ablation_tells_what_each_technique_adds_first_and_last(tmp_path: Path) -> None:
    text = page_of(ended_study(tmp_path, ABLATION, "published: {long: +8 points, all: +20 points}\n"))
    part = section(text, "techniques")
    words = words_of(part)
    assert "smooth +5.00 ± 1.39 better -2.00 ± 2.91 within noise" in words
    assert re.search(r"long \+9\.50 ± \S+ better \+19\.50 ± \S+ better \+8 points", words)
    assert re.search(r"all together \+20\.00 ± \S+ better \+20 points", words)
    found = figures(part)
    assert [hint.split(" ±")[0] for hint in found["test accuracy: added to none"]] == [
        *("smooth: +5", "long: +9.5", "mixed: +0.5", "all together: +20")
    ]
    assert [hint.split(" ±")[0] for hint in found["test accuracy: added to all others"]] == [
        *("smooth: -2", "long: +19.5", "mixed: +0.5")
    ]
    pale, clear = "0.35", "0.85"
    assert re.findall(r'fill-opacity="([\d.]+)"', part) == [clear, clear, pale, clear, pale, clear, pale]
    assert "Difference of the" not in section(text, "figures"), "that is in the techniques already"


def test_of_two_techniques_each_is_told_alone(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, ABLATION.replace(", mixed: {mix.mixup.alpha: 1.0}", ""))
    train_all(plan, {name: ENDED[ABLATION][name] for name in ("none", "all", "only smooth", "only long")})
    part = section(page_of(plan), "techniques")
    assert re.search(r"smooth \+5\.00 ± \S+ better long \+9\.50 ± \S+ better all together", words_of(part))
    assert list(figures(part)) == ["test accuracy: added to none"]


def test_a_study_that_is_not_through_says_so(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, VARIANTS)
    leave_reports(replace(plan, spec=plan.spec.model_copy(update={"seeds": [0]})))
    train(plan.runs[0], 0.6)
    train(plan.runs[1], ended=False)
    text = page_of(plan)
    words = words_of(text)
    assert "study 1 of 6 runs done" in words and "Without a result: b-s0, c-s0, a-s1, b-s1, c-s1." in words
    assert "Best test accuracy 60.00 % a Runs 1 of 6" in words
    assert "test accuracy seeds a 60.00 % 1 b - 0 c - 0 Mean" in words_of(section(text, "results"))
    assert "a-s0 0 done 60.00 % 1 min 15 s b-s0 0 unfinished – – c-s0 0 waiting – –" in words
    assert [a["href"] for a in Reader(section(text, "runs").split(">", 1)[1]).of("a")] == [
        f"runs/{name}-s0/report/index.html" for name in "abc"
    ], "those that are there, of whatever run"
    assert 'id="figures"' not in text and "b, epoch 4" in section(text, "curves")


def test_a_damaged_run_hides_no_other(tmp_path: Path) -> None:
    plan = ended_study(tmp_path, VARIANTS)
    (plan.root / "runs" / "b-s1" / "result.json").write_text("{")
    words = words_of(page_of(plan))
    assert "study 5 of 6 runs done" in words and "Without a result: b-s1." in words
    assert "b-s1 1 damaged – –" in words and "b 70.00 % 1 c 51.50 ± 2.12 % 2 Differences" in words


def test_before_its_first_run_a_study_has_a_page(tmp_path: Path) -> None:
    names = [part["id"] for part in Reader(page_of(plan_of(tmp_path, ABLATION))).of("section")]
    assert names == ["summary", "results", "techniques", "runs", "what-is-varied"]


def test_networks_that_are_the_same_are_pointed_out(tmp_path: Path) -> None:
    plan = plan_of(
        tmp_path, "variants: {a: {}, b: {train.label_smoothing: 0.2}, c: {cluster.workers: 2}}\nseeds: [0]\n"
    )
    for run in plan.runs:
        train(run, twin="twin")
    part = section(page_of(plan), "summary")
    text = "trained the same networks, bit by bit"
    no_effect = f"{text}, so what differs between them had no effect: train.label_smoothing."
    assert f'<p class="warn">a and b {no_effect}' in part and f'<p class="warn">b and c {no_effect}' in part
    assert f'<p class="note">a and c {text}, as they should.' in part


def test_compressed_files_have_a_table_and_curves(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "variants: {a: {}}\nseeds: [0, 1]\npublished: {int8: 4 times smaller}\n")
    for run, top1 in zip(plan.runs, (0.90, 0.92), strict=True):
        rows = [
            compressed("fp32", top1),
            compressed("magnitude-50", top1 - 0.01, nonzeros=500),
            compressed("int8", top1 - 0.05, nonzeros=500, size=1250, speedup=2.5),
        ]
        train(run, top1, artifacts=rows)
    part = section(page_of(plan), "compression")
    words = words_of(part)
    assert "fp32 0 % 4,000 1.00 × 91.00 ± 1.41 % magnitude-50 50 % 4,000 1.00 × 90.00 ± 1.41 % -1.00 ± 0.00" in words
    assert "int8 50 % 1,250 2.50 × 86.00 ± 1.41 % -5.00 ± 0.00 worse 4 times smaller" in words
    assert figures(part) == {
        "Test accuracy, % (± sd)": ["a 0: 91 ± 1.414", "a 50: 90 ± 1.414"],
        "Size of the file, kB": ["fp32: 4", "magnitude-50: 4", "int8: 1.25"],
    }


def test_of_several_variants_every_file_is_drawn(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "variants: {a: {}, b: {train.label_smoothing: 0.2}}\nseeds: [0]\n")
    for run, size in zip(plan.runs, (4000, 3000), strict=True):
        train(run, artifacts=[compressed("fp32", 0.9, size=size), compressed("int8", 0.9, size=size // 4)])
    drawn = figures(section(page_of(plan), "compression"))["Size of the file, kB"]
    assert drawn == ["a: fp32: 4", "a: int8: 1", "b: fp32: 3", "b: int8: 0.75"]


def test_lines_without_a_colour_of_their_own_are_named(tmp_path: Path) -> None:
    rates = [round(0.01 * k, 2) for k in range(1, 11)]
    plan = plan_of(tmp_path, f"grid: {{train.optimizer.lr: {rates}, data.per_class: [10, 100]}}\nseeds: [0]\n")
    for run in plan.runs:
        train(run)
    part = section(page_of(plan), "figures")
    assert "Not drawn over per class, for want of colours: 0.09; 0.1." in words_of(part)
    assert "for want of colours: 10" not in part


def test_what_is_varied_is_told_field_by_field(tmp_path: Path) -> None:
    text = "variants: {a: {}, b: {augment: {ops: [{flip: {}}, {crop: {}}]}}, c: {train.epochs: 8}}\n"
    plan = plan_of(tmp_path, text)
    words = words_of(section(page_of(plan), "what-is-varied"))
    assert "augment.ops – a, c flip → crop b train.epochs 4 a, b 8 c" in words
    assert plan.text.split() == words.partition("The study file, with its base job ")[2].split()
    alike = plan_of(
        tmp_path, "variants: {a: {augment.ops: [{flip: {p: 0.25}}]}, b: {augment.ops: [{flip: {p: 0.75}}]}}\n"
    )
    words = words_of(section(page_of(alike), "what-is-varied"))
    assert "augment.ops [{'flip': {'p': 0.25}}] a [{'flip': {'p': 0.75}}] b" in words
    assert "Nothing: there is one variant." in page_of(plan_of(tmp_path, "variants: {a: {}}\n"))


def test_hostile_words_are_escaped(tmp_path: Path) -> None:
    bad = "<script>alert(1)</script><img src=http://x.example/>"
    base = f"studies_dir: {tmp_path}\nbase: {{data: {{source: folder, path: x}}, model: {{name: smallnet}}}}\n"
    plan = parse_study(f'{base}grid: {{data.path: [/x, "{bad}"]}}\npublished: {{"{bad}": "{bad}"}}\n', "study.yaml")
    leave_reports(plan)
    for run in plan.runs:
        train(run, artifacts=[compressed("fp32", 0.5), compressed(bad, 0.5)], machine={"cpu": bad})
    text = page_of(plan)
    found = Reader(text)
    assert "<script" not in text and not found.of("img") and text.count("&lt;script&gt;alert(1)") > 10
    assert all((link["href"] or "").startswith(("#", "runs/")) for link in found.of("a"))


def test_made_up_pictures_are_called_so(tmp_path: Path) -> None:
    plan = ended_study(tmp_path, VARIANTS)
    assert "made up" not in page_of(plan)
    job = plan.variants[0].job
    made_up = job.model_copy(update={"data": job.data.model_copy(update={"source": "synthetic"})})
    assert "The pictures are made up" in page_of(replace(plan, variants=[replace(plan.variants[0], job=made_up)]))

"""A study file that is wrong: every error at once, each with its line and, where it has one, its variant."""

from pathlib import Path

import pytest

from distaug.errors import JobError
from distaug.study.load import load_study, parse_study

BASE = "base: {data: {source: digits}, augment: {ops: []}, model: {name: smallnet}}\n"
ONE = BASE + "variants: {a: {}, b: {train.epochs: 3}}\n"


def errors(text: str, *sets: str, quick: bool = False, name: str | None = None) -> list[str]:
    with pytest.raises(JobError) as caught:
        parse_study(text, "study.yaml", sets, quick=quick, name=name)
    lines = str(caught.value).splitlines()
    if len(lines) == 1:
        return lines
    assert lines[0] == f"{len(lines) - 1} errors in study.yaml"
    return [line.removeprefix("  ") for line in lines[1:]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seed: 3", "study.yaml:3: seed: unknown key; did you mean `seeds`? Keys of a study: "),
        ("seeds: []", "study.yaml:3: seeds: found `[]`; allowed: a list (each a whole number of at least 0"),
        ("seeds: [0, -1]", "study.yaml:3: seeds.1: found `-1`; allowed: a whole number of at least 0"),
        ("metrics: [topl]", "study.yaml:3: metrics.0: found the text `topl`; allowed: `top1`, `macro`"),
        ("seeds: [1, 2, 1]", "study.yaml:3: seeds: holds a seed twice: [1, 2, 1]"),
        ("name: a/b", "study.yaml:3: name: found the text `a/b`; allowed: text of the form"),
        ("quick: {seeds: [1, 1]}", "study.yaml:3: quick.seeds: holds a seed twice: [1, 1]"),
        ("baseline: c", "study.yaml:3: baseline: no variant is called `c`; variants are a, b"),
        (
            "baseline: b\nquick: {variants: {a: {}}}",
            "study.yaml:3: baseline: no variant in `quick.variants` is called `b`; variants are a",
        ),
        (
            "baseline: b\nquick: {ablate: {a: {}}}",
            "study.yaml:3: baseline: no variant in `quick.ablate` is called `b`; only `variants` have one to choose",
        ),
        ("grid: {train.epochs: [1]}", "study.yaml:3: grid: a study has one of `variants`, `grid`, `ablate`, found "),
        ("quick: {variants: {a: {}}, grid: {train.epochs: [1]}}", "found `variants` and `grid`"),
        ("quick: {base: {seed: 1}}", "quick.base: `seed` is filled in by the study itself; list them in `seeds`"),
        ("quick: {ablate: {all: {}}}", "quick.ablate.all: `all` is the name of a variant that every ablation has"),
        ("format: 0", "study.yaml:3: format: found `0`; allowed: a whole number from 1 to 1"),
    ],
)
def test_one_wrong_value_gives_one_line(text: str, expected: str) -> None:
    (line,) = errors(ONE + text)
    assert expected in line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "study.yaml:1: variants: a study has one of `variants`, `grid`, `ablate`, found none of them"),
        ("variants: {a: {name: x}}", "study.yaml:2: variants.a: `name` is filled in by the study itself"),
        ("variants: {a: {runs_dir: x}}", "study.yaml:2: variants.a: `runs_dir` is filled in by the study itself"),
        ("variants: {a: {seed: 1}}", "study.yaml:2: variants.a: `seed` is filled in by the study itself; list them in"),
        ("grid:\n  seed: [1, 2]", "study.yaml:3: grid.seed: `seed` is filled"),
        ("grid:\n  x: {a: {}}\n  own: {b: {seed: 1}}", "study.yaml:4: grid.own: `seed` is filled"),
        (
            "variants: {a/b: {}}",
            "study.yaml:2: variants.a/b: found the name `a/b`; a name has up to 60 letters, digits, spaces and . _ + - "
            "=, the first of them a letter or digit",
        ),
        ("variants: {+ crop: {}}", "study.yaml:2: variants.+ crop: found the name `+ crop`; a name has"),
        ("ablate: {.a: {}}", "study.yaml:2: ablate..a: found the name `.a`; a name has"),
        ("grid: {x: {-1: {}}}", "study.yaml:2: grid.x: found the name `-1`; a name has"),
        ("ablate: {ä: {}}", "study.yaml:2: ablate.ä: found the name `ä`; a name has"),
        (f"variants: {{{'a' * 61}: {{}}}}", f"study.yaml:2: variants.{'a' * 61}: found the name"),
        ("grid: {x: {<b>: {}}}", "study.yaml:2: grid.x: found the name `<b>`; a name has"),
        ("grid: {train.epochs: [1, 2, 1]}", "study.yaml:2: grid.train.epochs: holds a value twice"),
        ("ablate: {none: {}}", "study.yaml:2: ablate.none: `none` is the name of a variant that every ablation has"),
        (
            "variants: {a b: {}, a+b: {train.epochs: 3}}",
            "the variants 'a b' and 'a+b' would share a run folder; rename one",
        ),
        (
            "grid: {model.options.p: [a, 'a, q=b'], model.options.q: ['b, q=c', c]}",
            "the variants 'p=a, q=b, q=c' and 'p=a, q=b, q=c' would share",
        ),
        ("variants: {}", "study.yaml:2: variants: found a mapping; allowed: a mapping of names to a mapping of names"),
        ("variants: {a: 3, b: {}}", "study.yaml:2: variants.a: found `3`; allowed: a mapping of names to any value"),
    ],
)
def test_what_is_varied_wrongly_gives_one_line(text: str, expected: str) -> None:
    (line,) = errors(BASE + text)
    assert expected in line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("variants:\n  a: {}\n  b: {train.epoch: 1}", "study.yaml:4: variant 'b': train.epoch: unknown key; did you"),
        ("variants:\n  b:\n    train:\n      epochs: 0", "study.yaml:5: variant 'b': train.epochs: found `0`"),
        ("grid:\n  train.epochs:\n    - 1\n    - x", "study.yaml:5: variant 'epochs=x': train.epochs: found the text"),
        ("grid:\n  x:\n    a: {}\n    b: {seeds: 1}", "study.yaml:5: variant 'b': seeds: unknown key"),
        (
            "ablate:\n  p: {augment.ops+: [{flip: {}}]}\n  q: {augment.ops+: [{flip: {p: 2}}]}",
            "study.yaml:4: variant 'all': augment.ops.1.flip.p: found `2`; allowed: a number from 0 to 1",
        ),
        ("variants: {a: {data.source+: [x]}}", "study.yaml:2: variant 'a': data.source: `+` adds a list to"),
        ("variants: {a: {augment.ops+: 3}}", "study.yaml:2: variant 'a': augment.ops: `+` adds a list to"),
        ("variants: {a: {augment.ops.3.flip: {}}}", "study.yaml:2: variant 'a': augment.ops: is a list of 0, counted"),
        ("variants: {a: {train.schedule.warmup_epochs: 99}}", "study.yaml:2: variant 'a': train.schedule.warmup_ep"),
    ],
)
def test_a_wrong_change_is_named_with_its_line_and_variant(text: str, expected: str) -> None:
    (line,) = errors(BASE + text)
    assert line.startswith(expected)


def test_what_is_wrong_with_the_base_is_told_once_and_without_a_variant() -> None:
    text = "base:\n  data: {source: digits}\n  train: {epochs: x, global_batch: x}\nablate: {a: {}, b: {}}\n"
    found = errors(text, "model.nam=smallnet")
    assert [line.split(": ")[:2] for line in found] == [
        ["study.yaml:3", "train.epochs"],
        ["study.yaml:3", "train.global_batch"],
        ["--set model.nam=smallnet", "model.nam"],
        ["--set model.nam=smallnet", "model.name"],
    ]


def test_a_base_that_does_not_go_with_a_change_is_told_with_the_variant() -> None:
    base = "base:\n  data: {source: digits}\n  model: {name: smallnet}\n  train: {schedule: {warmup_epochs: 3}}\n"
    text = "variants: {long: {train.epochs: 9}, short: {train.epochs: 2}, shorter: {train.epochs: 1}}\n"
    message = "train.schedule.warmup_epochs: 3 leaves nothing of `train.epochs`"
    assert errors(base + text) == [
        f"study.yaml:4: variant 'short': {message} = 2",
        f"study.yaml:4: variant 'shorter': {message} = 1",
    ]


def test_all_errors_are_named_at_once_in_the_order_of_the_file() -> None:
    study = (
        "name: no\nseeds: [0, 0]\nmetric: [top1]\n" + BASE + "variants:\n  a: {seed: 1}\n  /: {}\n  a: {}\nbaseline: c"
    )
    assert [line.split(": ")[:2] for line in errors(study, "metrics=[x]")] == [
        ["study.yaml:1", "name"],
        ["study.yaml:2", "seeds"],
        ["study.yaml:3", "metric"],
        ["study.yaml:6", "variants.a"],
        ["study.yaml:7", "variants./"],
        ["study.yaml:8", "variants.a"],
        ["study.yaml:9", "baseline"],
        ["--set metrics=[x]", "metrics.0"],
    ]
    variants = BASE + "variants:\n  a: {train.epochs: 0}\n  b: {model.x: 1, precision: bf61}\n  c: {train.epochs: 0}\n"
    assert [line.split(": ")[:3] for line in errors(variants, "train.global_batch=0", "seeds=[7]")] == [
        ["study.yaml:3", "variant 'a'", "train.epochs"],
        ["study.yaml:4", "variant 'b'", "model.x"],
        ["study.yaml:4", "variant 'b'", "precision"],
        ["study.yaml:5", "variant 'c'", "train.epochs"],
        ["--set train.global_batch=0", "train.global_batch", "found `0`; allowed"],
    ]


@pytest.mark.parametrize("base", ["", ", augment: {}", ", augment: {preset: weak}", ", augment: {ops: null}"])
def test_a_plus_is_refused_where_the_base_does_not_write_the_list_out(base: str) -> None:
    text = f"base: {{data: {{source: digits}}, model: {{name: smallnet}}{base}}}\n"
    (line,) = errors(text + "variants: {a: {}, b: {augment.ops+: [{flip: {}}]}}\n")
    message = "`+` adds a list to one that is written out before; write it there, `[]` for none"
    assert line == f"study.yaml:2: variant 'b': augment.ops: {message}"


@pytest.mark.parametrize(
    ("text", "twins"),
    [
        ("variants: {a: {}, b: {train.label_smoothing: 0.1}}", "'a' and 'b'"),
        ("variants: {a: {train.epochs: 3}, c: {}, b: {train.epochs: 3}}", "'a' and 'b'"),
        ("grid: {x: {p: {}, q: {augment.ops: []}}}", "'p' and 'q'"),
        ("ablate: {a: {train.label_smoothing: 0.1}}", "'none' and 'all'"),
    ],
)
def test_two_variants_that_are_the_same_job_are_refused(text: str, twins: str) -> None:
    assert errors(BASE + text) == [f"study.yaml: variants {twins} are the same job; change or drop one"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("train.epochs", "train.epochs"),
        ("train", "train.epochs"),
        ("augment.ops.0.flip.p", "augment"),
        ("augment.ops+", "augment.ops"),
        ("augment.ops", "augment.ops+"),
        ("augment.ops+", "augment.ops.0.flip.p"),
        ("augment", "augment.ops+"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "quick."])
def test_techniques_that_overwrite_each_other_are_refused(one: str, other: str, prefix: str) -> None:
    ablate = f"ablate:\n    a: {{seeds: 0, {one}: 1}}\n    c: {{x: 1}}\n    b: {{y: 1, {other}: 1}}\n"
    text = f"quick:\n  {ablate}" if prefix else ablate
    (line,) = errors(BASE + ("variants: {a: {}}\n" + text if prefix else text))
    message = f"`{one}` is set by `a` too, so the two cannot be had together"
    assert line == f"study.yaml:{7 if prefix else 5}: {prefix}ablate.b: {message}"


def test_a_job_is_told_from_a_study() -> None:
    (line,) = errors("data: {source: digits}\nmodel: {name: smallnet}\n", "seeds=[1]")
    assert line == "study.yaml: this is a job; `distaug run study.yaml` trains it"


def test_nothing_is_derived_from_a_wrong_variant() -> None:
    (line,) = errors(BASE + "variants: {a: {}, b: 3}\nbaseline: b\n")
    assert "variants.b: found `3`" in line


def test_the_smaller_version_is_checked_only_where_it_is_asked_for() -> None:
    text = ONE + "quick:\n  base:\n    train.epochs: 0\n"
    assert parse_study(text, "study.yaml").runs
    assert errors(text, quick=True)[0].startswith("study.yaml:5: quick: train.epochs: found `0`")
    (line,) = errors(ONE, quick=True)
    assert line == "study.yaml: --quick, but the study has no section `quick`"


@pytest.mark.parametrize("text", ["", "# only this\n", "- base\n", "base\n"])
def test_a_file_that_is_no_mapping(text: str) -> None:
    (line,) = errors(text)
    assert line == "study.yaml: a study is a mapping with the keys `base` and one of `variants`, `grid`, `ablate`"


def test_a_newer_format_is_refused_by_name_and_number_alone() -> None:
    (line,) = errors("# new\nformat: 2\nsomething: 1\n")
    assert (
        line == "study.yaml:2: format: 2 is newer than 1, the newest that this distaug reads; install a newer distaug"
    )
    (line,) = errors("base: {format: 2}\nvariants: {a: {}}\n")
    assert line.startswith("study.yaml:1: format: 2 is newer than 1")


def test_a_base_in_a_file_is_named_with_its_own_lines(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    for base, expected in {
        "job.yaml": f"{tmp_path}/job.yaml:3: train.epochs: found `0`",
        "jop.yaml": f"{tmp_path}/jop.yaml: no such file; did you mean {tmp_path}/job.yaml?",
        "list.yaml": f"{tmp_path}/list.yaml: found a list; a job is a mapping",
    }.items():
        (tmp_path / "job.yaml").write_text("data: {source: digits}\nmodel: {name: smallnet}\ntrain: {epochs: 0}\n")
        (tmp_path / "list.yaml").write_text("- a\n")
        file.write_text(f"base: {base}\nvariants: {{a: {{}}, b: {{}}}}\n")
        with pytest.raises(JobError) as caught:
            load_study(file)
        assert str(caught.value).startswith(expected)


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("seeds", "--set seeds: expected path=value"),
        ("epochs=3", "--set epochs=3: epochs: unknown key; did you mean `train.epochs`?"),
        ("variants.b.train.epochs=3", "--set variants.b.train.epochs=3: variants.b.train.epochs: found `3`"),
        ("metrics.port=0", "--set metrics.port=0: metrics.port: found `0`; allowed: a whole number from 1 to 65535"),
        ("name=a/b", "--set name=a/b: name: found the text `a/b`"),
    ],
)
def test_an_argument_that_is_wrong_is_named(argument: str, expected: str) -> None:
    assert any(line.startswith(expected) for line in errors(ONE, argument))


def test_what_the_folder_of_the_study_rules_out_is_refused() -> None:
    assert parse_study(ONE, "study.yaml", ["base.metrics={tensorboard: true}"]).runs
    (line,) = errors(ONE + "studies_dir: s3://bucket/studies\n", "base.metrics={tensorboard: true}")
    assert line.startswith("metrics.tensorboard: event files grow line by line")

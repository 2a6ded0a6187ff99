"""A study file resolves to the runs that it describes."""

import re
from pathlib import Path

import pytest

from distaug.errors import JobError
from distaug.spec.job import JobSpec, to_dict
from distaug.spec.load import dump_job, parse_job
from distaug.store.rundir import RunDir
from distaug.study.load import is_study, load_study, parse_study
from distaug.study.plan import Plan

JOB = """\
data: {source: digits}
augment: {ops: [{flip: {}}]}
model: {name: smallnet}
train:
  epochs: 4
  schedule: {name: constant}
"""
BASE = "base:\n" + "".join(f"  {line}\n" for line in JOB.splitlines())
ABLATION = """\
ablate:
  crop: {augment.ops+: [{crop: {padding: 1}}]}
  noise: {augment.ops+: [{jitter: {}}, {erase: {}}], data.val_fraction: 0.2}
  long: {train.epochs: 8}
"""
GRID = "grid:\n  train.epochs: [2, 3]\n  policy: {plain: {}, jitter: {augment.ops+: [{jitter: {}}]}}\n"
VARIANTS = "variants:\n  plain: {}\n  and crop: {augment.ops+: [{crop: {}}]}\n  long: {train.epochs: 8}\n"
QUICK = "quick:\n  base: {train.epochs: 1}\n  seeds: [9]\n"
SHIPPED = sorted((Path(__file__).parents[2] / "jobs").glob("study_*.yaml"))


def study(text: str, *sets: str, quick: bool = False, name: str | None = None) -> Plan:
    return parse_study(BASE + text, "study.yaml", sets, quick=quick, name=name)


def jobs(plan: Plan) -> dict[str, JobSpec]:
    return {variant.name: variant.job for variant in plan.variants}


def operations(plan: Plan) -> dict[str, list[str]]:
    return {name: [operation.name for operation in job.augment.operations] for name, job in jobs(plan).items()}


def same(plan: Plan, again: Plan) -> bool:
    """Return whether two plans do the same, wherever they were read."""
    return (again.runs, again.variants, again.axes, again.text) == (plan.runs, plan.variants, plan.axes, plan.text)


def test_a_variant_is_the_base_with_its_changes() -> None:
    plan = study("""\
variants:
  plain: {}
  long: {train.epochs: 8}
  other: {train: {epochs: 6}, augment.ops.0.flip.p: 0.25, mix.mixup.alpha: 0.5}
""")
    expected = {
        "plain": [],
        "long": ["train.epochs=8"],
        "other": ["train={epochs: 6}", "augment.ops.0.flip.p=0.25", "mix={mixup: {alpha: 0.5}}"],
    }
    assert list(jobs(plan)) == list(expected)
    for name, sets in expected.items():
        assert to_dict(jobs(plan)[name]) == to_dict(parse_job(JOB, sets=sets)), name
    assert jobs(plan)["other"].train.schedule.name == "cosine", "a section is set as a whole"


def test_the_first_variant_or_the_baseline_is_the_one_that_others_are_compared_with() -> None:
    against = {v.name: v.against for v in study(VARIANTS).variants}
    assert list(against.items()) == [("plain", None), ("and crop", "plain"), ("long", "plain")]
    against = {v.name: v.against for v in study(VARIANTS + "baseline: long\n").variants}
    assert list(against.items()) == [("long", None), ("plain", "long"), ("and crop", "long")]


def test_a_plus_adds_to_the_list_that_is_there_in_the_order_of_the_file() -> None:
    found = operations(study(ABLATION))
    assert found == {
        "none": ["flip"],
        "all": ["flip", "crop", "jitter", "erase"],
        "only crop": ["flip", "crop"],
        "only noise": ["flip", "jitter", "erase"],
        "only long": ["flip"],
        "all but crop": ["flip", "jitter", "erase"],
        "all but noise": ["flip", "crop"],
        "all but long": ["flip", "crop", "jitter", "erase"],
    }


def test_a_plus_begins_a_list_that_is_empty_and_no_plus_replaces_it() -> None:
    text = "variants: {a: {augment.ops+: [{crop: {}}]}, b: {augment.ops: [{erase: {}}]}, c: {augment: {preset: none}}}"
    assert operations(study(text, "augment.ops=[]")) == {"a": ["crop"], "b": ["erase"], "c": []}
    assert operations(study(text))["b"] == ["erase"]


def test_an_ablation_is_none_all_each_alone_and_all_but_each() -> None:
    plan = study(ABLATION)
    assert [(v.name, v.against, v.technique) for v in plan.variants] == [
        ("none", None, None),
        ("all", "none", None),
        ("only crop", "none", "crop"),
        ("only noise", "none", "noise"),
        ("only long", "none", "long"),
        ("all but crop", "all", "crop"),
        ("all but noise", "all", "noise"),
        ("all but long", "all", "long"),
    ]
    epochs = {name: job.train.epochs for name, job in jobs(plan).items()}
    assert {name for name, number in epochs.items() if number == 8} == {
        *("all", "only long", "all but crop", "all but noise")
    }
    fractions = {name for name, job in jobs(plan).items() if job.data.val_fraction == 0.2}
    assert fractions == {"all", "only noise", "all but crop", "all but long"}


def test_of_one_technique_there_is_only_none_and_all_and_of_two_each_alone() -> None:
    assert list(jobs(study("ablate: {long: {train.epochs: 8}}"))) == ["none", "all"]
    two = study("ablate: {long: {train.epochs: 8}, crop: {augment.ops+: [{crop: {}}]}}")
    assert list(jobs(two)) == ["none", "all", "only long", "only crop"], "all but one is the other alone"


def test_techniques_that_add_to_one_list_or_set_neighbours_go_together() -> None:
    text = "ablate:\n  a: {augment.ops+: [{crop: {}}], mix.mixup.alpha: 1.0}\n  b: {augment.ops+: [{erase: {}}], "
    job = jobs(study(text + "mix.cutmix.alpha: 1.0, mix.probability: 0.5}\n"))["all"]
    assert [one.name for one in job.augment.operations] == ["flip", "crop", "erase"]
    assert job.mix is not None and job.mix.mixup is not None and job.mix.cutmix is not None


def test_a_grid_has_every_combination_compared_along_its_last_axis() -> None:
    plan = study(GRID)
    assert plan.axes == ("train.epochs", "policy")
    assert [(v.name, v.against, v.labels) for v in plan.variants] == [
        ("epochs=2, plain", None, ("2", "plain")),
        ("epochs=2, jitter", "epochs=2, plain", ("2", "jitter")),
        ("epochs=3, plain", None, ("3", "plain")),
        ("epochs=3, jitter", "epochs=3, plain", ("3", "jitter")),
    ]
    assert [job.train.epochs for job in jobs(plan).values()] == [2, 2, 3, 3]
    assert list(operations(plan).values()) == [["flip"], ["flip", "jitter"]] * 2


@pytest.mark.parametrize(
    ("axis", "labels"),
    [
        ("augment.preset: [weak, null]", ["preset=weak", "preset=null"]),
        ("train.label_smoothing: [0.0, 5e-2]", ["label_smoothing=0.0", "label_smoothing=0.05"]),
        ("train.exact: [true, auto]", ["exact=true", "exact=auto"]),
        ("augment.ops: [[], [{crop: {}}]]", ["ops=[]", "ops=[{'crop': {}}]"]),
    ],
)
def test_values_of_every_kind_have_a_name(axis: str, labels: list[str]) -> None:
    plan = parse_study(f"{BASE}grid: {{{axis}}}\n", "study.yaml", ["augment={}"])
    assert [variant.name for variant in plan.variants] == labels


def test_each_variant_is_trained_once_before_any_is_trained_again() -> None:
    plan = study(VARIANTS + "seeds: [4, 2]\nname: mine\nstudies_dir: /some/where\n")
    assert [(run.variant, run.seed, run.job.name) for run in plan.runs] == [
        ("plain", 4, "plain-s4"),
        ("and crop", 4, "and-crop-s4"),
        ("long", 4, "long-s4"),
        ("plain", 2, "plain-s2"),
        ("and crop", 2, "and-crop-s2"),
        ("long", 2, "long-s2"),
    ]
    assert {job.seed for job in jobs(plan).values()} == {4}, "that of the first run"
    for run in plan.runs:
        assert run.job.seed == run.seed and run.job.runs_dir == "/some/where/mine/runs"
        changed = {"name": run.job.name, "seed": run.seed, "runs_dir": run.job.runs_dir}
        assert run.job == jobs(plan)[run.variant].model_copy(update=changed)
    assert {run.job.runs_dir for run in plan.named("other").runs} == {"/some/where/other/runs"}


def test_the_name_seed_and_folder_of_the_base_are_not_used() -> None:
    plan = study(VARIANTS, "base.name=x", "base.seed=77", "base.runs_dir=/elsewhere")
    assert same(parse_study(plan.text, "again.yaml"), plan)
    assert [run.job for run in plan.runs] == [run.job for run in study(VARIANTS).runs]


def test_long_names_have_short_run_folders_of_their_own() -> None:
    plan = study(
        f"ablate: {{{'x' * 59}a: {{train.epochs: 8}}, {'x' * 59}b: {{data.val_fraction: 0.2}}}}\nseeds: [{2**62}]"
    )
    folders = [run.job.name.removesuffix(f"-s{2**62}") for run in plan.runs]
    assert len(set(folders)) == 4 and [len(folder) for folder in folders] == [4, 3, 60, 60]
    assert all(folder.startswith("only-xxx") for folder in folders[2:])
    assert [run.job.name for run in plan.runs] == [run.job.name for run in parse_study(plan.text, "again.yaml").runs]
    assert study(f"variants: {{{'x' * 60}: {{}}}}").runs[0].job.name == f"{'x' * 60}-s0", "60 are not too many"


@pytest.mark.parametrize("name", ["9.-", "x_", "0", "long " * 11 + "names", "lr=0.1 + x", "v1.0"])
def test_a_run_can_be_stored_under_any_name_that_is_allowed(name: str, tmp_path: Path) -> None:
    plan = study(f'variants: {{"{name}": {{}}}}')
    for run in plan.runs:
        folder = RunDir(tmp_path, run.job.name)
        folder.create()
        folder.save_job(run.job)
        assert folder.load_job().name == run.job.name and parse_job(dump_job(run.job)) == run.job


def test_the_smaller_version_changes_base_seeds_and_what_is_varied() -> None:
    whole = study(VARIANTS + QUICK)
    assert whole.spec.name == "study" and {run.seed for run in whole.runs} == {0, 1, 2}
    assert jobs(whole)["plain"].train.epochs == 4
    small = study(VARIANTS + QUICK, quick=True)
    assert small.spec.name == "study-quick" and [run.seed for run in small.runs] == [9, 9, 9]
    assert {name: job.train.epochs for name, job in jobs(small).items()} == {"plain": 1, "and crop": 1, "long": 8}
    other = study(VARIANTS + QUICK + "  grid: {train.epochs: [2, 3]}\n", quick=True)
    assert [job.train.epochs for job in jobs(other).values()] == [2, 3] and other.axes == ("train.epochs",)
    assert study(VARIANTS + QUICK, quick=True, name="mine").spec.name == "mine-quick"


def test_what_is_said_later_wins() -> None:
    plan = study(VARIANTS + QUICK, "train.epochs=2", quick=True)
    assert {name: job.train.epochs for name, job in jobs(plan).items()} == {"plain": 2, "and crop": 2, "long": 8}
    again = study(VARIANTS, "train.epochs=2", "train.epochs=3", "train.epochs=2")
    assert jobs(again)["plain"].train.epochs == 2


@pytest.mark.parametrize("argument", ["train.epochs=2", "base.train.epochs=2", " train.epochs = 2"])
def test_set_changes_the_base_job(argument: str) -> None:
    assert jobs(study(VARIANTS, argument))["plain"].train.epochs == 2


def test_metrics_is_a_list_of_the_study_and_a_section_of_the_base_job() -> None:
    plan = study(VARIANTS, "metrics.port=9100", "metrics=[loss]", "base.metrics.tensorboard=true")
    assert plan.spec.metrics == ["loss"]
    assert {(job.metrics.port, job.metrics.tensorboard) for job in jobs(plan).values()} == {(9100, True)}


@pytest.mark.parametrize("argument", ["seeds=[7]", " seeds = [7]"])
def test_set_changes_the_study(argument: str) -> None:
    plan = study(VARIANTS, argument, "metrics=[ece, loss]", "variants.more={train.epochs: 5}")
    assert plan.spec.seeds == [7] and plan.spec.metrics == ["ece", "loss"]
    assert jobs(plan)["more"].train.epochs == 5


@pytest.mark.parametrize(("argument", "instead"), [("seed=1", "seeds"), ("runs_dir=x", "studies_dir")])
def test_set_of_what_a_study_fills_in_is_refused(argument: str, instead: str) -> None:
    with pytest.raises(JobError, match=re.escape(f"--set {argument}: ") + f".*`{instead}`"):
        study(VARIANTS, argument)


def test_a_base_in_a_file_is_seen_from_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "job.yaml").write_text(JOB)
    file = tmp_path / "jobs" / "study.yaml"
    file.write_text("base: job.yaml\n" + VARIANTS + QUICK)
    monkeypatch.chdir(tmp_path)
    for quick in (False, True):
        plan = load_study("jobs/study.yaml", ["train.global_batch=32"], quick=quick)
        assert same(study(VARIANTS + QUICK, "train.global_batch=32", quick=quick), plan)
        assert same(parse_study(plan.text, "elsewhere.yaml"), plan)


@pytest.mark.parametrize("text", [VARIANTS + "baseline: long\n", GRID, ABLATION], ids=["variants", "grid", "ablate"])
@pytest.mark.parametrize("quick", [False, True], ids=["whole", "quick"])
def test_the_text_of_a_plan_is_the_same_plan(text: str, quick: bool) -> None:
    more = QUICK + 'metrics: [loss]\npublished: {long: "+1: yes"}\nseeds: [5]\n'
    plan = study(text + more, "train.epochs=3", quick=quick, name="mine")
    again = parse_study(plan.text, "again.yaml")
    assert same(again, plan) and again.spec == plan.spec.model_copy(update={"base": plan.base, "quick": None})


def test_what_differs_is_told_field_by_field() -> None:
    plan = study(VARIANTS + "seeds: [3]\n")
    found = dict(plan.differing())
    assert found.keys() == {"train.epochs", "augment.ops"} and found["train.epochs"] == [4, 4, 8]
    assert study("variants: {plain: {}}").differing() == []


def test_a_study_is_told_from_a_job() -> None:
    assert is_study(BASE + VARIANTS, "x.yaml") and not is_study(JOB, "x.yaml") and not is_study("- base\n", "x.yaml")


@pytest.mark.parametrize("quick", [False, True], ids=["whole", "quick"])
@pytest.mark.parametrize("file", SHIPPED, ids=[file.stem for file in SHIPPED])
def test_the_shipped_studies_resolve(file: Path, quick: bool) -> None:
    plan = load_study(file, quick=quick)
    names = [run.job.name for run in plan.runs]
    assert len(names) == len(set(names)) == len(plan.variants) * len(plan.spec.seeds)
    assert same(parse_study(plan.text, "again.yaml"), plan)
    if not quick:
        known = {name for v in plan.variants for name in (v.name, v.technique, *v.labels[-1:])}
        assert plan.spec.published.keys() <= known | {"magnitude-50", "int8"}

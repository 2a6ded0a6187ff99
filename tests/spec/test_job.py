"""The job as a value: what makes two jobs the same, and what the schema says of every field."""

import hashlib
import json
import re

import pytest
import yaml
from pydantic import ValidationError

from distaug.spec.job import NOT_PART_OF_THE_TRAINING, JobSpec, differences, differing, digest
from distaug.spec.load import STAND_INS, dump_job, parse_job, schema

SMALLEST = "data: {source: digits}\nmodel: {name: resnet18}\n"


def load(*sets):
    return parse_job(SMALLEST, sets=sets)


def sections():
    shape = schema()
    return {"a job": shape, **shape["$defs"]}


def test_the_digest_is_of_the_training_alone():
    plain = digest(load())
    assert plain == digest(load("name=other", "runs_dir=x", "cluster.workers=2", "format=1"))
    assert plain == digest(load("augment={}", "train.epochs=30"))
    for change in (
        "seed=1",
        "train.epochs=31",
        "data.val_fraction=0.2",
        "augment.preset=none",
        "model.name=a",
    ):
        assert digest(load(change)) != plain


def test_a_run_from_before_a_field_existed_has_the_digest_it_had():
    now = dump_job(load("seed=3"))
    before = "".join(line for line in now.splitlines(keepends=True) if "balance" not in line)
    job, older = parse_job(now), parse_job(before)
    assert before != now and differences(job, older) == [] and digest(older) == digest(job)
    plain = yaml.safe_load(before)
    training = {name: plain[name] for name in plain if name not in NOT_PART_OF_THE_TRAINING}
    found = hashlib.sha256(json.dumps(training, sort_keys=True).encode()).hexdigest()
    assert digest(older, as_written=True) == found != digest(job, as_written=True) == digest(job)


def test_differences_leave_out_what_changes_no_result_and_what_auto_stood_for():
    stored = load("train.shards=2", "precision=bf16", "name=a", "cluster.workers=2")
    assert differences(load("name=b"), stored) == []
    assert differences(load("seed=3", "train.shards=4"), stored) == [("seed", 3, 0), ("train.shards", 4, 2)]


def test_what_differs_is_told_field_by_field_and_a_section_that_one_lacks_whole():
    mixed, smoothed, plain = load("mix.mixup.alpha=0.4"), load("train.label_smoothing=0.2", "name=b"), load()
    found = dict(differing([mixed, smoothed, plain], ["name"]))
    assert found == {
        "mix.mixup": [{"alpha": 0.4}, None, None],
        "train.label_smoothing": [0.1, 0.2, 0.1],
    }
    decided = load("augment.class_strength={a: 0.5}"), load("augment.class_strength=auto"), plain
    assert differing(decided) == [("augment.class_strength", [{"a": 0.5}, "auto", None])]
    assert list(dict(differing([plain, smoothed]))) == ["name", "train.label_smoothing"] and differing([plain]) == []


def test_a_job_cannot_be_changed():
    job = load()
    with pytest.raises(ValidationError, match="frozen"):
        job.train.epochs = 3


def test_every_field_and_section_is_described():
    for name, section in sections().items():
        assert section.get("description"), name
        for field, node in section["properties"].items():
            assert node.get("description") or "$ref" in node, f"{name}.{field}"
            assert section["additionalProperties"] is False, name


def test_durations_and_sizes_have_their_unit_in_the_name():
    names = {field for section in sections().values() for field in section["properties"]}
    units = re.compile(r"_(epochs?|min|minutes|s|gib|pixels)$")
    durations = {n for n in names if re.search(r"timeout|budget|patience|warmup|milestone|freeze|limit|every", n)}
    assert durations and all(units.search(name) for name in durations)


def test_every_required_value_has_a_stand_in():
    shape = schema()
    required = {(name,) for name in shape["required"]}
    for (name,) in set(required):
        section = shape["$defs"][shape["properties"][name]["$ref"].rsplit("/", 1)[1]]
        required |= {(name, field) for field in section.get("required", ())}
    assert set(STAND_INS) == required
    for keys, value in STAND_INS.items():
        JobSpec.model_validate(
            {"data": STAND_INS["data",], "model": STAND_INS["model",]} | {keys[0]: STAND_INS[keys[:1]]}
        )
        assert len(keys) == 1 or STAND_INS[keys[:1]][keys[1]] == value


def test_fields_that_change_no_result_exist():
    assert set(NOT_PART_OF_THE_TRAINING) <= set(JobSpec.model_fields)

"""The section `compress`: its defaults, and orders of stages that make no sense."""

import pytest

from distaug.errors import JobError
from distaug.spec.compress import CompressSpec
from distaug.spec.job import JobSpec, differences, digest
from distaug.spec.load import dump_job, parse_job

SMALLEST = "data: {source: digits}\nmodel: {name: resnet18}\n"
ALL = "{magnitude: {}}, {channels: {ratio: 0.3}}, {int8: {}}, {dynamic: {}}"


def load(section: str) -> JobSpec:
    return parse_job(f"{SMALLEST}compress: {section}\n", filename="job.yaml")


def section(text: str) -> CompressSpec:
    found = load(text).compress
    assert found is not None
    return found


def test_nothing_is_compressed_unless_asked() -> None:
    assert parse_job(SMALLEST).compress is None and load("null").compress is None


def test_defaults() -> None:
    plain = section("{}")
    assert [stage.name for stage in plain.stages] == ["int8"] and plain == CompressSpec()
    assert plain.stages[0].settings.calibration_images == 512 and plain.gate.max_accuracy_drop == 1
    magnitude, channels, *_ = (stage.settings for stage in section(f"{{stages: [{ALL}]}}").stages)
    assert magnitude.targets == [0.1, 0.2, 0.3, 0.5] and magnitude.finetune_epochs == 5
    assert channels.ratio == 0.3 and channels.round_to == "auto" and channels.finetune_epochs == 10


@pytest.mark.parametrize("text", ["{}", f"{{stages: [{ALL}], gate: {{min_speedup: 2}}}}"])
def test_a_job_is_dumped_to_an_equal_one(text: str) -> None:
    job = load(text)
    assert parse_job(dump_job(job)) == job


def test_it_is_no_part_of_the_training() -> None:
    plain, compressed = parse_job(SMALLEST), load(f"{{stages: [{ALL}]}}")
    assert digest(compressed) == digest(plain) and differences(compressed, plain) == []


@pytest.mark.parametrize(
    ("stages", "says"),
    [
        ("{int8: {}}, {magnitude: {}}", "compress: `int8` must be the last stage but for `dynamic`"),
        ("{int8: {}}, {channels: {ratio: 0.3}}", "`int8` must be the last stage but for `dynamic`"),
        ("{int8: {}}, {dynamic: {}}, {int8: {}}", "`int8` must be the last stage but for `dynamic`"),
        ("{dynamic: {}}", "`dynamic` is only there to compare with: name another stage as well"),
        ("", "compress.stages: found `[]`; allowed: a list (each a mapping with the keys magnitude, channels, "),
        ("{int8: {}, dynamic: {}}", "names exactly one stage, found dynamic, int8"),
        ("{}", "names exactly one stage, found none"),
        ("{int8: null}", "`int8` has no settings; write `int8: {}` for the defaults"),
        ("{int4: {}}", "compress.stages.0.int4: unknown key; did you mean `int8`?"),
        ("{channels: {}}", "give either `ratio` or `macs`"),
        ("{channels: {ratio: 0.3, macs: 0.5}}", "give either `ratio` or `macs`"),
        ("{magnitude: {targets: [0.5, 0.3]}}", "`targets` must rise from one to the next, found [0.5, 0.3]"),
        ("{magnitude: {targets: [0.5, 0.5]}}", "`targets` must rise from one to the next, found [0.5, 0.5]"),
        ("{magnitude: {amounts: {fc: 0.5}, scope: layer}}", "`amounts` takes the place of `targets` and `scope`"),
        ("{int8: {percentile: 50}}", "int8.percentile: found `50`; allowed: a number above 50 and of at most 100"),
        ("{magnitude: {targets: []}}", "magnitude.targets: found `[]`; allowed: a list (each a number above 0 "),
        ("{magnitude: {targets: [50]}}", "magnitude.targets.0: found `50`; allowed: a number above 0 and below 1"),
        (
            "{int8: {calibration_images: 255}}",
            "int8.calibration_images: found `255`; allowed: a whole number of at least 256",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(stages: str, says: str) -> None:
    with pytest.raises(JobError) as caught:
        load(f"{{stages: [{stages}]}}")
    assert says in str(caught.value) and str(caught.value).startswith("job.yaml:3: compress")


def test_the_order_is_free_before_int8() -> None:
    for stages in (ALL, "{dynamic: {}}, {channels: {macs: 0.5}}, {magnitude: {amounts: {fc: 0.3}}}, {int8: {}}"):
        section(f"{{stages: [{stages}]}}")

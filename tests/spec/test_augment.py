"""The sections `augment` and `mix`: what is refused, and in which words."""

import pytest

from distaug.errors import JobError
from distaug.spec.load import dump_job, parse_job

BASE = "data: {source: digits}\nmodel: {name: smallnet}\naugment: "


@pytest.mark.parametrize(
    ("augment", "words"),
    [
        ("{ops: [{flip: {p: 1.5}}]}", ["augment.ops.0.flip.p: found `1.5`", "a number from 0 to 1"]),
        ("{ops: [{erase: {area: [0.5, 0.2]}}]}", ["ops.0.erase.area: the range [0.5, 0.2] is the wrong way round"]),
        ("{ops: [{autoaugment: cifar}]}", ["found the text `cifar`", "`cifar10`, `imagenet`, `svhn`"]),
        ("{ops: [{blur: {kernel: 4}}]}", ["augment.ops.0.blur.kernel: found 4; allowed: an odd number"]),
        ("{ops: [{rotate: {fill: [0, 0, 256]}}]}", ["augment.ops.0.rotate.fill", "from 0 to 255"]),
        ("{ops: [{rotate: {interpolation: cubic}}]}", ["`nearest`", "`bilinear`"]),
        ("{ops: [{autoaugmen: cifar10}]}", ["unknown key; did you mean `autoaugment`"]),
        ("{ops: [{crop: {}, flip: {}}]}", ["each entry of the list names exactly one operation, found crop, flip"]),
        ("{preset: stronk}", ["augment.preset: found the text `stronk`", "did you mean `strong`?"]),
        ("{preset: weak, ops: []}", ["`preset` and `ops` are both given"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_once_with_its_place_and_what_is_allowed(augment: str, words: list[str]) -> None:
    with pytest.raises(JobError) as caught:
        parse_job(BASE + augment)
    message = str(caught.value)
    assert message.startswith("<job>:3: ") and "\n" not in message, message
    for word in words:
        assert word in message


def test_several_wrong_entries_of_one_list_are_all_told() -> None:
    with pytest.raises(JobError) as caught:
        parse_job(BASE + "{ops: [{flip: {p: 2}}, {crop: {padding: -1}}, {}, {randaugment: {magnitude: 31}}]}")
    assert str(caught.value).startswith("4 errors in <job>")


@pytest.mark.parametrize("preset", ["none", "weak", "strong", "auto"])
def test_presets_and_lists_survive_the_file(preset: str) -> None:
    job = parse_job(BASE + f"{{preset: {preset}}}")
    text = dump_job(job)
    assert parse_job(text) == job
    names = [operation.name for operation in job.augment.operations]
    assert (
        names
        == {
            "none": [],
            "weak": ["crop", "flip"],
            "strong": ["crop", "flip", "jitter", "rotate", "erase"],
            "auto": ["crop", "flip", "autoaugment", "erase"],
        }[preset]
    )


def test_a_policy_is_named_in_short_or_in_full() -> None:
    short = parse_job(BASE + "{ops: [{autoaugment: svhn}]}").augment.operations[0]
    full = parse_job(BASE + "{ops: [{autoaugment: {policy: svhn}}]}").augment.operations[0]
    assert short.settings == full.settings and short.settings.policy == "svhn"

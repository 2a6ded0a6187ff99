"""`--set path=value` on top of a job file."""

import pytest

from distaug.errors import JobError
from distaug.spec.load import parse_job

JOB = """\
data: {source: digits}
model: {name: resnet18, options: {widths: [1, 2]}}
train: {epochs: 100, ema: null, schedule: {warmup_epochs: 1}}
augment: {ops: [{crop: {padding: 4}}, {flip: {}}]}
"""


def load(*sets):
    return parse_job(JOB, filename="job.yaml", sets=sets)


def test_values_are_yaml():
    job = load(
        "train.epochs=12",
        "train.optimizer.lr=1e-3",
        "cluster.workers=[1, 2]",
        "data.per_class=null",
        "name='no'",
    )
    assert job.train.epochs == 12 and job.train.optimizer.lr == 0.001
    assert job.cluster.workers == (1, 2) and job.data.per_class is None and job.name == "no"
    assert load("train={epochs: 3}").train.schedule.warmup_epochs == 0


def test_missing_mappings_are_made():
    job = load("train.ema.decay=0.9", "mix.mixup={}", "cluster.env.A=b=c")
    assert job.train.ema.decay == 0.9 and job.mix.mixup.alpha == 1 and job.cluster.env == {"A": "b=c"}


def test_lists_are_reached_by_position():
    job = load("augment.ops.0.crop.padding=2", "augment.ops.1={crop: {mode: reflect}}", "model.options.widths.1=7")
    assert [op.crop.padding for op in job.augment.ops] == [2, "auto"]
    assert job.model.options == {"widths": [1, 7]}


def test_names_of_ones_own_may_hold_dots():
    assert load("cluster.node_labels.ray.io/zone=a").cluster.node_labels == {"ray.io/zone": "a"}


def test_the_last_one_counts():
    assert load("train.epochs=5", "train.epochs=6").train.epochs == 6


def test_a_wrong_value_of_the_file_can_be_mended():
    assert parse_job(JOB + "seed: off\n", sets=["seed=1"]).seed == 1


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("train.epochs", "expected path=value, e.g. train.epochs=12"),
        ("=3", "expected path=value, e.g. train.epochs=12"),
        ("train..epochs=3", "expected path=value, e.g. train.epochs=12"),
        ("train.epochs=[1", "expected ',' or ']'"),
        ("train.epochs=0", "train.epochs: found `0`; allowed: a whole number of at least 1"),
        ("train.epoch=3", "train.epoch: unknown key; did you mean `epochs`? Keys of `train`: epochs, "),
        ("trian.epochs=3", "trian: unknown key; did you mean `train`?"),
        ("train.epochs.x=3", "train.epochs: is one value, and has no `x`"),
        ("augment.ops.2.flip.p=0", "augment.ops: is a list of 2, counted from 0, and has no `2`"),
        ("augment.ops.flip.p=0", "augment.ops: is a list of 2, counted from 0, and has no `flip`"),
        ("data.mean.0=0.5", "data.mean: is not set, and has no `0`"),
        ("name=no", 'name: found `no`, which many YAML readers take for a boolean; quote it: "no"'),
        ("train.schedule.warmup_epochs=100", "100 leaves nothing of `train.epochs` = 100"),
        ("train={epochs: 1, epochs: 2}", "train.epochs: stands twice"),
    ],
)
def test_a_wrong_argument_is_named_in_place_of_a_line(argument, says):
    with pytest.raises(JobError) as caught:
        load(argument)
    message = str(caught.value)
    assert message.startswith(f"--set {argument}: ") and says in message
    assert "\n" not in message and "job.yaml" not in message

"""Pairs of fields that cannot work together are refused before anything is started."""

import pytest

from distaug.errors import JobError
from distaug.spec.conflicts import UNUSED_BY_OPTIMIZER, UNUSED_BY_SCHEDULE, check
from distaug.spec.load import parse_job
from distaug.spec.train import OptimizerSpec, ScheduleSpec

SMALLEST = "data: {source: digits}\nmodel: {name: resnet18}\n"


def load(*sets):
    return parse_job(SMALLEST, filename="job.yaml", sets=sets)


@pytest.mark.parametrize(
    ("sets", "path", "says", "mend"),
    [
        (["name=targets"], "name", "the runs announce their metrics", "name=mine"),
        (["data.source=folder"], "data.path", "`source: folder` needs the folder", "data.path=x"),
        (["data.source=parquet"], "data.path", "`source: parquet` needs the folder", "data.path=x"),
        (["data.path=x"], "data.path", "`source: digits` reads no files", "data.path=null"),
        (["data.download=true"], "data.download", "only cifar10, ", "data.source=mnist"),
        (
            ["data.synthetic.samples=10"],
            "data.synthetic",
            "no meaning with `source: digits`",
            "data.source=synthetic",
        ),
        (
            ["data.test_fraction=0.9"],
            "data.val_fraction",
            "val_fraction + test_fraction is 1;",
            "data.val_fraction=0.05",
        ),
        (
            ["data.repeat_threshold=0.1"],
            "data.repeat_threshold",
            "no meaning with `balance: none`",
            "data.balance=repeat_factor",
        ),
        (
            ["data.balance=class_balanced", "train.class_weights=inverse_frequency"],
            "train.class_weights",
            "would count rarity twice",
            "data.balance=none",
        ),
        (["data.mean=[0, 0, 0]"], "data.mean", "both `mean` and `std`", "data.std=[1, 1, 1]"),
        (["data.mean=[0, 0, 0]", "data.std=[1, 0, 1]"], "data.std", "found 0", "data.std=[1, 1, 1]"),
        (
            ["data.image_size=32", "augment.ops=[{crop: {padding: 32, mode: reflect}}]"],
            "augment.ops.0.crop.padding",
            "less than `data.image_size` = 32 on a side, found 32",
            "augment.ops.0.crop.mode=zero",
        ),
        (["mix.off_after_epoch=2"], "mix.off_after_epoch", "neither `mixup` nor `cutmix`", "mix.cutmix={}"),
        (["model.resize=true"], "model.resize", "needs the weights of a pruned network", "model.weights=x.safetensors"),
        (["train.keep_zeros=true"], "train.keep_zeros", "in `model.weights`", "model.weights=x.safetensors"),
        (
            ["train.optimizer.momentum=0"],
            "train.optimizer.nesterov",
            "above 0",
            "train.optimizer.nesterov=false",
        ),
        (
            ["train.optimizer={name: adamw, betas: [0.9, 1.0]}"],
            "train.optimizer.betas",
            "found [0.9, 1.0]",
            "train.optimizer.betas=[0.9, 0.95]",
        ),
        (
            ["train.schedule.warmup_epochs=30"],
            "train.schedule.warmup_epochs",
            "`train.epochs` = 30",
            "train.epochs=31",
        ),
        (
            ["train.schedule.name=multi_step"],
            "train.schedule.milestones_epochs",
            "at least one milestone",
            "train.schedule.milestones_epochs=[3]",
        ),
        (
            ["train.schedule={name: multi_step, milestones_epochs: [5, 5]}"],
            "train.schedule.milestones_epochs",
            "found [5, 5]",
            "train.schedule.milestones_epochs=[5, 6]",
        ),
        (["model.freeze_epochs=30"], "model.freeze_epochs", "leave nothing", "model.freeze_epochs=29"),
        (["stop.start_epoch=31"], "stop.start_epoch", "31 is more than", "stop.start_epoch=30"),
        (
            ["train.shards=3"],
            "train.global_batch",
            "128 is not divisible by `train.shards` = 3",
            "train.shards=4",
        ),
        (["cluster.workers=[4, 2]"], "cluster.workers", "wrong way round", "cluster.workers=[2, 4]"),
        (["cluster.workers=3"], "train.global_batch", "128 is not divisible among", "train.global_batch=129"),
        (
            ["cluster.workers=[1, 3]"],
            "train.global_batch",
            "128 is not divisible among",
            "cluster.workers=[1, 4]",
        ),
        (
            ["cluster.workers=4", "train.shards=2"],
            "cluster.workers",
            "4 workers, but only `train.shards` = 2",
            "train.shards=8",
        ),
        (
            ["cluster.backend=nccl", "cluster.gpus_per_worker=0"],
            "cluster.backend",
            "nccl needs a GPU",
            "cluster.backend=gloo",
        ),
        (["cluster.env.AWS_SECRET=x"], "cluster.env.AWS_SECRET", "looks like a secret", "cluster.env={}"),
        (["cluster.env.MY.API_KEY=x"], "cluster.env.MY.API_KEY", "looks like a secret", "cluster.env={}"),
    ],
)
def test_each_conflict_is_named_and_can_be_mended(sets, path, says, mend):
    with pytest.raises(JobError) as caught:
        load(*sets)
    assert f": {path}: " in str(caught.value) and says in str(caught.value)
    assert "\n" not in str(caught.value)
    load(*sets, mend)


@pytest.mark.parametrize("name", UNUSED_BY_OPTIMIZER)
def test_settings_of_the_other_optimizer_are_refused(name):
    other = {"betas": "[0.8, 0.9]", "momentum": 0.5, "nesterov": "false"}
    assert set(UNUSED_BY_OPTIMIZER) == {"sgd", "adamw"}
    for field in OptimizerSpec.model_fields.keys() & other.keys():
        sets = [f"train.optimizer.name={name}", f"train.optimizer.{field}={other[field]}"]
        if field in UNUSED_BY_OPTIMIZER[name]:
            with pytest.raises(JobError, match=rf"train.optimizer.{field}: has no meaning with `name: {name}`"):
                load(*sets)
        else:
            load(*sets)


@pytest.mark.parametrize("name", UNUSED_BY_SCHEDULE)
def test_settings_of_other_schedules_are_refused(name):
    other = {
        "warmup_epochs": 1,
        "final_lr_fraction": 0.1,
        "pct_start": 0.3,
        "milestones_epochs": [3],
        "gamma": 0.5,
    }
    assert other.keys() == ScheduleSpec.model_fields.keys() - {"name"}
    needed = ["train.schedule.milestones_epochs=[2]"] if name == "multi_step" else []
    for field, value in other.items():
        sets = [f"train.schedule.name={name}", *needed, f"train.schedule.{field}={value}"]
        if field in UNUSED_BY_SCHEDULE[name]:
            with pytest.raises(JobError, match=rf"train.schedule.{field}: has no meaning with `name: {name}`"):
                load(*sets)
        else:
            load(*sets)


def test_the_line_is_that_of_a_field_in_the_file():
    with pytest.raises(JobError) as caught:
        parse_job(SMALLEST + "cluster:\n  workers: 3\n", filename="job.yaml")
    assert str(caught.value).startswith("job.yaml:4: train.global_batch: 128 is not divisible")


def test_a_job_made_in_python_is_checked_too():
    check(load())
    job = load()
    wrong = job.model_copy(update={"cluster": job.cluster.model_copy(update={"workers": 3})})
    with pytest.raises(JobError, match="train.global_batch: 128 is not divisible among `cluster.workers` = 3"):
        check(wrong)


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("HF_TOKEN", True),
        ("aws_secret_access_key", True),
        ("PGPASSWORD", True),
        ("GOOGLE_APPLICATION_CREDENTIALS", True),
        ("APIKEY", True),
        ("TOKENIZERS_PARALLELISM", False),
        ("XKB_KEYBOARD", False),
        ("NCCL_SOCKET_IFNAME", False),
    ],
)
def test_what_looks_like_a_secret(name, secret):
    if secret:
        with pytest.raises(JobError, match="looks like a secret"):
            load(f"cluster.env.{name}=x")
    else:
        assert load(f"cluster.env.{name}=x").cluster.env == {name: "x"}

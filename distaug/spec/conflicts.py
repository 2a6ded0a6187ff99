"""The fields of a job that cannot work together, found before anything is started."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from distaug.errors import JobError
from distaug.spec.augment import AugmentSpec, MixSpec
from distaug.spec.cluster import ClusterSpec
from distaug.spec.data import DataSpec, SyntheticSpec
from distaug.spec.job import JobSpec
from distaug.spec.train import OptimizerSpec, ScheduleSpec, TrainSpec

DOWNLOADABLE = ("cifar10", "cifar100", "mnist", "fashion_mnist")
UNUSED_BY_OPTIMIZER = {"sgd": ("betas",), "adamw": ("momentum", "nesterov")}
UNUSED_BY_SCHEDULE = {
    "cosine": ("pct_start", "milestones_epochs", "gamma"),
    "one_cycle": ("warmup_epochs", "milestones_epochs", "gamma"),
    "multi_step": ("final_lr_fraction", "pct_start"),
    "constant": ("final_lr_fraction", "pct_start", "milestones_epochs", "gamma"),
}
SECRETIVE = re.compile(r"SECRET|PASSW|CREDENTIAL|TOKENS?(_|$)|(^|_|API)KEYS?(_|$)", re.IGNORECASE)


class Conflict(NamedTuple):
    """A field that cannot work together with others."""

    path: str
    """The field to change, e.g. `train.global_batch`."""
    message: str
    """What was found, what is allowed, what to do."""
    reads: tuple[str, ...] = ()
    """The other fields that the verdict rests on."""


def check(job: JobSpec) -> None:
    """Raise JobError naming every conflict of a job; `load_job` has done so for a job that it returns."""
    found = [f"{path}: {message}" for path, message, _ in conflicts(job)]
    if found:
        raise JobError("\n".join(found))


def conflicts(job: JobSpec) -> Iterator[Conflict]:
    """Yield every set of fields that cannot work together."""
    if job.name == "targets":
        message = "`targets` is the folder in which the runs announce their metrics; take another name"
        yield Conflict("name", message)
    if job.metrics.tensorboard and _stored(job.runs_dir):
        message = "event files grow line by line, which files in an object store cannot; leave this out"
        yield Conflict("metrics.tensorboard", message, ("runs_dir",))
    yield from _data_conflicts(job.data)
    yield from _pruning_conflicts(job)
    yield from _augment_conflicts(job.augment, job.mix, job.data)
    yield from _balance_conflicts(job)
    yield from _optimizer_conflicts(job.train.optimizer)
    yield from _schedule_conflicts(job.train)
    yield from _epoch_conflicts(job)
    if job.compress is not None and job.train.final_fit:
        message = "the gate needs a validation set, and `train.final_fit` trains on it; leave one of them out"
        yield Conflict("compress", message, ("train.final_fit",))
    yield from _cluster_conflicts(job.cluster, job.train)


def _stored(where: str) -> bool:
    """Return whether it is the URL of an object store."""
    return "://" in where and not where.lower().startswith("file://")


def _data_conflicts(data: DataSpec) -> Iterator[Conflict]:
    source = f"`source: {data.source}`"
    if data.source in ("folder", "parquet") and data.path is None:
        yield Conflict("data.path", f"missing; {source} needs the folder of the data set", ("data.source",))
    if data.source in ("digits", "synthetic") and data.path is not None:
        yield Conflict("data.path", f"{source} reads no files; leave the path out", ("data.source",))
    if data.download and data.source not in DOWNLOADABLE:
        allowed = ", ".join(DOWNLOADABLE)
        message = f"{source} cannot be downloaded, only {allowed}; leave `download` out"
        yield Conflict("data.download", message, ("data.source",))
    if data.download and data.path is not None and _stored(data.path):
        message = f"nothing is downloaded into the object store {data.path}; put the data there, or give a local path"
        yield Conflict("data.download", message, ("data.path",))
    if data.synthetic != SyntheticSpec() and data.source != "synthetic":
        yield Conflict("data.synthetic", f"has no meaning with {source}; leave it out", ("data.source",))
    if data.repeat_threshold != "auto" and data.balance != "repeat_factor":
        message = f"has no meaning with `balance: {data.balance}`; set `balance: repeat_factor`, or leave it out"
        yield Conflict("data.repeat_threshold", message, ("data.balance",))
    held_out = data.val_fraction + data.test_fraction
    if held_out >= 1:
        message = f"val_fraction + test_fraction is {held_out:g}; below 1 is allowed, the rest is trained on"
        yield Conflict("data.val_fraction", message, ("data.test_fraction",))
    if (data.mean == "auto") != (data.std == "auto"):
        yield Conflict("data.mean", "give numbers for both `mean` and `std`, or for neither", ("data.std",))
    if data.std != "auto" and min(data.std) <= 0:
        yield Conflict("data.std", f"every deviation must be above 0, found {min(data.std):g}")


def _augment_conflicts(augment: AugmentSpec, mix: MixSpec, data: DataSpec) -> Iterator[Conflict]:
    for index, operation in enumerate(augment.ops or ()):
        crop, size = operation.crop, data.image_size
        if crop is None or crop.mode == "zero" or crop.padding == "auto" or size == "auto":
            continue
        if crop.padding >= size:
            message = f"mirroring adds less than `data.image_size` = {size} on a side, found {crop.padding}"
            place = f"augment.ops.{index}.crop"
            yield Conflict(f"{place}.padding", message, (f"{place}.mode", "data.image_size"))
    if mix.off_after_epoch is not None and not (mix.mixup or mix.cutmix):
        message = "neither `mixup` nor `cutmix` is on; set one of them, or leave this out"
        yield Conflict("mix.off_after_epoch", message, ("mix.mixup", "mix.cutmix"))


def _pruning_conflicts(job: JobSpec) -> Iterator[Conflict]:
    for path, asked in (("model.resize", job.model.resize), ("train.keep_zeros", job.train.keep_zeros)):
        if asked and job.model.weights is None:
            message = "needs the weights of a pruned network; name their file in `model.weights`, or leave this out"
            yield Conflict(path, message, ("model.weights",))


def _optimizer_conflicts(optimizer: OptimizerSpec) -> Iterator[Conflict]:
    for field in UNUSED_BY_OPTIMIZER[optimizer.name]:
        yield from _unused(optimizer, "train.optimizer", field)
    if optimizer.name == "sgd" and optimizer.nesterov and optimizer.momentum == 0:
        message = "Nesterov's form needs `momentum` above 0; set `nesterov: false`"
        yield Conflict("train.optimizer.nesterov", message, ("train.optimizer.momentum",))
    if not all(0 <= beta < 1 for beta in optimizer.betas):
        message = f"both must be at least 0 and below 1, found {list(optimizer.betas)}"
        yield Conflict("train.optimizer.betas", message)


def _balance_conflicts(job: JobSpec) -> Iterator[Conflict]:
    if job.data.balance == "class_balanced" and job.train.class_weights != "none":
        message = (
            f"`{job.train.class_weights}` would count rarity twice beside `data.balance: class_balanced`; leave one out"
        )
        yield Conflict("train.class_weights", message, ("data.balance",))


def _schedule_conflicts(train: TrainSpec) -> Iterator[Conflict]:
    schedule, place = train.schedule, "train.schedule"
    if schedule.warmup_epochs >= train.epochs:
        message = f"{schedule.warmup_epochs:g} leaves nothing of `train.epochs` = {train.epochs}"
        yield Conflict(f"{place}.warmup_epochs", message, ("train.epochs",))
    for field in UNUSED_BY_SCHEDULE[schedule.name]:
        yield from _unused(schedule, place, field)
    if schedule.name == "multi_step" and not schedule.milestones_epochs:
        message = "`multi_step` needs at least one milestone, e.g. [15, 25]"
        yield Conflict(f"{place}.milestones_epochs", message, (f"{place}.name",))
    if sorted(set(schedule.milestones_epochs)) != schedule.milestones_epochs:
        message = f"must rise from one to the next, found {schedule.milestones_epochs}"
        yield Conflict(f"{place}.milestones_epochs", message)


def _unused(section: OptimizerSpec | ScheduleSpec, place: str, field: str) -> Iterator[Conflict]:
    # Compared with the default, since a run's own job.yaml spells out all fields.
    if getattr(section, field) != type(section).model_fields[field].default:
        message = f"has no meaning with `name: {section.name}`; leave it out"
        yield Conflict(f"{place}.{field}", message, (f"{place}.name",))


def _epoch_conflicts(job: JobSpec) -> Iterator[Conflict]:
    epochs = job.train.epochs
    if job.model.freeze_epochs >= epochs:
        message = f"{job.model.freeze_epochs} frozen epochs leave nothing of `train.epochs` = {epochs}"
        yield Conflict("model.freeze_epochs", message, ("train.epochs",))
    if job.stop.start_epoch != "auto" and job.stop.start_epoch > epochs:
        message = f"{job.stop.start_epoch} is more than `train.epochs` = {epochs}; `auto` is half of them"
        yield Conflict("stop.start_epoch", message, ("train.epochs",))


def _cluster_conflicts(cluster: ClusterSpec, train: TrainSpec) -> Iterator[Conflict]:
    workers, shards, batch = cluster.workers, train.shards, train.global_batch
    if shards != "auto" and batch % shards:
        message = f"{batch} is not divisible by `train.shards` = {shards}"
        yield Conflict("train.global_batch", message, ("train.shards",))
    if isinstance(workers, tuple) and workers[0] > workers[1]:
        message = f"the range [{workers[0]}, {workers[1]}] is the wrong way round"
        yield Conflict("cluster.workers", message)
    most = workers[1] if isinstance(workers, tuple) else workers
    if most != "auto" and shards != "auto" and most > shards:
        message = f"{most} workers, but only `train.shards` = {shards} parts of a batch to work on"
        yield Conflict("cluster.workers", message, ("train.shards",))
    if most != "auto" and shards == "auto" and batch % most:
        message = f"{batch} is not divisible among `cluster.workers` = {most}"
        yield Conflict("train.global_batch", message, ("cluster.workers", "train.shards"))
    if cluster.backend == "nccl" and cluster.gpus_per_worker == 0:
        message = "nccl needs a GPU per worker, and `gpus_per_worker` is 0; use `gloo`"
        yield Conflict("cluster.backend", message, ("cluster.gpus_per_worker",))
    for key in cluster.env:
        if SECRETIVE.search(key):
            message = "looks like a secret; set it in the environment of the nodes, not in a job file"
            yield Conflict(f"cluster.env.{key}", message)

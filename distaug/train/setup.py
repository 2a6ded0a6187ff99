"""From a job to a training that is ready for its next step, new or resumed."""

import os

import torch
from torch import Tensor, nn

from distaug.augment import Augment
from distaug.data.balance import strengths
from distaug.data.loader import Loader, choose_way
from distaug.data.open import DataSet, open_data
from distaug.data.shard import own_shards
from distaug.errors import DataError, JobError
from distaug.model import registry
from distaug.model.ema import Ema
from distaug.spec.job import JobSpec, digest
from distaug.store import checkpoint, records
from distaug.store.rundir import RunDir
from distaug.train import optim, precision
from distaug.train.attempts import device_seconds, note_start
from distaug.train.claim import settle
from distaug.train.decide import Memory
from distaug.train.device import keep_freed_memory, pick_device, threads_per_worker
from distaug.train.keep import chosen, load_weights
from distaug.train.loss import class_weights
from distaug.train.reporter import Reporter
from distaug.train.state import Tally, Training
from distaug.train.sums import Gradients, NormStatistics, Tree, distribute
from distaug.train.teacher import Teacher
from distaug.train.world import World, by_rank_0, together

__all__ = ["setup", "unfreeze"]


def setup(job: JobSpec, run: RunDir, world: World, reporter: Reporter) -> Training:
    """Open the data, build the model, and restore the newest checkpoint of the run if there is one.

    Args:
        job: The job, as `claim` returned it before the run's first group of workers or a later one.
        run: Its run folder.
        world: The ranks.
        reporter: Whoever watches.

    Returns:
        The training, at the position where it goes on.

    Raises:
        DistaugError: Something asked for cannot be had; the same error on every rank.
    """
    # What an earlier group of workers decided stays, whatever the size of this one. Rank 0 alone reads it, since others
    # may not see a new file yet.
    asked = job
    job = by_rank_0(world, lambda: settle(asked, run))
    device = together(world, lambda: pick_device(job, world))
    threads = threads_per_worker(job, world)
    torch.set_num_threads(threads)
    if device.type == "cpu":
        keep_freed_memory()
    log = reporter.log if world.rank == 0 else (lambda message: None)
    data = together(world, lambda: open_data(job.data, final_fit=job.train.final_fit, log=log))
    _check_same_data(world, data.digest)
    built = together(
        world,
        lambda: registry.build(job.model, num_classes=len(data.classes), image_size=data.image_size, seed=job.seed),
    )
    able = world.gather(
        together(world, lambda: (precision.resolve(job.precision, device), choose_way(data, job.data, device)))
    )
    job = together(world, lambda: _resolve(job, data, built, device, threads, able))
    assert job.train.shards != "auto" and job.data.batches != "auto" and job.train.exact != "auto"
    if job.precision == "fp16" and device.type == "cpu":
        log("precision: fp16 is about 50 times slower than bf16 on a CPU; it is there for tests of correctness")
    arithmetic = precision.Precision(job.precision, device)
    teacher = together(world, lambda: Teacher(job, len(data.classes), arithmetic)) if job.train.distill else None
    if world.rank == 0 and not run.exists():
        run.save_job(job)
    shards, own = job.train.shards, own_shards(world.rank, world.size, job.train.shards)
    module = built.module.to(device, arithmetic.weights)
    tree = Tree(world, shards) if job.train.exact else None
    if job.train.exact and device.type == "cuda":
        # What cuBLAS wants for it, read when its first kernel runs. Torch warns, into the log, of whatever has no
        # deterministic kernel.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    if job.train.compile:
        module.compile()
    loader = Loader(
        data,
        device=device,
        seed=job.seed,
        global_batch=job.train.global_batch,
        shards=shards,
        own=own,
        spec=job.data,
        way=job.data.batches,
        eval_batch=job.evaluate.batch,
        rank=world.rank,
        world=world.size,
    )
    weights = class_weights(data.train.labels.bincount(), job.train.class_weights)
    training = Training(
        job=job,
        run=run,
        world=world,
        reporter=reporter,
        device=device,
        data=data,
        loader=loader,
        module=module,
        head=built.head,
        trainable=built.trainable,
        precision=arithmetic,
        augment=_augment(job, data, arithmetic),
        ema=Ema(module, job.train.ema.decay) if job.train.ema else None,
        optimizer=optim.build(job, module, built.head),
        tally=Tally(device, job.train.label_smoothing, len(data.classes)),
        tree=tree,
        norms=NormStatistics(module, tree, world, shards),
        class_weights=None if weights is None else weights.to(device, arithmetic.weights),
        teacher=teacher,
        masks=_masks(module) if job.train.keep_zeros else [],
        steps=loader.steps_per_epoch,
        # At a run's first start other ranks may not see the file yet: it says what this job does.
        job_digest=digest(run.load_job(), as_written=True) if run.exists() else digest(job),
    )
    _restore(training)
    unfreeze(training)
    return training


def unfreeze(t: Training) -> None:
    """Set what is trained in this epoch: the head alone in the frozen epochs, then all that the network leaves open.

    DistributedDataParallel fixes its parameters when it is made, so it is made anew when they change.
    """
    trained = t.trainable & t.head if t.epoch < t.job.model.freeze_epochs else t.trainable
    for name, parameter in t.module.named_parameters():
        parameter.requires_grad_(name in trained)
    t.trained = [p for p in t.module.parameters() if p.requires_grad]
    assert t.job.train.shards != "auto"
    t.model = distribute(t.module, t.world, t.device)
    t.gradients = Gradients(t.model, t.tree, t.world, t.job.train.shards)


def _check_same_data(world: World, digest: str) -> None:
    found: dict[str, set[str]] = {}
    for node, has in world.gather((world.node, digest)):
        found.setdefault(has, set()).add(node)
    if len(found) > 1:
        copies = "; ".join(f"{has[:12]} on {', '.join(sorted(nodes))}" for has, nodes in found.items())
        raise DataError(f"the nodes do not have the same data (digests: {copies}): give all of them the same copy")


def _masks(module: nn.Module) -> list[tuple[nn.Parameter, Tensor]]:
    """Return the weights, norms and biases left out, each with 0 where it is 0 and 1 elsewhere."""
    return [(p, p.detach().ne(0).to(p.dtype)) for p in module.parameters() if p.ndim > 1]


def _augment(job: JobSpec, data: DataSet, arithmetic: precision.Precision) -> Augment:
    assert job.data.mean != "auto" and job.data.std != "auto"
    try:
        return Augment(
            job.augment,
            data.image_size,
            len(data.classes),
            mix=job.mix,
            label_smoothing=job.train.label_smoothing,
            mean=job.data.mean,
            std=job.data.std,
            seed=job.seed,
            dtype=arithmetic.activations,
            memory_format=torch.channels_last if job.model.channels_last else torch.contiguous_format,
            classes=data.classes,
        )
    except ValueError as error:
        raise JobError(f"augment.{error}") from error


def _resolve(
    job: JobSpec,
    data: DataSet,
    built: registry.Built,
    device: torch.device,
    threads: int,
    able: list[tuple[str, str]],
) -> JobSpec:
    """Replace every `auto` that changes the training by its value, the same on all ranks.

    `able` is the precision and the way of reading that each rank came to.
    """
    train = job.train
    workers = job.cluster.workers
    asked = workers[1] if isinstance(workers, tuple) else workers
    shards = train.shards if train.shards != "auto" else len(able) if asked == "auto" else asked
    if len(able) > shards:
        raise JobError(f"{len(able)} workers have only {shards} shards to work on: raise `train.shards`")
    if train.global_batch % shards:
        raise JobError(f"train.global_batch: {train.global_batch} is not divisible by {shards} shards")
    # The weakest rank decides for all: the first of these names that any rank came to.
    arithmetic = next(p for p in ("fp64", "fp32", "tf32", "fp16", "bf16") if p in [name for name, _ in able])
    batches = "stream" if "stream" in [way for _, way in able] else "device"
    mean, std = job.data.mean, job.data.std
    if mean == "auto":
        mean, std = built.mean or data.mean, built.std or data.std
    augment = job.augment
    if augment.class_strength == "auto":
        augment = augment.model_copy(update={"class_strength": strengths(data.train.labels, data.classes)})
    optimizer = train.optimizer
    decay = optim.DEFAULT_WEIGHT_DECAY[optimizer.name]
    start = train.epochs // 2 if job.stop.start_epoch == "auto" else job.stop.start_epoch
    return job.model_copy(
        update={
            "precision": arithmetic,
            "augment": augment,
            "data": job.data.model_copy(
                update={"image_size": data.image_size, "batches": batches, "mean": mean, "std": std}
            ),
            "train": train.model_copy(
                update={
                    "shards": shards,
                    "exact": device.type == "cpu" if train.exact == "auto" else train.exact,
                    "optimizer": optimizer.model_copy(
                        update={
                            "lr": optim.DEFAULT_LR[optimizer.name] if optimizer.lr == "auto" else optimizer.lr,
                            "weight_decay": decay if optimizer.weight_decay == "auto" else optimizer.weight_decay,
                        }
                    ),
                }
            ),
            "stop": job.stop.model_copy(update={"start_epoch": start}),
            "cluster": job.cluster.model_copy(
                update={"cpus_per_worker": threads, "gpus_per_worker": int(device.type == "cuda")}
            ),
        }
    )


def _restore(t: Training) -> None:
    """Take up the newest checkpoint, if there is one, and note this start."""
    found = chosen(t, checkpoint.newest)
    together(t.world, lambda: _take_up(t, found))


def _take_up(t: Training, found: checkpoint.Checkpoint | None) -> None:
    if found:
        _check_manifest(t, found)
        load_weights(t, found)
        state = found.state()
        t.optimizer.load_state_dict(state["optimizer"])
        t.precision.scaler.load_state_dict(state["scaler"])
        t.epoch, t.step = found.epoch, found.step
        position = state["position"]
        t.memory = Memory(**position["memory"])
        t.epoch_seconds, t.trained_seconds = position["epoch_seconds"], position["trained_seconds"]
        t.reason, t.resumed_sums = position["reason"], state["sums"]
    if t.world.rank == 0:
        if found:
            t.reporter.log(f"going on from epoch {t.epoch + 1}, step {t.step}")
        records.truncate(t.run.history_file, t.epoch)
        t.held_before = device_seconds(t.run)
        t.restarts = note_start(t.run, world_size=t.world.size, epoch=t.epoch, step=t.step)


def _check_manifest(t: Training, found: checkpoint.Checkpoint) -> None:
    if found.manifest["job"] != t.job_digest:
        raise JobError(f"{found.path} belongs to another job than {t.run.job_file}: the run folder was changed by hand")
    if found.manifest["data"] != t.data.digest:
        raise DataError(
            f"the data is not what run {t.run.root.name!r} was trained on (digest {t.data.digest[:12]}, "
            f"in the run {found.manifest['data'][:12]}): restore it, or start anew with --name"
        )

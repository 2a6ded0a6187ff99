"""What an epoch came to: sums over all ranks, accuracy on a set, and the record of both."""

import datetime

import torch
from torch import Tensor

from distaug.augment import normalise
from distaug.augment.tta import Averaged
from distaug.data.open import Split
from distaug.data.shard import eval_batches
from distaug.errors import DivergedError
from distaug.store.records import EpochRecord
from distaug.train.evaluate import Counts, evaluate
from distaug.train.memory import peak_bytes
from distaug.train.state import Training

__all__ = ["check_finite", "judge", "make_record"]

_LOWEST_SCALE = 2.0**-4
"""Of fp16's gradients; the scaler begins at 2¹⁶, halves it at each overflow, doubles it after 2,000 steps without."""


def check_finite(t: Training) -> dict[str, float]:
    """Return the epoch's sums over all ranks.

    Raises:
        DivergedError: An update was withheld because the gradient was not finite. Under fp16 that happens now and
            then and the scaler mends it, so there only a scale counts that no overflow explains any more.
    """
    sums = t.tally.total(t.world)
    withheld = sums["withheld"]
    mended = t.job.precision == "fp16" and t.precision.scaler.get_scale() >= _LOWEST_SCALE
    if withheld and not mended:
        raise DivergedError(
            f"epoch {t.epoch + 1}: the gradient was not finite in {withheld:.0f} of {t.step} steps; nothing was "
            "saved since. Lower `train.optimizer.lr`, set `train.clip_norm`, or lengthen the warm-up; "
            "then start anew under another name"
        )
    return sums


def judge(
    t: Training, split: Split | None, name: str, *, pictures: Tensor | None = None, keep: bool = False
) -> dict[str, Counts]:
    """Evaluate on a set: as `model` what is the model (EMA where there is one), as `raw` the raw weights beside it.

    On the test set also as `tta` the model with test-time augmentation, where the job asks for it; on the training set
    the model alone.

    Args:
        t: The training.
        split: The set; None gives no counts.
        name: Its name, `train`, `val` or `test`.
        pictures: (n,) int64 indices of those to judge it on; None: all.
        keep: Whether to keep what each picture was taken for, of all.
    """
    if split is None:
        return {}
    models = {"model": t.module if t.ema is None else t.ema.module}
    if t.ema is not None and name != "train":
        models["raw"] = t.module
    if name == "test" and t.job.evaluate.tta:
        models["tta"] = Averaged(models["model"], t.job.evaluate.tta)
    layout = torch.channels_last if t.job.model.channels_last else torch.contiguous_format
    mean, std = t.augment.mean, t.augment.std
    return evaluate(
        models,
        t.loader.evaluate(name, pictures),
        classes=len(t.data.classes),
        total_batches=len(eval_batches(len(split if pictures is None else pictures), t.job.evaluate.batch, 0, 1)),
        prepare=lambda images: normalise(images, mean, std, t.precision.activations, layout),
        autocast=t.precision.autocast,
        world=t.world,
        device=t.device,
        keep=len(split) if keep else 0,
    )


def make_record(
    t: Training,
    sums: dict[str, float],
    counts: dict[str, Counts],
    seconds: float,
    eval_seconds: float,
) -> EpochRecord:
    """Write an epoch's numbers down.

    Args:
        t: The training.
        sums: What `check_finite` returned.
        counts: What `judge` returned on the validation set.
        seconds: Wall time of the epoch's steps, waiting for data included.
        eval_seconds: Wall time of the validation.
    """
    model = counts["model"].to_dict() if counts else {}
    raw = counts["raw"].to_dict() if "raw" in counts else model
    return EpochRecord(
        epoch=t.epoch,
        steps=t.steps,
        images=int(sums["images"]),
        seconds=seconds,
        eval_seconds=eval_seconds,
        data_wait_seconds=t.world.max([t.wait_seconds])[0],
        images_per_second=sums["images"] / seconds,
        lr=t.optimizer.param_groups[0]["lr"],
        train_loss=sums["loss"] / sums["images"],
        train_top1=sums["hits"] / sums["images"],
        train_top1_mixed=t.augment.mixes(t.epoch),
        val_loss=model.get("loss"),
        top1=model.get("top1"),
        raw_top1=raw.get("top1"),
        top5=model.get("top5"),
        macro=model.get("macro"),
        per_class=model.get("per_class", []),
        skipped_steps=int(sums["withheld"]),
        peak_memory_bytes=int(t.world.max([peak_bytes(t.device)])[0]),
        world_size=t.world.size,
        finished_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )

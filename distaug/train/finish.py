"""The end of a training: the best model restored, judged once on the test set, and written down."""

from typing import Any

import torch

from distaug.errors import StorageError
from distaug.spec.job import to_dict
from distaug.store import checkpoint, predictions, records
from distaug.store.model_files import write_model
from distaug.store.predictions import Prediction
from distaug.store.records import EpochRecord, Result
from distaug.train.attempts import device_seconds
from distaug.train.calibration import calibration_error, reliability
from distaug.train.device import available_cores, cpu_name
from distaug.train.evaluate import Counts
from distaug.train.judge import judge
from distaug.train.keep import chosen, load_weights
from distaug.train.state import Training
from distaug.train.world import by_rank_0, together

__all__ = ["finish"]


def finish(t: Training) -> Result:
    """Restore the best model, judge it on the test set, and write model and result.

    Returns:
        The result, the same on every rank.
    """
    epoch = _restore_best(t) if t.data.val is not None else t.epoch - 1
    t.reporter.progress(t.progress("test"))
    name, split = ("val", t.data.val) if t.data.test is None else ("test", t.data.test)
    asked = t.job.evaluate.test
    held_out = judge(t, split if asked else None, name, keep=True)
    learnt = judge(t, t.data.train if asked else None, "train", pictures=_spread(t))
    return by_rank_0(t.world, lambda: _write(t, name, held_out, learnt, epoch))


def _restore_best(t: Training) -> int:
    """Load the best checkpoint that is whole; return its epoch."""
    best = chosen(t, checkpoint.best)
    if best is None:
        raise StorageError(f"{t.run.checkpoints} has no checkpoint of the best epoch {t.memory.best_epoch}")
    together(t.world, lambda: load_weights(t, best))
    return best.epoch - 1  # A checkpoint's position is that of the next step.


def _spread(t: Training) -> torch.Tensor:
    """Return (n,) int64 indices of as many training pictures as there are to validate with, of all classes alike."""
    whole = len(t.data.train)
    count = min(whole, whole if t.data.val is None else len(t.data.val))
    # Evenly over the set, which may be sorted by class.
    return torch.arange(count) * whole // count


def _write(t: Training, name: str, held_out: dict[str, Counts], learnt: dict[str, Counts], epoch: int) -> Result:
    history = records.read(t.run.history_file)
    picked = history[epoch]
    weights = (t.module if t.ema is None else t.ema.module).state_dict()
    job = t.job
    write_model(
        t.run.model,
        weights,
        {
            "model": to_dict(job)["model"],
            "classes": list(t.data.classes),
            "image_size": t.data.image_size,
            "mean": list(t.augment.mean),
            "std": list(t.augment.std),
            "channels_last": job.model.channels_last,
            "precision": job.precision,
            "eval_geometry": "resize" if t.data.cached else "resize_crop",
            "epoch": picked.epoch,
            "top1": picked.top1,
            "job": job.name,
            "job_digest": t.job_digest,
            "data_digest": t.data.digest,
        },
    )
    answers = _predictions(t, name, held_out["model"]) if held_out else []
    if answers:
        predictions.write(t.run.predictions_file, answers)
    held = device_seconds(t.run)
    images = sum(r.images for r in history)
    result = Result(
        name=job.name,
        state="finished" if len(history) == job.train.epochs else "stopped",
        reason=t.reason,
        best={
            "epoch": picked.epoch,
            "top1": picked.top1,
            "loss": picked.val_loss,
            "metric": job.stop.metric,
        },
        test=_test_numbers(t, held_out, answers) if held_out and name == "test" else None,
        val=_val_numbers(picked),
        train=_train_numbers(learnt["model"]) if learnt else None,
        final={"epoch": history[-1].epoch, "train_loss": history[-1].train_loss, "top1": history[-1].top1},
        epochs=len(history),
        images_per_second=images / sum(r.seconds for r in history),
        seconds=t.trained_seconds,
        world_size=t.world.size,
        shards=job.train.shards if job.train.shards != "auto" else None,
        restarts=t.restarts,
        device_seconds=held,
        goodput=min(1.0, t.trained_seconds * t.world.size / held) if held else None,
        classes=list(t.data.classes),
        data=t.data.report,
        weights_digest=checkpoint.weights_digest(weights),
        versions=checkpoint.versions(),
        machine=_machine(t),
        synthetic=job.data.source == "synthetic",
    )
    result.write(t.run.result_file)
    return result


def _predictions(t: Training, name: str, counts: Counts) -> list[Prediction]:
    split, classes = t.data.val if name == "val" else t.data.test, t.data.classes
    assert split is not None and counts.predictions is not None
    return [
        Prediction(name, index, split.name(index), classes[label], classes[int(predicted)], highest, of_label)
        for index, (label, (predicted, highest, of_label)) in enumerate(
            zip(split.labels.tolist(), counts.predictions.tolist(), strict=True)
        )
    ]


def _test_numbers(t: Training, test: dict[str, Counts], answers: list[Prediction]) -> dict[str, Any]:
    numbers = test["model"].by_name(t.data.classes) | {"per_class": test["model"].per_class}
    top1 = {name: counts.to_dict()["top1"] for name, counts in test.items()}
    return numbers | {
        "raw_top1": top1.get("raw", top1["model"]),
        "ema_top1": top1["model"] if "raw" in test else None,
        "tta_top1": top1.get("tta"),
        "ece": calibration_error(reliability((a.probability, a.right) for a in answers)),
    }


def _train_numbers(counts: Counts) -> dict[str, Any]:
    found = counts.to_dict()
    return {key: found[key] for key in ("top1", "macro", "loss")} | {"samples": counts.samples}


def _val_numbers(chosen: EpochRecord) -> dict[str, Any] | None:
    if chosen.top1 is None:
        return None
    return {
        "top1": chosen.top1,
        "top5": chosen.top5,
        "macro": chosen.macro,
        "loss": chosen.val_loss,
        "raw_top1": chosen.raw_top1,
        "per_class": chosen.per_class,
    }


def _machine(t: Training) -> dict[str, Any]:
    return {
        "cpu": cpu_name(),
        "cores": available_cores(),
        "threads_per_rank": t.job.cluster.cpus_per_worker,
        "gpu": torch.cuda.get_device_name(t.device) if t.device.type == "cuda" else None,
        "gpus": t.world.size if t.device.type == "cuda" else 0,
    }

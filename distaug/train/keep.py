"""Saving the state of a training and finding it again: rank 0 writes and chooses, for all ranks."""

from collections.abc import Callable, Mapping

from distaug.store import checkpoint
from distaug.store.checkpoint import Checkpoint
from distaug.store.records import EpochRecord
from distaug.train.decide import score_of
from distaug.train.state import Training
from distaug.train.world import by_rank_0

__all__ = ["chosen", "load_weights", "save"]


def save(t: Training, *, record: EpochRecord | None = None, sums: Mapping[str, float] | None = None) -> None:
    """Write a checkpoint of the position the training is at.

    Args:
        t: The training.
        record: The epoch that just ended; its score competes for being kept as one of the best.
        sums: In mid-epoch, the epoch's running sums over all ranks.

    Raises:
        StorageError: The checkpoint could not be written; the same on every rank.
    """
    t.reporter.progress(t.progress("save"))
    by_rank_0(t.world, lambda: _write(t, record, sums))
    t.reporter.progress(t.progress("train"))


def _write(t: Training, record: EpochRecord | None, sums: Mapping[str, float] | None) -> None:
    weights = {"model": t.module.state_dict()}
    if t.ema is not None:
        weights["ema"] = t.ema.module.state_dict()
    saved = checkpoint.save(
        t.run.checkpoints,
        epoch=t.epoch,
        step=t.step,
        weights=weights,
        state={
            "optimizer": t.optimizer.state_dict(),
            "scaler": t.precision.scaler.state_dict(),
            "position": t.position(),
            "sums": None if sums is None else dict(sums),
        },
        manifest={
            "job": t.job_digest,
            "data": t.data.digest,
            "score": score_of(record, t.job.stop) if record else None,
        },
        keep_best=t.job.checkpoint.keep_best,
    )
    t.saved_bytes += saved.size


def chosen(t: Training, choose: Callable[..., Checkpoint | None]) -> Checkpoint | None:
    """Return the checkpoint that rank 0 chooses, on every rank.

    Others may still see an older list of them, while by its name they find it at once.

    Args:
        t: The training.
        choose: `checkpoint.newest` or `checkpoint.best`.

    Raises:
        StorageError: There are checkpoints but none is valid.
    """
    return by_rank_0(t.world, lambda: choose(t.run.checkpoints, warn=t.reporter.log))


def load_weights(t: Training, found: Checkpoint) -> None:
    """Put a checkpoint's weights into the model, and into its average where there is one.

    Raises:
        StorageError: A file of it is damaged, or this rank does not see it.
    """
    t.module.load_state_dict(found.weights("model"))
    if t.ema is not None:
        t.ema.module.load_state_dict(found.weights("ema"))

"""Saving the state of a training: rank 0 writes, all ranks learn whether it worked."""

from collections.abc import Mapping

from distaug.errors import DistaugError
from distaug.store import checkpoint
from distaug.store.records import EpochRecord
from distaug.train.decide import score_of
from distaug.train.state import Training
from distaug.train.world import agree_on_errors

__all__ = ["save"]


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
    error = None
    if t.world.rank == 0:
        weights = {"model": t.module.state_dict()}
        if t.ema is not None:
            weights["ema"] = t.ema.module.state_dict()
        state = {
            "optimizer": t.optimizer.state_dict(),
            "scaler": t.precision.scaler.state_dict(),
            "position": t.position(),
            "sums": None if sums is None else dict(sums),
        }
        try:
            saved = checkpoint.save(
                t.run.checkpoints,
                epoch=t.epoch,
                step=t.step,
                weights=weights,
                state=state,
                manifest={
                    "job": t.job_digest,
                    "data": t.data.digest,
                    "score": score_of(record, t.job.stop) if record else None,
                },
                keep_best=t.job.checkpoint.keep_best,
            )
            t.saved_bytes += saved.size
        except DistaugError as found:
            error = found
    agree_on_errors(t.world, error)
    t.reporter.progress(t.progress("train"))

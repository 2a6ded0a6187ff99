"""After an epoch: is it the best, is it saved, does the training end? Pure values, decided by rank 0 for all."""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from distaug.spec.train import CheckpointSpec, StopSpec
from distaug.store.records import EpochRecord

__all__ = ["Decision", "Memory", "decide"]


@dataclass(frozen=True)
class Memory:
    """What must be remembered from epoch to epoch; part of every checkpoint."""

    best_score: float | None = None
    """Highest score so far (top-1, or the negated loss)."""
    best_epoch: int | None = None
    """Its epoch."""
    mark: float | None = None
    """Score that the next one must pass by `min_delta` to count as an improvement for the patience."""
    stale_epochs: int = 0
    """Epochs since the last such improvement, counted from `start_epoch` on."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        return asdict(self)


@dataclass(frozen=True)
class Decision:
    """What all ranks do after an epoch."""

    memory: Memory
    best: bool
    """This epoch's model is the best so far."""
    save: bool
    """A checkpoint is written."""
    stop: bool
    """The training ends here."""
    reason: str = ""
    """Why it ends."""


def decide(
    memory: Memory,
    record: EpochRecord,
    *,
    stop: StopSpec,
    checkpoint: CheckpointSpec,
    epochs: int,
    trained_seconds: float,
) -> Decision:
    """Turn a finished epoch into a decision.

    Args:
        memory: What the epochs before left.
        record: The finished epoch.
        stop: Section `stop`, with `start_epoch` resolved to a number.
        checkpoint: Section `checkpoint`.
        epochs: Epochs planned.
        trained_seconds: Time spent so far, over all restarts.

    Returns:
        The decision, with the memory for the next epoch.
    """
    score = score_of(record, stop)
    best = score is not None and (memory.best_score is None or score > memory.best_score)
    if best:
        memory = replace(memory, best_score=score, best_epoch=record.epoch)
    if score is not None:
        improved = memory.mark is None or score > memory.mark + stop.min_delta
        counts = stop.start_epoch != "auto" and record.epoch >= stop.start_epoch
        memory = replace(
            memory,
            mark=score if improved else memory.mark,
            stale_epochs=0 if improved else memory.stale_epochs + int(counts),
        )
    reason = ""
    if record.epoch + 1 >= epochs:
        reason = f"all {epochs} epochs done"
    elif stop.patience_epochs is not None and memory.stale_epochs >= stop.patience_epochs:
        reason = f"no better {stop.metric} for {memory.stale_epochs} epochs"
    elif stop.time_budget_min is not None and trained_seconds >= 60 * stop.time_budget_min:
        reason = f"time budget of {stop.time_budget_min:g} minutes used up"
    due = (record.epoch + 1) % checkpoint.every_epochs == 0
    return Decision(memory, best=best, save=due or best or bool(reason), stop=bool(reason), reason=reason)


def score_of(record: EpochRecord, stop: StopSpec) -> float | None:
    """Return the watched metric so that higher is better; None without validation or for a loss that is not finite."""
    value = record.top1 if stop.metric == "top1" else record.val_loss
    if value is None or not math.isfinite(value):
        return None
    return value if stop.metric == "top1" else -value

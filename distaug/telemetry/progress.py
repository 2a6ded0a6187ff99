"""Where a training is, as the ranks tell it; screen and metrics are made from nothing else."""

from dataclasses import dataclass

__all__ = ["Progress"]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a rank is and what it has done; cheap to make at every step."""

    phase: str
    """What is being done, one of `telemetry.catalog.PHASES`."""
    epoch: int
    """Epoch in progress, from 0."""
    epochs: int
    """Epochs planned."""
    step: int
    """Steps done in this epoch."""
    steps: int
    """Steps of an epoch."""
    global_batch: int
    """Pictures of a step, over all ranks."""
    loss: float
    """Mean training loss of this rank's epoch so far; may lag some steps behind on a GPU."""
    lr: float
    """Learning rate of the last step."""
    scale: float | None
    """Loss scale of fp16 at the last epoch's end; None for other arithmetic."""
    skipped: int
    """Steps of this epoch whose update was withheld."""
    rank_images: int
    """Those of them that this rank computes."""
    wait_seconds: float
    """Seconds of this epoch that this rank waited for data."""
    augment_seconds: float
    """Seconds that this process spent augmenting; on a GPU issuing it."""
    saved_bytes: int
    """Bytes of checkpoints that this process wrote."""
    device: str
    """The rank's device, as torch writes it."""
    world_size: int
    """Ranks that train."""
    shards: int
    """Parts of a global batch."""
    restarts: int
    """How often the workers were started again; known to rank 0."""
    patience_left: int | None
    """Epochs without improvement until the run stops early; None where it does not."""
    goodput: float | None
    """Share of the device time held so far that went into kept work, 0 to 1; known to rank 0."""

    @property
    def steps_done(self) -> int:
        """Steps since the run began, as if none had been repeated."""
        return self.epoch * self.steps + self.step

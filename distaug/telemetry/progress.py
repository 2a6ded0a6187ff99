"""Where a training is, as the ranks tell it and the screen shows it."""

from dataclasses import dataclass

__all__ = ["Progress"]


@dataclass(frozen=True)
class Progress:
    """Where a rank is; cheap to make at every step."""

    epoch: int
    """Epoch in progress, from 0."""
    epochs: int
    """Epochs planned."""
    step: int
    """Steps done in this epoch."""
    steps: int
    """Steps of an epoch."""
    images: int
    """Pictures trained on by all ranks since the run began."""
    loss: float
    """Mean training loss of the epoch so far; may lag some steps behind on a GPU."""
    phase: str = "train"
    """What is being done: `setup`, `train`, `evaluate`, `save` or `test`."""

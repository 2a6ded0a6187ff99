"""What a training holds while it runs."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import torch
from torch import Tensor, nn

from distaug.augment import Augment
from distaug.data.loader import Loader
from distaug.data.open import DataSet
from distaug.data.shard import own_shards
from distaug.errors import StorageError
from distaug.model.ema import Ema
from distaug.spec.job import JobSpec
from distaug.store.rundir import RunDir
from distaug.telemetry.progress import Progress
from distaug.train.attempts import note_end
from distaug.train.decide import Memory
from distaug.train.precision import Precision
from distaug.train.reporter import Reporter
from distaug.train.sums import Gradients, NormStatistics, Tree
from distaug.train.teacher import Teacher
from distaug.train.world import World

__all__ = ["Tally", "Training"]

_SUMS = ("loss", "hits", "images", "updates", "withheld")


class Tally:
    """Running sums of an epoch, kept on the device: loss, λ-weighted hits, pictures, updates made and withheld.

    Args:
        device: Where the training runs.
        smoothing: ε of the soft targets, taken out again before hits are counted.
        classes: K.
    """

    def __init__(self, device: torch.device, smoothing: float, classes: int) -> None:
        self._sums = torch.zeros(len(_SUMS), dtype=torch.float64, device=device)
        self._peek = torch.zeros(len(_SUMS), dtype=torch.float64, pin_memory=device.type == "cuda")
        self._smoothing, self._classes = smoothing, classes

    def add(self, loss: Tensor, logits: Tensor, targets: Tensor) -> None:
        """Add a shard: mean loss (), logits (B, K), targets (B, K)."""
        mass = targets.gather(1, logits.argmax(1, keepdim=True))
        hits = (mass - self._smoothing / self._classes) / (1 - self._smoothing)
        self._sums[0] += loss.double() * len(targets)
        self._sums[1] += hits.double().sum()
        self._sums[2] += len(targets)

    def note_update(self, finite: Tensor) -> None:
        """Count an update, made where `finite` () bool is true and withheld otherwise."""
        self._sums[3] += finite
        self._sums[4] += ~finite

    def peek(self) -> Mapping[str, float]:
        """Return this rank's sums without waiting for the device: on a GPU they may lag behind."""
        self._peek.copy_(self._sums, non_blocking=True)
        return dict(zip(_SUMS, self._peek.tolist(), strict=True))

    def total(self, world: World) -> dict[str, float]:
        """Return the sums over all ranks (updates are the same on each)."""
        sums = self._sums.clone()
        own = sums[3:].clone()
        total = world.sum(sums)
        total[3:] = own
        return dict(zip(_SUMS, total.tolist(), strict=True))

    def start(self, sums: Mapping[str, float] | None, world: World) -> None:
        """Begin an epoch, or go on with one from the sums in its checkpoint, which rank 0 alone carries on."""
        self._sums.zero_()
        for place, name in enumerate(_SUMS):
            if sums and (world.rank == 0 or place >= 3):
                self._sums[place] = sums[name]


@dataclass
class Training:
    """All parts of a training, made by `setup` and used by the loop."""

    job: JobSpec
    """The resolved job."""
    run: RunDir
    world: World
    reporter: Reporter
    device: torch.device
    data: DataSet
    loader: Loader
    module: nn.Module
    """The bare model."""
    head: frozenset[str]
    """Names of the head's parameters."""
    trainable: frozenset[str]
    """Names of the parameters that are trained once no epoch is frozen any more."""
    precision: Precision
    augment: Augment
    ema: Ema | None
    optimizer: torch.optim.Optimizer
    tally: Tally
    tree: Tree | None
    """The fixed order of sums over shards; None where `exact` is off."""
    norms: NormStatistics
    class_weights: Tensor | None
    """(K,) weights of the classes in the loss; None: all alike."""
    teacher: Teacher | None
    masks: list[tuple[nn.Parameter, Tensor]]
    """Weights whose zeros stay, each with 1 where it was not 0 at the start; empty without `keep_zeros`."""
    steps: int
    """Steps of an epoch."""
    job_digest: str
    # What `unfreeze` sets, anew when the frozen epochs end.
    model: nn.Module = field(init=False)
    """What is called forward: the bare model, or DistributedDataParallel around it."""
    gradients: Gradients = field(init=False)
    trained: list[nn.Parameter] = field(init=False)
    """Parameters that are trained now."""
    # Where it is; all of it is in every checkpoint.
    epoch: int = 0
    step: int = 0
    memory: Memory = field(default_factory=Memory)
    epoch_seconds: float = 0.0
    """Seconds spent on the epoch in progress before this process took it up."""
    trained_seconds: float = 0.0
    """Seconds spent on finished epochs, over all restarts."""
    reason: str = ""
    """Why the training ended; empty while it goes on."""
    resumed_sums: Mapping[str, float] | None = None
    """Running sums of the epoch in progress, from the checkpoint."""
    restarts: int = 0
    # What this process has done, for whoever watches; in no checkpoint.
    started: float = field(default_factory=monotonic)
    epoch_began: float | None = None
    """When the epoch in progress began, less what earlier processes spent on it; None between epochs."""
    held_before: float = 0.0
    """Device seconds of the attempts before this one; known to rank 0."""
    wait_seconds: float = 0.0
    """Seconds of this epoch that were spent waiting for data."""
    augment_seconds: float = 0.0
    saved_bytes: int = 0
    _scale: float | None = None

    def progress(self, phase: str) -> Progress:
        """Return where the training is, without waiting for the device.

        Args:
            phase: One of `telemetry.catalog.PHASES`.
        """
        sums, shards, patience = self.tally.peek(), self.job.train.shards, self.job.stop.patience_epochs
        assert shards != "auto"
        batch, scaler = self.job.train.global_batch, self.precision.scaler
        if scaler.is_enabled() and (phase != "train" or self._scale is None):
            self._scale = (
                scaler.get_scale()
            )  # waits for the device: before the first step, and where it was just waited for
        return Progress(
            phase=phase,
            epoch=self.epoch,
            epochs=self.job.train.epochs,
            step=self.step,
            steps=self.steps,
            global_batch=batch,
            loss=sums["loss"] / max(1.0, sums["images"]),
            lr=self.optimizer.param_groups[0]["lr"],
            scale=self._scale,
            skipped=int(sums["withheld"]),
            rank_images=batch // shards * len(own_shards(self.world.rank, self.world.size, shards)),
            wait_seconds=self.wait_seconds,
            augment_seconds=self.augment_seconds,
            saved_bytes=self.saved_bytes,
            device=str(self.device),
            world_size=self.world.size,
            shards=shards,
            restarts=self.restarts,
            patience_left=None if patience is None else max(0, patience - self.memory.stale_epochs),
            goodput=self._goodput(),
        )

    def _goodput(self) -> float | None:
        now, ranks = monotonic(), self.world.size
        held = self.held_before + ranks * (now - self.started)
        kept = self.trained_seconds + (0.0 if self.epoch_began is None else now - self.epoch_began)
        return min(1.0, ranks * kept / held) if held and self.world.rank == 0 else None

    def close(self) -> None:
        """Let go of the loader and write down that the training left on its own account."""
        self.loader.close()
        if self.world.rank == 0:
            with suppress(StorageError):  # It is but a time, and what the training left with is told already.
                note_end(self.run)

    def position(self) -> dict[str, Any]:
        """Return what a checkpoint keeps beside weights and optimizer."""
        return {
            "memory": self.memory.to_dict(),
            "epoch_seconds": self.epoch_seconds,
            "trained_seconds": self.trained_seconds,
            "reason": self.reason,
        }

"""Sections `train`, `stop`, `checkpoint` and `evaluate`: how the model is trained and judged."""

from typing import Annotated, Literal

from pydantic import Field, Strict

from distaug.spec.section import Auto, Section


class OptimizerSpec(Section):
    """SGD with momentum, or AdamW; norm parameters and biases get no weight decay."""

    name: Literal["sgd", "adamw"] = "sgd"
    """The update rule."""
    lr: Annotated[float, Field(gt=0)] | Auto = "auto"
    """Peak learning rate for a batch of `lr_per_samples`; `auto`: 0.1 for SGD, 2.5e-4 for AdamW."""
    lr_per_samples: int | None = Field(default=128, ge=1)
    """The rate is multiplied by global batch / this number; null: taken as it is."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of SGD."""
    nesterov: bool = True
    """Nesterov's form of the momentum (SGD)."""
    betas: Annotated[tuple[float, float], Strict(False)] = (0.9, 0.999)
    """Decay of the running moments (AdamW)."""
    weight_decay: Annotated[float, Field(ge=0)] | Auto = "auto"
    """Decay of weights; `auto`: 5e-4 for SGD, 0.05 for AdamW."""


class ScheduleSpec(Section):
    """The learning rate as a function of the step."""

    name: Literal["cosine", "one_cycle", "multi_step", "constant"] = "cosine"
    """Shape after the warm-up; `one_cycle` has its own way up."""
    warmup_epochs: float = Field(default=0.0, ge=0)
    """Epochs in which the rate rises linearly from zero (not for `one_cycle`)."""
    final_lr_fraction: float = Field(default=0.0, ge=0, lt=1)
    """Where `cosine` and `one_cycle` end, as a share of the peak rate."""
    pct_start: float = Field(default=0.25, gt=0, lt=1)
    """Share of the steps in which `one_cycle` rises linearly; it then falls linearly."""
    milestones_epochs: list[Annotated[int, Field(ge=1)]] = []
    """Epochs at which `multi_step` multiplies the rate by `gamma`."""
    gamma: float = Field(default=0.1, gt=0, lt=1)
    """Factor of `multi_step`."""


class EmaSpec(Section):
    """Exponential moving average of the weights: judged and saved in place of the raw ones."""

    decay: float = Field(default=0.999, ge=0, lt=1)
    """Decay per step; at update t it is min(decay, (1 + t)/(10 + t))."""


class DistillSpec(Section):
    """A trained model whose answers are learnt beside the labels (arXiv:1503.02531)."""

    teacher: str = Field(min_length=1)
    """The trained model: its folder with model.json and weights, or its run."""
    weight: float = Field(default=0.5, gt=0, le=1)
    """Share of the teacher's answers in the loss; the labels have the rest."""
    temperature: float = Field(default=4.0, gt=0)
    """Divides all logits before the comparison: the higher, the more the unlikely classes count."""


class TrainSpec(Section):
    """How the model is trained."""

    epochs: int = Field(default=30, ge=1)
    """Passes over the training set, at most (see `stop`)."""
    global_batch: int = Field(default=128, ge=1)
    """Pictures per step over all workers."""
    shards: Annotated[int, Field(ge=1, le=4096)] | Auto = "auto"
    """Equal parts of each batch, the unit of arithmetic; `auto`: the number of workers at the first start."""
    optimizer: OptimizerSpec = OptimizerSpec()
    """The update rule."""
    schedule: ScheduleSpec = ScheduleSpec()
    """The learning rate over time."""
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    """Mass spread evenly over all classes (arXiv:1512.00567)."""
    class_weights: Literal["none", "inverse_frequency", "effective_number"] = "none"
    """Weights in the training loss that rise with the rarity of a class (`effective_number`: arXiv:1901.05555)."""
    clip_norm: float | None = Field(default=None, gt=0)
    """Largest norm of the gradient over the global batch; null: not clipped."""
    ema: EmaSpec | None = None
    """Average of the weights over time; null: off."""
    keep_zeros: bool = False
    """Weights that are 0 at the start stay 0: those that were pruned."""
    distill: DistillSpec | None = None
    """Learn from a trained model too; null: from the labels alone."""
    exact: bool | Auto = "auto"
    """Sum gradients in one fixed order, so that the number of workers changes no bit; `auto`: on a CPU."""
    compile: bool = False
    """Compile the model with torch.compile."""
    final_fit: bool = False
    """Train on train and validation together for all epochs, without choosing an epoch."""


class StopSpec(Section):
    """When the training ends before its last epoch."""

    metric: Literal["top1", "loss"] = "top1"
    """What is watched on the validation set, and picks the best epoch."""
    patience_epochs: int | None = Field(default=10, ge=1)
    """Stop after this many epochs without improvement; null: never."""
    min_delta: float = Field(default=0.0, ge=0)
    """Smallest change that counts as an improvement for the patience (top1 is in 0 to 1)."""
    start_epoch: Annotated[int, Field(ge=0)] | Auto = "auto"
    """Patience counts from this epoch on (the first is 0); `auto`: half of the epochs."""
    time_budget_min: float | None = Field(default=None, gt=0)
    """Stop after this many minutes of training, over all restarts, at the end of an epoch."""


class CheckpointSpec(Section):
    """When the state is saved; always also on a stop request."""

    every_epochs: int = Field(default=1, ge=1)
    """Save after every so many epochs (the best and the last epoch are always saved)."""
    every_minutes: float = Field(default=10.0, gt=0)
    """Save in mid-epoch when this much time has passed since the last save."""
    keep_best: int = Field(default=1, ge=1)
    """Number of best epochs kept, beside the two newest checkpoints."""


class EvaluateSpec(Section):
    """How validation and test sets are read."""

    batch: int = Field(default=500, ge=1)
    """Pictures per step on each worker."""
    test: bool = True
    """Judge the finished model on the test set; not for a model that is only a step towards another."""
    tta: list[Literal["flip", "shift"]] = []
    """Judge the test set once more by the mean over mirrored pictures, pictures shifted by one pixel, or both."""

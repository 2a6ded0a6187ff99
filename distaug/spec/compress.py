"""Section `compress`: what is done to the trained model, and what it must still be worth."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from distaug.spec.section import Auto, Entry, Section

Share = Annotated[float, Field(gt=0, lt=1)]


class FinetuneSpec(Section):
    """How a pruned network is trained again: as the job trains, with a short cosine schedule of its own."""

    finetune_epochs: int = Field(default=5, ge=0)
    """Epochs of training after the pruning; 0: none."""
    finetune_lr_fraction: float = Field(default=0.1, gt=0)
    """Peak learning rate over that of the training."""
    distill: float = Field(default=0.0, ge=0, le=1)
    """Weight of the uncompressed model's own answers in the loss (arXiv:1503.02531); 0: labels alone."""


class MagnitudeSpec(FinetuneSpec):
    """Set the smallest weights to zero, in steps (arXiv:1506.02626). A dense kernel gets no faster by it."""

    targets: list[Share] = Field(default=[0.1, 0.2, 0.3, 0.5], min_length=1)
    """Shares of all weights that are zero after each step; they do not add up."""
    scope: Literal["global", "layer"] = "global"
    """Whether the smallest weights are looked for in the whole network or in each layer."""
    amounts: dict[str, Share] | None = None
    """Shares by name of the layer, in place of `targets` and `scope`: one step."""

    @model_validator(mode="after")
    def _one_way(self) -> "MagnitudeSpec":
        if sorted(set(self.targets)) != self.targets:
            raise ValueError(f"`targets` must rise from one to the next, found {self.targets}")
        if self.amounts is not None and (self.targets, self.scope) != ([0.1, 0.2, 0.3, 0.5], "global"):
            raise ValueError("`amounts` takes the place of `targets` and `scope`; leave those out")
        return self


class ChannelsSpec(FinetuneSpec):
    """Remove whole channels, and with them time and bytes (arXiv:2301.12900)."""

    ratio: Share | None = None
    """Share of the channels of every layer that goes."""
    macs: Share | None = None
    """Multiplications that stay, as a share; the ratio that leads there is searched."""
    round_to: Annotated[int, Field(ge=1)] | Auto = "auto"
    """Channels that stay are a multiple of this; `auto`: 8, or 4 where a layer has fewer than 64."""
    finetune_epochs: int = Field(default=10, ge=0)
    """Epochs of training after the pruning; 0: none."""

    @model_validator(mode="after")
    def _one_goal(self) -> "ChannelsSpec":
        if (self.ratio is None) == (self.macs is None):
            raise ValueError("give either `ratio` or `macs`")
        return self


class Int8Spec(Section):
    """Weights and activations in 8 bits, with ranges measured on training pictures (arXiv:1712.05877)."""

    calibration_images: int = Field(default=512, ge=256)
    """Training pictures, seen as in the evaluation, on which the ranges of activations are measured."""
    percentile: float = Field(default=99.99, gt=50, le=100)
    """Share of the activations, in %, that the ranges hold; those beyond are clipped."""


class DynamicSpec(Section):
    """Weights of linear layers in 8 bits, for the table: it does little for convolutions, and nothing follows on it."""


class StageSpec(Entry):
    """One stage: a mapping with the stage's name as its only key."""

    kind = "stage"

    magnitude: MagnitudeSpec | None = None
    """Zeros in place of small weights."""
    channels: ChannelsSpec | None = None
    """Fewer channels."""
    int8: Int8Spec | None = None
    """8 bits throughout."""
    dynamic: DynamicSpec | None = None
    """8 bits in linear layers."""


class GateSpec(Section):
    """What a compressed file must still be worth; a stage that breaks it is undone."""

    max_accuracy_drop: float = Field(default=1.0, ge=0)
    """Points of validation accuracy that the uncompressed model may be ahead, after every stage."""
    min_agreement: float = Field(default=0.9, ge=0, le=1)
    """Share of validation pictures on which a quantized file decides as the file that it was made from."""
    min_logit_snr_db: float = 16.0
    """Power of that file's logits over that of the difference, in dB: low where the calibration saw other pictures."""
    min_speedup: float | None = Field(default=None, gt=0)
    """Times faster than the uncompressed model, one picture at a time; for the last file alone."""
    max_bytes: int | None = Field(default=None, ge=1)
    """Largest size of the last file."""


class CompressSpec(Section):
    """What is done to the trained model, in order, and what it must still be worth."""

    stages: list[StageSpec] = Field(default=[StageSpec(int8=Int8Spec())], min_length=1)
    """Stages, each with what the one before left."""
    gate: GateSpec = GateSpec()
    """When a file is refused."""

    @model_validator(mode="after")
    def _stages_lead_somewhere(self) -> "CompressSpec":
        names = [stage.name for stage in self.stages]
        if set(names) == {"dynamic"}:
            raise ValueError("`dynamic` is only there to compare with: name another stage as well")
        if "int8" in names and set(names[names.index("int8") + 1 :]) & {"magnitude", "channels", "int8"}:
            raise ValueError("`int8` must be the last stage but for `dynamic`: what it leaves cannot be trained")
        return self

"""Sections `augment` and `mix`: what happens to the training pictures, alone and in pairs."""

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from distaug.spec.section import Auto, Section


class CropSpec(Section):
    """Pad on all sides, then cut out a picture of the old size at a uniform place."""

    padding: Annotated[int, Field(ge=0)] | Auto = "auto"
    """Pixels added on each side; `auto`: an eighth of the picture."""
    mode: Literal["zero", "reflect"] = "zero"
    """What the added pixels hold: black, or the mirrored picture."""


class FlipSpec(Section):
    """Mirror left and right."""

    p: float = Field(default=0.5, ge=0, le=1)
    """Probability of each picture to be mirrored."""


class OpSpec(Section):
    """One operation: a mapping with the operation's name as its only key."""

    crop: CropSpec | None = None
    """Random crop with padding."""
    flip: FlipSpec | None = None
    """Random horizontal flip."""

    @model_validator(mode="after")
    def _one_operation(self) -> "OpSpec":
        if len(self.model_fields_set) != 1:
            found = ", ".join(sorted(self.model_fields_set)) or "none"
            raise ValueError(f"each entry of the list names exactly one operation, found {found}")
        (name,) = self.model_fields_set
        if getattr(self, name) is None:
            raise ValueError(f"`{name}` has no settings; write `{name}: {{}}` for the defaults")
        return self

    @model_serializer(mode="wrap")
    def _only_that_one(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: settings for name, settings in serialize(self).items() if settings is not None}


PRESETS: dict[str, tuple[OpSpec, ...]] = {
    "none": (),
    "weak": (OpSpec(crop=CropSpec()), OpSpec(flip=FlipSpec())),
}


class AugmentSpec(Section):
    """What is done to each training picture; never applied to validation or test."""

    preset: Literal["none", "weak"] | None = None
    """A ready list of operations: `none`, or `weak` (crop and flip). The default without `ops` is `weak`."""
    ops: list[OpSpec] | None = None
    """The operations, in the order in which they are applied."""

    @model_validator(mode="after")
    def _preset_or_ops(self) -> "AugmentSpec":
        if self.preset is not None and self.ops is not None:
            raise ValueError("`preset` and `ops` are both given; leave one of them out")
        return self

    @property
    def operations(self) -> tuple[OpSpec, ...]:
        """The operations in order, whichever way they were asked for."""
        return tuple(self.ops) if self.ops is not None else PRESETS[self.preset or "weak"]


class BetaSpec(Section):
    """A mixing ratio drawn from Beta(alpha, alpha)."""

    alpha: float = Field(default=1.0, gt=0, le=100)
    """Both parameters of the Beta distribution; 1 is uniform, smaller is closer to no mixing."""


class MixSpec(Section):
    """Mixing of pairs of training pictures and their targets, within a shard."""

    mixup: BetaSpec | None = None
    """Weighted mean of two pictures (arXiv:1710.09412)."""
    cutmix: BetaSpec | None = None
    """A box of one picture pasted into another (arXiv:1905.04899)."""
    probability: float = Field(default=1.0, ge=0, le=1)
    """Probability that a shard (or pair, or sample, see `mode`) is mixed at all."""
    switch_probability: float = Field(default=0.5, ge=0, le=1)
    """With both on, the probability that CutMix is used rather than Mixup."""
    mode: Literal["batch", "pair", "sample"] = "batch"
    """One ratio and box for the shard, for each pair of pictures, or for each picture."""
    off_after_epoch: int | None = Field(default=None, ge=0)
    """Number of epochs with mixing; the later ones train on plain pictures."""

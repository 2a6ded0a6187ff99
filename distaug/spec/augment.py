"""Sections `augment` and `mix`: what happens to the training pictures, alone and in pairs."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, Strict, model_validator

from distaug.spec.section import Auto, Entry, Section

Share = Annotated[float, Field(ge=0, le=1)]
Level = Annotated[int, Field(ge=0, le=255)]
Learned = Literal["cifar10", "imagenet", "svhn"]
Fill = Level | Annotated[tuple[Level, Level, Level], Strict(False)]


def _rising(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] > ends[1]:
        raise ValueError(f"the range {list(ends)} is the wrong way round; write [{ends[1]:g}, {ends[0]:g}]")
    return ends


def _odd(number: int) -> int:
    if number % 2 == 0:
        raise ValueError(f"found {number}; allowed: an odd number, so that the window has a middle")
    return number


def _range(least: float = 0.0, most: float | None = None) -> Any:
    end = Annotated[float, Field(ge=least, le=most)]
    return Annotated[tuple[end, end], Strict(False), AfterValidator(_rising)]


class CropSpec(Section):
    """Pad on all sides, then cut out a picture of the old size at a uniform place."""

    padding: Annotated[int, Field(ge=0)] | Auto = "auto"
    """Pixels added on each side; `auto`: an eighth of the picture."""
    mode: Literal["zero", "reflect"] = "zero"
    """What the added pixels hold: black, or the mirrored picture."""


class FlipSpec(Section):
    """Mirror left and right, or top and bottom."""

    p: Share = 0.5
    """Probability of each picture to be mirrored."""


class Chance(Section):
    """An operation that only some of the pictures undergo."""

    p: Share = 1.0
    """Probability of each picture to undergo the operation."""


class ResizedCropSpec(Chance):
    """Cut out a part of random area and shape, and enlarge it to the old size (arXiv:1409.4842)."""

    scale: _range(0.01, 1.0) = (0.08, 1.0)  # type: ignore[valid-type]
    """Area of the part, as a share of the picture's."""
    ratio: _range(0.1, 10.0) = (3 / 4, 4 / 3)  # type: ignore[valid-type]
    """Width of the part over its height."""


class Resampled(Chance):
    """An operation that moves pixels to places between the old ones."""

    interpolation: Literal["nearest", "bilinear"] = "bilinear"
    """How the values between pixels are found."""
    fill: Fill = 0
    """What comes in from outside the picture: one level for all channels, or three, in 0 to 255."""


class RotateSpec(Resampled):
    """Turn about the middle by a uniform angle."""

    degrees: Annotated[float, Field(ge=0, le=180)] = 15.0
    """Largest angle, either way."""


class AffineSpec(Resampled):
    """Turn, move, scale and shear at once."""

    degrees: Annotated[float, Field(ge=0, le=180)] = 15.0
    """Largest angle, either way."""
    translate: Share = 0.1
    """Largest shift along each axis, as a share of the side."""
    scale: _range(0.1, 10.0) = (0.9, 1.1)  # type: ignore[valid-type]
    """Range of the enlargement."""
    shear: Annotated[float, Field(ge=0, lt=90)] = 0.0
    """Largest angle of shearing along each axis, in degrees."""


class PerspectiveSpec(Resampled):
    """Move each corner inwards by a uniform distance."""

    p: Share = 0.5
    """Probability of each picture to undergo the operation."""
    distortion: Share = 0.5
    """Largest way of a corner, as a share of half a side."""


class JitterSpec(Chance):
    """Change brightness, contrast, saturation and hue, each by a factor or shift of its own, in this order."""

    brightness: Annotated[float, Field(ge=0)] = 0.2
    """The factor is uniform in 1 ± this, never below 0."""
    contrast: Annotated[float, Field(ge=0)] = 0.2
    """Likewise."""
    saturation: Annotated[float, Field(ge=0)] = 0.2
    """Likewise."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """The hue is turned by a uniform share of the colour circle, up to this, either way."""


class GrayscaleSpec(Chance):
    """Take the colour away."""

    p: Share = 0.1
    """Probability of each picture to undergo the operation."""


class PosterizeSpec(Chance):
    """Keep only the high bits of each value."""

    p: Share = 0.5
    """Probability of each picture to undergo the operation."""
    bits: Annotated[int, Field(ge=0, le=8)] = 4
    """Number of bits kept."""


class SolarizeSpec(Chance):
    """Invert all values from a threshold on."""

    p: Share = 0.5
    """Probability of each picture to undergo the operation."""
    threshold: Level = 128
    """The lowest value that is inverted."""


class EqualizeSpec(Chance):
    """Spread the values so that all are about as frequent."""

    p: Share = 0.5
    """Probability of each picture to undergo the operation."""


class AutocontrastSpec(Chance):
    """Stretch the values of each channel over the whole range."""

    p: Share = 0.5
    """Probability of each picture to undergo the operation."""


class InvertSpec(Chance):
    """Turn every value v into 255 − v."""

    p: Share = 0.5
    """Probability of each picture to undergo the operation."""


class SharpnessSpec(Chance):
    """Blend with a smoothed version: 0 is smoothed, 1 unchanged, above 1 sharper."""

    p: Share = 0.5
    """Probability of each picture to undergo the operation."""
    factor: _range(0.0, 10.0) = (0.0, 2.0)  # type: ignore[valid-type]
    """Range of the factor."""


class BlurSpec(Chance):
    """Smooth with a Gaussian of random width."""

    p: Share = 0.5
    """Probability of each picture to undergo the operation."""
    kernel: Annotated[int, Field(ge=1, le=63), AfterValidator(_odd)] = 5
    """Side of the window in pixels; odd."""
    sigma: _range(0.05, 20.0) = (0.1, 2.0)  # type: ignore[valid-type]
    """Range of the Gaussian's deviation, in pixels."""


class NoiseSpec(Chance):
    """Add Gaussian noise of its own to each pixel and channel."""

    p: Share = 0.5
    """Probability of each picture to undergo the operation."""
    std: _range(0.0, 1.0) = (0.0, 0.1)  # type: ignore[valid-type]
    """Range of the noise's deviation, for pixels in 0 to 1."""


class SaltPepperSpec(Chance):
    """Turn some pixels black or white."""

    p: Share = 0.5
    """Probability of each picture to undergo the operation."""
    amount: _range(0.0, 1.0) = (0.0, 0.05)  # type: ignore[valid-type]
    """Range of the share of pixels."""


class EraseSpec(Chance):
    """Fill a box of random area and shape at a uniform place (arXiv:1708.04896)."""

    p: Share = 0.5
    """Probability of each picture to undergo the operation."""
    area: _range(0.0, 1.0) = (0.02, 0.33)  # type: ignore[valid-type]
    """Area of the box, as a share of the picture's."""
    ratio: _range(0.1, 10.0) = (0.3, 3.3)  # type: ignore[valid-type]
    """Height of the box over its width."""
    fill: Literal["zero", "noise", "mean"] = "zero"
    """What the box holds: black, uniform noise per pixel and channel, or the data set's mean colour."""


class CutoutSpec(Chance):
    """Blacken a square whose middle is uniform in the picture, clipped at the edges (arXiv:1708.04552)."""

    size: Annotated[int, Field(ge=1)] | Auto = "auto"
    """Side of the square in pixels; `auto`: half of the picture's."""


class Policy(Section):
    """A policy over operations; pixels between the old ones and outside the picture as for the operations."""

    interpolation: Literal["nearest", "bilinear"] = "nearest"
    """How the values between pixels are found."""
    fill: Fill = 0
    """What comes in from outside the picture: one level for all channels, or three, in 0 to 255."""


class AutoAugmentSpec(Policy):
    """One of 25 learned pairs of operations for each picture (arXiv:1805.09501)."""

    policy: Learned = "cifar10"
    """The data set that the pairs were learned on."""


class RandAugmentSpec(Policy):
    """Some operations drawn evenly for each picture, all of one magnitude (arXiv:1909.13719)."""

    num_ops: Annotated[int, Field(ge=1, le=8)] = 2
    """Operations one after the other."""
    magnitude: Annotated[int, Field(ge=0, le=30)] = 9
    """Strength of all of them, of 30."""


class TrivialAugmentSpec(Policy):
    """One operation of a random, wide magnitude for each picture (arXiv:2103.10158)."""


class AugMixSpec(Policy):
    """Blend of the picture with chains of one to three weak operations (arXiv:1912.02781, α = 1)."""

    interpolation: Literal["nearest", "bilinear"] = "bilinear"
    """How the values between pixels are found."""
    severity: Annotated[int, Field(ge=1, le=10)] = 3
    """Largest strength of the operations, of 10."""
    width: Annotated[int, Field(ge=1, le=8)] = 3
    """Number of chains."""


class OpSpec(Entry):
    """One operation: a mapping with the operation's name as its only key."""

    kind = "operation"

    crop: CropSpec | None = None
    """Random crop with padding."""
    flip: FlipSpec | None = None
    """Random horizontal flip."""
    vflip: FlipSpec | None = None
    """Random vertical flip."""
    resized_crop: ResizedCropSpec | None = None
    """Random resized crop."""
    rotate: RotateSpec | None = None
    """Random rotation."""
    affine: AffineSpec | None = None
    """Random rotation, shift, scale and shear."""
    perspective: PerspectiveSpec | None = None
    """Random perspective."""
    jitter: JitterSpec | None = None
    """Random brightness, contrast, saturation and hue."""
    grayscale: GrayscaleSpec | None = None
    """Random loss of colour."""
    posterize: PosterizeSpec | None = None
    """Fewer levels."""
    solarize: SolarizeSpec | None = None
    """Inversion of the bright values."""
    equalize: EqualizeSpec | None = None
    """Equalised histograms."""
    autocontrast: AutocontrastSpec | None = None
    """Stretched contrast."""
    invert: InvertSpec | None = None
    """The negative."""
    sharpness: SharpnessSpec | None = None
    """Sharper or smoother."""
    blur: BlurSpec | None = None
    """Gaussian blur."""
    noise: NoiseSpec | None = None
    """Gaussian noise."""
    salt_pepper: SaltPepperSpec | None = None
    """Salt-and-pepper noise."""
    erase: EraseSpec | None = None
    """Random erasing."""
    cutout: CutoutSpec | None = None
    """A black square."""
    autoaugment: AutoAugmentSpec | Learned | None = None
    """Learned policy; `autoaugment: cifar10` is short for `{policy: cifar10}`."""
    randaugment: RandAugmentSpec | None = None
    """Random operations of one magnitude."""
    trivialaugment: TrivialAugmentSpec | None = None
    """One random operation, TrivialAugmentWide."""
    augmix: AugMixSpec | None = None
    """Blend of random chains."""

    @property
    def settings(self) -> Any:
        """The operation's own section."""
        found = super().settings
        return AutoAugmentSpec.model_validate({"policy": found}) if isinstance(found, str) else found


_WEAK = (OpSpec(crop=CropSpec()), OpSpec(flip=FlipSpec()))
_ERASE = OpSpec(erase=EraseSpec())
PRESETS: dict[str, tuple[OpSpec, ...]] = {
    "none": (),
    "weak": _WEAK,
    "strong": (*_WEAK, OpSpec(jitter=JitterSpec()), OpSpec(rotate=RotateSpec()), _ERASE),
    "auto": (*_WEAK, OpSpec(autoaugment=AutoAugmentSpec(policy="cifar10")), _ERASE),
}


class AugmentSpec(Section):
    """What is done to each training picture; never applied to validation or test."""

    preset: Literal["none", "weak", "strong", "auto"] | None = None
    """A ready list: `none`; `weak` (crop, flip; the default); `strong` (and jitter, rotation, erasing); `auto` (weak,
    AutoAugment, erasing)."""
    ops: list[OpSpec] | None = None
    """The operations, in the order in which they are applied."""
    fuse_geometry: bool = False
    """Join neighbouring crops, flips, rotations and affine moves into one resampling: sharper, and faster."""
    class_strength: dict[str, Share] | Auto | None = None
    """Share of their probability with which pictures of a class undergo the operations, by its name (others: 1);
    `auto`: √(pictures of the rarest class / pictures of the class)."""

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
    probability: Share = 1.0
    """Probability that a shard (or pair, or sample, see `mode`) is mixed at all."""
    switch_probability: Share = 0.5
    """With both on, the probability that CutMix is used rather than Mixup."""
    mode: Literal["batch", "pair", "sample"] = "batch"
    """One ratio and box for the shard, for each pair of pictures, or for each picture."""
    off_after_epoch: int | None = Field(default=None, ge=0)
    """Number of epochs with mixing; the later ones train on plain pictures."""

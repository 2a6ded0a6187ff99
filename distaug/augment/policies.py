"""Policies: which operations a picture undergoes, and how strongly, drawn for a whole batch at once.

AutoAugment (arXiv:1805.09501), RandAugment (arXiv:1909.13719), TrivialAugmentWide (arXiv:2103.10158) and AugMix
(arXiv:1912.02781), with the operations and ranges of magnitude that torchvision gives them. Choices and magnitudes are
drawn on the host, where the sample ids are, so that sorting the pictures by operation never waits for the device.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import TypedDict

import torch
from torch import Tensor

from distaug.augment import colour, geometry
from distaug.augment.sampling import Draws, sorted_by
from distaug.spec.augment import AugMixSpec, AutoAugmentSpec, Policy, RandAugmentSpec, TrivialAugmentSpec

__all__ = ["LEARNED", "OPERATIONS", "augmix", "autoaugment", "randaugment", "trivialaugment"]

_Step = tuple[str, float, int]
"""Operation, probability, magnitude of 0 … 9."""

# fmt: off
LEARNED: dict[str, tuple[tuple[_Step, _Step], ...]] = {
    "cifar10": (
        (("invert", 0.1, 0), ("contrast", 0.2, 6)), (("rotate", 0.7, 2), ("translate_x", 0.3, 9)),
        (("sharpness", 0.8, 1), ("sharpness", 0.9, 3)), (("shear_y", 0.5, 8), ("translate_y", 0.7, 9)),
        (("autocontrast", 0.5, 0), ("equalize", 0.9, 0)), (("shear_y", 0.2, 7), ("posterize", 0.3, 7)),
        (("colour", 0.4, 3), ("brightness", 0.6, 7)), (("sharpness", 0.3, 9), ("brightness", 0.7, 9)),
        (("equalize", 0.6, 0), ("equalize", 0.5, 0)), (("contrast", 0.6, 7), ("sharpness", 0.6, 5)),
        (("colour", 0.7, 7), ("translate_x", 0.5, 8)), (("equalize", 0.3, 0), ("autocontrast", 0.4, 0)),
        (("translate_y", 0.4, 3), ("sharpness", 0.2, 6)), (("brightness", 0.9, 6), ("colour", 0.2, 8)),
        (("solarize", 0.5, 2), ("invert", 0.0, 0)), (("equalize", 0.2, 0), ("autocontrast", 0.6, 0)),
        (("equalize", 0.2, 0), ("equalize", 0.6, 0)), (("colour", 0.9, 9), ("equalize", 0.6, 0)),
        (("autocontrast", 0.8, 0), ("solarize", 0.2, 8)), (("brightness", 0.1, 3), ("colour", 0.7, 0)),
        (("solarize", 0.4, 5), ("autocontrast", 0.9, 0)), (("translate_y", 0.9, 9), ("translate_y", 0.7, 9)),
        (("autocontrast", 0.9, 0), ("solarize", 0.8, 3)), (("equalize", 0.8, 0), ("invert", 0.1, 0)),
        (("translate_y", 0.7, 9), ("autocontrast", 0.9, 0)),
    ),
    "imagenet": (
        (("posterize", 0.4, 8), ("rotate", 0.6, 9)), (("solarize", 0.6, 5), ("autocontrast", 0.6, 0)),
        (("equalize", 0.8, 0), ("equalize", 0.6, 0)), (("posterize", 0.6, 7), ("posterize", 0.6, 6)),
        (("equalize", 0.4, 0), ("solarize", 0.2, 4)), (("equalize", 0.4, 0), ("rotate", 0.8, 8)),
        (("solarize", 0.6, 3), ("equalize", 0.6, 0)), (("posterize", 0.8, 5), ("equalize", 1.0, 0)),
        (("rotate", 0.2, 3), ("solarize", 0.6, 8)), (("equalize", 0.6, 0), ("posterize", 0.4, 6)),
        (("rotate", 0.8, 8), ("colour", 0.4, 0)), (("rotate", 0.4, 9), ("equalize", 0.6, 0)),
        (("equalize", 0.0, 0), ("equalize", 0.8, 0)), (("invert", 0.6, 0), ("equalize", 1.0, 0)),
        (("colour", 0.6, 4), ("contrast", 1.0, 8)), (("rotate", 0.8, 8), ("colour", 1.0, 2)),
        (("colour", 0.8, 8), ("solarize", 0.8, 7)), (("sharpness", 0.4, 7), ("invert", 0.6, 0)),
        (("shear_x", 0.6, 5), ("equalize", 1.0, 0)), (("colour", 0.4, 0), ("equalize", 0.6, 0)),
        (("equalize", 0.4, 0), ("solarize", 0.2, 4)), (("solarize", 0.6, 5), ("autocontrast", 0.6, 0)),
        (("invert", 0.6, 0), ("equalize", 1.0, 0)), (("colour", 0.6, 4), ("contrast", 1.0, 8)),
        (("equalize", 0.8, 0), ("equalize", 0.6, 0)),
    ),
    "svhn": (
        (("shear_x", 0.9, 4), ("invert", 0.2, 0)), (("shear_y", 0.9, 8), ("invert", 0.7, 0)),
        (("equalize", 0.6, 0), ("solarize", 0.6, 6)), (("invert", 0.9, 0), ("equalize", 0.6, 0)),
        (("equalize", 0.6, 0), ("rotate", 0.9, 3)), (("shear_x", 0.9, 4), ("autocontrast", 0.8, 0)),
        (("shear_y", 0.9, 8), ("invert", 0.4, 0)), (("shear_y", 0.9, 5), ("solarize", 0.2, 6)),
        (("invert", 0.9, 0), ("autocontrast", 0.8, 0)), (("equalize", 0.6, 0), ("rotate", 0.9, 3)),
        (("shear_x", 0.9, 4), ("solarize", 0.3, 3)), (("shear_y", 0.8, 8), ("invert", 0.7, 0)),
        (("equalize", 0.9, 0), ("translate_y", 0.6, 6)), (("invert", 0.9, 0), ("equalize", 0.6, 0)),
        (("contrast", 0.3, 3), ("rotate", 0.8, 4)), (("invert", 0.8, 0), ("translate_y", 0.0, 2)),
        (("shear_y", 0.7, 6), ("solarize", 0.4, 8)), (("invert", 0.6, 0), ("rotate", 0.8, 4)),
        (("shear_y", 0.3, 7), ("translate_x", 0.9, 3)), (("shear_x", 0.1, 6), ("invert", 0.6, 0)),
        (("solarize", 0.7, 2), ("translate_y", 0.6, 7)), (("shear_y", 0.8, 4), ("invert", 0.8, 0)),
        (("shear_x", 0.7, 9), ("translate_y", 0.8, 3)), (("shear_y", 0.8, 5), ("autocontrast", 0.7, 0)),
        (("shear_x", 0.7, 2), ("invert", 0.1, 0)),
    ),
}
# fmt: on

_FAR = 150 / 331
"""Longest shift of AutoAugment and RandAugment, as a share of the side."""


class _Resample(TypedDict):
    interpolation: geometry.Interpolation
    fill: geometry.Fill


_Apply = Callable[[Tensor, Tensor, _Resample], Tensor]
"""From pictures (b, C, H, W) uint8, magnitudes (b,) float64, and how to resample, to pictures."""

_MOVES = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")


def _move(images: Tensor, move: Tensor, by: Tensor, how: _Resample) -> Tensor:
    """Shear, shift or turn pictures, each by (b,) float64, in one resampling: `move` (b,) are places in _MOVES."""
    shear_x, shear_y, right, down, degrees = (torch.where(move == place, by, 0.0) for place in range(len(_MOVES)))
    h, w = images.shape[2:]
    # Pictures are sheared about their top left corner.
    corner = -(move <= _MOVES.index("shear_y")).double()
    matrix = geometry.affine_matrix(
        images,
        degrees=-degrees,
        translate_x=right.trunc(),
        translate_y=down.trunc(),
        shear_x=shear_x,
        shear_y=shear_y,
        centre=(corner * (w / 2), corner * (h / 2)),
    )
    return geometry.warp(images, matrix, **how)


def _mover(place: int) -> _Apply:
    return lambda images, by, how: _move(images, torch.full_like(by, place), by, how)


OPERATIONS: dict[str, _Apply] = {
    "identity": lambda images, by, how: images,
    **{name: _mover(place) for place, name in enumerate(_MOVES)},
    "brightness": lambda images, by, how: colour.brightness(images, 1 + by),
    "colour": lambda images, by, how: colour.saturation(images, 1 + by),
    "contrast": lambda images, by, how: colour.contrast(images, 1 + by),
    "sharpness": lambda images, by, how: colour.sharpness(images, 1 + by),
    "posterize": lambda images, by, how: colour.posterize(images, by.to(torch.int64)),
    "solarize": lambda images, by, how: colour.solarize(images, 255 * by),
    "autocontrast": lambda images, by, how: colour.autocontrast(images),
    "equalize": lambda images, by, how: colour.equalize(images),
    "invert": lambda images, by, how: colour.invert(images),
}
"""What policies choose from, by name."""
_NAMES = tuple(OPERATIONS)
_FIRST_MOVE = _NAMES.index(_MOVES[0])
_EVEN = len(_NAMES) - 1
"""RandAugment and TrivialAugmentWide choose from all but `invert`, AugMix not from `identity` either."""
_DEEPEST = 3
"""Operations of the longest chain of AugMix."""
_SIGNED = tuple(_NAMES.index(name) for name in _NAMES[1:10])
"""Places of the operations that go either way."""


@lru_cache(maxsize=64)
def _magnitudes(policy: str, levels: int, height: int, width: int) -> Tensor:
    """Return the (operations, levels) float32 magnitudes of a policy, in the order of OPERATIONS.

    Shears in degrees, shifts in pixels, rotations in degrees, factors as what is added to 1, posterize in bits,
    solarize as a share of 255.
    """
    shear, turn, factor, bits, most = 0.3, 30.0, 0.9, 8, 4
    far = {"trivialaugment": (32.0, 32.0), "augmix": (width / 3, height / 3)}.get(policy, (_FAR * width, _FAR * height))
    if policy == "trivialaugment":
        shear, turn, factor, most = 0.99, 135.0, 0.99, 6
    if policy == "augmix":
        bits = 4
    sheared = torch.rad2deg(torch.linspace(0, shear, levels).double().atan())
    moved = (torch.linspace(0, side, levels) for side in far)
    rest = [torch.linspace(0, turn, levels), *[torch.linspace(0, factor, levels)] * 4]
    lost = torch.arange(levels) / max(1, levels - 1) * most
    rows = [sheared, sheared, *moved, *rest, (bits - lost).round(), torch.linspace(1, 0, levels)]
    nothing = torch.zeros(levels)
    return torch.stack([row.float() for row in (nothing, *rows, nothing, nothing, nothing)])


def _signed(operation: Tensor, magnitude: Tensor, u: Tensor) -> Tensor:
    """Turn half of the magnitudes of those operations that go either way, by uniforms; all of one shape."""
    turned = torch.isin(operation, torch.tensor(_SIGNED)) & (u < 0.5)
    return torch.where(turned, -magnitude, magnitude)


def _apply(images: Tensor, operations: Tensor, magnitudes: Tensor, how: _Resample) -> Tensor:
    """Let each picture undergo its own operations.

    Args:
        images: (B, C, H, W) uint8.
        operations: (steps, B) int64 places in OPERATIONS, on the host.
        magnitudes: (steps, B), on the host.
        how: To resample.
    """

    def apply(step: int, place: int, some: Tensor, places: Tensor) -> Tensor:
        # In double precision, as torchvision's Python numbers are: 1 + magnitude is rounded once, when it is used.
        by = magnitudes[step, places].double()
        if place == _FIRST_MOVE:
            return _move(some, operations[step, places] - _FIRST_MOVE, by, how)
        return OPERATIONS[_NAMES[place]](some, by.to(some.device, non_blocking=True), how)

    moves = (operations >= _FIRST_MOVE) & (operations < _FIRST_MOVE + len(_MOVES))
    return sorted_by(torch.where(moves, _FIRST_MOVE, operations), images, apply)


def _how(spec: Policy) -> _Resample:
    return {"interpolation": spec.interpolation, "fill": spec.fill}


@lru_cache(maxsize=16)
def _learned(policy: str, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the places in OPERATIONS, probabilities and magnitudes of a policy's pairs, (25, 2) each."""
    table = _magnitudes("autoaugment", 10, height, width)
    steps = [step for pair in LEARNED[policy] for step in pair]
    places = torch.tensor([_NAMES.index(name) for name, _, _ in steps])
    chances = torch.tensor([chance for _, chance, _ in steps])
    sizes = table[places, torch.tensor([level for _, _, level in steps])]
    return places.view(-1, 2), chances.view(-1, 2), sizes.view(-1, 2)


def autoaugment(spec: AutoAugmentSpec, images: Tensor, draws: Draws) -> Tensor:
    """Let each picture undergo one of 25 learned pairs of operations, each with its probability (arXiv:1805.09501).

    Args:
        spec: The operation's section.
        images: (B, C, H, W) uint8.
        draws: Of the B samples.
    """
    u = draws.uniforms(5)
    pair = (u[0] * len(LEARNED[spec.policy])).long()
    places, chances, sizes = (table[pair].T for table in _learned(spec.policy, *images.shape[2:]))
    operations = torch.where(u[1::2] < chances, places, 0)
    return _apply(images, operations, _signed(places, sizes, u[2::2]), _how(spec))


def randaugment(spec: RandAugmentSpec, images: Tensor, draws: Draws) -> Tensor:
    """Let each picture undergo some operations, all of one magnitude (arXiv:1909.13719); see `autoaugment`."""
    table = _magnitudes("randaugment", 31, *images.shape[2:])[:, spec.magnitude]
    u = draws.uniforms(2 * spec.num_ops).view(spec.num_ops, 2, -1)
    operations = (u[:, 0] * _EVEN).long()
    return _apply(images, operations, _signed(operations, table[operations], u[:, 1]), _how(spec))


def trivialaugment(spec: TrivialAugmentSpec, images: Tensor, draws: Draws) -> Tensor:
    """Let each picture undergo one operation of a random magnitude (arXiv:2103.10158); see `autoaugment`."""
    choice, level, sign = draws.uniforms(3)
    operation = (choice * _EVEN).long()
    magnitude = _magnitudes("trivialaugment", 31, *images.shape[2:])[operation, (level * 31).long()]
    return _apply(images, operation[None], _signed(operation, magnitude, sign)[None], _how(spec))


def augmix(spec: AugMixSpec, images: Tensor, draws: Draws) -> Tensor:
    """Blend each picture with chains of one to three weak operations (arXiv:1912.02781); see `autoaugment`.

    The weights are those of the paper with α = 1, where Dirichlet and Beta are spacings of uniforms.
    """
    u = draws.uniforms(spec.width * (1 + 3 * _DEEPEST) + spec.width)
    chains, rest = u[: -spec.width].view(spec.width, 1 + 3 * _DEEPEST, -1), u[-spec.width :]
    ends = torch.cat([torch.zeros_like(rest[:1]), rest[1:].sort(0).values, torch.ones_like(rest[:1])])
    weights = (ends.diff(dim=0) * rest[0]).to(images.device, non_blocking=True)
    blend = images * (1 - rest[0]).to(images.device, non_blocking=True).view(-1, 1, 1, 1)
    table = _magnitudes("augmix", 10, *images.shape[2:])
    for weight, (deep, *numbers) in zip(weights, chains, strict=True):
        choice, level, sign = torch.stack(numbers).view(_DEEPEST, 3, -1).unbind(1)
        operations = 1 + (choice * (_EVEN - 1)).long()
        magnitudes = _signed(operations, table[operations, (level * spec.severity).long()], sign)
        chosen = torch.arange(_DEEPEST)[:, None] < 1 + (deep * _DEEPEST).long()
        chain = _apply(images, torch.where(chosen, operations, 0), magnitudes, _how(spec))
        blend.add_(chain * weight.view(-1, 1, 1, 1))
    return blend.round_().to(torch.uint8)

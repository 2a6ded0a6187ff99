"""Which variants a study has: the listed ones, every combination of a grid, or those of an ablation."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from distaug.spec.document import Keys, dump
from distaug.spec.study import StudySpec
from distaug.study.plan import ALL, NONE

__all__ = ["Sketch", "label", "sketches"]


@dataclass(frozen=True)
class Sketch:
    """A variant before it is resolved."""

    name: str
    at: tuple[Keys, ...]
    """Where its changes stand in the study file, in the order in which they are made."""
    against: str | None
    labels: tuple[str, ...] = ()
    technique: str | None = None


def sketches(spec: StudySpec, at: Keys) -> tuple[tuple[str, ...], list[Sketch]]:
    """Return the axes of a grid, and all variants.

    Args:
        spec: The study.
        at: Path of the section that varies something.
    """
    if spec.variants is not None:
        first = spec.baseline or next(iter(spec.variants))
        names = [first, *(name for name in spec.variants if name != first)]
        return (), [Sketch(n, ((*at, "variants", n),), None if n == first else first) for n in names]
    if spec.ablate is not None:
        return (), list(_ablation(list(spec.ablate), (*at, "ablate")))
    assert spec.grid is not None
    return tuple(spec.grid), list(_grid(spec.grid, (*at, "grid")))


def _ablation(techniques: list[str], at: Keys) -> Iterator[Sketch]:
    every = tuple((*at, technique) for technique in techniques)
    yield Sketch(NONE, (), None)
    yield Sketch(ALL, every, NONE)
    if len(techniques) > 1:
        for place, technique in enumerate(techniques):
            yield Sketch(f"only {technique}", (every[place],), NONE, technique=technique)
    if len(techniques) > 2:  # of two, all but one is only the other
        for place, technique in enumerate(techniques):
            others = every[:place] + every[place + 1 :]
            yield Sketch(f"all but {technique}", others, ALL, technique=technique)


def _grid(grid: dict[str, Any], at: Keys) -> Iterator[Sketch]:
    axes = [  # (label, where its changes stand) of each value
        [(label(value), (*at, axis, index)) for index, value in enumerate(options)]
        if isinstance(options, list)
        else [(label, (*at, axis, label)) for label in options]
        for axis, options in grid.items()
    ]
    paths = [isinstance(options, list) for options in grid.values()]

    def name(labels: tuple[str, ...]) -> str:
        words = zip(grid, paths, labels, strict=True)
        return ", ".join(f"{axis.split('.')[-1]}={label}" if is_path else label for axis, is_path, label in words)

    for combination in product(*axes):
        labels = tuple(label for label, _ in combination)
        against = (*labels[:-1], axes[-1][0][0])
        places: tuple[Keys, ...] = tuple(keys for _, keys in combination)
        yield Sketch(name(labels), places, None if labels == against else name(against), labels)


def label(value: Any) -> str:
    """Return how a value of an axis is written."""
    if isinstance(value, str):
        return value
    return dump(value).removesuffix("\n...\n").strip() if not isinstance(value, dict | list) else str(value)

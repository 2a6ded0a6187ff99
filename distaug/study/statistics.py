"""What several seeds say: mean and spread, and how far two variants are apart, with an interval."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

__all__ = ["Difference", "Spread", "differences", "spread"]

Values = Mapping[int, float]
"""A figure by seed."""
_LEVEL = 0.95
_SEEDS_ENOUGH = 3
"""Seeds from which on a pair speaks for itself."""


@dataclass(frozen=True)
class Spread:
    """A figure over seeds."""

    count: int
    mean: float
    sd: float | None
    """Standard deviation of one run (with n - 1); None of one seed."""


@dataclass(frozen=True)
class Difference:
    """How far a variant is ahead of another, over the seeds that both were trained with."""

    count: int
    """Seeds."""
    mean: float
    half: float | None
    """Half of the 95 % interval of the mean; None where the seeds are too few to tell."""

    @property
    def within_noise(self) -> bool | None:
        """Whether the interval holds 0; None without an interval."""
        return None if self.half is None else abs(self.mean) <= self.half


def spread(values: Sequence[float]) -> Spread:
    """Return mean and standard deviation of at least one value."""
    array = np.asarray(values, np.float64)
    return Spread(len(values), float(array.mean()), float(array.std(ddof=1)) if len(values) > 1 else None)


def differences(base: Values, others: Mapping[str, Values]) -> dict[str, Difference]:
    """Compare variants with one of them, pair by pair of runs with the same seed.

    From three seeds on it is the paired t-interval (Student 1908, The probable error of a mean). Two seeds of one pair
    alone would tell next to nothing: there the noise is what is left after a mean for each variant and one for each
    seed (randomised complete blocks: Fisher 1935, The Design of Experiments), pooled over all variants given and taken
    to be alike in them.

    Args:
        base: The figures of the variant that the others are compared with.
        others: Those of the others, by name.

    Returns:
        By name; without those that have no seed in common with `base`.
    """
    pooled = _noise([base, *others.values()])
    found = {}
    for name, values in others.items():
        if not (seeds := sorted(base.keys() & values.keys())):
            continue
        apart = float(np.mean([values[seed] - base[seed] for seed in seeds]))
        own = _noise([{seed: one[seed] for seed in seeds} for one in (base, values)])
        error, freedom = own if len(seeds) >= _SEEDS_ENOUGH else pooled
        half = None
        if freedom > 0 and len(seeds) > 1:
            half = float(stats.t.ppf((1 + _LEVEL) / 2, freedom)) * math.sqrt(2 * error / len(seeds))
        found[name] = Difference(len(seeds), apart, half)
    return found


def _noise(variants: Sequence[Values]) -> tuple[float, int]:
    """Return the variance of one run that neither its variant nor its seed explains, and its degrees of freedom."""
    seeds = sorted({seed for values in variants for seed in values})
    cells = [(v, seeds.index(seed), x) for v, values in enumerate(variants) for seed, x in values.items()]
    if not cells:
        return 0.0, 0
    design = np.zeros((len(cells), len(variants) + len(seeds)))
    for row, (variant, seed, _) in enumerate(cells):
        design[row, variant] = design[row, len(variants) + seed] = 1.0
    figures = np.array([x for *_, x in cells])
    solution, _, rank, _ = np.linalg.lstsq(design, figures, rcond=None)
    freedom = len(cells) - int(rank)
    left = figures - design @ solution
    return (float(left @ left) / freedom if freedom else 0.0), freedom

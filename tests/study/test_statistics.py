"""The intervals are those of the textbooks, and hold what they promise."""

import math
from collections.abc import Mapping

import numpy as np
import pytest
from scipy import stats

from distaug.study.statistics import Difference, Spread, differences, spread

BASE = {0: 0.912, 1: 0.905, 2: 0.921, 3: 0.899}
BETTER = {0: 0.924, 1: 0.921, 2: 0.930, 3: 0.908}
NOISY = {0: 0.915, 1: 0.898, 2: 0.941, 3: 0.880}


def blocks(variants: list[Mapping[int, float]]) -> float:
    """Return half of the interval by the sums of squares of a table without gaps (randomised complete blocks)."""
    table = [[values[seed] for seed in sorted(values)] for values in variants]
    rows, columns = len(table), len(table[0])
    grand = sum(map(sum, table)) / (rows * columns)
    total = sum((x - grand) ** 2 for row in table for x in row)
    treatments = columns * sum((sum(row) / columns - grand) ** 2 for row in table)
    between = rows * sum((sum(column) / rows - grand) ** 2 for column in zip(*table, strict=True))
    freedom = (rows - 1) * (columns - 1)
    error = (total - treatments - between) / freedom
    return float(stats.t.ppf(0.975, freedom)) * math.sqrt(2 * error / columns)


def of(values: Mapping[int, float], *seeds: int) -> dict[int, float]:
    return {seed: values[seed] for seed in seeds}


def paired(base: Mapping[int, float], other: Mapping[int, float]) -> Difference:
    """Return the paired t-interval over the seeds that both have."""
    seeds = sorted(base.keys() & other.keys())
    low, high = stats.ttest_rel([other[k] for k in seeds], [base[k] for k in seeds]).confidence_interval(0.95)
    return Difference(len(seeds), pytest.approx((low + high) / 2), pytest.approx((high - low) / 2))


def test_a_spread_is_the_mean_and_the_deviation_of_one_run() -> None:
    assert spread([0.9, 0.92, 0.97]) == Spread(3, pytest.approx(0.93), pytest.approx(math.sqrt(0.0026 / 2)))
    assert spread([0.5]) == Spread(1, 0.5, None)


@pytest.mark.parametrize("seeds", [(0, 1), (0, 1, 2, 3)])
def test_two_variants_have_the_paired_interval(seeds: tuple[int, ...]) -> None:
    base, other = (of(values, *seeds) for values in (BASE, BETTER))
    found = differences(base, {"b": other})["b"]
    assert found == paired(base, other) and found.count == len(seeds)
    assert found.within_noise is bool(stats.ttest_rel(list(other.values()), list(base.values())).pvalue > 0.05)


@pytest.mark.parametrize("seeds", [(0, 1, 2), (0, 1, 2, 3)])
def test_from_three_seeds_on_each_of_several_variants_has_the_paired_interval(seeds: tuple[int, ...]) -> None:
    base, better, noisy = (of(values, *seeds) for values in (BASE, BETTER, NOISY))
    found = differences(base, {"b": better, "c": noisy})
    assert found == {"b": paired(base, better), "c": paired(base, noisy)}
    assert found["b"].within_noise is False and found["c"].within_noise is True


def test_of_two_seeds_several_variants_share_the_noise_of_randomised_blocks() -> None:
    base, better, noisy = (of(values, 0, 1) for values in (BASE, BETTER, NOISY))
    found = differences(base, {"b": better, "c": noisy})
    half = pytest.approx(blocks([base, better, noisy]))
    assert found == {"b": Difference(2, pytest.approx(0.014), half), "c": Difference(2, pytest.approx(-0.002), half)}
    assert found["b"] != paired(base, better)


def test_two_seeds_tell_more_where_there_are_more_variants() -> None:
    first, second, third = ({0: 0.90 + k, 1: 0.92 + k + e} for k, e in ((0.0, 0.001), (0.01, -0.001), (0.02, 0.0)))
    pair, three = differences(first, {"b": second})["b"], differences(first, {"b": second, "c": third})["b"]
    assert pair.within_noise is True and three.within_noise is False
    assert three.half == pytest.approx(blocks([first, second, third]))


def test_a_run_without_its_partner_tells_nothing() -> None:
    other = {0: 0.924, 1: 0.921, 3: 0.908, 7: 99.0}
    assert differences(BASE, {"b": other})["b"] == paired(BASE, of(BETTER, 0, 1, 3))


def test_with_gaps_the_noise_is_what_least_squares_leave() -> None:
    variants = [BASE, of(BETTER, 0, 1), of(NOISY, 1, 2, 3)]
    # A column for the mean, for all variants but the first, and for all seeds but the first.
    cells = [(v, seed, x) for v, values in enumerate(variants) for seed, x in values.items()]
    design = np.array([[1.0, v == 1, v == 2, seed == 1, seed == 2, seed == 3] for v, seed, _ in cells])
    figures = np.array([x for *_, x in cells])
    left = figures - design @ np.linalg.solve(design.T @ design, design.T @ figures)
    freedom = len(cells) - design.shape[1]
    half = stats.t.ppf(0.975, freedom) * np.sqrt(2 * left @ left / freedom / 2)
    found = differences(variants[0], {"b": variants[1], "c": variants[2]})
    assert found["b"] == Difference(2, pytest.approx(0.014), pytest.approx(half))
    assert found["c"] == paired(BASE, variants[2]), "three seeds speak for themselves"


@pytest.mark.parametrize("seeds", [(0, 1), (0, 1, 2, 3)])
def test_seeds_that_are_better_for_all_are_no_noise(seeds: tuple[int, ...]) -> None:
    def found(slope: float) -> dict[str, Difference]:
        moved = ({k: x + slope * k for k, x in of(values, *seeds).items()} for values in (BASE, BETTER, NOISY))
        return differences(next(moved), dict(zip("bc", moved, strict=True)))

    plain, moved = found(0.0), found(10.0)
    for name in plain:
        assert moved[name] == Difference(len(seeds), pytest.approx(plain[name].mean), pytest.approx(plain[name].half))


def test_one_seed_has_no_interval() -> None:
    assert differences({5: 0.5}, {"b": {5: 0.75}}) == {"b": Difference(1, 0.25, None)}
    assert differences({5: 0.5}, {"b": {5: 0.75}})["b"].within_noise is None
    found = differences(BASE, {"b": BETTER, "c": {2: 1.0}})
    assert found["c"] == Difference(1, pytest.approx(0.079), None) and found["b"].half is not None


def test_without_a_seed_in_common_there_is_no_difference() -> None:
    assert differences(BASE, {"b": {7: 0.9}, "c": {}}) == {} == differences({}, {"b": BASE})
    assert differences(BASE, {"b": {7: 0.9}, "c": BETTER}).keys() == {"c"}


@pytest.mark.parametrize(("apart", "within"), [(0.0, True), (0.25, False)])
def test_figures_without_noise(apart: float, within: bool) -> None:
    found = differences({0: 0.5, 1: 0.5}, {"b": {0: 0.5 + apart, 1: 0.5 + apart}})["b"]
    assert found.mean == apart and found.half == pytest.approx(0, abs=1e-12) and found.within_noise is within


@pytest.mark.parametrize("gap", [False, True], ids=["complete", "one run missing"])
@pytest.mark.parametrize("seeds", [2, 4])
def test_of_a_hundred_intervals_ninety_five_hold_the_truth(seeds: int, gap: bool) -> None:
    random, studies, hits = np.random.default_rng(1935), 1500, 0
    for _ in range(studies):
        # Seeds that differ far more than what is left of a run; the variants do not.
        figures = random.normal(0, 5, seeds) + random.normal(0, 1, (4, seeds))
        base, other, *rest = ({seed: float(x) for seed, x in enumerate(row)} for row in figures)
        if gap:  # of the pair itself, where it still has enough
            del (other if seeds > 2 else rest[0])[0]
        found = differences(base, {"b": other, **{f"r{k}": values for k, values in enumerate(rest)}})["b"]
        hits += found.within_noise is True
    # Four deviations of a share of 95 % are 2.3 %; the numbers are the same each time.
    assert 0.927 < hits / studies < 0.973


def test_a_difference_that_is_there_is_found() -> None:
    random = np.random.default_rng(1935)
    figures = random.normal(0, 5, 5) + random.normal(0, 1, (3, 5)) + np.array([[0.0], [4.0], [-4.0]])
    base, better, worse = (dict(enumerate(map(float, row))) for row in figures)
    found = differences(base, {"b": better, "w": worse})
    assert found["b"].within_noise is False and found["w"].within_noise is False
    assert found["b"].mean > 0 > found["w"].mean

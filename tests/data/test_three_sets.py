"""Train, validation and test: stratified, seeded, disjoint, and thinned out only in training."""

import numpy as np
import pytest

from distaug.data.source import TEST, TRAIN, VAL
from distaug.data.split import subsample, three_sets
from distaug.spec.data import DataSpec

COUNTS = [100, 37, 10, 3, 2, 1]
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(6), COUNTS)).astype(np.int64)


def spec(**fields: object) -> DataSpec:
    return DataSpec(source="digits", **fields)


def parts(value: int = TRAIN) -> np.ndarray:
    return np.full(len(LABELS), value, np.int8)


def per_class(rows: np.ndarray, labels: np.ndarray = LABELS) -> list[int]:
    return np.bincount(labels[rows], minlength=6).tolist()


def test_fractions_are_cut_out_of_every_class() -> None:
    sets = three_sets(LABELS, parts(), spec(test_fraction=0.2, val_fraction=0.1), final_fit=False)
    assert per_class(sets[TEST]) == [20, 7, 2, 1, 0, 0]
    assert per_class(sets[VAL]) == [8, 3, 1, 1, 1, 0]
    assert per_class(sets[TRAIN]) == [72, 27, 7, 1, 1, 1]
    together = np.sort(np.concatenate(list(sets.values())))
    assert np.array_equal(together, np.arange(len(LABELS)))
    assert all((np.diff(rows) > 0).all() for rows in sets.values())


def test_split_seed_and_nothing_else_moves_the_split() -> None:
    first = three_sets(LABELS, parts(), spec(), final_fit=False)
    again = three_sets(LABELS, parts(), spec(per_class=3), final_fit=False)
    other = three_sets(LABELS, parts(), spec(split_seed=1), final_fit=False)
    assert np.array_equal(first[VAL], again[VAL])
    assert not np.array_equal(first[VAL], other[VAL])
    assert per_class(first[VAL]) == per_class(other[VAL])


def test_what_the_source_divided_stays() -> None:
    given = parts()
    given[:20], given[20:50] = VAL, TEST
    sets = three_sets(LABELS, given, spec(test_fraction=0.3, val_fraction=0.3), final_fit=False)
    assert sets[VAL].tolist() == list(range(20))
    assert sets[TEST].tolist() == list(range(20, 50))


def test_validation_is_held_out_of_train_where_only_a_test_set_is_given() -> None:
    given = parts()
    given[-40:] = TEST
    sets = three_sets(LABELS, given, spec(test_fraction=0.3), final_fit=False)
    assert sets[TEST].tolist() == list(range(len(LABELS) - 40, len(LABELS)))
    assert len(sets[VAL]) > 5 and sets[VAL].max() < len(LABELS) - 40


def test_no_test_set_unless_asked_for() -> None:
    assert TEST not in three_sets(LABELS, parts(), spec(), final_fit=False)


def test_final_fit_trains_on_validation_too() -> None:
    apart = three_sets(LABELS, parts(), spec(test_fraction=0.2), final_fit=False)
    joined = three_sets(LABELS, parts(), spec(test_fraction=0.2), final_fit=True)
    assert VAL not in joined
    assert np.array_equal(joined[TEST], apart[TEST])
    assert np.array_equal(joined[TRAIN], np.union1d(apart[TRAIN], apart[VAL]))


def test_per_class_keeps_at_most_so_many_and_a_smaller_choice_is_within_a_larger() -> None:
    rows = np.arange(len(LABELS))
    few, more = (subsample(rows, LABELS, 6, spec(per_class=n)) for n in (5, 20))
    assert per_class(few) == [5, 5, 5, 3, 2, 1]
    assert per_class(more) == [20, 20, 10, 3, 2, 1]
    assert set(few) < set(more)
    assert not np.array_equal(few, np.concatenate([np.flatnonzero(LABELS == c)[:5] for c in range(6)]))


def test_without_settings_nothing_is_left_out() -> None:
    rows = np.arange(3, len(LABELS), 2)
    assert np.array_equal(subsample(rows, LABELS, 6, spec()), rows)


def test_long_tail_falls_exponentially_from_the_first_class_to_the_last() -> None:
    labels = np.repeat(np.arange(5), 500).astype(np.int64)
    kept = subsample(np.arange(2500), labels, 5, spec(long_tail_ratio=100.0))
    assert np.bincount(labels[kept]).tolist() == [500, 158, 50, 15, 5]
    capped = subsample(np.arange(2500), labels, 5, spec(long_tail_ratio=100.0, per_class=100))
    assert np.bincount(labels[capped]).tolist() == [100, 31, 10, 3, 1]
    assert set(capped) < set(kept)


@pytest.mark.parametrize("ratio", [1.0, 10.0, 1e6])
def test_long_tail_leaves_every_class_something(ratio: float) -> None:
    kept = per_class(subsample(np.arange(len(LABELS)), LABELS, 6, spec(long_tail_ratio=ratio)))
    assert min(kept) == 1
    assert all(before >= after for before, after in zip(kept, kept[1:], strict=False))

"""The same picture twice: within train, across sets, under two labels."""

import numpy as np

from distaug.data.duplicates import Duplicates, find_duplicates
from distaug.data.source import TEST, TRAIN, VAL


def find(pictures: str, labels: str, sets: dict[int, list[int]]) -> Duplicates:
    """Look among pictures named by letters: equal letters are equal pictures."""
    hashes = np.array([[ord(letter), 7] for letter in pictures], np.uint64)
    return find_duplicates(
        hashes,
        np.array([int(label) for label in labels], np.int64),
        {part: np.array(rows, np.int64) for part, rows in sets.items()},
        lambda row: f"picture {row}",
        ("cat", "dog"),
    )


def test_different_pictures_are_no_duplicates() -> None:
    found = find("abcdef", "010101", {TRAIN: [0, 1, 2], VAL: [3, 4], TEST: [5]})
    assert not found.any
    assert found.examples == () and len(found.droppable) == 0


def test_half_a_hash_is_not_enough() -> None:
    hashes = np.array([[1, 1], [1, 2], [2, 1]], np.uint64)
    rows = {TRAIN: np.arange(3)}
    assert not find_duplicates(hashes, np.zeros(3, np.int64), rows, str, ("cat",)).any


def test_repeats_within_train_keep_the_first() -> None:
    found = find("abaab", "00000", {TRAIN: [0, 1, 2, 3, 4]})
    assert (found.within_train, found.across_sets, found.two_labels) == (3, 0, 0)
    assert found.droppable.tolist() == [2, 3, 4]


def test_pictures_that_judge_do_not_train() -> None:
    found = find("abcabc", "000000", {TRAIN: [0, 1, 2], VAL: [3], TEST: [4, 5]})
    assert (found.within_train, found.across_sets, found.two_labels) == (0, 3, 0)
    assert found.droppable.tolist() == [0, 1, 2]


def test_all_training_copies_under_two_labels_go() -> None:
    found = find("aabab", "01010", {TRAIN: [0, 1, 2, 3], TEST: [4]})
    assert (found.two_labels, found.across_sets) == (1, 1)
    assert found.droppable.tolist() == [0, 1, 2, 3]
    assert "picture 0 (cat)" in found.examples[0][0] and "picture 1 (dog)" in str(found.examples)


def test_copies_in_validation_and_test_alone_are_reported_and_stay() -> None:
    found = find("abcc", "0000", {TRAIN: [0, 1], VAL: [2], TEST: [3]})
    assert found.across_sets == 1 and found.droppable.tolist() == []
    assert found.examples == (("val: picture 2 (cat)", "test: picture 3 (cat)"),)


def test_the_list_is_bounded_and_the_worst_come_first() -> None:
    pictures = "".join(chr(ord("a") + i) * 2 for i in range(20)) + "zz"
    found = find(pictures, "0" * 40 + "01", {TRAIN: list(range(42))})
    assert found.within_train == 21
    assert len(found.examples) == 10
    assert "(dog)" in str(found.examples[0])
    assert found.report()["examples"][0] == list(found.examples[0])

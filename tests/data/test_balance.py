"""Which pictures an epoch uses: quotas by class, ids that are unique, and uses that are shared out evenly."""

from collections import Counter

import pytest
import torch
from torch import Tensor

from distaug import draws
from distaug.data.balance import quotas, sample_ids
from distaug.spec.data import DataSpec

COUNTS = (60, 25, 9, 4, 2)
N = sum(COUNTS)


def shuffled(counts: tuple[int, ...]) -> Tensor:
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]


LABELS = shuffled(COUNTS)


def quota(balance: str, labels: Tensor = LABELS, **fields: object) -> Tensor:
    return quotas(labels, DataSpec.model_validate({"source": "digits", "balance": balance, **fields}))


def epoch_of(balance: str, epoch: int, seed: int = 7) -> Tensor:
    return sample_ids(LABELS, quota(balance), seed, epoch)


def test_without_balance_an_epoch_is_the_permutation_it_always_was() -> None:
    assert quota("none").tolist() == list(COUNTS)
    for epoch in range(3):
        assert torch.equal(epoch_of("none", epoch), draws.permutation(7, epoch, N))


def test_repeat_factors_are_the_papers() -> None:
    # The shares are 0.6, 0.25, 0.09, 0.04 and 0.02; r = sqrt(t / share) where that is above 1.
    assert quota("repeat_factor", repeat_threshold=0.09).tolist() == [60, 25, 9, 6, 4]  # r: 1, 1, 1, 1.5, 2.12
    assert quota("repeat_factor", repeat_threshold=0.36).tolist() == [60, 30, 18, 12, 8]  # r: 1, 1.2, 2, 3, 4.24
    assert quota("repeat_factor", repeat_threshold=0.01).tolist() == list(COUNTS)


def test_the_usual_threshold_is_an_equal_share() -> None:
    assert torch.equal(quota("repeat_factor"), quota("repeat_factor", repeat_threshold=0.2))
    assert quota("repeat_factor", shuffled((13,) * 7)).tolist() == [13] * 7, "balanced data stay as they are"


@pytest.mark.parametrize("counts", [COUNTS, (50, 30, 23), (1, 2, 3, 99)])
def test_class_balanced_epochs_have_the_old_size_and_equal_classes(counts: tuple[int, ...]) -> None:
    found = quota("class_balanced", shuffled(counts))
    assert found.sum() == sum(counts) and found.max() - found.min() <= 1


@pytest.mark.parametrize("balance", ["repeat_factor", "class_balanced"])
def test_the_kth_use_of_a_picture_has_an_id_of_its_own(balance: str) -> None:
    for epoch in range(4):
        ids = epoch_of(balance, epoch)
        assert torch.equal(LABELS[ids % N].bincount(), quota(balance)), "each epoch keeps the quotas"
        uses: dict[int, list[int]] = {}
        for sample in sorted(ids.tolist()):
            uses.setdefault(sample % N, []).append(sample // N)
        assert all(numbers == list(range(len(numbers))) for numbers in uses.values())
        assert max(map(len, uses.values())) > 1


@pytest.mark.parametrize("balance", ["repeat_factor", "class_balanced"])
def test_pictures_of_a_class_are_used_equally_often_in_an_epoch_and_over_all(balance: str) -> None:
    total = torch.zeros(N, dtype=torch.int64)
    chosen = set()
    for epoch in range(25):
        uses = (epoch_of(balance, epoch) % N).bincount(minlength=N)
        total += uses
        chosen.add(tuple(uses.tolist()))
        for counted in (uses, total):
            for k in range(len(COUNTS)):
                of_class = counted[LABELS == k]
                assert of_class.max() - of_class.min() <= 1
    assert len(chosen) > 3, "the extra uses go round"
    assert total.min() >= 1, "no picture is left out for ever"


def test_an_epoch_is_a_function_of_seed_and_number_alone() -> None:
    first = epoch_of("class_balanced", 5)
    epoch_of("class_balanced", 2)
    assert torch.equal(first, epoch_of("class_balanced", 5))
    other_seed, other_epoch = epoch_of("class_balanced", 5, seed=8), epoch_of("class_balanced", 6)
    assert not torch.equal(first, other_seed) and not torch.equal(first, other_epoch)
    assert Counter((first % N).tolist()) != Counter((other_seed % N).tolist()), "another seed, other pictures"


def test_samples_are_shuffled() -> None:
    for balance in ("repeat_factor", "class_balanced"):
        ids = epoch_of(balance, 0)
        half = LABELS[ids[: len(ids) // 2] % N].bincount(minlength=len(COUNTS))
        assert (half > 0).all() and not torch.equal(ids, ids.sort().values)

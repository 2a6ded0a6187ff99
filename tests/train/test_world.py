"""What ranks on several nodes tell one another, with the other ranks' answers given."""

from collections.abc import Callable
from typing import Any

import pytest

from distaug.errors import DataError, DistaugError, StorageError
from distaug.train.setup import _check_same_data
from distaug.train.world import SoloWorld, World, by_rank_0, together


class Asked(SoloWorld):
    """This rank, on node `one`, and others whose answers are given."""

    node = "one"

    def __init__(self, *answers: Any) -> None:
        self.answers = answers

    def gather(self, value: Any) -> list[Any]:
        return [value, *self.answers]


@pytest.mark.parametrize(
    ("own", "others", "message"),
    [
        (None, [("two", DataError("no data"))], "two: no data"),
        (DataError("no data"), [("one", None), ("two", None)], "one: no data"),
        (DataError("no data"), [("two", None), ("three", DataError("none"))], "one, three: no data"),
        (DataError("no data"), [("one", None)], "no data"),
        (DataError("no data"), [("two", DataError("no data"))], "no data"),
    ],
    ids=["another node", "one rank of a node", "some nodes", "the only node", "all nodes"],
)
def test_an_error_of_some_nodes_names_them(own: DistaugError | None, others: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=f"^{message}$"):
        together(Asked(*others), lambda: fail(own))


def fail(error: DistaugError | None) -> str:
    if error is not None:
        raise error
    return "made"


def test_without_an_error_each_rank_has_what_it_made() -> None:
    assert together(Asked(("two", None)), lambda: fail(None)) == "made"
    with pytest.raises(StorageError):
        together(Asked(("two", None)), lambda: fail(StorageError("full")))


def one_makes(world: World, error: DistaugError | None) -> Any:
    def make() -> int:
        assert world.rank == 0
        fail(error)
        return 7

    try:
        return by_rank_0(world, make)
    except DistaugError as told:
        return str(told)


def test_what_rank_0_makes_or_fails_at_is_known_to_all(ranks: Callable[..., list[Any]]) -> None:
    assert ranks(2, one_makes, None) == [7, 7]
    assert ranks(2, one_makes, StorageError("full")) == ["full", "full"]


def test_nodes_with_other_data_are_named() -> None:
    _check_same_data(Asked(("two", "abc")), "abc")
    with pytest.raises(DataError, match=r"digests: aaaaaaaaaaaa on one, three; bbbbbbbbbbbb on two\)"):
        _check_same_data(Asked(("two", "b" * 64), ("three", "a" * 64)), "a" * 64)

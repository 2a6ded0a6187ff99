"""What ranks on several nodes tell one another, with the other ranks' answers given."""

from typing import Any

import pytest

from distaug.errors import DataError, DistaugError, StorageError
from distaug.train.setup import _check_same_data
from distaug.train.world import SoloWorld, agree_on_errors


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
        agree_on_errors(Asked(*others), own)


def test_without_an_error_nothing_is_raised() -> None:
    agree_on_errors(Asked(("two", None)), None)
    with pytest.raises(StorageError):
        agree_on_errors(Asked(("two", None)), StorageError("full"))


def test_nodes_with_other_data_are_named() -> None:
    _check_same_data(Asked(("two", "abc")), "abc")
    with pytest.raises(DataError, match=r"digests: aaaaaaaaaaaa on one, three; bbbbbbbbbbbb on two\)"):
        _check_same_data(Asked(("two", "b" * 64), ("three", "a" * 64)), "a" * 64)

"""YAML as people write it: what is read as what, and what is refused."""

import math
import random

import pytest

from distaug.errors import JobError
from distaug.spec.document import DEEPEST, LIMIT_BYTES, Document, dump


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("5.0E+2", 500.0),
        (".5", 0.5),
        ("-7", -7),
        ("010", 10),
        ("0x1F", 31),
        ("0o17", 15),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("'1e-3'", "1e-3"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("1_000", "1_000"),
        ("1" * 5000, math.inf),
        ("resnet18", "resnet18"),
        ("package.module:factory", "package.module:factory"),
        ('"no"', "no"),
        ("[1, 2.0, a]", [1, 2.0, "a"]),
        ("|\n  two\n  lines", "two\nlines\n"),
    ],
)
def test_scalars(text, value):
    document = Document(f"key: {text}\n", "job.yaml")
    read = document.values["key"]
    assert read == value and type(read) is type(value)
    assert not document.problems and not document.switches


def test_not_finite_numbers():
    values = Document("a: .inf\nb: -.INF\nc: .NaN\n", "job.yaml").values
    assert values["a"] == math.inf and values["b"] == -math.inf and math.isnan(values["c"])


@pytest.mark.parametrize("word", ["yes", "No", "ON", "off"])
def test_unquoted_switches_are_noted_and_quoted_ones_are_not(word):
    assert Document(f"a: {word}", "job.yaml").switches == {("a",): word}
    assert Document(f"a: '{word}'", "job.yaml").switches == {}


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("a:\n\tb: 1", 2, "a tab; indent with spaces"),
        ("a: 1\nb: &x 1", 2, "`x` is an anchor or alias"),
        ("a: 1\nb: *x", 2, "`x` is an anchor or alias"),
        ("b: *.jpg", 1, "quote a text that starts with it"),
        ("a: !!python/object/apply:os.system [ls]", 1, "is not allowed; write the plain value"),
        ("a: 1\nb: c: d", 2, "a `:` too many"),
        ("a: @b", 1, "quote a text that starts with it"),
        ("a: 1\nb: [1,\n 2", 3, "begun in line 2"),
        ("a: 1\n---\nb: 1", 2, "a file holds one job"),
        ("a: 1\nb: \x07", 2, "the character #x0007"),
        ("[" * 100_000, 1, f"nested more than {DEEPEST} deep"),
        ("a: 1\nb: 'x", 2, "found unexpected end of stream"),
    ],
)
def test_what_is_not_readable_is_refused_with_its_line(text, line, says):
    with pytest.raises(JobError) as caught:
        Document(text, "job.yaml")
    message = str(caught.value)
    assert message.startswith(f"job.yaml:{line}: ") and says in message


def test_too_large():
    with pytest.raises(JobError, match=rf"job.yaml: {LIMIT_BYTES + 5} bytes; .* at most {LIMIT_BYTES}"):
        Document("# é\n" + "x" * LIMIT_BYTES, "job.yaml")


def test_a_key_that_stands_twice_is_named_with_both_lines_and_the_first_counts():
    document = Document("a:\n  b: 1\n  c: 2\n  b: 3\n", "job.yaml")
    assert [str(p) for p in document.problems] == [
        "job.yaml:4: a.b: stands twice, first in line 2; keep one of the two"
    ]
    assert document.values == {"a": {"b": 1, "c": 2}}


def test_a_key_must_be_a_word():
    document = Document("a: 1\n? [b]\n: 2\n", "job.yaml")
    assert [str(p) for p in document.problems] == ["job.yaml:2: a key must be a word, found a list or mapping"]


def test_places():
    document = Document("a:\n  b:\n    - 1\n    - c: 2\n", "job.yaml")
    places = {("a",): 1, ("a", "b"): 2, ("a", "b", 0): 3, ("a", "b", 1, "c"): 4, ("a", "x", "y"): 1}
    assert {keys: document.place(keys).order for keys in places} == places


def test_dumped_values_are_read_back():
    letters = "aeE1.0-+:#'\"\\ \n\tñ☃😀{}[],&*!|>%@`~?\x85"
    words = [
        "",
        "no",
        "on",
        "1e-3",
        "1.e5",
        ".5",
        "0o7",
        "0x1",
        "010",
        "null",
        "~",
        "true",
        "<<",
        "=",
        "- a",
        "a: b",
    ]
    draw = random.Random(0)
    words += ["".join(draw.choices(letters, k=draw.randint(1, 150))) for _ in range(200)]
    values = {
        "words": words,
        "keys": {word: number for number, word in enumerate(words)},
        "numbers": [0, -1, 2**70, 1e-300, 0.1, 1e22, -0.0, math.inf, True, None],
        "nothing": [{}, [], ""],
    }
    assert Document(dump(values), "job.yaml").values == values
    assert not Document(dump(values), "job.yaml").switches

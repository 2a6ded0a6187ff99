"""A job file as plain values that remember where they stand, so that a message can name the line.

YAML is read as people write it: `1e-3` is a number (the scalars of YAML 1.2), only true and false are
booleans, a key stands once, and there are neither anchors nor tags.
"""

import copy
import re
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import yaml

from distaug.errors import JobError

Keys = tuple[str | int, ...]
"""Keys and list positions from the top of the file to a value."""

LIMIT_BYTES = 2**20
DEEPEST = 50
ARGUMENTS = 10**9
SWITCHES = {"yes": "true", "on": "true", "no": "false", "off": "false"}

_TAG = "tag:yaml.org,2002:"
_SCALARS = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]{1,400}|0o[0-7]{1,400}|0x[0-9a-fA-F]{1,400}", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
)
_HINTS = (
    ("character '\\t'", "a tab; indent with spaces"),
    ("cannot start any token", "{problem}; quote a text that starts with it"),
    ("scanning an alias", "`*` starts an alias, which is not allowed; quote a text that starts with it"),
    ("scanning an anchor", "`&` starts an anchor, which is not allowed; quote a text that starts with it"),
    (
        "mapping values are not allowed",
        "a `:` too many; check the indentation, or quote a text with `: ` in it",
    ),
    ("could not find expected ':'", "a key without `:` after it"),
    ("but found another document", "a second document after `---`; a file holds one job"),
)


class Place(NamedTuple):
    """Where something stands: a line of the file or an argument of the command."""

    order: int
    label: str


class Problem(NamedTuple):
    """Something wrong with the job."""

    place: Place
    keys: Keys
    message: str

    def __str__(self) -> str:
        parts = (self.place.label, dotted(self.keys), self.message)
        return ": ".join(part for part in parts if part)


def dotted(keys: Keys) -> str:
    """Return the path as a user writes it: `augment.ops.0.crop`."""
    return ".".join(map(str, keys))


class _Loader(yaml.SafeLoader):
    """Composes nodes; resolves plain scalars as YAML 1.2 does."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        problem = None
        if event.anchor is not None:
            problem = f"`{event.anchor}` is an anchor or alias, which is not allowed; write the value out"
        elif getattr(event, "tag", None) is not None:
            problem = f"the tag `{event.tag}` is not allowed; write the plain value"
        elif self.depth == DEEPEST:
            problem = f"nested more than {DEEPEST} deep"
        if problem:
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


_Loader.yaml_implicit_resolvers = {}
for _name, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(f"^(?:{_pattern})$"), _first)


class _Dumper(yaml.SafeDumper):
    """Quotes whatever YAML 1.1 or 1.2 would read as something other than text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        # Folding loses some line breaks (U+0085); double quotes escape them.
        style = None if data.isprintable() else '"'
        return self.represent_scalar(f"{_TAG}str", data, style)


_Dumper.add_representer(str, _Dumper.represent_str)
for _name, _pattern, _first in _SCALARS:
    _Dumper.add_implicit_resolver(_TAG + _name, re.compile(f"^(?:{_pattern})$"), _first)


def dump(values: Any) -> str:
    """Return plain values as YAML text that `Document` reads back to the same values."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100, default_flow_style=None)


class Document:
    """The values of a YAML text, with the place of each."""

    def __init__(self, text: str, filename: str) -> None:
        """Read a text.

        Raises:
            JobError: The text is too large or not YAML. Milder faults are collected in `problems`.
        """
        self.problems: list[Problem] = []
        self.written: dict[Keys, str] = {}
        """Every scalar as it stands in the file."""
        self.switches: dict[Keys, str] = {}
        """Every unquoted yes, no, on and off: text in YAML 1.2 but a boolean in 1.1, so it is refused."""
        self._places: dict[Keys, Place] = {(): Place(1, f"{filename}:1")}
        if (size := len(text.encode(errors="replace"))) > LIMIT_BYTES:
            raise JobError(f"{filename}: {size} bytes; a job file has at most {LIMIT_BYTES}")
        try:
            node = yaml.compose(text, Loader=_Loader)
        except yaml.YAMLError as error:
            line, message = _syntax(error, text)
            raise JobError(f"{filename}:{line}: {message}") from None
        self.values: Any = self._value(node, (), lambda line: Place(line, f"{filename}:{line}"))

    def place(self, keys: Keys) -> Place:
        """Return the place of a value, or of the section in which it is missing."""
        while keys not in self._places:
            keys = keys[:-1]
        return self._places[keys]

    def holds(self, keys: Keys) -> bool:
        """Return whether the file or an argument sets this value."""
        return keys in self._places

    def name(self, name: str) -> None:
        """Set the run's name, as `--name` does."""
        self._forget(("name",))
        self._places[("name",)] = Place(ARGUMENTS, f"--name {name}")
        self.written[("name",)] = f'"{name}"'
        self.values["name"] = name

    def assign(self, number: int, argument: str, split: Callable[[str], Keys]) -> None:
        """Set one value, as `--set path=value` does; faults are added to `problems`.

        Args:
            number: Position of the argument among its like.
            argument: `path=value`, the value in YAML.
            split: Cuts a path into its keys.
        """
        place = Place(ARGUMENTS + number, f"--set {argument}")
        path, equals, text = argument.partition("=")
        keys = split(path.strip())
        if not equals or "" in keys:
            self.problems.append(Problem(place, (), "expected path=value, e.g. train.epochs=12"))
            return
        try:
            node = yaml.compose(text, Loader=_Loader)
        except yaml.YAMLError as error:
            self.problems.append(Problem(place, (), _syntax(error, text)[1]))
            return
        if (found := self._holder(keys, place)) is not None:
            holder, keys = found
            holder[keys[-1]] = self._value(node, keys, lambda _: place)

    def part(self, keys: Keys) -> Self:
        """Return a copy of the section at a path as a document of its own; places are those of this one."""
        found = copy.copy(self)
        found.problems = list(self.problems)
        found.values = self.values
        for key in keys:
            found.values = found.values[key]
        found.values = copy.deepcopy(found.values)
        for known in ("written", "switches", "_places"):
            rebased = {old[len(keys) :]: at for old, at in getattr(self, known).items() if old[: len(keys)] == keys}
            setattr(found, known, rebased)
        return found

    def change(self, keys: Keys, other: Self, at: Keys, note: str) -> None:
        """Set one value to that of another document; faults are added to `problems`.

        Args:
            keys: What to set; a last key that ends in `+` adds the entries of a list to the one that is there.
            other: Where the value stands.
            at: Its path there.
            note: Said with every fault of the value, after the place.
        """
        part = other.part(at)
        place = self._noted(other.place(at), note)
        adds = str(keys[-1]).endswith("+")
        if adds:
            keys = (*keys[:-1], str(keys[-1])[:-1])
        if (found := self._holder(keys, place, keep=adds)) is None:
            return
        holder, keys = found
        before: Any = (holder.get(keys[-1]) if isinstance(holder, dict) else holder[keys[-1]]) if adds else []
        if adds and not (isinstance(part.values, list) and isinstance(before, list)):
            # A list that is left out may stand for a default, which must not be lost without a word.
            message = "`+` adds a list to one that is written out before; write it there, `[]` for none"
            self.problems.append(Problem(place, keys, message))
            return
        holder[keys[-1]] = [*before, *part.values] if adds else part.values

        def moved(inner: Keys) -> Keys:
            return (*keys, int(inner[0]) + len(before), *inner[1:]) if adds and inner else (*keys, *inner)

        self._places |= {moved(inner): self._noted(found, note) for inner, found in part._places.items()}
        self.written |= {moved(inner): text for inner, text in part.written.items()}
        self.switches |= {moved(inner): text for inner, text in part.switches.items()}

    @staticmethod
    def _noted(place: Place, note: str) -> Place:
        return Place(place.order, f"{place.label}: {note}")

    def _holder(self, keys: Keys, place: Place, *, keep: bool = False) -> tuple[Any, Keys] | None:
        """Return the section that is to hold a value, and the value's keys; None, with a problem, if there is none."""
        keys, obstacle = self._follow(keys)
        if obstacle:
            self.problems.append(Problem(place, keys, obstacle))
            return None
        holder: Any = self.values
        for depth, key in enumerate(keys[:-1], start=1):
            inner = holder.get(key) if isinstance(holder, dict) else holder[key]
            if inner is None:
                self._forget(keys[:depth])
                self._places[keys[:depth]] = place
                inner = holder[key] = {}
            holder = inner
        if not keep:
            self._forget(keys)
        return holder, keys

    def _follow(self, keys: Keys) -> tuple[Keys, str]:
        """Return the keys with list positions as numbers; or how far they lead, and what is in the way."""
        here: Any = self.values
        for depth, key in enumerate(keys):
            if isinstance(here, list):
                index = int(key) if str(key).isdecimal() else len(here)
                if index >= len(here):
                    return keys[:depth], f"is a list of {len(here)}, counted from 0, and has no `{key}`"
                keys = (*keys[:depth], index, *keys[depth + 1 :])
                here = here[index]
            elif isinstance(key, str) and (here is None or isinstance(here, dict)):
                here = here.get(key) if here else None
            else:
                found = "not set" if here is None else "a mapping" if isinstance(here, dict) else "one value"
                return keys[:depth], f"is {found}, and has no `{key}`"
        return keys, ""

    def _forget(self, keys: Keys) -> None:
        for known in (self._places, self.written, self.switches):
            for old in [old for old in known if old[: len(keys)] == keys]:
                del known[old]

    def _value(self, node: yaml.Node | None, keys: Keys, place: Callable[[int], Place]) -> Any:
        line = node.start_mark.line + 1 if node else 1
        self._places.setdefault(keys, place(line))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, keys, place)
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item, (*keys, index), place) for index, item in enumerate(node.value)]
        if not isinstance(node, yaml.ScalarNode):
            return None
        plain = node.style is None
        self.written[keys] = node.value if plain else f'"{node.value}"'
        if plain and node.value.lower() in SWITCHES:
            self.switches[keys] = node.value
        return _scalar(node)

    def _mapping(self, node: yaml.MappingNode, keys: Keys, place: Callable[[int], Place]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            line, key = key_node.start_mark.line + 1, key_node.value
            if not isinstance(key, str):
                self.problems.append(Problem(place(line), keys, "a key must be a word, found a list or mapping"))
                continue
            inner = (*keys, key)
            if key in lines:
                message = f"stands twice, first in line {lines[key]}; keep one of the two"
                self.problems.append(Problem(place(line), inner, message))
                continue
            lines[key] = line
            self._places[inner] = place(line)
            values[key] = self._value(value_node, inner, place)
        return values


def _scalar(node: yaml.ScalarNode) -> Any:
    text: str = node.value
    match node.tag.removeprefix(_TAG):
        case "null":
            return None
        case "bool":
            return text.lower() == "true"
        case "int":
            return int(text, 8 if text.startswith("0o") else 16 if text.startswith("0x") else 10)
        case "float":
            return float(re.sub(r"\.(?=inf|nan)", "", text.lower()))
    return text


def _syntax(error: yaml.YAMLError, text: str) -> tuple[int, str]:
    """Return the line and an explanation of what the reader stumbled over."""
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return line, f"the character #x{error.character:04x} is not allowed in YAML"
    if not isinstance(error, yaml.MarkedYAMLError):
        return 1, str(error)
    mark = error.problem_mark or error.context_mark
    problem = error.problem or ""
    whole = f"{error.context}: {problem}" if error.context else problem
    if mark and error.context_mark and error.context_mark.line < mark.line:
        whole += f" (begun in line {error.context_mark.line + 1})"
    hint = next((hint for sign, hint in _HINTS if sign in whole), "{whole}")
    return (mark.line + 1 if mark else 1), hint.format(problem=problem, whole=whole)

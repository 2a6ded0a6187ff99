"""What a job file may hold at each place, in words, and what is wrong with a value, in one line."""

import difflib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic_core import ErrorDetails

from distaug.spec.document import SWITCHES, Document, Keys, dotted

_Node = dict[str, Any]


class Shape:
    """A JSON Schema, asked by path.

    Args:
        schema: The schema.
        of: What it is of, in words.
    """

    def __init__(self, schema: _Node, of: str = "a job") -> None:
        self._schema, self._of = schema, of
        self._homes: dict[str, list[str]] = {}
        for path in self._fields(schema, ()):
            self._homes.setdefault(path[-1], []).append(dotted(path))

    def split(self, path: str) -> Keys:
        """Cut a dotted path into keys; names that are the user's own may hold dots (`ray.io/zone`)."""
        keys = Keys()
        words = path.split(".")
        for depth, word in enumerate(words):
            options = self._options(self._at(keys))
            if any(isinstance(option.get("additionalProperties"), dict) for option in options):
                return (*keys, ".".join(words[depth:]))
            place = word.isdecimal() and any(option.get("type") == "array" for option in options)
            keys = (*keys, int(word) if place else word)
        return keys

    def allowed(self, keys: Keys) -> str:
        """Return in words what may stand at a path: "a whole number of at least 1 or `auto`"."""
        return _join(self._words(self._at(keys)))

    def choices(self, keys: Keys) -> list[str]:
        """Return the words and the keys that may stand at a path, as far as they can be listed."""
        found: list[str] = []
        for option in self._options(self._at(keys)):
            found += map(str, option.get("enum", ()))
            found += [option["const"]] if "const" in option else []
            found += option.get("properties", ())
        return found

    def takes(self, keys: Keys, kind: str) -> bool:
        """Return whether a value of this JSON Schema type may stand at a path, whatever its value."""
        options = self._options(self._at(keys))
        return any(o.get("type") == kind and "enum" not in o and "const" not in o for o in options)

    def unknown(self, keys: Keys) -> str:
        """Return what to say about a key that does not exist: the nearest ones and the valid ones."""
        *section, key = keys
        names = self.choices(tuple(section))
        word = str(key).lower().replace("-", "_")
        near = difflib.get_close_matches(word, names, n=2, cutoff=0.65)
        near += [name for name in names if len(word) > 1 and name.startswith(word) and name not in near]
        for name in difflib.get_close_matches(word, self._homes, n=2, cutoff=0.8):
            if name == word or not near:
                near += self._homes[name]
        meant = f"; did you mean {_join([f'`{name}`' for name in near[:3]])}?" if near else "."
        where = f"`{dotted(tuple(section))}`" if section else self._of
        return f"unknown key{meant} Keys of {where}: {', '.join(names)}"

    def _at(self, keys: Keys) -> _Node:
        node = self._schema
        for key in keys:
            inside = (self._inside(option, key) for option in self._options(node))
            node = next((inner for inner in inside if inner is not None), {})
        return node

    @staticmethod
    def _inside(node: _Node, key: str | int) -> _Node | None:
        if isinstance(key, int):
            items: list[_Node] = node.get("prefixItems", [])
            return items[key] if key < len(items) else node.get("items")
        inner = node.get("properties", {}).get(key, node.get("additionalProperties"))
        return {} if inner is True else inner or None

    def _options(self, node: _Node) -> list[_Node]:
        if "$ref" in node:
            return self._options(self._schema["$defs"][node["$ref"].rsplit("/", 1)[1]])
        if "anyOf" in node:
            return [option for inner in node["anyOf"] for option in self._options(inner)]
        return [node]

    def _fields(self, node: _Node, above: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        for option in self._options(node):
            for name, inner in option.get("properties", {}).items():
                yield (*above, name)
                yield from self._fields(inner, (*above, name))

    def _words(self, node: _Node) -> list[str]:
        return [word for option in self._options(node) for word in self._option_words(option)]

    def _option_words(self, node: _Node) -> list[str]:
        if "const" in node or "enum" in node:
            return [f"`{choice}`" for choice in node.get("enum", [node.get("const")])]
        match node.get("type"):
            case "boolean":
                return ["`true`", "`false`"]
            case "null":
                return ["`null`"]
            case "integer":
                return ["a whole number" + _range(node)]
            case "number":
                return ["a number" + _range(node)]
            case "string":
                pattern = f" of the form {node['pattern']}" if "pattern" in node else ""
                return [("text that is not empty" if "minLength" in node else "text") + pattern]
            case "array" if items := node.get("prefixItems"):
                return [f"a list of {len(items)} (each {_join(self._words(items[0]))})"]
            case "array":
                return [f"a list (each {_join(self._words(node['items']))})"]
            case "object" if keys := node.get("properties"):
                return [f"a mapping with the key{'s' * (len(keys) > 1)} {', '.join(keys)}"]
            case "object":
                inner = node["additionalProperties"]
                return ["a mapping of names to " + _join(self._words({} if inner is True else inner))]
        return ["any value"]


def explain(error: ErrorDetails, values: Any, document: Document, shape: Shape) -> tuple[Keys, str]:
    """Return the path of one of pydantic's errors in the file, and what to say about it.

    Args:
        error: One entry of `ValidationError.errors()`.
        values: What was validated.
        document: The file, which knows how each value was written.
        shape: What is allowed.
    """
    keys = Keys()
    rest = list(error["loc"])
    # Beyond the last key that the file has, pydantic goes on with the names of a union's members.
    while rest and _holds(values, rest[0]):
        values = values[rest[0]]
        keys = (*keys, rest.pop(0))
    if error["type"] == "extra_forbidden":
        return keys, shape.unknown(keys)
    if error["type"] == "missing" and isinstance(values, dict) and len(rest) == 1:
        keys = (*keys, rest[0])
        return keys, f"missing; allowed: {shape.allowed(keys)}"
    if error["type"] == "value_error":
        return keys, str(error["ctx"]["error"])
    parts = [f"found {_found(values, document.written.get(keys))}", f"allowed: {shape.allowed(keys)}"]
    if hint := _hint(values, keys, document, shape):
        parts.append(hint)
    return keys, "; ".join(parts)


def unquoted(word: str, keys: Keys, shape: Shape) -> str:
    """Return what to say about an unquoted yes, no, on or off that is not a wrong value otherwise."""
    free = shape.allowed(keys) == "any value"
    other = f", or write `{SWITCHES[word.lower()]}`" if free else ""
    return f'found `{word}`, which many YAML readers take for a boolean; quote it: "{word}"{other}'


def _holds(values: Any, key: str | int) -> bool:
    if isinstance(key, int):
        return isinstance(values, list) and key < len(values)
    return isinstance(values, Mapping) and key in values


def _found(value: Any, written: str | None) -> str:
    if value is None:
        return "`null`" if written else "nothing"
    if written is None:
        written = json.dumps(value, ensure_ascii=False) if isinstance(value, list) else "a mapping"
    if len(written) > 60:
        written = written[:57] + "..."
    if isinstance(value, dict):
        return "a mapping"
    return f"the text `{written}`" if isinstance(value, str) else f"`{written}`"


def _hint(value: Any, keys: Keys, document: Document, shape: Shape) -> str:
    """Return what to do about a wrong value, where that is clear."""
    written = document.written.get(keys, "")
    if value is None and shape.takes(keys, "object"):
        return "leave the key out, or write `{}` for the defaults"
    if isinstance(value, (bool, int, float)) and shape.takes(keys, "string"):
        return f'quote it: "{written}"'
    if isinstance(value, float) and value.is_integer() and shape.takes(keys, "integer"):
        return f"write `{value:.0f}`"
    if not isinstance(value, str):
        return ""
    if keys in document.switches and shape.takes(keys, "boolean"):
        return f"write `{SWITCHES[value.lower()]}`"
    if shape.takes(keys, "object") and value in shape.choices(keys):
        return f"write `{value}: {{}}`"
    if shape.takes(keys, "number") or shape.takes(keys, "integer"):
        if value != written and value.replace(".", "", 1).isdecimal():
            return "leave out the quotes"
    near = difflib.get_close_matches(value.lower(), shape.choices(keys), n=1)
    return f"did you mean `{near[0]}`?" if near else ""


def _range(node: _Node) -> str:
    if "minimum" in node and "maximum" in node:
        return f" from {node['minimum']:g} to {node['maximum']:g}"
    names = {"minimum": "of at least", "exclusiveMinimum": "above", "maximum": "of at most"}
    names["exclusiveMaximum"] = "below"
    limits = [f"{name} {node[key]}" for key, name in names.items() if key in node]
    return " " + " and ".join(limits) if limits else ""


def _join(words: list[str]) -> str:
    words = list(dict.fromkeys(words))
    return " or ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)

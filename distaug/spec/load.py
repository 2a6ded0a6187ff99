"""From a YAML file and the command's arguments to a JobSpec, with all errors named at once."""

import copy
import difflib
import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from distaug.errors import JobError
from distaug.spec.conflicts import Conflict, conflicts
from distaug.spec.document import LIMIT_BYTES, Document, Keys, Problem, dotted, dump
from distaug.spec.explain import Shape, explain, unquoted
from distaug.spec.job import FORMAT, JobSpec, to_dict
from distaug.spec.section import Section

__all__ = [
    "check_job",
    "dump_job",
    "listing",
    "load_job",
    "parse_job",
    "read_text",
    "refuse_newer",
    "refuse_no_mapping",
    "schema",
    "shape",
    "validate",
]

_Spec = TypeVar("_Spec", bound=Section)

STAND_INS: dict[Keys, Any] = {
    ("data",): {"source": "digits"},
    ("data", "source"): "digits",
    ("model",): {"name": "resnet18"},
    ("model", "name"): "resnet18",
}
"""Put in place of required values that are wrong, so that the rest of the job can still be checked."""


def load_job(path: str | Path, sets: Sequence[str] = (), *, name: str | None = None) -> JobSpec:
    """Read a job file.

    Args:
        path: The YAML file.
        sets: Changes on top of the file, each `path=value` with the value in YAML.
        name: Name of the run, in place of the file's.

    Raises:
        JobError: The file cannot be read, or the job is wrong; all errors are named, each with its line.
    """
    return parse_job(read_text(Path(path)), filename=str(path), sets=sets, name=name)


def parse_job(text: str, *, filename: str = "<job>", sets: Sequence[str] = (), name: str | None = None) -> JobSpec:
    """Read a job from YAML text; `filename` stands in its error messages. Otherwise as `load_job`."""
    document = Document(text, filename)
    refuse_no_mapping(document, filename)
    if "base" in document.values and "model" not in document.values:
        raise JobError(f"{filename}: this is a study; `distaug study {filename}` trains its runs")
    for number, argument in enumerate(sets, start=1):
        document.assign(number, argument, shape().split)
    if name is not None:
        document.name(name)
    job, problems = check_job(document)
    if problems:
        raise JobError(listing(problems, filename))
    return job


def refuse_no_mapping(document: Document, filename: str) -> None:
    """Raise JobError where a document that is to be a job is something else."""
    if not isinstance(document.values, dict):
        found = {type(None): "nothing", list: "a list"}.get(type(document.values), "a single value")
        least = "`data: {source: digits}` and `model: {name: resnet18}`"
        raise JobError(f"{filename}: found {found}; a job is a mapping of sections, at least {least}")


def check_job(document: Document) -> tuple[JobSpec, list[Problem]]:
    """Return the job of a document, with all that is wrong with it.

    Raises:
        JobError: It has a newer format.
    """
    refuse_newer(document, FORMAT)
    job, problems = validate(document, JobSpec, shape(), STAND_INS, conflicts)
    return job, problems + document.problems


def dump_job(job: JobSpec) -> str:
    """Return the job as YAML text, defaults included, that `parse_job` reads back to an equal job."""
    return dump(to_dict(job))


def schema() -> dict[str, Any]:
    """Return the JSON Schema of the job file."""
    return JobSpec.model_json_schema()


@functools.cache
def shape() -> Shape:
    """Return what a job may hold at each place."""
    return Shape(schema())


def read_text(path: Path) -> str:
    """Return the text of a job file, or of one like it.

    Raises:
        JobError: It cannot be read, or is too large.
    """
    try:
        with path.open("rb") as file:
            data = file.read(LIMIT_BYTES + 1)
    except FileNotFoundError:
        near = difflib.get_close_matches(path.name, [file.name for file in _job_files(path.parent)], n=1)
        hint = f"did you mean {path.with_name(near[0])}?" if near else "check the path and the working folder"
        raise JobError(f"{path}: no such file; {hint}") from None
    except IsADirectoryError:
        files = ", ".join(str(file) for file in _job_files(path)[:10]) or "it holds no .yaml files"
        raise JobError(f"{path}: a folder; name one job file ({files})") from None
    except OSError as error:
        raise JobError(f"{path}: cannot be read: {error.strerror}") from None
    if len(data) > LIMIT_BYTES:
        raise JobError(f"{path}: more than {LIMIT_BYTES} bytes, the most that a job file may have")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = data[error.start]
        raise JobError(f"{path}:{line}: not UTF-8 text (byte 0x{byte:02x}); save the file as UTF-8") from None


def _job_files(folder: Path) -> list[Path]:
    return sorted(p for pattern in ("*.yaml", "*.yml") for p in folder.glob(pattern))


def refuse_newer(document: Document, newest: int) -> None:
    """Raise JobError where a document has a newer format than this version reads."""
    found = document.values.get("format")
    if isinstance(found, int) and found > newest:
        raise JobError(
            f"{document.place(('format',)).label}: format: {found} is newer than {newest}, the newest that "
            "this distaug reads; install a newer distaug"
        )


def validate(
    document: Document,
    model: type[_Spec],
    shape: Shape,
    stand_ins: dict[Keys, Any],
    conflicts: Callable[[_Spec], Iterable[Conflict]],
) -> tuple[_Spec, list[Problem]]:
    """Return what a document says, and what is wrong with it; wrong values are replaced to check the rest.

    Args:
        document: The document, a mapping.
        model: What it is to be.
        shape: The model's schema.
        stand_ins: Values in place of required ones that are wrong.
        conflicts: Finds the fields that cannot work together.
    """
    values = copy.deepcopy(document.values)
    broken: dict[Keys, str] = {}
    while True:
        try:
            spec = model.model_validate(values)
            break
        except ValidationError as failure:
            found = dict(explain(e, values, document, shape) for e in failure.errors(include_url=False))
        for keys, message in found.items():
            broken[keys] = message
            _mend(values, keys, stand_ins)
    for keys, word in document.switches.items():
        if not any(keys[: len(old)] == old for old in broken):
            broken[keys] = unquoted(word, keys, shape)
    problems = [Problem(document.place(keys), keys, message) for keys, message in broken.items()]
    for path, message, others in conflicts(spec):
        involved = [shape.split(p) for p in (path, *others)]
        if not any(_overlap(a, b) for a in involved for b in broken):
            blamed = next((keys for keys in involved if document.holds(keys)), involved[0])
            problems.append(Problem(document.place(blamed), involved[0], message))
    return spec, problems


def _mend(values: Any, keys: Keys, stand_ins: dict[Keys, Any]) -> None:
    """Take a wrong value out, or put a stand-in where one is required."""
    while isinstance(keys[-1], int):  # a list with a wrong entry goes as a whole, so that no position moves
        keys = keys[:-1]
    section = values
    try:
        for key in keys[:-1]:
            section = section[key]
    except (KeyError, IndexError):
        return  # went together with another wrong value
    if keys in stand_ins:
        section[keys[-1]] = copy.deepcopy(stand_ins[keys])
    elif keys[-1] not in section:  # something is missing in it
        _mend(values, keys[:-1], stand_ins)
    else:
        section.pop(keys[-1])
        if not section and isinstance(keys[-2], int):  # an operation without its name is wrong again
            _mend(values, keys[:-1], stand_ins)


def _overlap(one: Keys, other: Keys) -> bool:
    shorter = min(len(one), len(other))
    return one[:shorter] == other[:shorter]


def listing(problems: Iterable[Problem], filename: str) -> str:
    """Return all problems as one message, those of the file's first lines first."""
    lines = [str(problem) for problem in sorted(problems, key=lambda p: (p.place.order, dotted(p.keys)))]
    return "\n  ".join([f"{len(lines)} errors in {filename}", *lines]) if len(lines) > 1 else lines[0]

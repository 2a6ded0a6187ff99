"""From a study file to its runs: each variant resolved to a job and checked before any of them starts."""

import json
import re
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from distaug.errors import JobError
from distaug.spec.conflicts import Conflict, check
from distaug.spec.document import Document, Keys, Problem
from distaug.spec.explain import Shape
from distaug.spec.job import JobSpec, to_dict
from distaug.spec.load import check_job, listing, read_text, refuse_newer, refuse_no_mapping, shape, validate
from distaug.spec.study import FORMAT, QuickSpec, StudySpec
from distaug.study.plan import ALL, NONE, OWN, Plan, Variant, slug
from distaug.study.sketch import Sketch, label, sketches

__all__ = ["is_study", "load_study", "parse_study", "schema"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+=-]{0,59}")
_WAYS = ("variants", "grid", "ablate")
_STAND_INS: dict[Keys, Any] = {("base",): {"data": {"source": "digits"}, "model": {"name": "resnet18"}}}


def is_study(text: str, filename: str) -> bool:
    """Say whether a file's text is a study and not a job: it has a `base`.

    Raises:
        JobError: It is not YAML.
    """
    values = Document(text, filename).values
    return isinstance(values, dict) and "base" in values


def schema() -> dict[str, Any]:
    """Return the JSON Schema of the study file."""
    return StudySpec.model_json_schema()


def load_study(path: str | Path, sets: Sequence[str] = (), *, quick: bool = False, name: str | None = None) -> Plan:
    """Read a study file and resolve its runs.

    Args:
        path: The YAML file.
        sets: Changes of the study or, where it has no such field, of its base job, each `path=value`.
        quick: Take the smaller version.
        name: Name of the study, in place of the file's.

    Raises:
        JobError: A file cannot be read, or something in it or in a variant is wrong; all is named, with its lines.
    """
    return parse_study(read_text(Path(path)), str(path), sets, quick=quick, name=name)


def parse_study(
    text: str, filename: str, sets: Sequence[str] = (), *, quick: bool = False, name: str | None = None
) -> Plan:
    """Read a study from YAML text; a base that is a file is seen from `filename`. Otherwise as `load_study`."""
    document = Document(text, filename)
    if not isinstance(document.values, dict):
        raise JobError(f"{filename}: a study is a mapping with the keys `base` and one of `variants`, `grid`, `ablate`")
    if "base" not in document.values and "model" in document.values:
        raise JobError(f"{filename}: this is a job; `distaug run {filename}` trains it")
    form = Shape(schema(), "a study")
    for argument in sets:
        if (path := argument.split("=")[0].strip()) in ("seed", "runs_dir"):
            own = {"seed": "seeds", "runs_dir": "studies_dir"}[path]
            raise JobError(f"--set {argument}: the runs of a study get theirs from `{own}`; set that")
    # Its `metrics` is a list; a job's is a section.
    fields = StudySpec.model_fields
    paths = [one.split("=")[0].strip() for one in sets]
    apart = [path.split(".")[0] not in fields or path.startswith("metrics.") for path in paths]
    of_base = [argument for argument, is_apart in zip(sets, apart, strict=True) if is_apart]
    for number, argument in enumerate(sets, start=1):
        if argument not in of_base:
            document.assign(number, argument, form.split)
    if name is not None:
        document.name(name)
    refuse_newer(document, FORMAT)
    spec, problems = validate(document, StudySpec, form, _STAND_INS, _conflicts)
    problems += document.problems
    if problems:
        raise JobError(listing(problems, filename))
    base = _base(document, spec, Path(filename))
    for keys in [("quick", "base", key) for key in spec.quick.base] if quick and spec.quick else ():
        base.change(shape().split(keys[-1]), document, keys, "quick")
    for number, argument in enumerate(of_base, start=1):
        base.assign(number, argument, shape().split)
    varied: Keys = ()
    if quick:
        if spec.quick is None:
            raise JobError(f"{filename}: --quick, but the study has no section `quick`")
        varied = ("quick",) if any(getattr(spec.quick, way) for way in _WAYS) else ()
        spec = spec.shrunk()
    axes, sketched = sketches(spec, varied)
    return _resolve(document, base, spec, axes, sketched, filename)


def _conflicts(spec: StudySpec) -> Iterator[Conflict]:
    yield from _section_conflicts(spec, spec, "")
    if spec.quick is not None:
        yield from _own_fields("quick.base", spec.quick.base)
        yield from _section_conflicts(spec, spec.quick, "quick.")


def _section_conflicts(spec: StudySpec, section: StudySpec | QuickSpec, prefix: str) -> Iterator[Conflict]:
    ways = tuple(f"{prefix}{name}" for name in _WAYS)
    given = [name for name in _WAYS if getattr(section, name) is not None]
    if len(given) > 1 or (not given and section is spec):
        found = " and ".join(f"`{name}`" for name in given) or "none of them"
        listed = ", ".join(f"`{name}`" for name in _WAYS)
        place = f"{prefix}{given[1]}" if given else ways[0]
        yield Conflict(place, f"a study has one of {listed}, found {found}", ways)
    if section.seeds and len(set(section.seeds)) < len(section.seeds):
        yield Conflict(f"{prefix}seeds", f"holds a seed twice: {section.seeds}")
    varies = bool(given) or section is spec
    if spec.baseline is not None and varies and spec.baseline not in (section.variants or {}):
        names = section.variants
        known = f"variants are {', '.join(names)}" if names else "only `variants` have one to choose"
        where = f" in `{prefix}{given[0]}`" if prefix else ""
        yield Conflict("baseline", f"no variant{where} is called `{spec.baseline}`; {known}", ways)
    for kind in ("variants", "ablate"):
        for variant, changes in (getattr(section, kind) or {}).items():
            yield from _bad_name(f"{prefix}{kind}.{variant}", variant)
            yield from _own_fields(f"{prefix}{kind}.{variant}", changes)
    for axis, options in (section.grid or {}).items():
        where = f"{prefix}grid.{axis}"
        if isinstance(options, list):
            yield from _own_fields(where, [axis])
            if len({label(option) for option in options}) < len(options):
                yield Conflict(where, "holds a value twice")
        else:
            for option, changes in options.items():
                yield from _bad_name(where, option)
                yield from _own_fields(where, changes)
    techniques = section.ablate or {}
    for (one, of_one), (other, of_other) in combinations(techniques.items(), 2):
        if both := [a for a in of_one for b in of_other if _overwrites(a, b)]:
            message = f"`{both[0]}` is set by `{one}` too, so the two cannot be had together"
            yield Conflict(f"{prefix}ablate.{other}", message, (f"{prefix}ablate.{one}",))
    for name in (NONE, ALL):
        if name in techniques:
            yield Conflict(f"{prefix}ablate.{name}", f"`{name}` is the name of a variant that every ablation has")


def _overwrites(one: str, other: str) -> bool:
    """Say whether one of two paths sets what the other sets; those that end in `+` only add."""
    if one.endswith("+") and one == other:
        return False
    one, other = f"{one.rstrip('+')}.", f"{other.rstrip('+')}."
    return one.startswith(other) or other.startswith(one)


def _bad_name(where: str, name: str) -> Iterator[Conflict]:
    if not _NAME.fullmatch(name):
        allowed = "up to 60 letters, digits, spaces and . _ + - =, the first of them a letter or digit"
        yield Conflict(where, f"found the name `{name}`; a name has {allowed}")


def _own_fields(where: str, changes: Any) -> Iterator[Conflict]:
    for path in changes:
        if path.split(".")[0] in OWN:
            hint = "; list them in `seeds`" if path == "seed" else ""
            yield Conflict(where, f"`{path}` is filled in by the study itself{hint}")


def _base(document: Document, spec: StudySpec, path: Path) -> Document:
    """Return the document of the base job: part of the study's, or a file seen from the study's."""
    if not isinstance(spec.base, str):
        return document.part(("base",))
    file = path.parent / spec.base
    base = Document(read_text(file), str(file))
    refuse_no_mapping(base, str(file))
    return base


def _resolve(
    document: Document, base: Document, spec: StudySpec, axes: tuple[str, ...], sketches: list[Sketch], filename: str
) -> Plan:
    found: list[tuple[Sketch, JobSpec]] = []
    # What is wrong with the base is wrong with every variant, and told once; so is a change that several have.
    _, of_base = check_job(base)
    problems: dict[tuple[int, str, Keys], Problem] = {}
    for sketch in sketches:
        changed = base.part(())
        note = f"variant {sketch.name!r}"
        for keys in sketch.at:
            if isinstance(keys[-1], int):  # a value of an axis that is a path
                changed.change(shape().split(str(keys[-2])), document, keys, note)
                continue
            for path in document.part(keys).values:
                changed.change(shape().split(path), document, (*keys, path), note)
        job, wrong = check_job(changed)
        for problem in wrong:
            order, label = problem.place
            if problem not in of_base and not label.endswith(note):  # the base does not go with what is changed
                problem = problem._replace(place=problem.place._replace(label=f"{label}: {note}"))
            # The same entry of a list is elsewhere in another variant.
            names = tuple(key for key in problem.keys if isinstance(key, str))
            problems.setdefault((order, problem.message, names), problem)
        found.append((sketch, job))
    if problems:
        raise JobError(listing(problems.values(), filename))
    folders: dict[str, str] = {}
    for sketch, _ in found:
        folder = slug(sketch.name)
        if folder in folders:
            both = f"{folders[folder]!r} and {sketch.name!r}"
            raise JobError(f"{filename}: the variants {both} would share a run folder; rename one")
        folders[folder] = sketch.name
    _refuse_twins(found, filename)
    variants = [
        Variant(s.name, job.model_copy(update={"seed": spec.seeds[0]}), s.against, s.labels, s.technique)
        for s, job in found
    ]
    plan = Plan(spec, base.values, variants, axes)
    for run in plan.runs:
        check(run.job)  # once more, now that it is known where the runs are
    return plan


def _refuse_twins(found: Sequence[tuple[Sketch, JobSpec]], filename: str) -> None:
    """Refuse two variants that are the same job: the time would be spent twice to find no difference."""
    seen: dict[str, str] = {}
    for sketch, job in found:
        values = {key: value for key, value in to_dict(job).items() if key not in OWN}
        other = seen.setdefault(json.dumps(values, sort_keys=True), sketch.name)
        if other != sketch.name:
            raise JobError(f"{filename}: variants {other!r} and {sketch.name!r} are the same job; change or drop one")

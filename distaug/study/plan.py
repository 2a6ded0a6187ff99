"""From a study file to its runs: each variant resolved to a job and checked before any of them starts."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from distaug.errors import JobError
from distaug.spec.conflicts import Conflict, check
from distaug.spec.document import Document, Keys, Problem, dump
from distaug.spec.explain import Shape
from distaug.spec.job import JobSpec, leaves, to_dict
from distaug.spec.load import (
    check_job,
    listing,
    read_text,
    refuse_newer,
    refuse_no_mapping,
    shape,
    validate,
)
from distaug.spec.study import FORMAT, QuickSpec, StudySpec
from distaug.store.place import Place, place

__all__ = ["ALL", "NONE", "Plan", "Run", "Variant", "is_study", "load_study", "parse_study", "schema"]

ALL, NONE = "all", "none"
"""The variants of an ablation with every technique, and with none."""
_NAME = re.compile(r"(?=.*[A-Za-z0-9])[A-Za-z0-9 ._+=-]{1,60}")
_OWN = ("name", "seed", "runs_dir")
"""Fields of a job that a study fills in itself."""
_WAYS = ("variants", "grid", "ablate")
_STAND_INS: dict[Keys, Any] = {("base",): {"data": {"source": "digits"}, "model": {"name": "resnet18"}}}
_NO_DIFFERENCE = ("format", *_OWN)


@dataclass(frozen=True)
class Variant:
    """One way to train."""

    name: str
    job: JobSpec
    """With the first seed."""
    against: str | None
    """Name of the variant that it is compared with; None: it is one that others are compared with."""
    labels: tuple[str, ...] = ()
    """In a grid, its place on each axis."""
    technique: str | None = None
    """In an ablation, the technique that it alone has, or alone has not."""


@dataclass(frozen=True)
class Run:
    """One training."""

    variant: str
    seed: int
    job: JobSpec
    """Its name is that of the run folder."""


@dataclass(frozen=True)
class Plan:
    """A study, resolved."""

    spec: StudySpec
    """As it is run: of `--quick`, the smaller version."""
    base: dict[str, Any]
    """The base job as its file has it, with the changes of the command line."""
    variants: Sequence[Variant]
    axes: Sequence[str] = field(default=())
    """Of a grid, what is varied along each axis."""

    @property
    def root(self) -> Place:
        """Folder of the study."""
        return place(self.spec.studies_dir) / self.spec.name

    @property
    def runs(self) -> list[Run]:
        """All runs in the order in which they are trained: each variant once, then once more with the next seed."""
        return [
            Run(v.name, seed, _named(v.job, f"{_slug(v.name)}-s{seed}", seed, self.root))
            for seed in self.spec.seeds
            for v in self.variants
        ]

    @property
    def text(self) -> str:
        """The study as a file that needs no other."""
        values = self.spec.model_dump(mode="json", exclude_defaults=True, exclude={"quick"})
        return dump({"format": FORMAT, "name": self.spec.name} | values | {"base": self.base})

    def named(self, name: str) -> "Plan":
        """Return the same study under another name."""
        return replace(self, spec=self.spec.model_copy(update={"name": name}))

    def differing(self) -> list[tuple[str, list[Any]]]:
        """Return (path, value of each variant) of every field of the job that is not the same in all."""
        flat = [
            {k: v for k, v in leaves(to_dict(variant.job)) if k.split(".")[0] not in _NO_DIFFERENCE}
            for variant in self.variants
        ]
        paths = dict.fromkeys(path for one in flat for path in one)
        rows = [(path, [one.get(path) for one in flat]) for path in paths]
        return [(path, values) for path, values in rows if any(value != values[0] for value in values)]


@dataclass(frozen=True)
class _Sketch:
    """A variant before it is resolved."""

    name: str
    at: tuple[Keys, ...]
    """Where its changes stand in the study file, in the order in which they are made."""
    against: str | None
    labels: tuple[str, ...] = ()
    technique: str | None = None


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
    form = Shape(schema(), "a study")
    for argument in sets:
        if (path := argument.split("=")[0].strip()) in ("seed", "runs_dir"):
            own = {"seed": "seeds", "runs_dir": "studies_dir"}[path]
            raise JobError(f"--set {argument}: the runs of a study get theirs from `{own}`; set that")
    of_base = [one for one in sets if one.split("=")[0].strip().split(".")[0] not in StudySpec.model_fields]
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
    axes, sketches = _sketches(spec, varied)
    return _resolve(document, base, spec, axes, sketches, filename)


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
            if len({_label(option) for option in options}) < len(options):
                yield Conflict(where, "holds a value twice")
        else:
            for option, changes in options.items():
                yield from _bad_name(where, option)
                yield from _own_fields(where, changes)
    for name in (NONE, ALL):
        if name in (section.ablate or {}):
            yield Conflict(f"{prefix}ablate.{name}", f"`{name}` is the name of a variant that every ablation has")


def _bad_name(where: str, name: str) -> Iterator[Conflict]:
    if not _NAME.fullmatch(name):
        allowed = "up to 60 letters, digits, spaces and . _ + - =, a letter or digit among them"
        yield Conflict(where, f"found the name `{name}`; a name has {allowed}")


def _own_fields(where: str, changes: Any) -> Iterator[Conflict]:
    for path in changes:
        if path.split(".")[0] in _OWN:
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


def _sketches(spec: StudySpec, at: Keys) -> tuple[tuple[str, ...], list[_Sketch]]:
    """Return the axes of a grid, and all variants.

    Args:
        spec: The study.
        at: Path of the section that varies something.
    """
    if spec.variants is not None:
        first = spec.baseline or next(iter(spec.variants))
        names = [first, *(name for name in spec.variants if name != first)]
        return (), [_Sketch(n, ((*at, "variants", n),), None if n == first else first) for n in names]
    if spec.ablate is not None:
        return (), list(_ablation(list(spec.ablate), (*at, "ablate")))
    assert spec.grid is not None
    return tuple(spec.grid), list(_grid(spec.grid, (*at, "grid")))


def _ablation(techniques: list[str], at: Keys) -> Iterator[_Sketch]:
    every = tuple((*at, technique) for technique in techniques)
    yield _Sketch(NONE, (), None)
    yield _Sketch(ALL, every, NONE)
    if len(techniques) > 1:
        for place, technique in enumerate(techniques):
            yield _Sketch(f"only {technique}", (every[place],), NONE, technique=technique)
        for place, technique in enumerate(techniques):
            others = every[:place] + every[place + 1 :]
            yield _Sketch(f"all but {technique}", others, ALL, technique=technique)


def _grid(grid: dict[str, Any], at: Keys) -> Iterator[_Sketch]:
    axes = [  # (label, where its changes stand) of each value
        [(_label(value), (*at, axis, index)) for index, value in enumerate(options)]
        if isinstance(options, list)
        else [(label, (*at, axis, label)) for label in options]
        for axis, options in grid.items()
    ]
    paths = [isinstance(options, list) for options in grid.values()]

    def name(labels: tuple[str, ...]) -> str:
        words = zip(grid, paths, labels, strict=True)
        return ", ".join(f"{axis.split('.')[-1]}={label}" if is_path else label for axis, is_path, label in words)

    for combination in product(*axes):
        labels = tuple(label for label, _ in combination)
        against = (*labels[:-1], axes[-1][0][0])
        places: tuple[Keys, ...] = tuple(keys for _, keys in combination)
        yield _Sketch(name(labels), places, None if labels == against else name(against), labels)


def _label(value: Any) -> str:
    if isinstance(value, str):
        return value
    return dump(value).removesuffix("\n...\n").strip() if not isinstance(value, dict | list) else str(value)


def _resolve(
    document: Document, base: Document, spec: StudySpec, axes: tuple[str, ...], sketches: list[_Sketch], filename: str
) -> Plan:
    found: list[tuple[_Sketch, JobSpec]] = []
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
    slugs: dict[str, str] = {}
    for sketch, _ in found:
        slug = _slug(sketch.name)
        if slug in slugs:
            both = f"{slugs[slug]!r} and {sketch.name!r}"
            raise JobError(f"{filename}: the variants {both} would share a run folder; rename one")
        slugs[slug] = sketch.name
    variants = [
        Variant(s.name, job.model_copy(update={"seed": spec.seeds[0]}), s.against, s.labels, s.technique)
        for s, job in found
    ]
    plan = Plan(spec, base.values, variants, axes)
    for run in plan.runs:
        check(run.job)  # once more, now that it is known where the runs are
    return plan


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-._")[:80]


def _named(job: JobSpec, name: str, seed: int, root: Place) -> JobSpec:
    return job.model_copy(update={"name": name, "seed": seed, "runs_dir": str(root / "runs")})

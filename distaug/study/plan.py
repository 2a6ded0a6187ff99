"""The runs of a study: which variants there are, and a job for each of them and each seed."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from distaug.spec.document import dump
from distaug.spec.job import JobSpec, differing
from distaug.spec.study import FORMAT, StudySpec
from distaug.store.place import Place, place
from distaug.store.rundir import RunDir

__all__ = ["ALL", "NONE", "OWN", "Plan", "Run", "Variant", "slug"]

ALL, NONE = "all", "none"
"""The variants of an ablation with every technique, and with none."""
OWN = ("name", "seed", "runs_dir")
"""Fields of a job that a study fills in itself."""
_LONGEST = 60
"""A run folder's name has the seed behind it, and 100 characters at most."""


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

    @property
    def folder(self) -> RunDir:
        """Its run folder."""
        return RunDir(self.job.runs_dir, self.job.name)


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
            Run(v.name, seed, _named(v.job, f"{slug(v.name)}-s{seed}", seed, self.root))
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

    def differing(self) -> list[tuple[str, Sequence[Any]]]:
        """Return (path, value of each variant) of what is not the same in all of them."""
        return differing([variant.job for variant in self.variants], OWN)


def slug(name: str) -> str:
    """Return what the names of a variant's run folders begin with."""
    short = re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-._")
    return (
        short if len(short) <= _LONGEST else f"{short[: _LONGEST - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    )


def _named(job: JobSpec, name: str, seed: int, root: Place) -> JobSpec:
    return job.model_copy(update={"name": name, "seed": seed, "runs_dir": str(root / "runs")})

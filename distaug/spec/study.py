"""The study file: a base job, what is varied in it, and with which seeds each variant is trained."""

from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from distaug.spec.section import Section

FORMAT = 1
Metric = Literal[
    "top1",
    "macro",
    "loss",
    "ece",
    "val_top1",
    "train_top1",
    "gap",
    "train_loss",
    "epochs",
    "epoch_seconds",
    "images_per_second",
    "seconds",
    "peak_memory_bytes",
]
METRICS: tuple[str, ...] = get_args(Metric)
Changes = dict[str, Any]
"""Values by path, as after `--set`; a path that ends in `+` adds to a list."""
Axis = list[Any] | dict[str, Changes]
Seeds = Annotated[list[Annotated[int, Field(ge=0, lt=2**63)]], Field(min_length=1)]


class _Varied(Section):
    """What is varied."""

    variants: Annotated[dict[str, Changes], Field(min_length=1)] | None = None
    """The variants by name, each with what it changes in the base job; compared with the first one or `baseline`."""
    grid: Annotated[dict[str, Annotated[Axis, Field(min_length=1)]], Field(min_length=1)] | None = None
    """Every combination of several axes: a path with its values, or a name of your own with named changes. Compared
    with the first of the last axis."""
    ablate: Annotated[dict[str, Changes], Field(min_length=1)] | None = None
    """Techniques by name, each with what turns it on in the base job, which has none of them: trained are none, all,
    each alone, and all but one."""


class QuickSpec(_Varied):
    """A smaller version of the study, with `--quick`: what it changes."""

    base: Changes = {}
    """Changes of the base job."""
    seeds: Seeds | None = None
    """In place of the study's."""


class StudySpec(_Varied):
    """A whole study file."""

    format: Annotated[int, Field(ge=1, le=FORMAT)] = FORMAT
    """Version of the study file's format."""
    name: str = Field(default="study", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    """Name of the study and of its folder: letters, digits, dot, underscore and hyphen."""
    studies_dir: str = Field(default="studies", min_length=1)
    """Folder of all studies: a path, or a URL of an object store."""
    base: Annotated[str, Field(min_length=1)] | dict[str, Any]
    """The base job: its file, seen from the study's, or the job itself. Its name, seed and runs_dir are not used."""
    baseline: str | None = None
    """The variant that the others are compared with; null: the first."""
    seeds: Seeds = [0, 1, 2]
    """Each variant is trained once with each of these; compared are runs with the same one."""
    metrics: Annotated[list[Metric], Field(min_length=1)] = ["top1"]
    """What the tables and figures show, the most important first; the files of results have all."""
    published: dict[str, str] = {}
    """What others found, by name of a variant, a technique or a stage of compression, in words; shown beside."""
    quick: QuickSpec | None = None
    """A smaller version."""

    def shrunk(self) -> "StudySpec":
        """Return the smaller version under a name of its own; what it changes of the base job is left to do."""
        assert self.quick is not None
        given = self.quick.model_dump(exclude={"base"}, exclude_none=True)
        varied = {"variants": None, "grid": None, "ablate": None} if given.keys() - {"seeds"} else {}
        whole = self.model_dump(exclude={"quick"}) | varied | given
        return StudySpec.model_validate(whole | {"name": f"{self.name[:94]}-quick"})

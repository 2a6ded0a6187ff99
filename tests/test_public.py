"""The package as others see it: its names, its version, what importing it costs, and its error tree."""

import ast
import importlib
import pickle
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import distaug
from distaug import errors

ROOT = Path(distaug.__file__).resolve().parent.parent
PUBLIC = [
    "ArtifactError",
    "Augment",
    "ClusterError",
    "DataError",
    "DistaugError",
    "DivergedError",
    "InterruptedRunError",
    "JobError",
    "JobSpec",
    "StorageError",
    "StudyError",
    "__version__",
    "load",
    "load_job",
    "run",
]


def test_public_names_are_frozen_and_sorted():
    assert distaug.__all__ == PUBLIC == sorted(PUBLIC)
    assert dir(distaug) == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_each_public_name_is_there(name):
    assert getattr(distaug, name) is not None


def test_public_names_are_what_they_say():
    from distaug.augment import Augment
    from distaug.cluster.fit import run
    from distaug.spec.load import load_job
    from distaug.train.predictor import load

    assert (distaug.Augment, distaug.run, distaug.load_job, distaug.load) == (Augment, run, load_job, load)


def test_an_unknown_name():
    with pytest.raises(AttributeError, match="module 'distaug' has no attribute 'runn'"):
        distaug.runn  # noqa: B018


def test_importing_loads_nothing_heavy():
    script = "import sys, distaug; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.split()
    assert not {"torch", "ray", "numpy", "pydantic", "yaml", "rich"} & set(loaded)


@pytest.mark.parametrize(
    "name", [m.name for m in pkgutil.walk_packages(distaug.__path__, "distaug.") if "__main__" not in m.name]
)
def test_every_module_says_what_it_is_for_and_lists_what_exists(name):
    path = Path(importlib.util.find_spec(name).origin)
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    listed = [
        ast.literal_eval(n.value)
        for n in tree.body
        if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "__all__"
    ]
    for names in listed:
        by_kind = sorted(names, key=lambda n: (not n.isupper(), not n[0].isupper(), n))
        assert names in (sorted(names), by_kind)
        defined = {n.name for n in tree.body if hasattr(n, "name")}
        targets = [t for n in tree.body if isinstance(n, ast.Assign) for t in n.targets]
        defined |= {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)}
        defined |= {n.target.id for n in tree.body if isinstance(n, ast.AnnAssign)}
        defined |= {a.asname or a.name for n in tree.body if isinstance(n, ast.ImportFrom) for a in n.names}
        assert set(names) <= defined


def test_the_version_has_one_place():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in project["project"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "distaug.__version__"}
    assert re.fullmatch(r"\d+\.\d+\.\d+", distaug.__version__)


def test_constraints_pin_every_dependency_within_its_range():
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!]+", line) for line in lines)
    pinned = {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}
    assert len(pinned) == len(lines)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for extra in project["optional-dependencies"].values() for line in extra]
    for requirement in map(Requirement, [*project["dependencies"], *extras]):
        assert pinned[canonicalize_name(requirement.name)] in requirement.specifier, requirement


def test_the_error_tree():
    codes = {name: getattr(errors, name).exit_code for name in errors.__all__}
    assert codes == {
        "DistaugError": 1,
        "JobError": 2,
        "DataError": 3,
        "DivergedError": 4,
        "ClusterError": 5,
        "RankError": 5,
        "ArtifactError": 6,
        "StorageError": 7,
        "StudyError": 8,
        "InterruptedRunError": 130,
    }
    for name, code in codes.items():
        error = getattr(errors, name)
        assert issubclass(error, errors.DistaugError)
        assert re.search(rf"{name} +{code} ", errors.__doc__), f"{name} is not drawn in the tree"
        copy = pickle.loads(pickle.dumps(error("rank 1 was lost")))
        assert type(copy) is error and str(copy) == "rank 1 was lost"

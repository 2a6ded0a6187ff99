"""Who may import whom: the table of CONTRIBUTING.md against the syntax trees, functions included."""

import ast
import sys
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "distaug"

# The layer of a folder or module of distaug. A module imports from lower layers and its own folder.
LAYERS = {
    "errors": 0,
    "": 0,  # distaug/__init__.py, which fetches its public names lazily
    "spec": 1,
    "draws": 2,
    "store": 2,
    "telemetry": 3,
    "data": 3,
    "augment": 3,
    "model": 3,
    "train": 4,
    "compress": 5,
    "study": 5,
    "report": 6,
    "cluster": 7,
    "doctor": 8,
    "cli": 8,
    "__main__": 8,
}

# Libraries by folder or, where only one file may use them, by file; the longest match counts.
LIBRARIES = {
    "": set(),
    "spec": {"pydantic", "pydantic_core", "yaml"},
    "store": set(),
    "store/checkpoint.py": {"safetensors", "torch"},
    "store/model_files.py": {"safetensors", "torch"},
    "store/objects.py": {"aiohttp", "upath"},
    "draws.py": {"torch"},
    "telemetry": {"rich"},
    "telemetry/exporter.py": {"prometheus_client"},
    "telemetry/tensorboard.py": {"torch"},
    "telemetry/usage.py": {"torch"},
    "data": {"PIL", "numpy", "pyarrow", "sklearn", "torch", "torchvision"},
    "augment": {"torch"},
    "model": {"safetensors", "timm", "torch", "torchvision"},
    "train": {"numpy", "torch"},
    "compress": {"numpy", "onnx", "onnxruntime", "torch", "torch_pruning"},
    "compress/artifact.py": {"numpy", "onnxruntime"},
    "study": {"numpy", "scipy"},
    "report": {"PIL", "matplotlib", "torch"},
    "cluster": {"ray", "torch"},
    "cluster/jobs.py": {"ray", "requests"},
    "doctor.py": {"packaging", "torch", "torchvision"},
    "cli": {"rich"},
}
ARGUMENT_PARSERS = {"cli/__init__.py", "cli/local.py", "cli/remote.py", "cli/study.py", "train/__main__.py"}
LOOP_LINES = 120


@cache
def modules():
    """Return {dotted name: path} of every module of the package."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def place(name):
    """Return a module's path below the package, with slashes."""
    return modules()[name].relative_to(PACKAGE).as_posix()


def nodes(body):
    """Yield all nodes but those that only the type checker sees."""
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from nodes(node.orelse)
            continue
        yield node
        yield from nodes(ast.iter_child_nodes(node))


@cache
def imports(name):
    """Return the modules that a module imports anywhere: our own in full, of others the first part."""
    found = set()
    for node in nodes(ast.parse(modules()[name].read_text()).body):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: write imports in full"
            # `from distaug.cluster import fit` names a module, `from distaug.errors import JobError` a class.
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (inner & modules().keys()) or {node.module}
    return {n if n in modules() else n.split(".")[0] for n in found} - {name}


def folder(name):
    return (name.split(".") + [""])[1]


def allowed_libraries(name):
    path = place(name)
    return LIBRARIES[max((key for key in LIBRARIES if path.startswith(key)), key=len)]


@pytest.mark.parametrize("name", modules())
def test_a_module_imports_only_what_lies_below_it(name):
    own = folder(name)
    assert own in LAYERS, f"{name} has no layer: add it to the table, here and in CONTRIBUTING.md"
    for other in imports(name) & modules().keys():
        below = LAYERS[folder(other)] < LAYERS[own] or other == "distaug.errors"
        # Folders of one layer do not know each other; cli, doctor and __main__ are single modules.
        beside = folder(other) == own or LAYERS[own] == LAYERS[folder(other)] == 8
        assert below or beside, f"{name} imports {other}"


@pytest.mark.parametrize("name", modules())
def test_a_module_imports_only_the_libraries_of_its_layer(name):
    foreign = {n for n in imports(name) if n not in modules() and n not in sys.stdlib_module_names}
    assert foreign <= allowed_libraries(name), f"{name} imports {sorted(foreign - allowed_libraries(name))}"


def test_only_the_cluster_imports_ray():
    assert {folder(name) for name in modules() if "ray" in imports(name)} <= {"cluster"}


def test_only_the_command_lines_parse_arguments():
    assert {place(name) for name in modules() if "argparse" in imports(name)} <= ARGUMENT_PARSERS


def test_no_module_leads_back_to_itself():
    done, path = set(), []

    def visit(name):
        if name in path:
            raise AssertionError("cycle: " + " -> ".join([*path[path.index(name) :], name]))
        if name not in done:
            path.append(name)
            for other in sorted(imports(name) & modules().keys()):
                visit(other)
            done.add(path.pop())

    for name in modules():
        visit(name)


def test_the_loop_is_one_page():
    lines = len((PACKAGE / "train" / "loop.py").read_text().splitlines())
    assert lines <= LOOP_LINES


def test_the_table_in_contributing_names_every_folder():
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ") and line[2].isdecimal()]
    listed = {int(row.split("|")[1]): row.split("|")[2] for row in rows}
    for name in {folder(name) for name in modules()} - {"", "__main__"}:
        assert f"`{name}`" in listed[LAYERS[name]], f"{name} is missing in CONTRIBUTING.md"

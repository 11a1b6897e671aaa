"""An import goes one way only: docs/architecture.md says which, and this enforces it.

Between folders by the table `MAY_IMPORT`, between files by a topological sort. Imports inside functions and those that
only a type checker reads count too: whoever reads a file reads them.
"""

from __future__ import annotations

import ast
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]

GROUND = {"errors", "interrupts", "files", "markdown", "html", "npz", "csv_text"}
"""The rooms below all others: whoever is not of them may import them, and no row says so."""

RUNTIME = {"proto"}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "interrupts": set(),
    "files": {"errors"},
    "markdown": set(),
    "html": set(),
    "npz": {"files", "errors"},
    "csv_text": set(),
    "proto": set(),
    "augment": set(),
    "python_layers": {"proto", "augment"},
    "bvlc": set(),
    "data_prep": {"proto"},
    # the runtime
    "caffe_torch": {*RUNTIME, "augment"},
    "pycaffe": {*RUNTIME, "caffe_torch"},
    "caffe_torch/__main__": {"caffe_torch", "pycaffe"},  # the command: gives the runtime what stands on it
    # the laboratory
    "paper": set(),
    "report": {"paper"},
    "train": {"proto", "bvlc", "caffe_torch", "paper", "report", "data_prep"},  # of the runtime: how much work a net is
    "visualize/nets": {"proto", "bvlc", "caffe_torch", "pycaffe"},
    # geometry for receptive fields; a whitened input is taken back by what whitened it
    "visualize": {"proto", "caffe_torch", "visualize/nets", "data_prep"},
    "zoo": {"proto", "caffe_torch", "data_prep", "report"},
    "export": {"proto", "caffe_torch", "data_prep"},
    "hub": {"zoo", "data_prep"},
    "doctor": {"bvlc", "caffe_torch", "data_prep"},
    "cli": {
        "data_prep",
        "caffe_torch",
        "pycaffe",
        "paper",
        "train",
        "report",
        "visualize",
        "visualize/nets",
        "zoo",
        "export",
        "hub",
        "doctor",
    },
}
"""What each room of the house may import of ours: a folder, or a file that stands alone on the top floor."""

TORCH = {"caffe_torch", "pycaffe", "doctor", "train", "visualize", "visualize/nets", "zoo", "export"}
"""The rooms that may import torch; the driver only asks it for GPUs. Tables and data preparation run without."""

STARTED = {
    "allconv_caffe.caffe_torch",
    "allconv_caffe.caffe_torch.executor.build",
    "allconv_caffe.visualize.nets.worker",
    "allconv_caffe.python_layers",
}
"""Modules that other files name in a string: three are processes of their own, one stands in users' prototxt."""

NAMES = {"cv2": "opencv-python", "google": "protobuf"}
"""Modules that are called otherwise than their package."""

PACKAGES = ("allconv_caffe", "data_prep")


def _modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            words = list(path.relative_to(ROOT).with_suffix("").parts)
            found[".".join(words[:-1] if words[-1] == "__init__" else words)] = path
    return found


MODULES = _modules()
FETCHED = MODULES.keys() - STARTED - set(PACKAGES)


def _room(module: str) -> str:
    """``allconv_caffe.visualize.nets.native`` stands in ``visualize/nets``: the deepest room of the table it lies in."""
    words = module.split(".")
    if words[0] == "allconv_caffe":
        words = words[1:]
    places = ["/".join(words[:depth]) for depth in range(len(words), 0, -1)]
    return next((place for place in places if place in MAY_IMPORT), "/".join(words[:1]))


def _imports(name: str, path: Path) -> set[str]:
    """Every module that is imported anywhere in the file: at its head, in functions, for type checkers."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            deeper = {f"{module}.{alias.name}" for alias in node.names}
            within = deeper & MODULES.keys()
            found |= within if len(within) == len(deeper) else within | {module}
    return found


IMPORTS = {name: _imports(name, path) for name, path in MODULES.items()}


def test_a_module_imports_only_what_its_room_may() -> None:
    """Each module of ours imports of ours only its own room and the rooms that MAY_IMPORT lists for it."""
    wrong = []
    for name in MODULES:
        if name == "allconv_caffe":
            continue
        room = _room(name)
        if room not in MAY_IMPORT:
            wrong.append(f"{name} stands in no room of MAY_IMPORT")
            continue
        ours = {_room(module) for module in IMPORTS[name] if module.split(".")[0] in PACKAGES}
        allowed = {room, *MAY_IMPORT[room], *(GROUND if room not in GROUND else ())}
        wrong += [f"{name} imports {other}" for other in sorted(ours - allowed)]
    assert not wrong


def test_no_room_of_the_table_is_empty() -> None:
    """Every room of MAY_IMPORT has a module in it, so that no permission outlives what it was given for."""
    assert MAY_IMPORT.keys() <= {_room(name) for name in MODULES}


def test_the_architecture_says_what_every_room_does() -> None:
    """docs/architecture.md has a row for each, as `room/` or `room.py`."""
    table = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    firsts = {word for line in table.splitlines() if line.startswith("|") for word in line.split("|")[1].split("`")}
    rooms = {room for room in MAY_IMPORT if not room.endswith("__main__")}
    assert sorted(room for room in rooms if not {f"{room}/", f"{room}.py"} & firsts) == []


def test_every_permission_is_used() -> None:
    """What MAY_IMPORT allows, some module does: the table says how the house stands, not how it once stood."""
    used = {(_room(name), _room(module)) for name in MODULES for module in IMPORTS[name]}
    assert not [(room, other) for room, others in MAY_IMPORT.items() for other in others if (room, other) not in used]


def test_the_rooms_have_no_circle() -> None:
    """The rooms can be put into an order in which each imports earlier ones only."""
    order = list(TopologicalSorter(MAY_IMPORT).static_order())
    assert order.index("proto") < order.index("caffe_torch") < order.index("cli")


def test_the_files_have_no_circle() -> None:
    """The files can be put into an order in which each imports earlier ones only."""
    graph = {name: IMPORTS[name] & MODULES.keys() - {name} for name in MODULES}
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail("a circle: " + " <- ".join(error.args[1]))
    assert order.index("allconv_caffe.caffe_torch.blob") < order.index("allconv_caffe.caffe_torch.net")


def test_no_module_is_fetched_by_its_name() -> None:
    """No string hides an import of ours: `importlib.import_module` is called with what a user's file names, or our own place."""
    hidden = []
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in FETCHED - {name}:
                hidden.append(f"{name}:{node.lineno} {node.value!r}")
    started = {"allconv_caffe.caffe_torch", "allconv_caffe.python_layers"}  # a process, and what prototxt names
    assert not [
        line for line in hidden if line.rpartition(" ")[2].strip("'") not in started | set(PACKAGES) | {"caffe"}
    ]


def test_torch_stays_in_the_engine() -> None:
    """Tables, templates, reports, proto and data_prep never import torch."""
    importers = {_room(name) for name in MODULES if "torch" in {module.split(".")[0] for module in IMPORTS[name]}}
    assert importers <= TORCH


@pytest.mark.parametrize("name", sorted(name for name in MODULES if _room(name) == "python_layers"))
def test_python_layers_run_in_both_engines(name: str) -> None:
    """Custom Python layers import numpy, caffe and what the table lets them, and nothing else that is not Python's own."""
    assert {module.split(".")[0] for module in IMPORTS[name]} <= {"numpy", "caffe", *PACKAGES, *sys.stdlib_module_names}


def test_the_package_itself_is_empty() -> None:
    """allconv_caffe/__init__.py stays empty, so that proto and visualize/nets load under Python 3.9 beside pycaffe."""
    assert (ROOT / "allconv_caffe" / "__init__.py").read_text(encoding="utf-8") == ""


def test_every_foreign_module_is_a_declared_dependency() -> None:
    """What is neither Python's nor ours is named in pyproject.toml, as a dependency or in an extra (or is pycaffe itself)."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [line for name, lines in project["optional-dependencies"].items() if name != "dev" for line in lines]
    declared = {Requirement(line).name.lower() for line in (*project["dependencies"], *extras)}
    known = {*sys.stdlib_module_names, *PACKAGES, "prototxt_templates", "caffe"}
    wrong = [
        f"{name} imports {module}"
        for name in MODULES
        for module in sorted({module.split(".")[0] for module in IMPORTS[name]} - known)
        if NAMES.get(module, module) not in declared
    ]
    assert not wrong


def test_every_declared_dependency_is_imported() -> None:
    """Nothing is installed at a user's place that no file of ours imports, nor for an extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    imported = {NAMES.get(word, word) for name in MODULES for word in {m.split(".")[0] for m in IMPORTS[name]}}
    assert not [line for line in project["dependencies"] if Requirement(line).name.lower() not in imported]

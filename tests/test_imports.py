"""An import goes one way only: docs/architecture.md says which, and this enforces it."""

from __future__ import annotations

import ast
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]

TABLES = {"architectures", "experiments", "render"}

MAY_IMPORT: dict[str, set[str]] = {
    "proto": set(),
    "data_prep": {"proto"},
    "python_layers": set(),
    "architectures": set(),
    "experiments": {"architectures"},
    "render": {"architectures", "experiments"},
    "derive": TABLES,
    "summary": {"proto", "architectures"},
    "engine": {"proto"},
    "pycaffe": {"proto", "engine"},
    "caffe_torch": {"proto", "engine"},
    "visualize": {"proto", "python_layers", "pycaffe", "engine", "bvlc"},
    "bvlc": set(),
    "report": {"proto", *TABLES},
    "driver": {"proto", "bvlc", "report", "data_prep", *TABLES},
    "doctor": {"bvlc", "engine", "data_prep"},
    "zoo": {"proto", "engine", "summary", "data_prep"},
    "quickstart": {"driver", "data_prep", *TABLES},
    "cli": {
        "zoo",
        "render",
        "experiments",
        "derive",
        "summary",
        "driver",
        "report",
        "doctor",
        "quickstart",
        "data_prep",
        "visualize",
    },
}
"""What each part of the house may import of ours. A part is a package, or the modules that share the first word."""

TORCH = {"engine", "pycaffe", "caffe_torch", "doctor", "driver", "quickstart", "visualize", "zoo"}
"""The parts that may import torch; the driver only asks it for GPUs. Tables and data preparation run without."""

NAMES = {"cv2": "opencv-python", "google": "protobuf", "absl": "absl-py"}
"""Modules that are called otherwise than their package."""


def _part(module: str) -> str:
    """``allconv_caffe.driver_data`` is of the part ``driver``, ``data_prep.cifar`` of ``data_prep``."""
    words = module.split(".")
    if words[0] == "data_prep":
        return "data_prep"
    name = words[1] if len(words) > 1 else ""
    return next((part for part in MAY_IMPORT if name == part or name.startswith(part + "_")), name)


def _modules() -> dict[str, Path]:
    found = {}
    for package in ("allconv_caffe", "data_prep"):
        for path in sorted((ROOT / package).rglob("*.py")):
            words = list(path.relative_to(ROOT).with_suffix("").parts)
            found[".".join(words[:-1] if words[-1] == "__init__" else words)] = path
    return found


MODULES = _modules()


def _imports(name: str, path: Path) -> set[str]:
    """Every module that is imported anywhere in the file, also inside functions; not what only type checkers read."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    checkers_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for inner in ast.walk(node)
    }
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    found: set[str] = set()
    for node in ast.walk(tree):
        if node in checkers_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            deeper = {f"{module}.{alias.name}" for alias in node.names}
            found |= (deeper & MODULES.keys()) or {module}
    return found


IMPORTS = {name: _imports(name, path) for name, path in MODULES.items()}
PACKAGES = ("allconv_caffe", "data_prep")


def test_a_module_imports_only_what_its_part_may() -> None:
    """Each module of ours imports of ours only its own part and the parts that MAY_IMPORT lists for it."""
    wrong = []
    for name in MODULES:
        part = _part(name)
        if part and part not in MAY_IMPORT:
            wrong.append(f"{name} belongs to no part of MAY_IMPORT")
            continue
        ours = {_part(module) for module in IMPORTS[name] if module.split(".")[0] in PACKAGES}
        wrong += [f"{name} imports {other}" for other in ours - {part} - MAY_IMPORT.get(part, set())]
    assert not wrong


def test_the_directions_have_no_circle() -> None:
    """The parts can be put into an order in which each imports earlier ones only."""
    order = list(TopologicalSorter(MAY_IMPORT).static_order())
    assert order.index("proto") < order.index("engine") < order.index("cli")


def test_torch_stays_in_the_engine() -> None:
    """Tables, templates, reports, proto and data_prep never import torch."""
    importers = {_part(name) for name in MODULES if "torch" in {module.split(".")[0] for module in IMPORTS[name]}}
    assert importers <= TORCH


@pytest.mark.parametrize("name", sorted(name for name in MODULES if _part(name) == "python_layers"))
def test_python_layers_run_in_both_engines(name: str) -> None:
    """Custom Python layers import numpy and caffe, and nothing else that is not Python's own."""
    assert {module.split(".")[0] for module in IMPORTS[name]} <= {"numpy", "caffe", *sys.stdlib_module_names}


def test_the_package_itself_is_empty() -> None:
    """allconv_caffe/__init__.py stays empty, so that proto and visualize load under Python 3.9 beside pycaffe."""
    assert (ROOT / "allconv_caffe" / "__init__.py").read_text(encoding="utf-8") == ""


def test_every_foreign_module_is_a_declared_dependency() -> None:
    """What is neither Python's nor ours is named in pyproject.toml's dependencies (or is pycaffe itself)."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {Requirement(line).name.lower() for line in project["dependencies"]}
    known = {*sys.stdlib_module_names, *PACKAGES, "prototxt_templates", "caffe"}
    wrong = [
        f"{name} imports {module}"
        for name in MODULES
        for module in sorted({module.split(".")[0] for module in IMPORTS[name]} - known)
        if NAMES.get(module, module) not in declared
    ]
    assert not wrong

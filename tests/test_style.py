"""How units are written: data classes that explain themselves, functions that can be taken in."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = [path for room in ("allconv_caffe", "data_prep", "benchmarks") for path in sorted((ROOT / room).rglob("*.py"))]
MOST_LINES = 80
MOST_FIELDS = 4
NINE = ("augment.py", "errors.py", "files.py", "proto/", "python_layers/", "visualize/nets/")
"""What the oldest pycaffe's interpreter loads, too: Python 3.9, whose data classes know no kw_only."""
LONG = {
    "data_prep/pipeline.py prepare": "half of it is the docstring of fifteen arguments",
}
"""Functions above 80 lines, each with the reason."""


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def dataclasses_of(tree: ast.Module) -> Iterator[tuple[ast.ClassDef, str, list[ast.AnnAssign]]]:
    """Each data class with its decorator and the fields that can be given by their place."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for decorator in map(ast.unparse, node.decorator_list):
                if decorator.startswith(("dataclass", "dataclasses.dataclass")):
                    fields = [line for line in node.body if isinstance(line, ast.AnnAssign)]
                    kinds = [ast.unparse(line.annotation) for line in fields]
                    until = kinds.index("KW_ONLY") if "KW_ONLY" in kinds else len(kinds)
                    yield (
                        node,
                        decorator,
                        [line for line, kind in zip(fields[:until], kinds, strict=False) if "ClassVar" not in kind],
                    )


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_function_can_be_taken_in(path: Path) -> None:
    """No function has more than 80 lines, but those that LONG gives a reason for."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    long = [
        f"{name_of(path)}:{node.lineno} {node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in functions
        if node.end_lineno is not None
        and node.end_lineno - node.lineno >= MOST_LINES
        and f"{name_of(path)} {node.name}" not in LONG
    ]
    assert not long


TODAYS = [path for path in FILES if not name_of(path).startswith(tuple(f"allconv_caffe/{name}" for name in NINE))]


@pytest.mark.parametrize("path", TODAYS, ids=name_of)
def test_a_large_data_class_is_made_by_keywords(path: Path) -> None:
    """A data class of more than four fields takes keywords only, so that no call depends on their order."""
    wrong = [
        f"{name_of(path)}:{node.lineno} {node.name}: {len(fields)} fields"
        for node, decorator, fields in dataclasses_of(ast.parse(path.read_text(encoding="utf-8")))
        if len(fields) > MOST_FIELDS and "kw_only=True" not in decorator
    ]
    assert not wrong

"""What is typed into a variable of make arrives as it was typed; nothing in it is run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "Makefile").read_text(encoding="utf-8")
NASTY = "`touch hit`$(touch hit)$(shell touch hit)$$(touch hit);touch hit;'touch hit'\"&touch hit&|touch hit>hit*~"
"""Each of the ways in which a shell, or make, might run something; make's $$ stays, too."""

SETTINGS = re.search(r"^SETTINGS := (.*)$", TEXT, re.MULTILINE)[1].split()  # type: ignore[index]
ONE = {
    **dict.fromkeys(SETTINGS, "cifar10-model-a"),
    "CIFAR10": "cifar10-model-a",
    "CIFAR100": "cifar100-allcnn-c",
    "IMAGENET": "imagenet-allcnn",
    "FIGURES": "figure-1",
    "FIGURE_DATA": "figure-1",
    "FIGURE_SEED": "figure-1",
    "FIGURE_LABELS": "figure-5",
    "NETS": "bench-nets",
    "TEST_WORKERS": "test",
}
"""Variables that hold one thing, and a target that takes it."""
SEVERAL = {
    "GRID": "grid",
    "SWEEP": "grid",
    "BENCH": "bench-nets",
    "SEED_EXACT": "seed-exact",
    "MATRIX": "matrix",
    "FUZZ": "fuzz",
    "POINTS": "crash-points",
    "SOAK": "soak",
    "FIGURE_NET": "figure-1",
    "CONTROL_NET": "figure-6",
    "FIGURE_FLAGS": "figure-2",
}
"""Variables that hold words."""
PROGRAM = """#!{python}
import json, sys
with open({said!r}, "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
"""


def made(place: Path, target: str, *given: str) -> list[str]:
    """The words that `make target` calls a program with, in the end; nothing else was made."""
    (place / "bin").mkdir()
    for name in ("python", "allconv"):
        (place / "bin" / name).write_text(PROGRAM.format(python=sys.executable, said=str(place / "said")))
        (place / "bin" / name).chmod(0o755)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    command = [
        "make",
        "--no-print-directory",
        "-s",
        "-f",
        str(ROOT / "Makefile"),
        "-o",
        "setup",
        f"VENV={place}",
        target,
    ]
    for name in ("solvers", "tests"):
        (place / name).symlink_to(ROOT / name)
    done = subprocess.run([*command, *given], cwd=place, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in place.iterdir()) == ["bin", "said", "solvers", "tests"]
    return list(json.loads((place / "said").read_text().splitlines()[-1]))


@pytest.mark.parametrize("name", ONE)
def test_a_value_arrives_as_it_was_typed(name: str, tmp_path: Path) -> None:
    """Backticks, $(...), quotes, blanks and all, as one word."""
    words = made(tmp_path, ONE[name], f"{name}={NASTY}")
    assert any(NASTY in word for word in words), words


@pytest.mark.parametrize("name", SEVERAL)
def test_words_arrive_as_they_were_typed(name: str, tmp_path: Path) -> None:
    """The same, divided at blanks; a word that begins with ~/ is a path at home."""
    words = made(tmp_path, SEVERAL[name], f"{name}={NASTY}  ~/x")
    expected = [*NASTY.split(), os.path.expanduser("~/x")]
    assert any(words[i : i + len(expected)] == expected for i in range(len(words))), words


def test_every_variable_is_tried() -> None:
    """Whatever has a default in the Makefile, or stands in a recipe by its value; but what `make setup` alone takes."""
    given = set(re.findall(r"^([A-Z0-9_]+) +\?=", TEXT, re.MULTILINE))
    given |= set(re.findall(r"\$\((?:call (?:QUOTED|WORDS),|value )([A-Z0-9_]+)\)", TEXT))
    assert given - {"PYTHON", "EXTRAS", "HASHES"} <= {*ONE, *SEVERAL}
    kept = re.search(r"^unexport ((?:.*\\\n)*.*)$", TEXT, re.MULTILINE)
    assert kept and {*ONE, *SEVERAL, "PYTHON", "EXTRAS", "HASHES"} - set(SETTINGS) == set(kept[1].split()) - {
        "\\",
        "$(SETTINGS)",
    }


@pytest.mark.parametrize(
    ("name", "words"), [("PYTHON", "python -I"), ("EXTRAS", "dev"), ("HASHES", "1"), ("HASHES=1 EXTRAS", "dev")]
)
def test_what_setup_takes_is_quoted_too(name: str, words: str, tmp_path: Path) -> None:
    """Shown, not run: an environment would be made."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    *others, name = name.split()
    command = ["make", "-n", "-B", "-f", str(ROOT / "Makefile"), f"VENV={tmp_path}/venv", "setup", *others]
    given = f"{name}={words}`touch hit`$(touch hit)$(shell touch hit)'"
    for place in ("pyproject.toml", "setup.py", "constraints.txt", "requirements.lock", "solvers"):
        (tmp_path / place).symlink_to(ROOT / place)
    done = subprocess.run([*command, given], cwd=tmp_path, env=clean, capture_output=True, text=True)
    assert done.returncode == 0 and not (tmp_path / "hit").exists()
    lines = [line for line in done.stdout.replace("\\\n", " ").splitlines() if "touch" in line]
    assert lines
    for line in lines:
        shown = subprocess.run(["sh", "-c", f"set -- {line.partition('install')[2] or 'x'}"], cwd=tmp_path)
        assert shown.returncode in (0, 2) and not (tmp_path / "hit").exists()

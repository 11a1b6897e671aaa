"""requirements.lock: the versions of constraints.txt with the SHA-256 of every file that the index has of each.

    python .ci/lock.py                       writes it, by uv's resolver (make lock)
    python .ci/lock.py choose dev,docs       prints what those extras need, for pip (make setup HASHES=1)

torch is left out: its builds for CPUs and for each CUDA are other files under one version, from indexes of their own.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
UV = "uv==0.13.9"
PYTHONS = ("3.10.19", "3.11.9")
"""On which constraints.txt's two lines for a package hold."""
HEAD = """# What constraints.txt pins, but torch, with the SHA-256 of every file of it. Written by `make lock`; `make setup HASHES=1`
# installs by it. Above each package: which extras need it.
"""
ALL = "all"


def uv(python: str, *words: str) -> str:
    """What `uv pip compile` prints."""
    place = ROOT / "build" / "lock"
    if not (place / "bin" / "uv").exists():
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--target", place, UV], check=True)
    command = [place / "bin" / "uv", "pip", "compile", "-q", "--no-config", "--python-version", python, "--no-header"]
    return subprocess.run(
        [*command, "--no-annotate", "--no-emit-index-url", *words],
        check=True,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout


def pins() -> list[str]:
    """The lines of constraints.txt, but torch's."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith(("#", "torch=="))]


def blocks(text: str) -> dict[str, list[str]]:
    """name==version -> its hashes."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if pin := re.match(r"([^\s;#]+==[^\s;\\]+)", line):
            hashes = found.setdefault(pin[1], [])
        elif digest := re.match(r"    --hash=(sha256:[0-9a-f]{64})", line):
            hashes.append(digest[1])
    return found


def write() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    hashes: dict[str, set[str]] = {}
    extras: dict[str, set[str]] = {}
    for python in PYTHONS:
        at = {"python_version": python.rpartition(".")[0]}
        held = ROOT / "build" / f"lock-{python}.txt"
        held.parent.mkdir(exist_ok=True)
        held.write_text("".join(f"{line}\n" for line in pins() if _holds(line, at["python_version"])))
        for pin, found in blocks(uv(python, "--no-deps", "--generate-hashes", str(held))).items():
            hashes.setdefault(pin, set()).update(found)
        for extra in (ALL, *project["optional-dependencies"]):
            chosen = [] if extra == ALL else ["--extra", extra]
            for pin in blocks(uv(python, "pyproject.toml", "-c", "constraints.txt", *chosen)):
                extras.setdefault(pin, set()).add(extra)
        held.unlink()
    (setuptools,) = (line for line in pins() if line.startswith("setuptools=="))
    extras[setuptools] = {ALL}  # builds the package
    with open(ROOT / "requirements.lock", "w", encoding="utf-8") as file:
        file.write(HEAD)
        for line in pins():
            pin = line.partition(";")[0].strip()
            needs = extras.get(pin) or sys.exit(f"constraints.txt: found {pin}, which nothing needs")
            file.write(f"\n# {ALL if ALL in needs else ', '.join(sorted(needs))}\n{line}")
            file.write("".join(f" \\\n    --hash={digest}" for digest in sorted(hashes[pin])) + "\n")


def _holds(line: str, version: str) -> bool:
    """Whether a line of constraints.txt is that of a Python: it has no marker, or `python_version < or >= "3.11"`."""
    marker = line.partition(";")[2].strip()
    return not marker or marker.startswith("python_version <") == (version == "3.10")


def choose(extras: str) -> str:
    """The blocks that all need, and those of the extras."""
    wanted = {ALL, *(word.strip() for word in extras.split(","))}
    parts = (ROOT / "requirements.lock").read_text(encoding="utf-8").split("\n\n")[1:]
    return "".join(f"{part}\n" for part in parts if wanted & set(part.partition("\n")[0][2:].split(", ")))


if __name__ == "__main__":
    if sys.argv[1:2] == ["choose"]:
        print(choose(sys.argv[2]))
    else:
        write()

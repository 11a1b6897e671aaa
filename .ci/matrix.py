"""`make matrix`: the quick tests with the lowest versions that pyproject.toml allows, and with the newest that there are; and
what needs no torch on another Python.

An environment each, below build/matrix. For the first two torch and what only the tests import come from .venv; everything else
that the package needs is installed into it. Words: lowest, newest, python (all if none is given); what stands after -- goes to
pytest.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from packaging.requirements import Requirement

from allconv_caffe.bvlc import install

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
QUICK = """proto data_prep paper report pycaffe cli visualize caffe_torch/test_data.py caffe_torch/test_transformer.py test_opencv.py
    test_zoo.py"""
"""Of tests/: what touches numpy, OpenCV, protobuf, LMDB, Jinja2 and click most."""


WITH_EXTRAS = "export docs/test_commands.py"
"""With the newest alone: what the extras need has bounds of its own."""
BESIDE = ["scipy", "scikit-learn"]
"""What the tests import and is built for a NumPy: as new as that allows."""
PYTHON, SUITE = "3.13", "trixie"
"""The other Python, and the Debian that has it."""
WITHOUT_TORCH = """proto data_prep paper report test_csv_text.py test_errors.py test_files.py test_markdown.py test_npz.py
    --ignore=tests/proto/test_forks.py --ignore=tests/paper/test_large.py --ignore=tests/paper/test_pnorm_pool.py
    --deselect=tests/paper/test_derive.py::test_commands
    --deselect=tests/test_errors.py::test_every_error_of_a_room_survives_a_worker_process[allconv_caffe.caffe_torch.summary.SummaryError]"""
"""Of tests/: what runs there, torch being gigabytes; behind it what asks for torch all the same."""
RUNNERS = ["pytest", "pytest-timeout", "pytest-xdist", "hypothesis"]


def requirements(kind: str) -> list[str]:
    """What the package needs but torch: the series of its bound (`name==bound.*`), or `name` alone."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = []
    for requirement in map(Requirement, project["dependencies"]):
        if requirement.name != "torch" and (requirement.marker is None or requirement.marker.evaluate()):
            (bound,) = requirement.specifier
            found.append(f"{requirement.name}=={bound.version}.*" if kind == "lowest" else requirement.name)
    return found


def environment(kind: str) -> tuple[Path, str]:
    """The python of a new environment with those versions, and its PYTHONPATH."""
    place = ROOT / "build" / "matrix" / kind
    if kind == "python":
        python = install.python(place / PYTHON, PYTHON, SUITE)
        site = place / "site"
        shutil.rmtree(site, ignore_errors=True)
        _pip(python, "--target", str(site), *requirements(kind), *BESIDE, *RUNNERS)
        return python, f"{ROOT}{os.pathsep}{site}"
    subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", place], check=True)
    python = place / "bin" / "python"
    _pip(python, *requirements(kind), *BESIDE)
    (site,) = place.glob("lib/python*/site-packages")
    (site / "behind.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python, str(ROOT)


def _pip(python: Path, *words: str) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "--python", str(python), "install"]
    subprocess.run([*pip, "--only-binary", ":all:", *words], check=True)


def main(words: list[str]) -> int:
    """1 where a test fails in one of them."""
    kinds, _, flags = " ".join(words).partition("--")
    failed = False
    for kind in kinds.split() or ("lowest", "newest", "python"):
        python, path = environment(kind)
        print(f"== {kind}: {', '.join(requirements(kind))}", flush=True)
        chosen = {"lowest": QUICK, "newest": f"{QUICK} {WITH_EXTRAS}", "python": WITHOUT_TORCH}[kind]
        tests = [name if name.startswith("-") else f"tests/{name}" for name in chosen.split()]
        marks = ["-m", "not caffe and not slow and not gpu"]
        command = [str(python), "-m", "pytest", "-q", *marks, *(flags.split() or ["-n", "auto"]), *tests]
        done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path})
        failed = failed or done.returncode != 0
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

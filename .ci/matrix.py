"""`make matrix`: the quick tests with the lowest versions that pyproject.toml allows, and with the newest that there are.

An environment each, below build/matrix. torch and what only the tests import come from .venv; everything else that the package
needs is installed into it. Words: lowest, newest (both if none is given); what stands after -- goes to pytest.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

from packaging.requirements import Requirement

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


def requirements(kind: str) -> list[str]:
    """What the package needs but torch: the series of its bound (`name==bound.*`), or `name` alone."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = []
    for requirement in map(Requirement, project["dependencies"]):
        if requirement.name != "torch" and (requirement.marker is None or requirement.marker.evaluate()):
            (bound,) = requirement.specifier
            found.append(f"{requirement.name}=={bound.version}.*" if kind == "lowest" else requirement.name)
    return found


def environment(kind: str) -> Path:
    """The python of a new environment with those versions, and with .venv's packages behind them."""
    place = ROOT / "build" / "matrix" / kind
    subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", place], check=True)
    python = place / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "--python", str(python), "install"]
    subprocess.run([*pip, "--only-binary", ":all:", *requirements(kind), *BESIDE], check=True)
    (site,) = place.glob("lib/python*/site-packages")
    (site / "behind.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def main(words: list[str]) -> int:
    """1 where a test fails in one of them."""
    kinds, _, flags = " ".join(words).partition("--")
    failed = False
    for kind in kinds.split() or ("lowest", "newest"):
        python = environment(kind)
        print(f"== {kind}: {', '.join(requirements(kind))}", flush=True)
        chosen = QUICK if kind == "lowest" else f"{QUICK} {WITH_EXTRAS}"
        tests = [f"tests/{name}" for name in chosen.split()]
        marks = ["-m", "not caffe and not slow and not gpu"]
        command = [str(python), "-m", "pytest", "-q", *marks, *(flags.split() or ["-n", "auto"]), *tests]
        done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
        failed = failed or done.returncode != 0
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""`make matrix`: the quick tests with the lowest versions that pyproject.toml allows, and with the newest that there are; what needs
no torch on other Pythons; and whether the pinned versions of everything, torch too, are there as wheels for each Python.

An environment each, below build/matrix. For the first two torch and what only the tests import come from .venv; everything else
that the package needs is installed into it. Words: lowest, newest, python3.13, python3.14, wheels (all if none is given); what stands
after -- goes to pytest.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import packaging.tags
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
PYTHONS = {"3.13": "trixie", "3.14": "forky"}
"""Other Pythons, and the Debian that has each."""
NAMED = ("3.10", "3.11", "3.12", "3.13", "3.14")
"""Those of pyproject.toml's classifiers; a test compares."""
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
    if kind.startswith("python"):
        version = kind.removeprefix("python")
        python = install.python(place / version, version, PYTHONS[version])
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


def wheels(version: str) -> list[str]:
    """What `make setup` installs on that Python by name, extras included, of which the index has no wheel; nothing is downloaded."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    names = {Requirement(line).name for lines in (project["dependencies"], *extras) for line in lines}
    here = {"python_version": version, "python_full_version": f"{version}.9"}
    abi = f"cp{version.replace('.', '')}"
    words = [
        "--python-version",
        f"{version}.9",
        "--implementation",
        "cp",
        *(f"--abi={one}" for one in (abi, "abi3", "none")),
    ]
    words += [f"--platform={tag}" for tag in sorted({tag.platform for tag in packaging.tags.sys_tags()})]
    lacking = []
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line[:1] in ("", "#") or (pin := Requirement(line)).name not in names:
            continue
        if pin.marker is None or pin.marker.evaluate(here):
            pip = [sys.executable, "-m", "pip", "index", "versions", "--only-binary", ":all:", *words, pin.name]
            said = subprocess.run(pip, capture_output=True, text=True).stdout
            (found,) = [spec.version for spec in pin.specifier]
            if found not in said.partition("Available versions: ")[2].partition("\n")[0].split(", "):
                lacking.append(f"{pin.name}=={found}")
    return lacking


def _pip(python: Path, *words: str) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "--python", str(python), "install"]
    subprocess.run([*pip, "--only-binary", ":all:", *words], check=True)


def main(words: list[str]) -> int:
    """1 where a test fails in one of them."""
    kinds, _, flags = " ".join(words).partition("--")
    known = ("lowest", "newest", *(f"python{version}" for version in PYTHONS), "wheels")
    if unknown := [kind for kind in kinds.split() if kind not in known]:
        sys.exit(f"matrix: found {', '.join(unknown)}, expected some of {', '.join(known)}")
    failed = False
    for kind in kinds.split() or known:
        if kind == "wheels":
            for version in NAMED:
                lacking = wheels(version)
                print(f"== wheels for Python {version}: {', '.join(lacking) or 'none'} missing", flush=True)
                failed = failed or bool(lacking)
            continue
        python, path = environment(kind)
        print(f"== {kind}: {', '.join(requirements(kind))}", flush=True)
        chosen = {"lowest": QUICK, "newest": f"{QUICK} {WITH_EXTRAS}"}.get(kind, WITHOUT_TORCH)
        tests = [name if name.startswith("-") else f"tests/{name}" for name in chosen.split()]
        marks = ["-m", "not caffe and not slow and not gpu"]
        command = [str(python), "-m", "pytest", "-q", *marks, *(flags.split() or ["-n", "auto"]), *tests]
        done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path})
        failed = failed or done.returncode != 0
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Set-up, make and the wheel: what a fresh machine gets."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from contextlib import suppress
from importlib import metadata, resources
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from allconv_caffe.paper.experiments import EXPERIMENTS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXPERIMENT_TARGETS = list(EXPERIMENTS)
PYTHONS = re.findall(r"Python :: (3\.\d+)$", "\n".join(PROJECT["classifiers"]), re.MULTILINE)


def make(*words: str) -> str:
    done = subprocess.run(
        ["make", "--no-print-directory", *words], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout


def constraints() -> list[Requirement]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_every_dependency_is_pinned_exactly() -> None:
    """Each requirement, for use and of each extra, has one version in constraints.txt for each Python."""
    pins = constraints()
    extras = PROJECT["optional-dependencies"].values()
    wanted = [Requirement(line) for lines in (PROJECT["dependencies"], *extras) for line in lines]
    for python in PYTHONS:
        for requirement in wanted:
            if requirement.marker and not requirement.marker.evaluate({"python_version": python}):
                continue
            found = [
                pin
                for pin in pins
                if pin.name.lower() == requirement.name.lower()
                and (pin.marker is None or pin.marker.evaluate({"python_version": python}))
            ]
            assert len(found) == 1, f"{requirement.name} on Python {python}: {found}"
            ((operator, version),) = [(spec.operator, spec.version) for spec in found[0].specifier]
            assert operator == "==" and requirement.specifier.contains(version), found[0]


def lock() -> list[list[str]]:
    """Its blocks: which extras need the package, the pin, its hashes."""
    blocks = (ROOT / "requirements.lock").read_text(encoding="utf-8").split("\n\n")[1:]
    return [block.rstrip("\n").split("\n") for block in blocks]


def test_the_lock_has_what_the_constraints_pin() -> None:
    """The same lines in the same order but torch's, each with a SHA-256 or more, and no address."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = [line for line in text if line and not line.startswith(("#", "torch="))]
    assert [block[1].removesuffix(" \\") for block in lock()] == pinned
    for _, _, *hashes in lock():
        assert hashes and all(re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", line) for line in hashes)
        assert [line.endswith(" \\") for line in hashes] == [True] * (len(hashes) - 1) + [False]
    assert "://" not in (ROOT / "requirements.lock").read_text(encoding="utf-8")


@pytest.mark.parametrize("extras", ["dev", "dev,docs", "", *PROJECT["optional-dependencies"]])
def test_what_is_chosen_from_the_lock_is_what_the_extras_need(extras: str) -> None:
    """Each requirement of the project, and of what is installed here of it, on its way down; and no other extra's."""
    command = [sys.executable, ROOT / ".ci" / "lock.py", "choose", extras]
    chosen = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = {canonicalize_name(name) for name in re.findall(r"^([\w.-]+)==", chosen, re.MULTILINE)}
    wanted, here = {"setuptools"}, [Requirement(line) for line in PROJECT["dependencies"]]
    here += [
        Requirement(line) for extra in extras.split(",") if extra for line in PROJECT["optional-dependencies"][extra]
    ]
    while here:
        requirement = here.pop()
        name = canonicalize_name(requirement.name)
        extra_of = [{"extra": extra} for extra in requirement.extras] or [{"extra": ""}]
        if name in wanted or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        wanted.add(name)
        with suppress(metadata.PackageNotFoundError):
            below = [Requirement(line) for line in metadata.requires(name) or []]
            here += [each for each in below if not each.marker or any(each.marker.evaluate(at) for at in extra_of)]
    cuda = {name for name in wanted if name.startswith(("nvidia-", "cuda-", "triton"))}
    assert wanted - found - cuda == {"torch"}
    if not extras:
        assert not {"ruff", "sphinx", "ray", "onnx"} & found


def test_every_python_that_is_named_is_in_the_matrix() -> None:
    """The classifiers name what `make matrix` looks for wheels for, from the lowest that is allowed on, which mypy and ruff take."""
    assert PYTHONS[0] == PROJECT["requires-python"].removeprefix(">=")
    matrix = (ROOT / ".ci" / "matrix.py").read_text(encoding="utf-8")
    assert f"NAMED = {tuple(PYTHONS)}".replace("'", '"') in matrix
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    assert tools["mypy"]["python_version"] == PYTHONS[0] == tools["ruff"]["target-version"].replace("py3", "3.")


def test_torch_is_pinned_without_a_build_suffix() -> None:
    """constraints.txt says torch==2.13.0, so that the CPU build and each CUDA build of it serve."""
    assert "torch==2.13.0" in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()


def test_make_help_lists_every_target_and_every_experiment() -> None:
    """`make help` shows each target of the Makefile, and each experiment, with a word on it."""
    shown = dict(re.findall(r"^  (\S+) +(\S.*)$", make("help"), re.MULTILINE))
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: ((?:.*\\\n)*.*)$", text, re.MULTILINE)
    assert phony
    targets = {word for word in phony[1].split() if re.fullmatch("[a-z][a-z0-9-]*", word)}
    assert shown.keys() == targets | set(EXPERIMENT_TARGETS)


@pytest.mark.parametrize("name", ["cifar10-allcnn-c", "cifar10-strided-cnn-b", "cifar100-convpool-cnn-c"])
def test_an_experiment_is_a_target_with_settings(name: str) -> None:
    """`make EXPERIMENT` calls `allconv run` with the data set of its kind and the settings that were named."""
    words = ["CIFAR10=ten.tar.gz", "CIFAR100=hundred.tar.gz", "ENGINE=caffe", "GPU=0,1", "LR=0.1", "EPOCHS=35"]
    words += ["SEED=3", "PRECISION=tf32", "RETRIES=2"]
    recipe = " ".join(make("-n", name, *words).split())
    archive = "hundred.tar.gz" if name.startswith("cifar100") else "ten.tar.gz"
    command = shlex.split(recipe[recipe.rindex(".venv/bin/allconv run") :])
    assert command[:5] == [".venv/bin/allconv", "run", name, "--data", archive]
    assert dict(zip(command[5::2], command[6::2], strict=True)) == {
        "--engine": "caffe",
        "--gpu": "0,1",
        "--lr": "0.1",
        "--epochs": "35",
        "--seed": "3",
        "--precision": "tf32",
        "--retries": "2",
    }


def test_make_without_settings_names_none() -> None:
    """Without settings only the experiment is named, so the defaults of `allconv run` hold."""
    recipe = " ".join(make("-n", "cifar10-model-a").split())
    assert recipe.endswith(".venv/bin/allconv run cifar10-model-a")


def test_make_figures_makes_the_papers_six() -> None:
    """`make figures` calls `allconv viz figure` 1 to 6; the net, the control, the images and the folder can be others."""
    words = [
        "FIGURE_NET=--net a.prototxt --weights a.caffemodel",
        "CONTROL_NET=--model b",
        "FIGURE_DATA=val",
        "FIGURES=out",
    ]
    recipes = [" ".join(make("-n", "figures", *more).replace("\\\n", "").split()) for more in ([], words)]
    found = (re.findall(r"allconv viz figure (\d) (.*?) +--output (\S+)", recipe) for recipe in recipes)
    own, named = ([tuple(" ".join(shlex.split(word)) for word in figure) for figure in figures] for figures in found)
    assert [number for number, _, _ in own] == [number for number, _, _ in named] == list("123456")
    assert all(path == f"build/figures/figure-{number}.png" for number, _, path in own)
    assert own[3][1] == "--model cifar10-allcnn-c-jpeg --data data/cifar10-jpeg --seed 5"
    assert own[5][1] == "--model cifar10-model-c-jpeg --data data/cifar10-jpeg --seed 5"
    assert named[1] == ("2", "--net a.prototxt --weights a.caffemodel --seed 5", "out/figure-2.png")
    assert named[5] == ("6", "--model b --data val --seed 5", "out/figure-6.png")


@pytest.mark.parametrize(
    ("there", "status", "said"),
    [
        (["chromium"], 0, "chromium"),
        ([], 1, "no chromium, and no apt-get to install it with"),
        (["apt-get", "nobody"], 1, "no chromium, and not root: run 'apt-get install chromium' as root"),
        (["apt-get"], 0, "apt-get install -y -qq -o DPkg::Lock::Timeout=120 --no-install-recommends chromium"),
    ],
)
def test_ci_brings_the_browser(there: list[str], status: int, said: str, tmp_path: Path) -> None:
    """.ci/run takes the browser that is there, else Debian's as root; without either way it stops with a clear line."""
    text = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    function = text[text.index("browser() {") :].partition("\n}\n")[0]
    (tmp_path / "run.sh").write_text(f"set -euo pipefail\n{function}\n}}\nbrowser\n")
    stand_ins = {"id": f"echo {1000 if 'nobody' in there else 0}"}
    stand_ins |= {name: f'echo "{name} $*" >&2' for name in there if name != "nobody"}
    if said.startswith("apt-get"):
        stand_ins["apt-get"] += f"; test $1 = update || ln -sf '{sys.executable}' '{tmp_path}/bin/chromium'"
    (tmp_path / "bin").mkdir()
    for name in ("ln", "test"):
        (tmp_path / "bin" / name).symlink_to(shutil.which(name) or name)
    for name, script in stand_ins.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    command = [shutil.which("bash") or "bash", str(tmp_path / "run.sh")]
    done = subprocess.run(command, env={"PATH": str(tmp_path / "bin")}, capture_output=True, text=True)
    assert done.returncode == status and said in done.stdout + done.stderr


def test_the_templates_travel_as_package_data() -> None:
    """Each template is found through importlib.resources."""
    found = {entry.name for entry in resources.files("prototxt_templates").iterdir() if entry.name.endswith(".j2")}
    assert found == {path.name for path in (ROOT / "prototxt_templates").glob("*.j2")}
    assert {"solver.prototxt.j2", "train_val.prototxt.j2", "deploy.prototxt.j2"} <= found


def test_the_wheel_renders_and_answers_elsewhere(tmp_path: Path) -> None:
    """The wheel holds all packages, templates, models and both commands, and works without the checkout: renders a net, and
    answers for a picture by a model that came with it.
    """
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree / name)
    for name in ("allconv_caffe", "data_prep", "prototxt_templates", "models"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(tree)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("allconv_caffe-*.whl")
    members = set(zipfile.ZipFile(wheel).namelist())
    for package in ("allconv_caffe", "data_prep", "prototxt_templates"):
        for path in (ROOT / package).rglob("*"):
            if path.suffix in (".py", ".j2", ".html", ".cpp", ".h", ".css", ".js"):
                assert path.relative_to(ROOT).as_posix() in members

    site = tmp_path / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True, capture_output=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(site)}

    def call(*words: str) -> str:
        done = subprocess.run(words, cwd=elsewhere, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = call(sys.executable, "-c", "import allconv_caffe.paper.render as module; print(module.__file__)")
    assert Path(where.strip()).is_relative_to(site)
    call(str(site / "bin" / "allconv"), "render", "cifar10-allcnn-c")
    for name in ("solver.prototxt", "train_val.prototxt", "deploy.prototxt"):
        path = Path("solvers", "cifar10-allcnn-c", name)
        assert (elsewhere / path).read_bytes() == (ROOT / path).read_bytes()
    assert "version" in call(str(site / "bin" / "caffe-torch"), "--version")
    call(str(site / "bin" / "allconv"), "zoo", "get", "cifar10-strided-cnn-c-jpeg")
    picture = str(ROOT / "docs" / "examples" / "cat.jpg")
    assert "cat" in call(str(site / "bin" / "allconv"), "predict", "cifar10-strided-cnn-c-jpeg", picture)


@pytest.mark.slow
def test_the_source_distribution_is_whole(tmp_path: Path) -> None:
    """It holds every file that git knows, and what is unpacked passes a part of its own `make test`."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    files = [name for name in tracked.split("\0") if name]
    tree = tmp_path / "tree"
    for name in files:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tree / name)
    build = "from setuptools import build_meta; build_meta.build_sdist('dist')"
    subprocess.run([sys.executable, "-c", build], cwd=tree, check=True, capture_output=True)
    (packed,) = (tree / "dist").glob("allconv_caffe-*.tar.gz")
    with tarfile.open(packed) as archive:
        archive.extractall(tmp_path, filter="data")
    unpacked = tmp_path / packed.name.removesuffix(".tar.gz")
    assert [name for name in files if not (unpacked / name).is_file()] == []
    words = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        "tests/paper",
        "tests/test_style.py",
    ]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    done = subprocess.run(
        words, cwd=unpacked, env={**clean, "PYTHONPATH": str(unpacked)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:]


def _pytest(folder: Path, **environment: str) -> str:
    parity = folder / "tests" / "parity"
    parity.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "tests" / "conftest.py", folder / "tests" / "conftest.py")
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n  caffe: x\n  gpu: x\n")
    (parity / "test_one.py").write_text("import pytest\ndef test_one():\n    pytest.skip('not today')\n")
    (parity / "test_module.py").write_text("import pytest\npytest.skip('nor ever', allow_module_level=True)\n")
    words = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-p", "no:xdist", "tests"]
    words += ["--continue-on-collection-errors"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("CAFFE", "ALLCONV", "PYTEST"))}
    path = f"{ROOT}{os.pathsep}{clean.get('PYTHONPATH', '')}"
    done = subprocess.run(
        words, cwd=folder, env={**clean, "PYTHONPATH": path, **environment}, capture_output=True, text=True
    )
    return done.stdout


def test_a_skipped_parity_test_fails_where_caffe_is_required(tmp_path: Path) -> None:
    """With ALLCONV_REQUIRE_CAFFE=1 a skip in tests/parity, of a test or a module, fails and says why; without, it is a skip."""
    said = _pytest(tmp_path, ALLCONV_REQUIRE_CAFFE="1")
    for place in ("test_one.py::test_one", "test_module.py"):
        assert f"tests/parity/{place}: skipped, but ALLCONV_REQUIRE_CAFFE is set: Skipped: " in said
    assert "2 errors" in said and "2 skipped" in _pytest(tmp_path)

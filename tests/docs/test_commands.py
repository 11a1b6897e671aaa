"""Every command and every program in README.md, CONTRIBUTING.md and docs/ is run, or stands in one table with the reason.

A page's blocks run in order in one folder, on small generated data (``workplace``). What cannot run here is still read: by the
command's own parser, what make would call included. So an option that no longer exists turns its page red.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from support import extras, pages, workplace
from support.pages import ROOT, Block

from allconv_caffe.caffe_torch.__main__ import main as caffe_torch
from allconv_caffe.caffe_torch.tools import caffe, gflags
from allconv_caffe.cli import main as cli

DOWNLOAD, HOURS, MINUTES = "downloads a data set", "trains for hours", "takes minutes"
MACHINE = "needs GPUs or a cluster"
CAFFE = "needs a real Caffe; make parity runs both engines"
OTHERS = "names nets and photographs that are not in the checkout"
CHECKOUT = "changes the checkout or its environment; .ci/run does it"
EIGEN = "half a minute of eigenvalues, as in make quickstart, which .ci/run does"

NOT_RUN = {
    "make setup": CHECKOUT,
    "make fuzz": MINUTES,
    "make crash-points": MINUTES,
    "make soak": MINUTES,
    "export PATH=": CHECKOUT,
    "pip install": CHECKOUT,
    "git config": CHECKOUT,
    ".venv/bin/pre-commit": CHECKOUT,
    "make quickstart": MINUTES,
    "make test": MINUTES,
    "make cifar10-allcnn-c": HOURS,
    "make cifar100-model-c": HOURS,
    "make cifar10-large-allcnn": HOURS,
    "make imagenet-allcnn": HOURS,
    "make seed-exact": CAFFE,
    "make figures": OTHERS,
    ".venv/bin/allconv prep cifar10": EIGEN,
    "allconv prep cifar10": EIGEN,
    "allconv prep cifar100": DOWNLOAD,
    "allconv prep imagenet": "needs ILSVRC's tars",
    "caffe train -solver solvers/cifar10-allcnn-c": HOURS,
    "caffe test -model solvers/cifar10-allcnn-c": "needs data/cifar10",
    "allconv run cifar10-allcnn-c": HOURS,
    "allconv run build/half": HOURS,
    "allconv sweep table-3 --lr .25,.1,.05,.01 --select-on val --on ray": MACHINE,
    "allconv sweep table-3 --lr .25,.1,.05,.01 --seeds 1-3": HOURS,
    "allconv sweep build/mine": MINUTES,
    "allconv viz figure": OTHERS,
    "allconv viz sanity --model cifar10-allcnn-c-jpeg --data data/cifar10-jpeg --output docs/figures/sanity": MINUTES,
    "caffe-torch train -solver solver.prototxt -gpu": MACHINE,
    "torchrun": MACHINE,
    "python -m allconv_caffe.pycaffe classify.py": OTHERS,
}
"""How a command begins that is only read, not run, and why."""

RUNS = [(block, text) for block, text in pages.COMMANDS if not text.startswith(tuple(NOT_RUN))]
READ = [(block, text) for block, text in pages.COMMANDS if text.startswith(tuple(NOT_RUN))]
LANGUAGES = {"sh": "run", "python": "run", "toml": "read by a test of its own", "text": "what is seen, not typed"}


def test_every_block_says_what_it_is() -> None:
    """A fence names its language, so that no command hides in a block that nobody runs."""
    assert [block.place for block in pages.ALL if block.language not in LANGUAGES] == []
    typed = re.compile(r"^(\.venv/bin/)?(allconv|make|caffe|caffe-torch|pip|torchrun) ", re.MULTILINE)
    hidden = [str(block.page) for block in pages.ALL if block.language == "text" and typed.search(block.text)]
    assert hidden == ["docs/caffe_torch.md"] * 2  # the synopses, with brackets


def test_every_reason_is_needed() -> None:
    """Each entry of the table is the beginning of a command in some page."""
    assert [start for start in NOT_RUN if not any(text.startswith(start) for _, text in pages.COMMANDS)] == []


def test_every_page_is_listed() -> None:
    """docs/index.md and the site's index lead to every page of docs/."""
    for index in (ROOT / "docs" / "index.md", ROOT / "docs" / "site" / "index.md"):
        text = index.read_text(encoding="utf-8")
        for page in pages.PAGES:
            if page.parts[0] == "docs" and page.name != "index.md":
                name = page.relative_to("docs").with_suffix("").as_posix()
                assert re.search(rf"[(/]{name}\b", text), f"{index.name}: {page}"


def _ids(found: list[tuple[Block, str]]) -> list[str]:
    return [f"{block.place} {text[:60]}" for block, text in found]


@pytest.mark.parametrize(("block", "text"), READ, ids=_ids(READ))
def test_what_is_not_run_is_read(block: Block, text: str) -> None:
    """Commands, options and targets exist: click and gflags parse the words, make -n tells what it would call."""
    words = shlex.split(text)
    if words[0] == "make":
        words = ["make", "--no-print-directory", "-n", "-o", "setup", *words[1:]]
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
        done = subprocess.run(words, cwd=ROOT, env=clean, capture_output=True, text=True)
        assert done.returncode == 0, f"{block.place}: {done.stderr}"
        for line in done.stdout.replace("\\\n", " ").splitlines():
            if line.startswith(".venv/bin/allconv "):
                _read(shlex.split(line))
    else:
        _read(words)


def _read(words: list[str]) -> None:
    program = words[0].removeprefix(".venv/bin/")
    if program == "allconv":
        command: click.Command = cli.main
        context = command.make_context("allconv", words[1:])
        while isinstance(command, click.Group):
            left = [*context._protected_args, *context.args]
            name, found, left = command.resolve_command(context, left)
            assert name and found
            command, context = found, found.make_context(name, left, parent=context)
    elif program in ("caffe", "caffe-torch", "torchrun"):
        if program == "torchrun":
            words = words[words.index("allconv_caffe.caffe_torch") :]
        _, rest, errors = gflags.parse(caffe.FLAGS, words[1:])
        assert rest == ["train"] or rest == ["test"], rest
        assert errors == []


@pytest.fixture
def clean_imports(tmp_path: Path) -> Iterator[None]:
    """What a program imports as `caffe`, or from its own folder, is forgotten afterwards."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        path = getattr(sys.modules[name], "__file__", None) or ""
        if name.partition(".")[0] == "caffe" or Path(path).is_relative_to(tmp_path):
            del sys.modules[name]


SLOW = {"docs/export.md", "docs/visualisation.md"}
"""Pages whose commands take a dozen seconds: .ci/run runs them."""

WITH_BLOCKS = [
    pytest.param(page, marks=[pytest.mark.slow] if str(page) in SLOW else [], id=str(page))
    for page in pages.PAGES
    if any(block.language in ("sh", "python") for block in pages.blocks(page))
]


@pytest.mark.parametrize("page", WITH_BLOCKS)
def test_what_a_page_says_to_type_works(
    page: Path, viz_world: Path, clean_imports: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each command ends with status 0 and each program without an exception, in order, in one folder."""
    found = pages.blocks(page)
    if any("onnx" in block.text for block in found):
        for module in ("onnx", "onnxruntime", "safetensors"):
            extras.needed(module, "export")
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    monkeypatch.setenv("XDG_CACHE_HOME", cache)  # kernels and fonts are made once
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    place = tmp_path / "work"
    names = workplace.make(place, viz_world, page)
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(place / "build")
    for block in found:
        if block.language == "sh":
            for text in block.commands():
                if not text.startswith(tuple(NOT_RUN)):
                    _run(text, block.place)
        elif block.language == "python":
            exec(compile(block.text, block.place, "exec"), names)
    if page.name == "tutorial.md":
        _look_at_the_tutorial(names)


def test_readme_shows_what_its_first_commands_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer at README's beginning is, to the letter, that of the command above it, by the model in the checkout."""
    asked, shown = pages.blocks(Path("README.md"))[1:3]
    monkeypatch.chdir(ROOT)
    result = CliRunner().invoke(cli.main, shlex.split(asked.commands()[0])[1:], prog_name="allconv")
    assert result.output == shown.text


def _run(text: str, place: str) -> None:
    words = [path for word in shlex.split(text) for path in _expanded(word)]
    program = words[0].removeprefix(".venv/bin/")
    if program == "allconv":
        result = CliRunner().invoke(cli.main, words[1:], prog_name="allconv")
        assert result.exit_code == 0, f"{place}: {text}\n{result.output}\n{result.exception!r}"
        return
    if program == "make":
        done = subprocess.run(
            ["make", "--no-print-directory", "-n", "-o", "setup", *words[1:]], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{place}: {text}\n{done.stderr}"
        for line in done.stdout.replace("\\\n", " ").splitlines():
            _run(line, place)
        return
    assert program == "caffe-torch", f"{place}: {text}: run it, or say in NOT_RUN why not"
    assert caffe_torch(words[1:]) == 0, f"{place}: {text}"


def _expanded(word: str) -> list[str]:
    if "*" in word and "/" not in word:
        return sorted(path.name for path in Path().glob(word)) or [word]
    return [os.path.expanduser(word)]


def _look_at_the_tutorial(names: dict[str, Any]) -> None:
    """The net has learned, the pictures are there, and OpenCV's answer is that of `allconv predict`."""
    result = CliRunner().invoke(cli.main, ["evaluate", "my-photos", "--data", "data/photos", "--json"])
    assert result.exit_code == 0, result.output
    error = float(re.search(r'"error_percent": ([\d.]+)', result.output)[1])  # type: ignore[index]
    assert error < 34  # two of three by chance: 66.7
    for path in ("confusion.png", "confusion.csv", "wrong.png"):
        assert (Path("build/evaluation") / path).stat().st_size > 0
    assert cv2.imread("build/why.png") is not None
    asked = CliRunner().invoke(cli.main, ["predict", "my-photos", "new.jpg", "--json"])
    probabilities = names["net"].forward()[0]
    best = workplace.CLASSES[int(np.argmax(probabilities))]
    assert f'"class": "{best}"' in asked.output.partition("}")[0], asked.output

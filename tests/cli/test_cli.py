"""The `allconv` command: what it parses, what it calls, what it says about mistakes."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import cv2
import numpy as np
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner, Result
from support import extras

from allconv_caffe import hub, zoo
from allconv_caffe.cli import main as cli, train
from allconv_caffe.cli.words import as_typed
from allconv_caffe.paper import experiments, render
from allconv_caffe.train import quickstart, run as driver
from data_prep import cifar, download, holdout, imagenet, pipeline, verify
from data_prep.manifest import Manifest

ROOT = Path(__file__).resolve().parents[2]


def invoke(*words: str) -> Result:
    return CliRunner().invoke(cli.main, list(words), prog_name="allconv")


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, group
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = dict(commands(cli.main))
EXAMPLES = [
    (path, line.strip())
    for path, command in COMMANDS.items()
    for line in (command.epilog or "").split("\n")
    if line.strip().startswith("allconv ")
]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[Any, ...]]:
    """A fresh folder, and recorders in place of what takes minutes or a network."""
    found: list[tuple[Any, ...]] = []

    def recorder(name: str, result: Any) -> Any:
        def call(*words: Any, **more: Any) -> Any:
            found.append((name, words, more))
            return result

        return call

    counts = {"display_name": "CIFAR-10", "n_train": 50_000, "n_test": 10_000}
    manifest = SimpleNamespace(**counts, facts=lambda: counts)
    monkeypatch.chdir(tmp_path)
    ended = driver.RunResult("done", tmp_path, None)

    def run(*words: Any, say: Any, **more: Any) -> driver.RunResult:
        say("done")
        return recorder("run", ended)(*words, **more)

    monkeypatch.setattr(driver, "run", run)
    learned = quickstart.QuickstartResult(
        title="A", test_error_percent=5.0, linear_error_percent=40.0, parameters=1, seconds={}, directory=tmp_path
    )
    monkeypatch.setattr(quickstart, "run", recorder("quickstart", learned))
    monkeypatch.setattr(train, "evaluate_run", recorder("evaluate", None))
    monkeypatch.setattr(download, "download", recorder("download", tmp_path / "cifar-100-python.tar.gz"))
    monkeypatch.setattr(pipeline, "prepare", recorder("prepare", manifest))
    monkeypatch.setattr(holdout, "hold_out", recorder("hold out", manifest))
    monkeypatch.setattr(imagenet, "prepare", recorder("prepare", manifest))
    model = SimpleNamespace(folder=tmp_path, facts={"test_error_percent": 1.0, "dataset": "CIFAR-10"})
    monkeypatch.setattr(zoo, "add", recorder("add", model))
    monkeypatch.setattr(zoo, "verify", recorder("verify", []))
    monkeypatch.setattr(zoo, "unpack", recorder("unpack", tmp_path))
    monkeypatch.setattr(hub, "get", recorder("get", model))
    monkeypatch.setattr(hub, "push", recorder("push", [hub.Pushed(where="build/site/tiny", sha1="00")]))
    monkeypatch.setattr(hub, "catalogue", recorder("catalogue", {}))
    checked = verify.Report(path=tmp_path, manifest=Manifest.__new__(Manifest))
    monkeypatch.setattr(verify.Report, "__str__", lambda self: f"12 records\n{self.ended}")
    monkeypatch.setattr(verify, "verify", recorder("verify", checked))
    return found


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_help_ends_with_an_example(path: tuple[str, ...]) -> None:
    """The last line of each help text is an `allconv` command."""
    result = invoke(*path, "--help")
    assert result.exit_code == 0
    assert result.output.strip().split("\n")[-1].strip().startswith(" ".join(["allconv", *path]).strip())


@pytest.mark.parametrize(("path", "line"), EXAMPLES, ids=[line for _, line in EXAMPLES])
def test_every_example_works(
    path: tuple[str, ...], line: str, viz_world: Path, calls: list[Any], tmp_path: Path
) -> None:
    """Each example of a help text runs and returns status 0."""
    _place(path, line, viz_world, tmp_path)
    result = invoke(*shlex.split(line)[1:])
    assert result.exit_code == 0, result.output


def _place(path: tuple[str, ...], line: str, viz_world: Path, tmp_path: Path) -> None:
    """Puts what an example reads into the fresh folder."""
    if "--check" in line or "summary" in line:
        (tmp_path / "solvers").symlink_to(ROOT / "solvers")
    if path == ("export",):
        extras.needed("onnx", "export")
        extras.needed("onnxruntime", "export")
    if path[:1] in (("viz",), ("predict",), ("evaluate",), ("export",)) or "--data data/cifar10-jpeg" in line:
        shutil.copytree(viz_world, tmp_path, dirs_exist_ok=True)
        if "mine" in path:
            (tmp_path / "build" / "topk.npz").unlink()
    if "holiday/" in line:
        _photos(tmp_path / "holiday")
        shutil.copy(tmp_path / "holiday" / "cat" / "1.png", tmp_path / "cat.png")
    if "photos/" in line:
        _photos(tmp_path / "photos")
    if "--beside" in line or path == ("curves",):
        (tmp_path / "results").symlink_to(ROOT / "results")
    if "--beside" in line:
        (tmp_path / "curve.csv").write_text("epoch,error_percent\n0,90\n14,31\n")


LEAVES = [path for path, command in COMMANDS.items() if not isinstance(command, click.Group)]
OBJECT_A_LINE = {("predict",): "its pictures may come one after the other, from a pipe without an end"}
"""The commands whose `--json` is not one JSON object, and why."""


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_every_command_can_be_told_how_to_speak(path: tuple[str, ...]) -> None:
    """`--json` and `--quiet` are options of each command, declared in one place: with the same words, but for the answer."""
    options = {param.opts[0]: param for param in COMMANDS[path].params if isinstance(param, click.Option)}
    assert options["--quiet"].help == "say only how it ended"
    form = "one JSON object a line" if path in OBJECT_A_LINE else "one JSON object"
    assert options["--json"].help.endswith(f", as {form}; what is said meanwhile goes to standard error")


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_every_command_speaks_to_programs_and_in_short(
    path: tuple[str, ...], viz_world: Path, calls: list[Any], tmp_path: Path
) -> None:
    """The first example of each command. `--json`: standard output is JSON and nothing else. `--quiet`: one line at least,
    and no more than without."""
    line = next(line for at, line in EXAMPLES if at == path)
    _place(path, line, viz_world, tmp_path)
    words = [word for word in shlex.split(line.rpartition("|")[2])[1:] if word != "--json"]
    given = "cat.png\n" if "-" in words else None
    if given:
        assert cv2.imwrite(str(tmp_path / "cat.png"), np.full((30, 40, 3), 9, np.uint8))
    full, quiet, spoken = (
        CliRunner().invoke(cli.main, [*words, *more], input=given, prog_name="allconv")
        for more in ([], ["--quiet"], ["--json"])
    )
    assert full.exit_code == quiet.exit_code == spoken.exit_code == 0, full.output + quiet.output + spoken.output
    for text in spoken.stdout.splitlines() if path in OBJECT_A_LINE else [spoken.stdout]:
        assert isinstance(json.loads(text), dict)
    assert 1 <= len(quiet.output.splitlines()) <= len(full.output.splitlines())


def _photos(folder: Path) -> None:
    """One folder of two classes, two pictures each."""
    for name in ("cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(folder / name), np.full((30, 40, 3), 9, np.uint8))


def test_render_writes_what_the_options_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Options of `render` reach the prototxt: epochs, rate, filler."""
    monkeypatch.chdir(tmp_path)
    words = ["--epochs", "35", "--lr", "0.01", "--filler", "msra", "--batch-size", "100", "--output", "short"]
    result = invoke("render", "cifar10-allcnn-c", *words)
    assert result.exit_code == 0, result.output
    solver = (tmp_path / "short" / "solver.prototxt").read_text()
    assert "base_lr: 0.01" in solver and "max_iter: 17500" in solver  # 35 epochs of 50,000 images by 100
    assert 'type: "msra"' in (tmp_path / "short" / "train_val.prototxt").read_text()


def test_render_check_names_each_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`render --check` fails, with file, line and both texts, where a committed file differs."""
    monkeypatch.chdir(tmp_path)
    render.write("cifar10-model-a")
    assert invoke("render", "--check", "cifar10-model-a").exit_code == 0
    solver = tmp_path / "solvers" / "cifar10-model-a" / "solver.prototxt"
    solver.write_text(solver.read_text().replace("momentum: 0.9", "momentum: 0.8"))
    result = invoke("render", "--check", "cifar10-model-a")
    assert result.exit_code == 1
    assert re.search(r"solvers/cifar10-model-a/solver\.prototxt:\d+: found 'momentum: 0\.8'", result.output)


def test_render_lists_the_experiments() -> None:
    """`render --list` names every experiment, one on a line."""
    lines = invoke("render", "--list").output.splitlines()
    assert [line.split()[0] for line in lines] == list(experiments.EXPERIMENTS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("render --lr x cifar10-model-a", "Error: --lr: found 'x', expected a number\n"),
        (
            "render --filler he cifar10-model-a",
            "Error: --filler: found 'he', expected one of the choices (choices: xavier, gaussian, msra, graham)\n",
        ),
        ("prep verify nowhere", "Error: nowhere: found no manifest.json; expected a prepared data set\n"),
        ("run cifar10-allcnn-c --engine theano", "Error: --engine theano: expected one of auto, caffe, torch\n"),
        (
            "run cifar10-allcnn-c --gpu all",
            "Error: --gpu all: expected device numbers such as 0 or 0,1, or none for the CPU\n",
        ),
    ],
)
def test_a_mistake_gets_one_line(words: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's mistake ends with status 1 and one line that says where, what was found and what was expected."""
    monkeypatch.chdir(tmp_path)
    result = invoke(*words.split())
    assert (result.exit_code, result.output) == (1, message)


@pytest.mark.parametrize(
    ("said", "typed"),
    [
        ("RNG=caffe: found ENGINE=caffe, or no RNG", "--rng caffe: found --engine caffe, or no --rng"),
        ("option lr: found 0.1, expected LR", "option lr: found 0.1, expected --lr"),
        (
            "RETRIES=1 begins again with seed 2; a smaller LR may help",
            "--retries 1 begins again with seed 2; a smaller LR may help",
        ),
        (
            "name it with CIFAR10=path, or try `make quickstart`",
            "name it with --data path, or try `allconv quickstart`",
        ),
        ("next: make cifar10-allcnn-c CIFAR10=<x.tar.gz>", "next: allconv run cifar10-allcnn-c --data <x.tar.gz>"),
        ("no Caffe; name one with CAFFE=path/to/caffe", "no Caffe; name one with CAFFE=path/to/caffe"),
        ("/home/GPU=1/x: found nothing", "/home/GPU=1/x: found nothing"),
    ],
)
def test_words_fit_what_was_typed(said: str, typed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who typed an option reads of the option, who called make of its variable; environment variables and paths stay."""
    monkeypatch.delenv("ALLCONV_TYPED", raising=False)
    assert as_typed(said) == typed
    monkeypatch.setenv("ALLCONV_TYPED", "make")
    assert as_typed(said) == said


def test_make_says_that_it_was_called(tmp_path: Path) -> None:
    """`make cifar10-model-a ENGINE=theano` is answered in make's words."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "allconv").write_text('#!/bin/sh\necho "as $ALLCONV_TYPED: $*"\n')
    (tmp_path / "bin" / "allconv").chmod(0o755)
    for target, words in (
        ("cifar10-model-a", "run cifar10-model-a"),
        ("quickstart", "quickstart"),
        ("report", "report"),
    ):
        command = ["make", "--no-print-directory", "-s", "-o", "setup", f"VENV={tmp_path}", target]
        shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert shown == f"as {'' if target == 'report' else 'make'}: {words}\n"


@pytest.mark.parametrize(
    ("words", "close"),
    [
        ("run cifar10-allcn-c", "cifar10-allcnn-c"),
        ("render cifar10-modelc", "cifar10-model-c"),
        ("sweep tabel-3", "table-3"),
        ("derive all_cnn_d --output build/never", "all_cnn_c"),
        ("zoo verify cifar10-model-jpeg", "cifar10-model-c-jpeg"),
    ],
)
def test_a_near_miss_is_answered_with_what_was_meant(words: str, close: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is nearly an experiment's, a group's, a network's or a model's is followed by it."""
    monkeypatch.chdir(ROOT)
    result = invoke(*words.split())
    assert result.exit_code == 1 and f"; did you mean {close}?" in result.output and result.output.count("\n") == 1


def test_a_word_too_many_is_no_flag_of_caffes(calls: list[Any]) -> None:
    """`allconv run A B`: B is refused, not handed to the engine."""
    result = invoke("run", "cifar10-model-a", "cifar10-model-b")
    assert result.exit_code == 2 and "unexpected extra argument (cifar10-model-b)" in result.output and not calls


@pytest.mark.parametrize("words", ["render --list", "render nope"])
def test_a_reader_that_goes_away_is_no_error(words: str) -> None:
    """`allconv render --list | head -1`: when nobody reads on, the command ends without a word, as by SIGPIPE."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "allconv_caffe.cli", *words.split()]
    ended = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    if words == "render --list":
        assert (ended.returncode, ended.stderr) == (128 + signal.SIGPIPE, "")
    else:
        assert ended.returncode == 1 and "found 'nope'" in ended.stderr


def test_zoo_list_names_models_in_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name of any length keeps its column apart; an empty folder is said to be one."""
    empty = CliRunner().invoke(cli.main, ["zoo", "list", "--folder", str(tmp_path)], prog_name="allconv")
    assert (empty.exit_code, empty.stdout) == (0, "")
    names = ", ".join(sorted(path.parent.name for path in (ROOT / "models").glob("*/card.json")))
    ways = f"`allconv zoo get NAME` puts one there ({names}), `allconv zoo add` makes one of a finished run"
    assert empty.stderr == f"{tmp_path}: no model; {ways}\n"
    names = ["short", "a-name-of-more-than-twenty-six-letters"]
    facts = {"test_error_percent": 9.5, "dataset": "CIFAR-10", "epochs": 350.0}
    monkeypatch.setattr(zoo, "cards", lambda folder: [SimpleNamespace(facts={**facts, "name": name}) for name in names])
    assert invoke("zoo", "list").output.splitlines() == [
        "short                                     9.50 %  CIFAR-10, 350 epochs",
        "a-name-of-more-than-twenty-six-letters    9.50 %  CIFAR-10, 350 epochs",
    ]


@pytest.mark.parametrize(
    ("words", "typed", "found"),
    [
        ("run", "cifar10-strided-cnn-", {f"cifar10-strided-cnn-{base}" for base in "abc"}),
        ("render", "imagenet", {"imagenet-allcnn"}),
        ("run x --engine", "", {"auto", "caffe", "torch"}),
        ("run x --precision", "b", {"bf16"}),
        ("predict", "cifar10-m", {"cifar10-model-c-jpeg"}),
        ("export", "cifar10-m", {"cifar10-model-c-jpeg"}),
        ("viz mine --model", "cifar10-s", {"cifar10-strided-cnn-c-jpeg"}),
        ("zoo verify", "cifar10-a", {"cifar10-allcnn-c-jpeg"}),
        ("summary --format", "m", {"markdown"}),
        ("derive", "strided", {"strided_cnn_a", "strided_cnn_b", "strided_cnn_c"}),
    ],
)
def test_a_shell_completes(words: str, typed: str, found: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Experiments, models of models/, engines, precisions."""
    monkeypatch.chdir(ROOT)
    given = ShellComplete(cli.main, {}, "allconv", "_ALLCONV_COMPLETE").get_completions(words.split(), typed)
    assert {item.value for item in given} == found


def test_where_nothing_fits_a_shell_completes_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of one's own, also where a broken card lies in models/."""
    (tmp_path / "models/broken").mkdir(parents=True)
    (tmp_path / "models/broken/card.json").write_text("{")
    monkeypatch.chdir(tmp_path)
    for words in ("run", "predict"):
        (item,) = ShellComplete(cli.main, {}, "allconv", "_ALLCONV_COMPLETE").get_completions([words], "build/")
        assert (item.type, item.value) == ("file", "build/")


@pytest.mark.parametrize(
    "words", ["zoo list", "zoo verify cifar10-model-c-jpeg", "summary solvers/cifar10-model-c/deploy.prototxt"]
)
def test_commands_speak_to_programs(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--json`: what the command says for people, as JSON."""
    monkeypatch.chdir(ROOT)
    result = invoke(*words.split(), "--json")
    found = json.loads(result.stdout)
    right = {
        "zoo list": lambda: {entry["name"] for entry in found["models"]} >= {"cifar10-model-c-jpeg"},
        "zoo verify cifar10-model-c-jpeg": lambda: found == {"cifar10-model-c-jpeg": []},
    }
    assert result.exit_code == 0 and right.get(words, lambda: found["parameters"] == 954_730)()
    if words.startswith("zoo verify"):
        assert invoke(*words.split(), "--quiet").output == "1 verified\n"


@pytest.mark.parametrize("words", ["render nope", "run nope"])
def test_an_unknown_experiment_is_answered_with_the_known_ones(words: str) -> None:
    """A wrong name of an experiment is answered with all names."""
    result = invoke(*words.split())
    assert result.exit_code == 1
    assert result.output.startswith("Error: experiment: found 'nope'") and result.output.count("\n") == 1
    assert all(name in result.output for name in experiments.EXPERIMENTS)


def test_without_data_and_network_the_way_out_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without data, `run` names its option and the command that needs none in one line."""
    monkeypatch.chdir(tmp_path)
    result = invoke("run", "cifar10-allcnn-c", "--engine", "torch", "--gpu", "none", "--no-download")
    last = result.output.splitlines()[-1]
    assert result.exit_code == 1
    assert last.startswith("Error: ") and "--data path" in last and "`allconv quickstart`" in last


def test_a_defect_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception that is no user's mistake is not turned into one line."""

    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(driver, "run", broken)
    assert isinstance(invoke("run", "cifar10-allcnn-c").exception, ZeroDivisionError)


def test_run_hands_its_settings_to_the_driver(calls: list[Any]) -> None:
    """Each flag of `run` becomes the field of that name; what stands after -- goes to Caffe."""
    words = "run cifar10-model-b --engine caffe --gpu 0,1 --data set.tar.gz --lr 0.1 --epochs 2.5 --seed 7 --retries 2"
    words += " --precision tf32 --rng caffe --batch-size 64 --threads 1 --set filler=msra --set relu_last=false -- -iterations 3"
    result = invoke(*words.split())
    assert result.exit_code == 0, result.output
    ((_, (name, settings), _),) = calls
    assert name == "cifar10-model-b"
    assert (settings.engine, settings.gpu, settings.data) == ("caffe", "0,1", Path("set.tar.gz"))
    assert (settings.lr, settings.epochs, settings.seed, settings.retries) == (0.1, 2.5, 7, 2)
    assert (settings.precision, settings.batch_size, settings.threads) == ("tf32", 64, 1)
    assert settings.rng == "caffe"
    assert settings.options == {"filler": "msra", "relu_last": False}
    assert settings.caffe_flags == ("-iterations", "3")


@pytest.mark.parametrize(("status", "code"), [("done", 0), ("dead", 1), ("interrupted", 130)])
def test_the_status_says_how_a_run_ended(
    status: str, code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`run` returns 0 when done, 1 when dead, 130 after Ctrl-C."""
    monkeypatch.setattr(driver, "run", lambda *_, **__: driver.RunResult(status, tmp_path, None))
    assert invoke("run", "cifar10-allcnn-c").exit_code == code


@pytest.mark.parametrize(("error", "learned"), [(None, None), (50.0, False), (5.0, True)])
def test_quickstart_fails_where_nothing_was_learned(
    error: float | None, learned: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`quickstart` returns 1 where training stopped or the network has not learned; what was trained is evaluated."""
    result = error and quickstart.QuickstartResult(
        title="A",
        test_error_percent=error,
        linear_error_percent=60.0,
        parameters=9,
        seconds={},
        directory=Path("there"),
    )
    evaluated: list[tuple[Path, Path]] = []
    monkeypatch.setattr(quickstart, "run", lambda *_, **__: result)
    monkeypatch.setattr(train, "evaluate_run", lambda folder, say, root: evaluated.append((folder, root)))
    spoken = invoke("quickstart", "--root", "here", "--json")
    assert spoken.exit_code == (0 if learned else 1) and json.loads(spoken.stdout)["learned"] is learned
    assert evaluated == ([] if error is None else [(Path("there"), Path("here"))])
    quiet = invoke("quickstart", "--quiet").stdout
    assert quiet.count("\n") == 1 and ("not learned enough" in quiet) is (learned is False)


def test_prep_of_a_finished_set_downloads_nothing_and_says_what_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without --source a finished set is enough; one made with other constants is not what was asked for."""
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (20, 3, 32, 32), np.uint8)
    cifar.write_python_archive(
        "tiny.tar.gz", images, np.arange(20) % 10, images, np.arange(20) % 10, list("abcdefghij")
    )
    invoke("prep", "cifar10", "--source", "tiny.tar.gz", "--preprocessing", "gcn", "--quiet")
    monkeypatch.setattr(download, "download", lambda *_, **__: pytest.fail("asked the network"))
    again = invoke("prep", "cifar10", "--preprocessing", "gcn", "--quiet")
    assert again.output == "data/cifar10: already prepared; --force prepares it again\n"
    other = invoke("prep", "cifar10", "--quiet")
    assert other.exit_code == 1
    assert other.output == (
        "Error: data/cifar10: found a set prepared with preprocessing gcn; expected gcn-zca; give another output, or "
        "force to replace it\n"
    )


def test_prep_prepares_and_verify_agrees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive goes in, a finished data set comes out, verify finds no problem, a second run does nothing."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (20, 3, 32, 32), np.uint8), np.arange(20) % 10
    cifar.write_python_archive("tiny.tar.gz", images, labels, images[:10], labels[:10], list("abcdefghij"))
    words = ["prep", "cifar10", "--source", "tiny.tar.gz", "--output", "set", "--preprocessing", "gcn", "--quiet"]
    first, second = invoke(*words), invoke(*words)
    assert first.exit_code == second.exit_code == 0, first.output
    assert "20 training and 10 test images" in first.output
    assert second.output == "set: already prepared; --force prepares it again\n"
    verified = invoke("prep", "verify", "set", "--grid", "grid.png")
    assert verified.exit_code == 0 and "all checksums as in the manifest" in verified.output
    with (tmp_path / "set" / "manifest.json").open("a") as file:
        file.write(" ")
    (tmp_path / "set" / "train_lmdb" / "data.mdb").unlink()
    assert invoke("prep", "verify", "set").exit_code == 1


def _layers(folder: Path) -> list[Any]:
    from allconv_caffe import proto

    return list(proto.read_net(folder / "train_val.prototxt").layer)


def _of(layers: list[Any], kind: str) -> list[Any]:
    return [layer for layer in layers if layer.type == kind]


def _convolutions(layers: list[Any], field: str) -> list[Any]:
    return [getattr(layer.convolution_param, field) for layer in _of(layers, "Convolution")]


def _strides(layers: list[Any]) -> list[int]:
    return [max([1, *stride]) for stride in _convolutions(layers, "stride")]


def _rates(layers: list[Any]) -> list[float]:
    return [round(layer.dropout_param.dropout_ratio, 4) for layer in _of(layers, "Dropout")]


OPTIONS: list[tuple[str, str, str, str, Any, Any]] = [
    # network, its experiment, option, value, what is looked at, what it must be
    ("model_c", "model-c", "relu_last", "true", lambda all_: len(_of(all_, "ReLU")), 7),
    ("model_c", "model-c", "relu_last", "false", lambda all_: len(_of(all_, "ReLU")), 6),
    *[
        (
            "model_c",
            "model-c",
            "filler",
            name,
            lambda all_: {filler.type for filler in _convolutions(all_, "weight_filler")},
            {name},
        )
        for name in ("xavier", "gaussian", "msra")
    ],
    (
        "model_c",
        "model-c",
        "batch_size",
        "64",
        lambda all_: [layer.data_param.batch_size for layer in _of(all_, "Data")],
        [64, 100],
    ),
    (
        "model_c",
        "model-c",
        "bias_lr_mult",
        "2",
        lambda all_: {(layer.param[0].lr_mult, layer.param[1].lr_mult) for layer in _of(all_, "Convolution")},
        {(1, 2)},
    ),
    (
        "model_c",
        "model-c",
        "bias_decay_mult",
        "0",
        lambda all_: {(layer.param[0].decay_mult, layer.param[1].decay_mult) for layer in _of(all_, "Convolution")},
        {(1, 0)},
    ),
    ("strided_cnn_b", "strided-cnn-b", "stride_on", "1x1", _strides, [1, 2, 1, 2, 1, 1, 1]),
    ("strided_cnn_b", "strided-cnn-b", "stride_on", "5x5", _strides, [2, 1, 2, 1, 1, 1, 1]),
    (
        "all_cnn_c",
        "allcnn-c",
        "conv7_pad",
        "1",
        lambda all_: [max([0, *pad]) for pad in _convolutions(all_, "pad")],
        [1] * 7 + [0, 0],
    ),
    ("all_cnn_c", "allcnn-c", "dropout", "paper", _rates, [0.2, 0.5, 0.5]),
    ("all_cnn_c", "allcnn-c", "dropout", "all", _rates, [0.2] + [0.5] * 8),  # footnote 4: on all layers
    ("all_cnn_c", "allcnn-c", "dropout", "1x1", _rates, [0.2, 0.5, 0.5, 0.5]),  # footnote 4: on the 1x1 too
    ("all_cnn_c", "allcnn-c", "dropout", "none", _rates, []),
    ("all_cnn_c", "allcnn-c", "input_dropout", "0.1", _rates, [0.1, 0.5, 0.5]),
    ("all_cnn_c", "allcnn-c", "dropout_ratio", "0.3", _rates, [0.2, 0.3, 0.3]),
]


@pytest.mark.parametrize(
    ("network", "experiment", "option", "value", "look", "expected"), OPTIONS, ids=[f"{o[2]}={o[3]}" for o in OPTIONS]
)
def test_every_option_of_a_network_reaches_the_prototxt(
    network: str,
    experiment: str,
    option: str,
    value: str,
    look: Any,
    expected: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the paper leaves open can be chosen in `render` as a flag and in `derive` by --set, with the same layers."""
    monkeypatch.chdir(tmp_path)
    flag = "--" + option.replace("_", "-")
    rendered = invoke("render", f"cifar10-{experiment}", flag, value, "--output", "one")
    assert rendered.exit_code == 0, rendered.output
    assert look(_layers(Path("one"))) == expected
    derived = invoke("derive", network, "--set", f"{option}={value}", "--output", "two")
    assert derived.exit_code == 0, derived.output
    assert _layers(Path("two")) == _layers(Path("one"))


@pytest.mark.parametrize(("form", "word"), [("text", "global_pool"), ("markdown", "| conv1 |"), ("json", '"conv1"')])
def test_summary_has_three_forms(form: str, word: str) -> None:
    """`summary` prints text, Markdown or JSON, each with the total of All-CNN-C."""
    result = invoke("summary", str(ROOT / "solvers/cifar10-allcnn-c/deploy.prototxt"), "--format", form)
    assert result.exit_code == 0 and word in result.output
    assert ("1369738" if form == "json" else "1,369,738") in result.output

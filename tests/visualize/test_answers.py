"""`allconv predict` and `allconv evaluate`: probabilities, names and confusion of a net that NumPy computes as well."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from allconv_caffe import proto
from allconv_caffe.cli.main import main
from allconv_caffe.visualize import comparison

NAMES = ["<black> & white", "red", "blue"]
DEPLOY = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 4 dim: 4 } } }
layer { name: "ip" type: "Convolution" bottom: "data" top: "ip" convolution_param { num_output: 3 kernel_size: 4 } }
layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" }
"""
WIDE = DEPLOY.replace("kernel_size: 4", "kernel_size: 3")


@pytest.fixture
def weight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """(3, 48), of a net in the working directory; its input is B, G, R."""
    monkeypatch.chdir(tmp_path)
    weight = np.random.default_rng(2).normal(size=(3, 48)).astype(np.float32) / 400
    _save(weight, np.zeros(3, np.float32))
    Path("deploy.prototxt").write_text(DEPLOY)
    Path("names.txt").write_text("\n".join(NAMES) + "\n")
    return weight


def _save(weight: np.ndarray, bias: np.ndarray) -> None:
    net = proto.NetParameter(name="Tiny")
    layer = net.layer.add(name="ip", type="Convolution")
    for shape, values in (((3, 3, 4, 4), weight), ((3,), bias)):
        blob = layer.blobs.add()
        blob.shape.dim.extend(shape)
        blob.data.extend(values.ravel().tolist())
    proto.write_binary(Path("tiny.caffemodel"), net)


def _picture(path: str, seed: int) -> np.ndarray:
    """Writes a 4x4 PNG; returns its pixels (3, 4, 4), planes B, G, R."""
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(path, pixels)
    return pixels.transpose(2, 0, 1)


def _right(weight: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    powers = np.exp(weight.astype(np.float64) @ pixels.ravel())
    return np.asarray(powers / powers.sum())


def _call(*words: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(main, list(words), input=stdin)


TINY = ("deploy.prototxt", "--weights", "tiny.caffemodel")


def test_a_line_for_each_picture(weight: np.ndarray) -> None:
    """Probabilities are the softmax of the scores; the names are those of --labels, the surest first."""
    given = _right(weight, _picture("one.png", 1))
    out = _call("predict", *TINY, "one.png", "--labels", "names.txt", "--top", "2")
    first, second = (int(i) for i in (-given).argsort()[:2])
    assert out.exit_code == 0, out.output
    assert out.stdout == (
        f"one.png: {NAMES[first]} {100 * given[first]:.1f} %, {NAMES[second]} {100 * given[second]:.1f} %\n"
    )


def test_unknown_preparation_is_said(weight: np.ndarray) -> None:
    """A net of which nobody says how its images were prepared: that pixels went in as they are; not of one that somebody does."""
    _picture("one.png", 1)
    words = "pixels went in as they are, 0 to 255, BGR: --whitening, --mean, --scale, --order say otherwise\n"
    assert _call("predict", *TINY, "one.png").stderr == words
    assert (
        _call("predict", *TINY, "one.png", "--scale", "1").stderr
        == _call("predict", *TINY, "one.png", "--quiet").stderr
        == ""
    )


def test_folders_and_standard_input_for_programs(weight: np.ndarray) -> None:
    """A folder gives its images in the order of their names, "-" the paths of standard input; numbers where names lack."""
    right = {path: _right(weight, _picture(path, i)) for i, path in enumerate(["a/x.png", "a/b/y.png", "z.png"])}
    out = _call("predict", *TINY, "a", "-", "--json", stdin="z.png\n\n")
    assert out.exit_code == 0, out.output
    rows = [json.loads(line) for line in out.stdout.splitlines()]
    assert [row["picture"] for row in rows] == ["a/b/y.png", "a/x.png", "z.png"]
    for row in rows:
        found = {one["class"]: one["probability"] for one in row["answers"]}
        assert found == pytest.approx({str(i): p for i, p in enumerate(right[row["picture"]])}, abs=2e-6)


def test_a_pattern_in_quotes(weight: np.ndarray) -> None:
    """What the shell has not expanded is: files in the order of their names, in any depth; a file of that very name is itself."""
    for i, path in enumerate(["a/b/x.png", "a/y.png", "a/z.jpg", "[1].png"]):
        _picture(path, i)
    out = _call("predict", *TINY, "a/**/*.png", "[1].png", "--top", "1")
    assert out.exit_code == 0, out.output
    assert [line.split(":")[0] for line in out.stdout.splitlines()] == ["a/b/x.png", "a/y.png", "[1].png"]


def test_a_run_knows_its_classes(weight: np.ndarray) -> None:
    """A run's folder is a model: its last weights, its net, the class names of its data."""
    given = _right(weight, _picture("one.png", 1))
    run = Path("runs/one")
    run.mkdir(parents=True)
    Path("deploy.prototxt").rename(run / "deploy.prototxt")
    Path("tiny.caffemodel").rename(run / "tiny_iter_5.caffemodel")
    (run / "result.json").write_text(json.dumps({"experiment": "tiny", "max_iter": 5}))
    data = {"folder": "data/raw", "preprocessing": "raw", "class_names": NAMES}
    (run / "settings.json").write_text(json.dumps({"data": data}))
    out = _call("predict", "runs/one", "one.png", "--top", "1")
    assert out.stdout == f"one.png: {NAMES[int(given.argmax())]} {100 * given.max():.1f} %\n", out.output
    (run / "settings.json").write_text(json.dumps({"data": data | {"preprocessing": "gcn-zca"}}))
    out = _call("predict", "runs/one", "one.png")
    assert out.exit_code == 1 and out.output == (
        "Error: data/raw/whitening.npz: found nothing, expected the whitening of the data set that the run was trained on\n"
    )


def test_confusion_over_a_folder_for_each_class(weight: np.ndarray) -> None:
    """Every image is counted once, in its class's row and its answer's column; the sheet begins with the surest mistake."""
    right, wrong = np.zeros((3, 3), int), {}
    Path("names.txt").write_text("black\nred\nblue\n")
    for i in range(30):
        label, path = i % 3, f"set/{['black', 'red', 'blue'][i % 3]}/{i}.png"
        given = _right(weight, _picture(path, 100 + i))
        right[label, given.argmax()] += 1
        if given.argmax() != label:
            wrong[path.removeprefix("set/")] = given.max()
    _picture("set/other/1.png", 7)
    words = ("evaluate", *TINY, "--data", "set", "--labels", "names.txt", "--output", "out", "--batch-size", "7")
    out = _call(*words, "--keep", "3")
    assert out.exit_code == 0, out.output
    error = 100 * (1 - np.trace(right) / 30)
    assert out.stdout.splitlines()[0] == f"{error:.2f} % of 30 images wrong"
    assert "1 images name no class and were not counted" in out.stderr
    rows = list(csv.reader(Path("out/confusion.csv").read_text().splitlines()))
    assert np.array([row[1:4] for row in rows[1:]], int).tolist() == right.tolist()
    facts = json.loads(Path("out/evaluation.json").read_text())
    assert facts["error_percent"] == pytest.approx(error, abs=1e-3)
    assert facts["class_errors_percent"]["red"] == pytest.approx(100 * (1 - right[1, 1] / right[1].sum()), abs=1e-3)
    surest = sorted(wrong, key=lambda key: -wrong[key])[:3]
    assert [one["image"] for one in facts["most_surely_wrong"]] == surest
    for name in ("confusion.png", "wrong.png"):
        assert cv2.imread(f"out/{name}").std() > 10


def test_a_class_that_no_image_is_taken_for_is_named(weight: np.ndarray) -> None:
    """A dead output shows as a class with images that is never the answer; a class without images is no such one."""
    _save(weight, np.array([0, -1000, -1000], np.float32))
    for i in range(4):
        _picture(f"set/{['0', '1'][i % 2]}/{i}.png", i)
    out = _call("evaluate", *TINY, "--data", "set", "--output", "out")
    assert out.exit_code == 0, out.output
    assert "never answered: 1" in out.stdout.splitlines()
    assert json.loads(Path("out/evaluation.json").read_text())["never_answered"] == ["1"]
    _save(weight, np.array([0, 0, -1000], np.float32))
    assert "never answered" not in _call("evaluate", *TINY, "--data", "set").stdout


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ("predict", *TINY, "no.png"),
            "no.png: found nothing, expected an LMDB environment, a folder of images, or an image",
        ),
        (
            ("predict", *TINY, "one.png", "--labels", "two.txt"),
            "two.txt: found 2 classes, expected 3, as 'ip' has scores",
        ),
        (
            ("predict", "deploy.prototxt", "one.png"),
            "--weights: found nothing, expected a .caffemodel, or --model NAME",
        ),
        (("predict", "wide.prototxt", "--weights", "tiny.caffemodel", "one.png"), "layer 'ip'"),
        (("predict", *TINY, "*.jpg"), "*.jpg: found nothing, expected an LMDB environment"),
        (("predict", *TINY, "-"), "standard input: found nothing, expected the path of a picture on each line"),
        (("predict", *TINY, "one.png", "--resize", "3"), "resize: found 3, expected 4 or more: the net takes 4x4"),
        (("predict", "nobody", "one.png"), "model nobody: found no card.json in models/nobody, expected one of: none"),
        (("evaluate", *TINY, "--data", "one.png"), "one.png: found no image whose class is known"),
        (("evaluate", *TINY), "--data: found nothing, expected a prepared data set"),
    ],
)
def test_mistakes_are_one_line(weight: np.ndarray, words: tuple[str, ...], line: str) -> None:
    """Where, what was found, what was expected; the exit status is 1."""
    _picture("one.png", 1)
    Path("two.txt").write_text("a\nb\n")
    Path("wide.prototxt").write_text(WIDE)
    out = _call(*words)
    assert out.exit_code == 1
    assert line in out.output and len(out.output.strip().splitlines()) == 1, out.output


def test_scores_at_several_places_are_no_answer(weight: np.ndarray) -> None:
    """A net that gives a map of scores is refused, not averaged."""
    _picture("big/one.png", 1)
    Path("big.prototxt").write_text(DEPLOY.replace("dim: 4 dim: 4", "dim: 6 dim: 6"))
    out = _call("predict", "big.prototxt", "--weights", "tiny.caffemodel", "big")
    assert out.exit_code == 1
    assert out.output == "Error: blob 'ip': found scores at 3x3 places, expected one score for each class\n"


def test_explain_draws_what_speaks_for_each_answer(weight: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sheet with a row for each picture and its answer beneath, and beside it its record with the unit of the answer."""
    drawn: list[Any] = []
    sheet = comparison.sheet
    monkeypatch.setattr(comparison, "sheet", lambda parts, *words: drawn.extend(parts) or sheet(parts, *words))
    Path("relu.prototxt").write_text(
        DEPLOY.replace('bottom: "ip"', 'bottom: "ip" ', 1)
        + 'layer { name: "relu" type: "ReLU" bottom: "ip" top: "relu" }'
    )
    given = [_right(weight, _picture(f"p/{i}.png", i)) for i in range(2)]
    out = _call(
        "predict", "relu.prototxt", "--weights", "tiny.caffemodel", "p", "--explain", "why.png", "--labels", "names.txt"
    )
    assert out.exit_code == 0, out.output
    ((_, maps),) = drawn
    assert [words.removesuffix(", dead") for words in maps.under] == [
        f"{NAMES[int(one.argmax())]} {100 * one.max():.1f} %" for one in given
    ]
    facts = json.loads(Path("why.json").read_text())
    assert facts["variants"][0]["units"] == [f"ip:{int(one.argmax())}:0:0" for one in given]
    assert cv2.imread("why.png").std() > 10

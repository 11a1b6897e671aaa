"""Names of classes: a list of them, what a file's name says of its class, and the accuracy that follows from it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from allconv_caffe.cli import main as cli
from allconv_caffe.visualize.labels import Labels
from allconv_caffe.visualize.nets.errors import VizError
from allconv_caffe.visualize.nets.open import open_net
from allconv_caffe.visualize.sources import open_images
from allconv_caffe.visualize.whitening import load_whitening

MODEL = Path("models/cifar10-allcnn-c-jpeg")
FIGURE = ["viz", "figure", "5", "--data", "photos", "--quiet", "--output", "f.png"]


def test_a_line_is_a_class(tmp_path: Path) -> None:
    """Plain names, and Caffe's synset_words.txt, whose first word is the id and whose first name is shown."""
    (tmp_path / "a.txt").write_text("cat\nsports car\n\n")
    labels = Labels.read(tmp_path / "a.txt")
    assert labels.names == ["cat", "sports car"] == labels.ids
    (tmp_path / "b.txt").write_text("n01440764 tench, Tinca tinca\nn01443537 goldfish\n")
    labels = Labels.read(tmp_path / "b.txt")
    assert labels.names == ["tench", "goldfish"] and labels.ids == ["n01440764", "n01443537"]


@pytest.mark.parametrize(
    ("key", "label"),
    [
        ("n01443537/1.jpg", 1),
        ("val/n01443537/deep/1.jpg", 1),
        ("n01440764_tench.jpg", 0),
        ("n01440764.jpg", 0),
        ("n01443537/n01440764_tench.jpg", 1),  # the folder decides
        ("tench.jpg", None),
        ("n0144/1.jpg", None),
    ],
)
def test_a_path_tells_its_class(key: str, label: int | None) -> None:
    """By a folder on the way, else by the beginning of the file's name; otherwise there is none."""
    assert Labels(["tench", "goldfish"], ["n01440764", "n01443537"]).of(key) == label


def test_what_is_no_list_of_names_is_said(tmp_path: Path) -> None:
    """A missing file, one that is no text, an empty line: one line each, with its place."""
    (tmp_path / "c.txt").write_text("cat\n\ndog\n")
    (tmp_path / "d.txt").write_bytes(b"\xff\xfe\x00")
    os.mkfifo(tmp_path / "pipe")
    for name, words in (
        (".", ": found Is a directory, expected a text file"),
        ("pipe", "pipe: found a pipe that nobody writes to, expected a file"),
        ("none.txt", "none.txt: found No such file or directory, expected a text file"),
        ("c.txt", "c.txt: line 2: found nothing, expected the name of a class"),
        ("d.txt", "expected a text file with the name of a class on each line"),
    ):
        with pytest.raises(VizError) as caught:
            Labels.read(tmp_path / name)
        assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.fixture
def world(viz_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small world with photos/: six image files of which two are of the class that the net gives them."""
    shutil.copytree(viz_world, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    net = open_net(MODEL / "deploy.prototxt", MODEL / "small.caffemodel")
    rng = np.random.default_rng(2)
    Path("photos").mkdir()
    for i in range(6):
        cv2.imwrite(f"photos/{i}.png", cv2.resize(rng.integers(0, 256, (4, 4, 3), np.uint8), (32, 32)))
    source = open_images("photos", net.input_shape, load_whitening(MODEL / "whitening.npz"))
    scores = net.forward(source.get(source.keys()), ("global_pool",))["global_pool"].reshape(6, -1)
    for i, best in enumerate(scores.argmax(axis=1)):
        Path(f"photos/{i}.png").rename(f"photos/class{best if i < 2 else (best + 1) % 10}_{i}.png")
    Path("names.txt").write_text("".join(f"class{i}\n" for i in range(10)))
    return tmp_path


def test_labels_name_classes_and_give_an_accuracy_on_a_folder(world: Path) -> None:
    """With --labels the images of a folder have classes: top-1 is two of six."""
    result = CliRunner().invoke(cli.main, [*FIGURE, "--labels", "names.txt"])
    assert result.exit_code == 0, result.output
    facts = json.loads(Path("f.json").read_text())
    assert facts["variants"][0]["top1"] == {
        "percent": pytest.approx(100 / 3, abs=1e-5),
        "images": 6,
        "blob": "global_pool",
    }
    result = CliRunner().invoke(cli.main, FIGURE)
    assert result.exit_code == 0, result.output
    assert json.loads(Path("f.json").read_text())["variants"][0]["top1"]["reason"] == "the data have no labels"


def test_labels_that_do_not_fit_are_refused(world: Path) -> None:
    """Nine names for ten scores."""
    Path("names.txt").write_text("".join(f"class{i}\n" for i in range(9)))
    result = CliRunner().invoke(
        cli.main, ["viz", "figure", "5", "--data", "photos", "--labels", "names.txt", "--quiet", "--output", "f.png"]
    )
    assert (result.exit_code, result.output) == (
        1,
        "Error: names.txt: found 9 classes, expected 10, as 'global_pool' has scores\n",
    )
    assert not Path("f.png").exists()

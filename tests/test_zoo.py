"""The model zoo: a finished run becomes a model, and what its card says is checked."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from allconv_caffe import proto, zoo
from allconv_caffe.cli import main as cli
from allconv_caffe.proto import datum
from data_prep import cifar, database, pipeline
from data_prep.whitening import Whitening

DEPLOY = """name: "Tiny"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 32 dim: 32 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
        convolution_param { num_output: 2 kernel_size: 32 } }
layer { name: "prob" type: "Softmax" bottom: "conv1" top: "prob" }
"""
ROOT = Path(__file__).resolve().parents[1]
COUNT = 2 * 3 * 32 * 32 + 2


def _weights(path: Path) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    weight, bias = rng.normal(size=(2, 3, 32, 32)).astype(np.float32), np.array([0.5, -0.5], np.float32)
    net = proto.NetParameter(name="Tiny")
    layer = net.layer.add(name="conv1", type="Convolution")
    for values in (weight, bias):
        blob = layer.blobs.add()
        blob.shape.dim.extend(values.shape)
        blob.data.extend(values.ravel().tolist())
    proto.write_binary(path, net)
    return weight, bias


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run on 20 prepared images, whose error is that of its weights, counted here by NumPy."""
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (40, 3, 32, 32), np.uint8)
    labels = np.arange(40) % 2
    archive = cifar.write_python_archive("made.tar.gz", images[:20], labels[:20], images[20:], labels[20:], ["a", "b"])
    pipeline.prepare(archive, Path("data/made"), preprocessing="gcn", progress=False)
    folder = tmp_path / "runs" / "one"
    (folder / "snapshots").mkdir(parents=True)
    weight, bias = _weights(folder / "snapshots" / "tiny_iter_5.caffemodel")
    (folder / "deploy.prototxt").write_text(DEPLOY)
    wrong = 0
    for _, value in database.records(Path("data/made/test_lmdb")):
        image, label = datum.decode(value)
        wrong += int((weight * image).sum((1, 2, 3)) @ [-1, 1] + bias @ [-1, 1] > 0) != label
    result = {
        "experiment": "tiny",
        "model": "Tiny",
        "source": "no table",
        "status": "done",
        "max_iter": 5,
        "seed": 1,
        "test_error_percent": 5.0 * wrong,
        "published_error_percent": 9.08,
        "parameters": COUNT,
        "epochs": 2.0,
        "published_parameters": "1.4 M",
        "dataset": "Made",
        "paper_title": "CIFAR-10",
        "engine": "torch",
        "n_train": 20,
        "n_test": 20,
        "preprocessing": "gcn",
        "device": "CPU",
    }
    (folder / "result.json").write_text(json.dumps(result))
    settings = {
        "data": {"folder": "data/made", "sha256": {"train": "1f"}},
        "engine": {"version": "torch 2"},
        "git": None,
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    return folder


def test_a_run_of_raw_pixels_knows_their_order(run: Path) -> None:
    """Planes R, G, B of a set that says so; B, G, R is what Caffe's own tools make, and so is taken where nobody says it."""
    pipeline.prepare(Path("made.tar.gz"), Path("data/raw"), preprocessing="raw", progress=False)
    (run / "train_val.prototxt").write_text(
        'layer { name: "data" type: "Data" top: "data" transform_param { scale: 0.5 mean_file: "data/raw/mean.binaryproto" } '
        'data_param { source: "data/raw/test_lmdb" } }'
    )
    settings = json.loads((run / "settings.json").read_text())
    settings["data"] |= {"folder": "data/raw", "preprocessing": "raw"}
    (run / "settings.json").write_text(json.dumps(settings))
    mean = Path("data/raw/mean.binaryproto")
    right = zoo.Pixels(scale=0.5, mean_value=(), mean=mean, order="RGB")
    found = zoo.find(run)
    assert (found.pixels, found.data) == (right, Path("data/raw/test_lmdb"))
    edit(run, preprocessing="raw")
    made = zoo.add(run)
    assert zoo.find("tiny").pixels == dataclasses.replace(right, mean=made.folder / "mean.binaryproto")
    (run.parents[1] / "data/raw/manifest.json").unlink()
    assert zoo.find(run).pixels == dataclasses.replace(right, order=None)


def edit(run: Path, **changes: object) -> None:
    path = run / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_run_becomes_a_model_whose_card_holds(run: Path) -> None:
    """Weights and deploy net are copied byte for byte; the card has data, command, error and the SHA-1 of each file."""
    made = zoo.add(run)
    assert made.folder == Path("models/tiny")
    weights = (made.folder / "tiny.caffemodel").read_bytes()
    assert weights == (run / "snapshots" / "tiny_iter_5.caffemodel").read_bytes()
    assert (made.folder / "deploy.prototxt").read_text() == DEPLOY
    facts = json.loads((made.folder / "card.json").read_text())
    assert facts["weights"] == {
        "file": "tiny.caffemodel",
        "bytes": len(weights),
        "sha1": hashlib.sha1(weights).hexdigest(),
    }
    page = (made.folder / "README.md").read_text()
    for word in (
        f"{facts['test_error_percent']:.2f} %",
        "not the paper's CIFAR-10",
        facts["weights"]["sha1"],
        "`allconv run tiny --epochs 2 --seed 1`",
        "9.08 % on CIFAR-10",
        "6,146 (the paper: 1.4 M)",
    ):
        assert word in page
    assert zoo.verify("tiny") == []


def test_the_error_is_measured_again(run: Path) -> None:
    """With the prepared data set the test images are classified; another error than the card's is a difference."""
    error = json.loads((run / "result.json").read_text())["test_error_percent"]
    zoo.add(run)
    assert zoo.measure("tiny", "data/made", batch_size=7) == error
    assert zoo.verify("tiny", "data/made") == []
    edit(run, test_error_percent=error + 5)
    zoo.add(run, name="liar")
    assert zoo.verify("liar", "data/made") == [
        f"models/liar: measured {error:.2f} % test error, expected {error + 5:.2f} %"
    ]


@pytest.mark.parametrize("file", ["tiny.caffemodel", "deploy.prototxt", "whitening.npz"])
def test_a_changed_or_missing_file_is_named(run: Path, file: str) -> None:
    """One byte more in any file is found by its SHA-1; a file that is gone is missing."""
    path = zoo.add(run).folder / file
    before = hashlib.sha1(path.read_bytes()).hexdigest()
    path.write_bytes(path.read_bytes() + b"\n")
    now = hashlib.sha1(path.read_bytes()).hexdigest()
    assert zoo.verify("tiny") == [f"{path}: found SHA-1 {now}, expected {before}"]
    path.unlink()
    assert zoo.verify("tiny") == [f"{path}: missing"]


def test_a_page_that_says_something_else_is_found(run: Path) -> None:
    """README.md must be what the card gives."""
    path = zoo.add(run).folder / "README.md"
    path.write_text(path.read_text().replace(" %", " ‰"))
    assert zoo.verify("tiny") == [f"{path}: found another text than the card gives"]


def test_weights_of_another_net_are_refused(run: Path) -> None:
    """A caffemodel whose blobs the deploy net does not have becomes no model, and nothing is left."""
    (run / "deploy.prototxt").write_text(DEPLOY.replace("num_output: 2", "num_output: 3"))
    with pytest.raises(
        zoo.ZooError, match=r"layer 'conv1': found parameters of 2x3x32x32, 2, expected parameters of 3x3x32x32, 3$"
    ):
        zoo.add(run)
    assert not list(Path("models").iterdir())


def test_a_half_made_model_is_none(run: Path) -> None:
    """What a killed `add` left beside the models is neither listed nor in the way of the next one."""
    left = Path("models/.tiny.partial")
    left.mkdir(parents=True)
    (left / zoo.CARD).write_text("{")
    assert zoo.cards() == []
    assert zoo.add(run).folder.name == "tiny" and not left.exists()
    assert [card.folder.name for card in zoo.cards()] == ["tiny"]


def test_equal_whitenings_are_stored_once(run: Path) -> None:
    """A second model of the same data set names the first one's whitening."""
    zoo.add(run, name="first")
    second = zoo.add(run, name="second")
    assert second.facts["whitening"]["file"] == "../first/whitening.npz"
    assert not (second.folder / "whitening.npz").exists() and zoo.verify("second") == []
    named = re.findall(r"[\w./-]*whitening\.npz", (second.folder / "README.md").read_text())
    assert len(named) == 4 and set(named) == {"../first/whitening.npz"}


def test_the_compact_whitening_whitens_alike(tmp_path: Path) -> None:
    """One triangle of the matrix is enough: loaded again, `whiten` gives the same bits, `unwhiten` the same images."""
    rng = np.random.default_rng(3)
    half = rng.normal(size=(12, 12)).astype(np.float32)
    zca = (half @ half.T + 5 * np.eye(12)).astype(np.float32)
    zca = np.triu(zca) + np.triu(zca, 1).T
    full = Whitening(
        method="gcn-zca",
        shape=(3, 2, 2),
        mean=rng.normal(size=12).astype(np.float32),
        zca=zca,
        zca_inverse=np.linalg.inv(zca),
        eigenvalues=np.linalg.eigvalsh(zca),
        typical_norm=1.0,
    )
    full.save(tmp_path / "small.npz", compact=True)
    small = Whitening.load(tmp_path / "small.npz")
    images = rng.integers(0, 256, (4, 3, 2, 2), np.uint8)
    np.testing.assert_array_equal(small.whiten(images), full.whiten(images))
    white = full.whiten(images)
    np.testing.assert_allclose(small.unwhiten(white), full.unwhiten(white), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"status": "dead"}, "found a run that is dead, expected one that is done and has an error"),
        ({"test_error_percent": None}, "found a run that is done, expected one that is done and has an error"),
        ({"max_iter": 6}, "tiny_iter_6.caffemodel: found nothing, expected the weights of the last iteration"),
    ],
)
def test_an_unfinished_run_is_refused(run: Path, changes: dict[str, object], text: str) -> None:
    """Only a run that is done and has an error and its last weights becomes a model."""
    edit(run, **changes)
    with pytest.raises(zoo.ZooError) as caught:
        zoo.add(run)
    assert str(caught.value).endswith(text)


def test_the_command_adds_lists_verifies_and_unpacks(run: Path) -> None:
    """`allconv zoo add | list | verify | unpack`; verify fails with a line for each difference."""
    invoke = CliRunner().invoke
    assert invoke(cli.main, ["zoo", "verify"]).output.startswith("Error: models: found no model")
    added = invoke(cli.main, ["zoo", "add", str(run)])
    assert added.exit_code == 0 and added.output.startswith("models/tiny: ")
    assert "Made, 2 epochs" in invoke(cli.main, ["zoo", "list"]).output
    checked = invoke(cli.main, ["zoo", "verify", "--data", "data/made"])
    assert (checked.exit_code, checked.stdout) == (0, "tiny: as its card says, error included\n")
    assert invoke(cli.main, ["zoo", "unpack", "tiny", "--output", "out/w.npz"]).exit_code == 0
    assert Whitening.load("out/w.npz").method == "gcn"
    (Path("models/tiny/deploy.prototxt")).write_text("")
    assert invoke(cli.main, ["zoo", "verify", "tiny"]).exit_code == 1
    unknown = invoke(cli.main, ["zoo", "verify", "nope"])
    assert unknown.output == "Error: model nope: found no card.json in models/nope, expected one of: tiny\n"


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"test_error_percent": "9"}, 'found test_error_percent "9", expected a number'),
        ({"parameters": 1.5}, "found parameters 1.5, expected a whole number"),
        ({"seed": None}, "found seed null, expected a whole number"),
        ({"weights": "tiny.caffemodel"}, 'found weights "tiny.caffemodel", expected an object'),
        ({"deploy": {"file": "deploy.prototxt", "bytes": 1}}, "found deploy.sha1 null, expected a text"),
        (
            {"weights": {"file": "../../x", "bytes": 1, "sha1": ""}},
            "found weights.file '../../x', expected a file of the model",
        ),
        (
            {"whitening": {"file": "/etc/passwd", "bytes": 1, "sha1": ""}},
            "found whitening.file '/etc/passwd', expected a file",
        ),
    ],
)
def test_a_card_of_another_form_is_one_line(run: Path, changes: dict[str, object], found: str) -> None:
    """A tampered card.json is named with the entry; no file beside the model is read for it."""
    made = zoo.add(run, name="tiny")
    (made.folder / zoo.CARD).write_text(json.dumps(made.facts | changes))
    with pytest.raises(zoo.ZooError) as caught:
        zoo.verify("tiny")
    assert str(caught.value).startswith(f"models/tiny/card.json: {found}")


@pytest.mark.parametrize("name", ["../x", "", "a b", ".x"])
def test_a_model_is_named_like_a_folder(run: Path, name: str) -> None:
    """No name leads out of the zoo."""
    with pytest.raises(zoo.ZooError, match="^name: found .*, expected letters, digits"):
        zoo.add(run, name=name)


def test_the_committed_models_are_as_their_cards_say() -> None:
    """Sizes, SHA-1, page and shapes of every model in models/."""
    assert [problem for model in zoo.cards(ROOT / "models") for problem in zoo.verify(model.folder)] == []


def test_the_help_examples_follow_each_other(run: Path) -> None:
    """Where `make cifar10-allcnn-c` has left its run, the examples of add, verify, unpack and list do what they say."""
    added, verified, unpacked, listed = (
        shlex.split((cli.main.commands["zoo"].commands[name].epilog or "").splitlines()[-1])[1:]
        for name in ("add", "verify", "unpack", "list")
    )
    settings = json.loads((run / "settings.json").read_text())
    settings["data"]["folder"] = verified[verified.index("--data") + 1]
    (run / "settings.json").write_text(json.dumps(settings))
    Path("data/made").rename(settings["data"]["folder"])
    Path(added[2]).parent.mkdir(parents=True)
    run.rename(added[2])
    for words, said in (
        (added, "models/cifar10-allcnn-c: "),
        (verified, "cifar10-allcnn-c: as its card says, error included"),
        (unpacked, "build/whitening.npz"),
        (listed, "cifar10-allcnn-c  "),
    ):
        result = CliRunner().invoke(cli.main, words)
        assert result.exit_code == 0 and result.output.startswith(said), (words, result.output)

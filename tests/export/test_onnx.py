"""`allconv export --to onnx`: onnxruntime, OpenCV and NumPy give what this engine gives, and what cannot be written is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from support import exported, extras
from support.exported import ALONE, LARGE, NETS

from allconv_caffe.caffe_torch.net import Net
from allconv_caffe.cli.main import main
from allconv_caffe.export import onnx_file, whole
from allconv_caffe.export.errors import ExportError
from allconv_caffe.export.layers import WRITERS

pytestmark = pytest.mark.usefixtures("packages")
MODEL = Path(__file__).resolve().parents[2] / "models" / "cifar10-allcnn-c-jpeg"


@pytest.fixture(scope="module")
def packages() -> None:
    for module in ("onnx", "onnxruntime"):
        extras.needed(module, "export")


def _session(path: Path) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def _same(net: Net, path: Path) -> None:
    """onnxruntime's outputs are the engine's for five images at once, to 1e-5 of each value."""
    x = np.random.default_rng(3).normal(size=(5, *net.blobs["data"].shape[1:])).astype(np.float32)
    right = exported.answers(net, x)
    session = _session(path)
    assert [value.name for value in session.get_outputs()] == net.outputs
    for found, expected in zip(session.run(None, {"data": x}), right, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("what", ALONE)
def test_a_layer_alone(what: str, tmp_path: Path) -> None:
    """Each layer, on odd sizes, gives in onnxruntime what it gives here."""
    kind, lines, shape = ALONE[what]
    net = exported.net(f'layer {{ name: "one" type: "{kind}" bottom: "data" top: "out" {lines} }}', *shape)
    written = onnx_file.export(net, tmp_path / "one.onnx", exported.plain(), pixels=False)
    assert written.difference <= 1e-5
    _same(net, written.path)


@pytest.mark.parametrize("what", NETS)
def test_a_net(what: str, tmp_path: Path) -> None:
    """So do layers that read several blobs, write in place, or stand in one net."""
    net = exported.net(NETS[what], 3, 9, 9)
    _same(net, onnx_file.export(net, tmp_path / "net.onnx", exported.plain(), pixels=False).path)


@pytest.mark.parametrize("name", LARGE)
def test_a_large_net(name: str, tmp_path: Path) -> None:
    """CaffeNet, GoogLeNet, SqueezeNet, ResNet and the paper's networks, pixels in."""
    net, pixels = exported.large(name), name != "lenet"  # whose images are grey
    preparation = exported.of_pixels() if pixels else exported.plain()
    written = onnx_file.export(net, tmp_path / "net.onnx", preparation, pixels=pixels)
    assert written.difference <= 1e-5


def test_every_type_is_tested() -> None:
    """Whoever adds a type adds a case."""
    assert not exported.untested()


@pytest.mark.parametrize("layer", ["drop", "relu"])
def test_an_output_that_is_written_in_place(layer: str, tmp_path: Path) -> None:
    """The last of several writes of a blob is what the file's value of that name holds, over the input, too."""
    kind = {"drop": "Dropout", "relu": "ReLU"}[layer]
    net = exported.net(
        f'layer {{ name: "{layer}" type: "{kind}" bottom: "out" top: "out" }}'.join(
            ['layer { name: "tanh" type: "TanH" bottom: "data" top: "out" }', ""]
        ),
        2,
        3,
        3,
    )
    _same(net, onnx_file.export(net, tmp_path / "net.onnx", exported.plain(), pixels=False).path)


CLASSES = 'layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc" inner_product_param { num_output: 4 ' + (
    'weight_filler { type: "gaussian" std: 0.01 } } }'
)


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_mean_scale_and_order_are_inside(order: str, tmp_path: Path) -> None:
    """Pixels R, G, B come to the net in its order, less the mean, times the scale; scores leave as probabilities."""
    net, mean = exported.net(CLASSES, 3, 5, 6), np.float32([[[10]], [[20]], [[30]]])
    given = exported.plain(order=order, mean=mean, scale=0.5, blob=lambda p: (np.float32(p) - mean) * np.float32(0.5))
    path = onnx_file.export(net, tmp_path / "net.onnx", given).path
    pixels = np.random.default_rng(4).integers(0, 256, (3, 3, 5, 6), np.uint8)
    x = (pixels[:, ::-1] if order == "BGR" else pixels) * 1.0
    scores = ((x - mean) * 0.5).reshape(3, -1) @ net.layers[1].blobs[0].data.numpy().T
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    (found,) = _session(path).run(["probabilities"], {"pixels": pixels})
    np.testing.assert_allclose(found, powers / powers.sum(axis=1, keepdims=True), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [4, 7])
@pytest.mark.parametrize("method", ["gcn-zca", "gcn", "raw"])
def test_whitening_is_inside(method: str, size: int, tmp_path: Path) -> None:
    """GCN, ZCA and the mean image, of the middle of a larger image, zeros around; an image of one colour is no division
    by nothing."""
    given = exported.whitening(method, size)
    net = exported.net(
        'layer { name: "out" type: "Power" bottom: "data" top: "out" }\n' + CLASSES.replace('"data"', '"out"'),
        3,
        size,
        size,
    )
    path = onnx_file.export(net, tmp_path / "net.onnx", given).path
    pixels = np.random.default_rng(7).integers(0, 256, (4, 3, size, size), np.uint8)
    pixels[1] = 77
    scores = given.blob(pixels).reshape(4, -1).astype(np.float64) @ net.layers[2].blobs[0].data.numpy().T
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    (found,) = _session(path).run(None, {"pixels": pixels})
    np.testing.assert_allclose(found, powers / powers.sum(axis=1, keepdims=True), rtol=2e-5)


def test_a_wrong_answer_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What onnxruntime answers otherwise than the engine is an error, and no file."""
    monkeypatch.setitem(WRITERS, "TanH", WRITERS["Sigmoid"])
    net = exported.net('layer { name: "tanh" type: "TanH" bottom: "data" top: "out" }', 2, 3, 3)
    with pytest.raises(ExportError, match="beside the engine's, expected 1e-05 at most"):
        onnx_file.export(net, tmp_path / "net.onnx", exported.plain(), pixels=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("layers", "line"),
    [
        (
            'layer { name: "best" type: "ArgMax" bottom: "data" top: "best" }',
            f"deploy.prototxt: layer 'best': found type ArgMax, expected a type that can be written (choices: {', '.join(WRITERS)})",
        ),
        (
            'layer { name: "pool" type: "Pooling" bottom: "data" top: "pool" top: "where" pooling_param '
            "{ kernel_size: 1 stride: 3 } }",
            "deploy.prototxt: layer 'pool': found a second top, and windows behind the image, expected windows that have a "
            "maximum",
        ),
        (
            'layer { name: "bn" type: "BatchNorm" bottom: "data" top: "bn" batch_norm_param { use_global_stats: false } }',
            "deploy.prototxt: layer 'bn': found statistics of the batch (use_global_stats: false), expected those of training",
        ),
        (
            'layer { name: "rows" type: "Reshape" bottom: "data" top: "rows" reshape_param { shape { dim: -1 dim: 5 } } }',
            "deploy.prototxt: layer 'rows': found a top of shape (36, 5) for 3 images, expected one row for each image",
        ),
    ],
)
def test_what_cannot_be_written_is_named(layers: str, line: str, tmp_path: Path) -> None:
    """One line: the layer, what it is, what could be written."""
    with pytest.raises(ExportError) as error:
        onnx_file.export(exported.net(layers, 3, 4, 5), tmp_path / "net.onnx", exported.plain(), pixels=False)
    assert str(error.value) == line
    assert not list(tmp_path.iterdir())


def _call(*words: str) -> Result:
    return CliRunner().invoke(main, list(words))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], np.ndarray]:
    """Paths of two PNGs, and their pixels (2, 3, 32, 32), planes R, G, B."""
    folder = tmp_path_factory.mktemp("pictures")
    pixels = np.random.default_rng(8).integers(0, 256, (2, 3, 8, 8), np.uint8).repeat(4, axis=2).repeat(4, axis=3)
    paths = [str(folder / f"{i}.png") for i in range(2)]
    for path, image in zip(paths, pixels, strict=True):
        assert cv2.imwrite(path, image[::-1].transpose(1, 2, 0))
    return paths, pixels


def test_all_cnn_c_answers_as_predict_does(tmp_path: Path, pictures: tuple[list[str], np.ndarray]) -> None:
    """Pixels into the file give the probabilities of `allconv predict`; the class names are in it."""
    path = tmp_path / "model.onnx"
    out = _call("export", str(MODEL), "--to", "onnx", "--output", str(path))
    assert out.exit_code == 0, out.output
    assert out.stdout.startswith(f"{path}: pixels uint8 (N, 3, 32, 32) -> probabilities float32 (N, 10)\n")
    session = _session(path)
    names = json.loads(session.get_modelmeta().custom_metadata_map["class_names"])
    (found,) = session.run(None, {"pixels": pictures[1]})
    said = _call("predict", str(MODEL), *pictures[0], "--json", "--top", "10")
    for row, line in zip(found, said.stdout.splitlines(), strict=True):
        right = {answer["class"]: answer["probability"] for answer in json.loads(line)["answers"]}
        assert dict(zip(names, map(float, row), strict=True)) == pytest.approx(right, abs=1e-5)


def test_opencv_reads_the_bare_net(tmp_path: Path) -> None:
    """A second reader: OpenCV's answer for All-CNN-C's input blob is onnxruntime's."""
    path = tmp_path / "bare.onnx"
    out = _call("export", str(MODEL), "--to", "onnx", "--input", "prepared", "--output", str(path), "--json")
    assert out.exit_code == 0, out.output
    said = json.loads(out.stdout)
    assert (said["path"], said["checked"], said["inputs"]) == (str(path), "onnxruntime", "data float32 (N, 3, 32, 32)")
    x = np.random.default_rng(9).normal(size=(2, 3, 32, 32)).astype(np.float32)
    (right,) = _session(path).run(["prob"], {"data": x})
    net = cv2.dnn.readNetFromONNX(str(path))
    net.setInput(x)
    np.testing.assert_allclose(net.forward(), right, rtol=1e-4, atol=1e-6)


NEW_OPENCV = pytest.mark.skipif(int(cv2.__version__.partition(".")[0]) < 5, reason="no OpenCV 5")


def _ask_opencv(path: Path, given: np.ndarray) -> np.ndarray:
    net = cv2.dnn.readNetFromONNX(str(path))
    net.setInput(given)
    return np.asarray(net.forward())


@NEW_OPENCV
@pytest.mark.parametrize("what", [what for what in ALONE if what != "mean, a window outside"])
def test_opencv_5_reads_a_layer(what: str, tmp_path: Path) -> None:
    """OpenCV 5, which has no reader for Caffe's files, gives for each layer what this engine gives."""
    kind, lines, shape = ALONE[what]
    net = exported.net(f'layer {{ name: "one" type: "{kind}" bottom: "data" top: "out" {lines} }}', *shape)
    path = onnx_file.export(net, tmp_path / "one.onnx", exported.plain(), pixels=False).path
    x = np.random.default_rng(3).normal(size=(2, *shape)).astype(np.float32)
    (right,) = exported.answers(net, x)
    np.testing.assert_allclose(_ask_opencv(path, x), right, rtol=1e-5, atol=1e-5 * np.abs(right).max())


@NEW_OPENCV
@pytest.mark.parametrize("what", NETS)
def test_opencv_5_reads_a_net(what: str, tmp_path: Path) -> None:
    """So it does for layers that read several blobs or give several, and for tables."""
    net = exported.net(NETS[what], 3, 9, 9)
    path = onnx_file.export(net, tmp_path / "net.onnx", exported.plain(), pixels=False).path
    x = np.random.default_rng(3).normal(size=(2, 3, 9, 9)).astype(np.float32)
    read = cv2.dnn.readNetFromONNX(str(path))
    read.setInput(x)
    for found, right in zip(read.forward(net.outputs), exported.answers(net, x), strict=True):
        np.testing.assert_allclose(np.reshape(found, right.shape), right, rtol=0, atol=1e-5 * np.abs(right).max())


@NEW_OPENCV
@pytest.mark.parametrize("pixels", [False, True])
@pytest.mark.parametrize("name", ["caffenet", "googlenet", "squeezenet", "resnet20", "cifar10-allcnn-c"])
def test_opencv_5_reads_a_large_net(name: str, pixels: bool, tmp_path: Path) -> None:
    """So it does for whole nets, the bare blob or uint8 pixels in."""
    net, preparation = exported.large(name), exported.of_pixels()
    path = onnx_file.export(net, tmp_path / "net.onnx", preparation, pixels=pixels).path
    given = np.random.default_rng(3).integers(0, 256, (1, *net.blobs["data"].shape[1:]), np.uint8)
    blob = preparation.apply(given)
    (right,) = whole.answers(net, blob, pixels=pixels)
    found = _ask_opencv(path, given if pixels else blob).reshape(right.shape)
    np.testing.assert_allclose(found, right, rtol=0, atol=1e-5 * np.abs(right).max())


@NEW_OPENCV
def test_opencv_5_answers_for_pixels(tmp_path: Path, pictures: tuple[list[str], np.ndarray]) -> None:
    """All-CNN-C with its whitening inside: OpenCV 5 gives onnxruntime's probabilities."""
    path = tmp_path / "model.onnx"
    assert _call("export", str(MODEL), "--to", "onnx", "--output", str(path)).exit_code == 0
    (right,) = _session(path).run(None, {"pixels": pictures[1][:1]})
    np.testing.assert_allclose(_ask_opencv(path, pictures[1][:1]), right, atol=1e-5)


def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without onnxruntime one line says what to install, and nothing is written."""
    import sys

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    out = _call("export", str(MODEL), "--to", "onnx", "--output", str(tmp_path / "model.onnx"))
    assert out.exit_code == 1
    assert "no onnxruntime (" in out.output
    assert out.output.endswith("expected the extra `export`: pip install 'allconv-caffe[export]'\n")
    assert not list(tmp_path.iterdir())

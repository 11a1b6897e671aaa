"""`allconv export --to onnx`: onnxruntime, OpenCV and NumPy give what this engine gives, and what cannot be written is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from support import extras

from allconv_caffe import proto
from allconv_caffe.caffe_torch import glog
from allconv_caffe.caffe_torch.layer import Context
from allconv_caffe.caffe_torch.net import Net
from allconv_caffe.cli.main import main
from allconv_caffe.export import onnx_file, onnx_layers
from allconv_caffe.export.errors import ExportError
from allconv_caffe.export.onnx_layers import WRITERS
from allconv_caffe.export.pixels import Preparation
from data_prep.whitening import Whitening

pytestmark = pytest.mark.usefixtures("packages")
MODEL = Path(__file__).resolve().parents[2] / "models" / "cifar10-allcnn-c-jpeg"
FILLED = 'weight_filler { type: "gaussian" std: 0.3 } bias_filler { type: "gaussian" std: 0.3 }'

# by what it shows: a layer's type, its other lines, and the shape of its bottom without the axis of the images
ALONE: dict[str, tuple[str, str, tuple[int, ...]]] = {
    "conv": ("Convolution", f"convolution_param {{ num_output: 6 kernel_size: 3 {FILLED} }}", (4, 7, 9)),
    "conv strides, pads": (
        "Convolution",
        f"convolution_param {{ num_output: 6 kernel_h: 3 kernel_w: 5 stride_h: 2 stride_w: 3 pad_h: 1 pad_w: 2 {FILLED} }}",
        (4, 9, 11),
    ),
    "conv groups, dilation": (
        "Convolution",
        f"convolution_param {{ num_output: 6 kernel_size: 3 dilation: 2 pad: 1 group: 2 {FILLED} }}",
        (4, 9, 7),
    ),
    "conv larger than the image": (
        "Convolution",
        f"convolution_param {{ num_output: 2 kernel_size: 4 stride: 3 bias_term: false {FILLED} }}",
        (2, 3, 3),
    ),
    "conv of a line": ("Convolution", f"convolution_param {{ num_output: 3 kernel_size: 3 {FILLED} }}", (2, 9)),
    "deconv": (
        "Deconvolution",
        f"convolution_param {{ num_output: 6 kernel_size: 3 stride: 2 pad: 1 dilation: 2 group: 2 {FILLED} }}",
        (4, 5, 6),
    ),
    "max, rounded up": ("Pooling", "pooling_param { kernel_size: 3 stride: 2 }", (2, 8, 10)),
    "max, rounded down": ("Pooling", "pooling_param { kernel_size: 3 stride: 2 round_mode: FLOOR }", (2, 8, 10)),
    "max, a window dropped": ("Pooling", "pooling_param { kernel_size: 2 stride: 2 pad: 1 }", (2, 7, 5)),
    "max, a window outside": ("Pooling", "pooling_param { kernel_size: 1 stride: 3 }", (2, 5, 6)),
    "max of all": ("Pooling", "pooling_param { global_pooling: true }", (2, 5, 6)),
    "mean": ("Pooling", "pooling_param { pool: AVE kernel_size: 2 stride: 2 }", (2, 6, 8)),
    "mean, clipped": ("Pooling", "pooling_param { pool: AVE kernel_size: 3 stride: 2 }", (2, 8, 10)),
    "mean over padding": ("Pooling", "pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 }", (2, 7, 9)),
    "mean over padding, clipped": (
        "Pooling",
        "pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 }",
        (2, 8, 10),
    ),
    "mean, a window outside": ("Pooling", "pooling_param { pool: AVE kernel_size: 1 stride: 3 }", (2, 5, 6)),
    "mean of all": ("Pooling", "pooling_param { pool: AVE global_pooling: true }", (2, 5, 6)),
    "relu": ("ReLU", "", (2, 3, 5)),
    "leaky relu": ("ReLU", "relu_param { negative_slope: 0.2 }", (2, 3, 5)),
    "prelu": ("PReLU", 'prelu_param { filler { type: "uniform" } }', (3, 3, 5)),
    "prelu, shared": ("PReLU", "prelu_param { channel_shared: true }", (3, 3, 5)),
    "elu": ("ELU", "elu_param { alpha: 0.7 }", (2, 3, 5)),
    "sigmoid": ("Sigmoid", "", (2, 3, 5)),
    "tanh": ("TanH", "", (2, 3, 5)),
    "absolute value": ("AbsVal", "", (2, 3, 5)),
    "power": ("Power", "power_param { power: 2 scale: 0.5 shift: 0.3 }", (2, 3, 5)),
    "power, idle": ("Power", "", (2, 3, 5)),
    "power, constant": ("Power", "power_param { power: 2 scale: 0 shift: 3 }", (2, 3, 5)),
    "lrn": ("LRN", "lrn_param { local_size: 3 alpha: 0.5 beta: 0.6 k: 2 }", (7, 3, 5)),
    "lrn in a channel": ("LRN", "lrn_param { local_size: 3 alpha: 0.5 norm_region: WITHIN_CHANNEL }", (2, 5, 7)),
    "inner product": ("InnerProduct", f"inner_product_param {{ num_output: 4 {FILLED} }}", (2, 3, 5)),
    "inner product, transposed": (
        "InnerProduct",
        f"inner_product_param {{ num_output: 4 transpose: true bias_term: false {FILLED} }}",
        (7,),
    ),
    "inner product, axis": ("InnerProduct", f"inner_product_param {{ num_output: 4 axis: 2 {FILLED} }}", (2, 3, 5)),
    "scale": (
        "Scale",
        'scale_param { bias_term: true filler { type: "uniform" } bias_filler { type: "uniform" } }',
        (3, 4, 5),
    ),
    "scale, axes": ("Scale", 'scale_param { axis: 2 num_axes: 2 filler { type: "uniform" } }', (3, 4, 5)),
    "bias": ("Bias", 'bias_param { filler { type: "uniform" } }', (3, 4, 5)),
    "softmax": ("Softmax", "", (5, 2, 3)),
    "softmax, axis": ("Softmax", "softmax_param { axis: -1 }", (5, 2, 3)),
    "flatten": ("Flatten", "", (5, 2, 3)),
    "flatten, axis": ("Flatten", "flatten_param { axis: 2 }", (5, 2, 3)),
    "reshape": ("Reshape", "reshape_param { shape { dim: 0 dim: 3 dim: -1 } }", (6, 2, 3)),
    "dropout": ("Dropout", "", (2, 3, 5)),
    "batch norm": ("BatchNorm", "batch_norm_param { eps: 0.01 }", (3, 4, 5)),
    "concat of one": ("Concat", "", (3, 4, 5)),
}
# every other type, and types that stand beside another, in nets of their own
NETS: dict[str, str] = {
    "eltwise": """
layer { name: "a" type: "Power" bottom: "data" top: "a" power_param { scale: 2 } }
layer { name: "b" type: "TanH" bottom: "data" top: "b" }
layer { name: "sum" type: "Eltwise" bottom: "a" bottom: "b" bottom: "data" top: "sum"
  eltwise_param { coeff: 1 coeff: -2 coeff: 0.5 } }
layer { name: "product" type: "Eltwise" bottom: "a" bottom: "b" top: "product" eltwise_param { operation: PROD } }
layer { name: "max" type: "Eltwise" bottom: "sum" bottom: "product" bottom: "b" top: "max"
  eltwise_param { operation: MAX } }
""",
    "eltwise in place": """
layer { name: "a" type: "Power" bottom: "data" top: "a" power_param { scale: 2 } }
layer { name: "b" type: "TanH" bottom: "data" top: "b" }
layer { name: "sum" type: "Eltwise" bottom: "a" bottom: "b" top: "a" eltwise_param { coeff: 3 coeff: 2 } }
""",
    "two bottoms": """
layer { name: "mean" type: "Pooling" bottom: "data" top: "mean" pooling_param { pool: AVE global_pooling: true } }
layer { name: "flat" type: "Flatten" bottom: "mean" top: "flat" }
layer { name: "gate" type: "Sigmoid" bottom: "flat" top: "gate" }
layer { name: "scale" type: "Scale" bottom: "data" bottom: "gate" top: "scale" scale_param { axis: 0 } }
layer { name: "bias" type: "Bias" bottom: "scale" bottom: "flat" top: "bias" bias_param { axis: 0 } }
""",
    "everything": f"""
layer {{ name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param {{ num_output: 8 kernel_size: 3 pad: 1 {FILLED} }} }}
layer {{ name: "bn1" type: "BatchNorm" bottom: "conv1" top: "conv1" }}
layer {{ name: "scale1" type: "Scale" bottom: "conv1" top: "conv1"
  scale_param {{ bias_term: true filler {{ type: "uniform" }} }} }}
layer {{ name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }}
layer {{ name: "norm1" type: "LRN" bottom: "conv1" top: "norm1" }}
layer {{ name: "conv2" type: "Convolution" bottom: "norm1" top: "conv2"
  convolution_param {{ num_output: 8 group: 4 kernel_size: 3 pad: 1 {FILLED} }} }}
layer {{ name: "sum" type: "Eltwise" bottom: "conv1" bottom: "conv2" top: "sum" }}
layer {{ name: "pool" type: "Pooling" bottom: "sum" top: "pool" pooling_param {{ kernel_size: 3 stride: 2 }} }}
layer {{ name: "up" type: "Deconvolution" bottom: "pool" top: "up"
  convolution_param {{ num_output: 4 kernel_size: 2 stride: 2 {FILLED} }} }}
layer {{ name: "down" type: "Pooling" bottom: "up" top: "down" pooling_param {{ kernel_size: 2 stride: 2 }} }}
layer {{ name: "both" type: "Concat" bottom: "pool" bottom: "down" top: "both" }}
layer {{ name: "drop" type: "Dropout" bottom: "both" top: "both" }}
layer {{ name: "fc" type: "InnerProduct" bottom: "both" top: "fc"
  inner_product_param {{ num_output: 5 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "prob" type: "Softmax" bottom: "fc" top: "prob" }}
""",
}


@pytest.fixture(scope="module")
def packages() -> None:
    for module in ("onnx", "onnxruntime"):
        extras.needed(module, "export")


def _net(layers: str, *shape: int) -> Net:
    """A net over "data" (1, *shape), its statistics no longer those that it begins with."""
    dims = " ".join(f"dim: {size}" for size in (1, *shape))
    text = f'layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ {dims} }} }} }}\n{layers}'
    with glog.quiet():
        net = Net(proto.parse_text(text, proto.NetParameter), Context(), where="deploy.prototxt")
    rng = np.random.default_rng(5)
    for layer in net.layers:
        if layer.type == "BatchNorm":
            for blob, low in zip(layer.blobs, (-1, 1, 1.5), strict=True):
                blob.data_array()[:] = rng.uniform(low, low + 1, blob.shape)
    return net


def _plain(**more: Any) -> Preparation:
    words: dict[str, Any] = dict(order="RGB", mean=None, scale=1.0, whitening=None)
    return Preparation(**{**words, "blob": lambda pixels: np.float32(pixels) / 100 - 1, **more})


def _session(path: Path) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def _same(net: Net, path: Path) -> None:
    """onnxruntime's outputs are the engine's for five images at once, to 1e-5 of each value."""
    blob = net.blobs["data"]
    x = np.random.default_rng(3).normal(size=(5, *blob.shape[1:])).astype(np.float32)
    blob.reshape(*x.shape)
    blob.data_array()[:] = x
    with glog.quiet():
        net.forward()
    session = _session(path)
    assert [value.name for value in session.get_outputs()] == net.outputs
    for found, name in zip(session.run(None, {"data": x}), net.outputs, strict=True):
        np.testing.assert_allclose(found, net.blobs[name].data.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("what", ALONE)
def test_a_layer_alone(what: str, tmp_path: Path) -> None:
    """Each layer, on odd sizes, gives in onnxruntime what it gives here."""
    kind, lines, shape = ALONE[what]
    net = _net(f'layer {{ name: "one" type: "{kind}" bottom: "data" top: "out" {lines} }}', *shape)
    written = onnx_file.export(net, tmp_path / "one.onnx", _plain(), pixels=False)
    assert written.difference <= 1e-5
    _same(net, written.path)


@pytest.mark.parametrize("what", NETS)
def test_a_net(what: str, tmp_path: Path) -> None:
    """So do layers that read several blobs, write in place, or stand in one net."""
    net = _net(NETS[what], 3, 9, 9)
    _same(net, onnx_file.export(net, tmp_path / "net.onnx", _plain(), pixels=False).path)


def test_every_type_is_tested() -> None:
    """Whoever adds a type adds a case."""
    text = " ".join(NETS.values())
    tested = {kind for kind, _, _ in ALONE.values()} | {kind for kind in WRITERS if f'type: "{kind}"' in text}
    assert tested == WRITERS.keys() - {"Split"}  # which stands between a blob and its readers in every net above


@pytest.mark.parametrize("layer", ["drop", "relu"])
def test_an_output_that_is_written_in_place(layer: str, tmp_path: Path) -> None:
    """The last of several writes of a blob is what the file's value of that name holds, over the input, too."""
    kind = {"drop": "Dropout", "relu": "ReLU"}[layer]
    net = _net(
        f'layer {{ name: "{layer}" type: "{kind}" bottom: "out" top: "out" }}'.join(
            ['layer { name: "tanh" type: "TanH" bottom: "data" top: "out" }', ""]
        ),
        2,
        3,
        3,
    )
    _same(net, onnx_file.export(net, tmp_path / "net.onnx", _plain(), pixels=False).path)


CLASSES = 'layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc" inner_product_param { num_output: 4 ' + (
    'weight_filler { type: "gaussian" std: 0.01 } } }'
)


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_mean_scale_and_order_are_inside(order: str, tmp_path: Path) -> None:
    """Pixels R, G, B come to the net in its order, less the mean, times the scale; scores leave as probabilities."""
    net, mean = _net(CLASSES, 3, 5, 6), np.float32([[[10]], [[20]], [[30]]])
    given = _plain(order=order, mean=mean, scale=0.5, blob=lambda p: (np.float32(p) - mean) * np.float32(0.5))
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
    rng = np.random.default_rng(6)
    matrix = rng.normal(size=(48, 48)).astype(np.float32) / 7
    transform = Whitening(
        method=method,
        shape=(3, 4, 4),
        mean=rng.normal(size=48).astype(np.float32),
        zca=matrix + matrix.T if method == "gcn-zca" else None,
    )
    edge = (size - 4) // 2
    middle = (..., slice(edge, edge + 4), slice(edge, edge + 4))

    def blob(pixels: np.ndarray) -> np.ndarray:
        out = np.zeros(pixels.shape, np.float32)
        out[middle] = transform.whiten(np.ascontiguousarray(pixels[middle]))
        return out

    net = _net(
        'layer { name: "out" type: "Power" bottom: "data" top: "out" }\n' + CLASSES.replace('"data"', '"out"'),
        3,
        size,
        size,
    )
    path = onnx_file.export(net, tmp_path / "net.onnx", _plain(whitening=transform, blob=blob)).path
    pixels = rng.integers(0, 256, (4, 3, size, size), np.uint8)
    pixels[1] = 77
    scores = blob(pixels).reshape(4, -1).astype(np.float64) @ net.layers[2].blobs[0].data.numpy().T
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    (found,) = _session(path).run(None, {"pixels": pixels})
    np.testing.assert_allclose(found, powers / powers.sum(axis=1, keepdims=True), rtol=2e-5)


def test_a_wrong_answer_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What onnxruntime answers otherwise than the engine is an error, and no file."""
    monkeypatch.setitem(WRITERS, "TanH", onnx_layers.WRITERS["Sigmoid"])
    net = _net('layer { name: "tanh" type: "TanH" bottom: "data" top: "out" }', 2, 3, 3)
    with pytest.raises(ExportError, match="beside the engine's, expected 1e-05 at most"):
        onnx_file.export(net, tmp_path / "net.onnx", _plain(), pixels=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("layers", "line"),
    [
        (
            'layer { name: "best" type: "ArgMax" bottom: "data" top: "best" }',
            f"deploy.prototxt: layer 'best': found type ArgMax, expected a type that can be written (choices: {', '.join(WRITERS)})",
        ),
        (
            'layer { name: "pool" type: "Pooling" bottom: "data" top: "pool" top: "where" pooling_param { kernel_size: 2 } }',
            "deploy.prototxt: layer 'pool': found a second top, expected the maxima alone: another engine counts their "
            "places otherwise",
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
        onnx_file.export(_net(layers, 3, 4, 5), tmp_path / "net.onnx", _plain(), pixels=False)
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
    out = _call("export", str(MODEL), "--to", "onnx", "--input", "prepared", "--output", str(path))
    assert out.exit_code == 0, out.output
    x = np.random.default_rng(9).normal(size=(2, 3, 32, 32)).astype(np.float32)
    (right,) = _session(path).run(["prob"], {"data": x})
    net = cv2.dnn.readNetFromONNX(str(path))
    net.setInput(x)
    np.testing.assert_allclose(net.forward(), right, rtol=1e-4, atol=1e-6)


def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without onnxruntime one line says what to install, and nothing is written."""
    import sys

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    out = _call("export", str(MODEL), "--to", "onnx", "--output", str(tmp_path / "model.onnx"))
    assert out.exit_code == 1
    assert "no onnxruntime (" in out.output
    assert out.output.endswith("expected the extra `export`: pip install 'allconv-caffe[export]'\n")
    assert not list(tmp_path.iterdir())

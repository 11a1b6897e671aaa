"""`allconv export --to torch`: a Python file of torch alone, with weights beside it, that answers as this engine does."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from support import exported, extras
from support.exported import ALONE, LARGE, NETS

from allconv_caffe import files
from allconv_caffe.caffe_torch.net import Net
from allconv_caffe.cli.main import main
from allconv_caffe.export import torch_file
from allconv_caffe.export.errors import ExportError
from allconv_caffe.export.layers import WRITERS
from allconv_caffe.export.torch_ops import SOURCES

pytestmark = pytest.mark.usefixtures("packages")
MODEL = Path(__file__).resolve().parents[2] / "models" / "cifar10-allcnn-c-jpeg"
TRACED = "eager"
"""The backend that traces the module in one graph, and compiles no C++."""


@pytest.fixture(scope="module")
def packages() -> None:
    extras.needed("safetensors", "export")


def _answers(path: Path, images: np.ndarray) -> list[np.ndarray]:
    with torch.inference_mode():
        found = torch_file.read(path).load()(torch.from_numpy(images))
    return [each.numpy() for each in (found if isinstance(found, tuple) else (found,))]


def _same(net: Net, path: Path) -> None:
    """The module's outputs are the engine's for five images at once, to 1e-5 of each value."""
    x = np.random.default_rng(3).normal(size=(5, *net.blobs["data"].shape[1:])).astype(np.float32)
    right = exported.answers(net, x)
    for found, expected in zip(_answers(path, x), right, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("what", ALONE)
def test_a_layer_alone(what: str, tmp_path: Path) -> None:
    """Each layer, on odd sizes, gives in the written module what it gives here."""
    kind, lines, shape = ALONE[what]
    net = exported.net(f'layer {{ name: "one" type: "{kind}" bottom: "data" top: "out" {lines} }}', *shape)
    written = torch_file.export(net, tmp_path / "one.py", exported.plain(), pixels=False, backend=TRACED)
    assert written.difference <= 1e-5
    _same(net, written.path)


@pytest.mark.parametrize("what", NETS)
def test_a_net(what: str, tmp_path: Path) -> None:
    """So do layers that read several blobs, write in place, or stand in one net."""
    net = exported.net(NETS[what], 3, 9, 9)
    _same(net, torch_file.export(net, tmp_path / "net.py", exported.plain(), pixels=False, backend=TRACED).path)


@pytest.mark.parametrize("name", LARGE)
def test_a_large_net(name: str, tmp_path: Path) -> None:
    """CaffeNet, GoogLeNet, SqueezeNet, ResNet and the paper's networks, pixels in."""
    net, pixels = exported.large(name), name != "lenet"  # whose images are grey
    preparation = exported.of_pixels() if pixels else exported.plain()
    written = torch_file.export(net, tmp_path / "net.py", preparation, pixels=pixels, backend=TRACED)
    assert written.difference <= 1e-5


def test_resnet_compiled(tmp_path: Path) -> None:
    """What is checked where nobody names a backend: PyTorch's own compiler."""
    written = torch_file.export(exported.large("resnet20"), tmp_path / "net.py", exported.plain(), pixels=False)
    assert written.checked == "the module and torch.compile (inductor)"
    assert written.difference <= 1e-5


SMALL = """
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 4 kernel_size: 3 pad: 1 group: 1 bias_term: false } }
layer { name: "bn1" type: "BatchNorm" bottom: "conv1" top: "conv1" }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "2/pool" type: "Pooling" bottom: "conv1" top: "2/pool" pooling_param { kernel_size: 3 stride: 2 } }
layer { name: "forward" type: "InnerProduct" bottom: "2/pool" top: "class" inner_product_param { num_output: 2 } }
layer { name: "sum" type: "Eltwise" bottom: "class" bottom: "class" top: "self" eltwise_param { coeff: 2 coeff: -0.5 } }
"""


def test_weights_of_another_net_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An export over an earlier one that ends between its two files leaves a module that loads nothing, and says why; the next
    one is whole. Weights that are named are taken."""
    path, first, second = tmp_path / "small.py", exported.net(SMALL, 3, 8, 8), exported.net(SMALL, 3, 8, 8)
    weights = next(layer.blobs[0].data for layer in second.layers if layer.name == "conv1")
    weights.add_(1)
    torch_file.export(first, path, exported.plain(), pixels=False, backend=TRACED)
    old, write = path.read_text(), files.write

    def ended(where: Path, content: str | bytes) -> None:
        if where == path:
            raise KeyboardInterrupt
        write(where, content)

    monkeypatch.setattr(files, "write", ended)
    with pytest.raises(KeyboardInterrupt):
        torch_file.export(second, path, exported.plain(), pixels=False, backend=TRACED)
    monkeypatch.undo()
    assert path.read_text() == old
    with pytest.raises(
        ValueError, match=r"small.safetensors: found SHA-256 \w+, expected \w+, of the weights that were written"
    ):
        torch_file.read(path).load()
    taken = torch_file.read(path).load(path.with_suffix(".safetensors"))
    assert torch.equal(taken.conv1.weight, weights)
    torch_file.export(second, path, exported.plain(), pixels=False, backend=TRACED)
    _same(second, path)


def test_the_file_reads_as_the_prototxt_does(tmp_path: Path) -> None:
    """A line for each layer, in its order and with its names; names that Python or PyTorch has get a stroke."""
    mean = np.float32([[[104]], [[117]], [[123]]])
    given = exported.plain(
        order="BGR", mean=mean, scale=0.5, blob=lambda p: (p - mean) * np.float32(0.5), class_names=("cat", "it's")
    )
    path = tmp_path / "small.py"
    torch_file.export(exported.net(SMALL, 3, 8, 8), path, given, backend=TRACED)
    text = path.read_text()
    start = text.index("CLASS_NAMES")
    assert (
        text[start : text.index("\n\n\ndef load")]
        == '''CLASS_NAMES = (
    'cat', "it's",
)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.empty(3, 1, 1))
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4, eps=1e-05, affine=False)
        self.forward_ = nn.Linear(64, 2)

    def prepare(self, pixels):
        """'data', (N, 3, 8, 8): what the layers take."""
        data = (pixels.float()[:, [2, 1, 0]] - self.mean) * 0.5
        return data

    def forward(self, pixels):
        """Probabilities, (N, 2)."""
        data = self.prepare(pixels)
        conv1 = self.conv1(data)
        conv1 = self.bn1(conv1)
        conv1 = F.relu(conv1)
        _2_pool = F.max_pool2d(conv1, 3, stride=2, ceil_mode=True)
        class_ = self.forward_(_2_pool.flatten(1))
        self_ = class_ * 2.0 + class_ * -0.5
        probabilities = F.softmax(self_.flatten(1), 1)
        return probabilities'''
    )
    imported = {
        name.name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in node.names
    }
    assert imported == {"hashlib", "json", "math", "Path", "torch", "nn", "functional"}


def test_a_blob_that_is_still_read_keeps_its_variable(tmp_path: Path) -> None:
    """Blobs whose names differ in what Python does not allow in a name are two variables."""
    net = exported.net(
        """
layer { name: "a" type: "Power" bottom: "data" top: "a/b" power_param { scale: 2 } }
layer { name: "b" type: "TanH" bottom: "data" top: "a.b" }
layer { name: "sum" type: "Eltwise" bottom: "a/b" bottom: "a.b" top: "sum" }
""",
        2,
        3,
        3,
    )
    _same(net, torch_file.export(net, tmp_path / "net.py", exported.plain(), pixels=False, backend=TRACED).path)


@pytest.mark.parametrize("name", ["__conv", "\x1b[31m", "__init__", "_parameters", "forward", 'a"""\n+b', "$x^{", "ü"])
def test_a_layer_of_any_name_is_written(name: str, tmp_path: Path) -> None:
    """Also of one that Python would keep for the class, or that a module of PyTorch has."""
    text = ascii(name)[1:-1].replace('"', '\\"')
    text = text if name != "ü" else name
    net = exported.net(
        f'layer {{ name: "{text}" type: "InnerProduct" bottom: "data" top: "{text}" inner_product_param {{ num_output: 2 '
        'weight_filler { type: "xavier" } } }',
        2,
        3,
        3,
    )
    _same(net, torch_file.export(net, tmp_path / "net.py", exported.plain(), pixels=False, backend=TRACED).path)


def test_the_weights_are_what_safetensors_reads(tmp_path: Path) -> None:
    """The file's own reader and the safetensors package give the same tensors; `--to safetensors` writes them alone."""
    from safetensors import safe_open
    from safetensors.torch import load_file

    net = exported.net(NETS["everything"], 3, 9, 9)
    path = torch_file.export(net, tmp_path / "net.py", exported.plain(), pixels=False, backend=TRACED).path
    own = torch_file.read(path).read_safetensors(path.with_suffix(".safetensors"))
    right = load_file(path.with_suffix(".safetensors"))
    assert own.keys() == right.keys()
    assert all(torch.equal(own[name], right[name]) for name in own)
    np.testing.assert_array_equal(
        own["conv2.weight"].numpy(), next(layer for layer in net.layers if layer.name == "conv2").blobs[0].data.numpy()
    )
    alone = tmp_path / "alone.safetensors"
    given = exported.plain(class_names=("cat", "dog"))
    torch_file.export_weights(net, alone, given)
    again = load_file(alone)
    assert all(torch.equal(again[name], right[name]) for name in right)
    with safe_open(alone, "pt") as file:
        assert json.loads(file.metadata()["class_names"]) == ["cat", "dog"]


def test_the_module_can_be_trained(tmp_path: Path) -> None:
    """Weights are parameters, what the preparation takes is not; a step of a solver of PyTorch's lowers the loss."""
    mean = np.float32([[[104]], [[117]], [[123]]])
    given = exported.plain(mean=mean, scale=0.01, blob=lambda p: (p - mean) * np.float32(0.01))
    path = torch_file.export(exported.net(SMALL, 3, 8, 8), tmp_path / "net.py", given, backend=TRACED).path
    net = torch_file.read(path).load().train()
    assert {name for name, _ in net.named_parameters()} == {"conv1.weight", "forward_.weight", "forward_.bias"}
    pixels = torch.randint(0, 256, (8, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    solver, losses = torch.optim.SGD(net.parameters(), 0.1), []
    for _ in range(2):
        loss = -net(pixels)[:, 0].log().mean()
        solver.zero_grad()
        loss.backward()
        solver.step()
        losses.append(float(loss))
    assert losses[1] < losses[0]


@pytest.mark.parametrize("method", ["gcn-zca", "raw"])
@pytest.mark.parametrize("size", [4, 7])
def test_whitening_is_inside(method: str, size: int, tmp_path: Path) -> None:
    """GCN, ZCA and the mean image, of the middle of a larger image, zeros around, as NumPy makes them."""
    given = exported.whitening(method, size)
    net = exported.net(SMALL, 3, size, size)
    path = torch_file.export(net, tmp_path / "net.py", given, backend=TRACED).path
    pixels = np.random.default_rng(7).integers(0, 256, (4, 3, size, size), np.uint8)
    pixels[1] = 77
    found = torch_file.read(path).load().prepare(torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(found, given.blob(pixels), rtol=2e-5, atol=2e-5)


def test_a_wrong_answer_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the module answers otherwise than the engine is an error, and no file; so is what it answers compiled."""
    net = exported.net('layer { name: "tanh" type: "TanH" bottom: "data" top: "out" }', 2, 3, 3)
    with monkeypatch.context() as patch:
        patch.setitem(SOURCES, "Tanh", SOURCES["Sigmoid"])
        with pytest.raises(ExportError, match=r"found answers of the module .* beside the engine's, expected 1e-05 at"):
            torch_file.export(net, tmp_path / "net.py", exported.plain(), pixels=False, backend=TRACED)
    monkeypatch.setattr(torch, "compile", lambda module, **_: lambda x: module(x) + 1e-3)
    with pytest.raises(ExportError, match=r"found answers of torch.compile \(eager\) 0\.00\d* beside"):
        torch_file.export(net, tmp_path / "net.py", exported.plain(), pixels=False, backend=TRACED)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    """One line: the layer, what it is, what could be written; and another ending than .py."""
    net = exported.net('layer { name: "best" type: "ArgMax" bottom: "data" top: "best" }', 3, 4, 5)
    with pytest.raises(ExportError) as error:
        torch_file.export(net, tmp_path / "net.py", exported.plain(), pixels=False)
    assert str(error.value) == (
        "deploy.prototxt: layer 'best': found type ArgMax, expected a type that can be written "
        f"(choices: {', '.join(WRITERS)})"
    )
    with pytest.raises(ExportError, match=r"--output: found .*net.txt, expected a name that ends in .py"):
        torch_file.export(net, tmp_path / "net.txt", exported.plain(), pixels=False)
    assert not list(tmp_path.iterdir())


def _call(*words: str) -> Result:
    return CliRunner().invoke(main, list(words))


def test_all_cnn_c_answers_as_predict_does(tmp_path: Path) -> None:
    """Pixels into the module give the probabilities of `allconv predict`; the class names stand in it."""
    pixels = np.random.default_rng(8).integers(0, 256, (2, 3, 8, 8), np.uint8).repeat(4, axis=2).repeat(4, axis=3)
    pictures = [str(tmp_path / f"{i}.png") for i in range(2)]
    for picture, image in zip(pictures, pixels, strict=True):
        assert cv2.imwrite(picture, image[::-1].transpose(1, 2, 0))
    path = tmp_path / "model.py"
    out = _call("export", str(MODEL), "--to", "torch", "--output", str(path))
    assert out.exit_code == 0, out.output
    assert out.stdout.startswith(f"{path}: pixels uint8 (N, 3, 32, 32) -> probabilities float32 (N, 10)\n")
    names = torch_file.read(path).CLASS_NAMES
    said = _call("predict", str(MODEL), *pictures, "--json", "--top", "10")
    for row, line in zip(_answers(path, pixels)[0], said.stdout.splitlines(), strict=True):
        right = {answer["class"]: answer["probability"] for answer in json.loads(line)["answers"]}
        assert dict(zip(names, map(float, row), strict=True)) == pytest.approx(right, abs=1e-5)


def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without safetensors one line says what to install, and nothing is written."""
    modules: dict[str, Any] = sys.modules  # type: ignore[assignment]
    monkeypatch.setitem(modules, "safetensors", None)
    out = _call("export", str(MODEL), "--to", "safetensors", "--output", str(tmp_path / "model.safetensors"))
    assert out.exit_code == 1
    assert "no safetensors (" in out.output
    assert out.output.endswith("expected the extra `export`: pip install 'allconv-caffe[export]'\n")
    assert not list(tmp_path.iterdir())

"""One reconstruction, two engines: real Caffe's maps equal ours, for trained weights and for every kind of layer."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from click.testing import CliRunner

import allconv_caffe.pycaffe as drop_in
from allconv_caffe.bvlc import find as bvlc
from allconv_caffe.cli import main as cli
from allconv_caffe.paper import render as rendering
from allconv_caffe.proto import NetParameter, parse_text, read_net
from allconv_caffe.visualize.mining import TopK
from allconv_caffe.visualize.nets.base import VizNet
from allconv_caffe.visualize.nets.open import open_net
from allconv_caffe.visualize.nets.remote import RemoteNet
from allconv_caffe.visualize.nets.rules import RULES
from allconv_caffe.visualize.reconstruct import reconstruct
from allconv_caffe.visualize.surgery import strides_to_pools
from allconv_caffe.visualize.unit import Unit, argmax_units

pytestmark = pytest.mark.caffe

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "cifar10-allcnn-c-jpeg"
TOLERANCE = 1e-4  # of a map's largest value: float32 sums in another order

CAFFENET = """
name: "small CaffeNet" input: "data" input_shape { dim: 1 dim: 3 dim: 35 dim: 35 }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1" convolution_param { num_output: 8 kernel_size: 5 stride: 2 } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1" pooling_param { pool: MAX kernel_size: 3 stride: 2 } }
layer { name: "norm1" type: "LRN" bottom: "pool1" top: "norm1" lrn_param { local_size: 5 alpha: 0.01 beta: 0.75 } }
layer { name: "conv2" type: "Convolution" bottom: "norm1" top: "conv2"
        convolution_param { num_output: 6 kernel_size: 3 pad: 1 group: 2 } }
layer { name: "relu2" type: "ReLU" bottom: "conv2" top: "conv2_on" }
layer { name: "pool2" type: "Pooling" bottom: "conv2_on" top: "pool2" pooling_param { pool: AVE kernel_size: 3 stride: 2 } }
layer { name: "wide" type: "Convolution" bottom: "pool1" top: "wide" convolution_param { num_output: 6 kernel_size: 1 stride: 2 } }
layer { name: "both" type: "Eltwise" bottom: "pool2" bottom: "wide" top: "both" }
layer { name: "relu_both" type: "ReLU" bottom: "both" top: "both" }
layer { name: "fc6" type: "InnerProduct" bottom: "both" top: "fc6" inner_product_param { num_output: 12 } }
layer { name: "relu6" type: "ReLU" bottom: "fc6" top: "fc6" }
layer { name: "drop6" type: "Dropout" bottom: "fc6" top: "fc6" }
layer { name: "fc8" type: "InnerProduct" bottom: "fc6" top: "fc8" inner_product_param { num_output: 5 } }
layer { name: "prob" type: "Softmax" bottom: "fc8" top: "prob" }
"""


def smooth_images(shape: tuple[int, int, int], n: int) -> np.ndarray:
    """Blobs of colour with the mean and variance of whitened images."""
    rng = np.random.default_rng(5)
    c, h, w = shape
    coarse = rng.standard_normal((n, c, -(-h // 4), -(-w // 4)))
    images = np.kron(coarse, np.ones((1, 1, 4, 4)))[:, :, :h, :w] + 0.3 * rng.standard_normal((n, c, h, w))
    return (images / images.std()).astype(np.float32)


def compare(ours: VizNet, theirs: VizNet, images: np.ndarray, blobs: tuple[str, ...]) -> None:
    """All three rules from each blob's most active unit, and from one further channel, of every image."""
    for blob in blobs:
        shape = ours.blob_shape(blob)
        units = list(argmax_units(ours, images, blob)[0])
        again, values = argmax_units(theirs, images, blob)
        assert list(again) == units, blob
        others = [Unit(blob, (unit.channel + 1) % shape[0], *(size // 2 for size in shape[1:])) for unit in units]
        pairs = [*enumerate(units), *enumerate(others)]
        for rule in RULES:
            one, two = (reconstruct(net, images, pairs, rule, seed=1.0) for net in (ours, theirs))
            np.testing.assert_allclose(one.activations, two.activations, rtol=1e-4, atol=1e-4 * np.abs(values).max())
            assert one.maps[: len(units)].reshape(len(units), -1).any(axis=1).all(), (blob, rule)
            for a, b, unit in zip(one.maps, two.maps, one.units, strict=True):
                np.testing.assert_allclose(a, b, rtol=0, atol=TOLERANCE * np.abs(b).max(), err_msg=f"{unit} {rule}")


@pytest.fixture(scope="module")
def trained() -> Iterator[tuple[VizNet, VizNet]]:
    files = (MODEL / "deploy.prototxt", MODEL / "cifar10-allcnn-c-jpeg.caffemodel")
    ours, theirs = open_net(*files), open_net(*files, engine="caffe")
    assert (ours.engine, theirs.engine) == ("torch", "caffe") and ours.weights_sha256 == theirs.weights_sha256
    yield ours, theirs
    theirs.close()


def test_the_trained_all_cnn_c(trained: tuple[VizNet, VizNet]) -> None:
    """All-CNN-C as trained: low, middle and last layers and the scores, three rules, batches of six."""
    ours, theirs = trained
    compare(ours, theirs, smooth_images(ours.input_shape, 3), ("conv1", "conv3", "conv6", "conv9", "global_pool"))


def test_the_trained_net_after_surgery() -> None:
    """The same weights with strides made pooling: the switches are the same in both."""
    param = strides_to_pools(read_net(MODEL / "deploy.prototxt"))
    weights = MODEL / "cifar10-allcnn-c-jpeg.caffemodel"
    ours = open_net(param, weights)
    with open_net(param, weights, engine="caffe") as theirs:
        compare(ours, theirs, smooth_images(ours.input_shape, 2), ("conv3_pool", "conv6_pool", "conv9", "global_pool"))


def test_every_kind_of_layer_on_the_way() -> None:
    """LRN, overlapping max-pooling, groups, average pooling, a branch, Eltwise, fc with ReLU, dropout, ReLUs in place or not."""
    param = parse_text(CAFFENET, NetParameter)
    ours = open_net(param)
    rng = np.random.default_rng(3)
    params = {
        name: [
            rng.normal(0, np.sqrt(2 / np.prod(blobs[0].shape[1:])), blobs[0].shape),
            rng.normal(0, 0.1, blobs[1].shape),
        ]
        for name, blobs in ours.params().items()
    }
    ours.set_params(params)
    with open_net(param, engine="caffe") as theirs:
        theirs.set_params(params)
        compare(ours, theirs, smooth_images(ours.input_shape, 3), ("conv1", "norm1", "conv2_on", "both", "fc6", "fc8"))


USER = """
import json, os, sys
os.environ["GLOG_minloglevel"] = "2"
import numpy as np
import caffe
path, weights, images, out, channel = sys.argv[1:]
net = caffe.Net(path, weights, caffe.TEST)
x = np.load(images)
net.blobs["data"].reshape(*x.shape)
net.blobs["data"].data[...] = x
net.forward(end="global_pool")
net.blobs["global_pool"].diff[...] = 0
net.blobs["global_pool"].diff[:, int(channel)] = 1
np.save(out, net.backward(start="global_pool")["data"])
"""


@pytest.mark.parametrize(("relu", "rule"), [("plain", "backprop"), ("deconv", "deconvnet"), ("guided", "guided")])
def test_a_rendered_net_in_stock_pycaffe(relu: str, rule: str, tmp_path: Path) -> None:
    """`allconv render --relu` gives a net that plain pycaffe runs, nothing of ours but the layers: its maps are ours."""
    (path,) = rendering.write("cifar10-allcnn-c", tmp_path, relu=relu)
    weights = MODEL / "cifar10-allcnn-c-jpeg.caffemodel"
    ours = open_net(MODEL / "deploy.prototxt", weights)
    images = smooth_images(ours.input_shape, 2)
    np.save(tmp_path / "images.npy", images)
    caffe = bvlc.find_caffe(ROOT)
    assert caffe is not None and caffe.python is not None
    environment = {**caffe.environment(), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    words = [str(path), str(weights), "images.npy", "maps.npy", "3"]
    done = subprocess.run(
        [str(caffe.python), "-c", USER, *words], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    expected = reconstruct(ours, images, [Unit("global_pool", 3)] * 2, rule).maps
    found = np.load(tmp_path / "maps.npy")
    for a, b in zip(found, expected, strict=True):
        assert b.any()
        np.testing.assert_allclose(a, b, rtol=0, atol=TOLERANCE * np.abs(b).max())


def test_the_commands_give_the_same_in_both_engines(
    viz_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`allconv viz mine` and `patches` with --engine caffe: the same places, activations, maps; either may draw what the other
    mined; a mistake gets one line; no process of Caffe's is left."""
    before = set(psutil.Process().children())  # of other tests: a Caffe that answers a whole module
    shutil.copytree(viz_world, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    words = "--model cifar10-allcnn-c-jpeg --data data/cifar10-jpeg --quiet"

    def call(line: str) -> tuple[int, str]:
        result = CliRunner().invoke(cli.main, ["viz", *line.split(), *words.split()], prog_name="allconv")
        return result.exit_code, result.output

    for engine in ("torch", "caffe"):
        assert call(f"mine --engine {engine} --blobs conv3,conv6,global_pool --k 4 --output {engine}.npz")[0] == 0
    one, other = TopK.load("torch.npz"), TopK.load("caffe.npz")
    assert (one.net_sha256, one.weights_sha256, one.source_sha256) == (
        other.net_sha256,
        other.weights_sha256,
        other.source_sha256,
    )
    for blob, channels in one.blobs.items():
        theirs = other.blobs[blob]
        np.testing.assert_allclose(channels.values, theirs.values, rtol=1e-4, atol=1e-5)
        for name in ("keys", "y", "x"):
            assert np.array_equal(getattr(channels, name), getattr(theirs, name)), (blob, name)
        assert np.array_equal(channels.histogram.sum(axis=1), theirs.histogram.sum(axis=1))
    for engine, mined in (("torch", "caffe"), ("caffe", "torch")):
        line = f"patches --engine {engine} --topk {mined}.npz --blobs conv6 --channels 0-5 --k 3 --rules guided,deconvnet,backprop"
        assert call(f"{line} --output drawn-{engine}.png")[0] == 0
    drawn = {}
    for engine in ("torch", "caffe"):
        facts = json.loads(Path(f"drawn-{engine}.json").read_text())
        assert facts["engine"] == engine
        with np.load(facts["arrays"]) as arrays:
            drawn[engine] = {name: arrays[name] for name in arrays.files}
    assert drawn["torch"].keys() == drawn["caffe"].keys() and len(drawn["torch"]["conv6.guided"]) > 6
    for name, maps in drawn["torch"].items():
        np.testing.assert_allclose(
            maps, drawn["caffe"][name], rtol=0, atol=TOLERANCE * np.abs(maps).max(), err_msg=name
        )
    status, said = call("mine --engine caffe --blobs conv99 --output no.npz")
    assert status == 1 and said.startswith("Error: --blobs: found 'conv99'") and said.count("\n") == 1
    (tmp_path / "text.txt").write_text("no weights")
    status, said = call("mine --engine caffe --weights text.txt --output no.npz")
    assert status == 1 and said.startswith("Error: text.txt: found ") and said.count("\n") == 1
    assert set(psutil.Process().children()) <= before


def test_the_drop_in_is_no_real_caffe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the drop-in answers to `import caffe`, --engine caffe still asks a real one, in its own interpreter."""
    monkeypatch.setitem(sys.modules, "caffe", drop_in)
    with open_net(MODEL / "deploy.prototxt", next(MODEL.glob("*.caffemodel")), engine="caffe") as net:
        assert isinstance(net, RemoteNet)

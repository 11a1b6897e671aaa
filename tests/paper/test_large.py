"""Large-All-CNN and the ImageNet net as their sources have them: data layers, stages, fillers, dropout of whole channels."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from allconv_caffe import augment
from allconv_caffe.paper import architectures as a, render as r
from allconv_caffe.paper.datasets import CIFAR10_LARGE, COLOUR_SIGMAS
from allconv_caffe.paper.errors import RenderError, TableError
from allconv_caffe.paper.experiments import EXPERIMENTS
from allconv_caffe.paper.options import NetOptions, RenderOptions
from allconv_caffe.paper.plan import build
from allconv_caffe.paper.render import render
from allconv_caffe.proto import LayerParameter, NetParameter, SolverParameter, parse_text
from allconv_caffe.pycaffe import Net

NAME = "cifar10-large-allcnn"
PYTHON = Path(__file__).resolve().parents[2] / ".caffe" / "bin" / "python"


def data_layers(options: RenderOptions | None = None) -> list[LayerParameter]:
    net = parse_text(render(NAME, options)["train_val.prototxt"], NetParameter)
    return [layer for layer in net.layer if layer.name == "data"]


def test_the_data_layers_are_what_the_python_layer_reads() -> None:
    """Training is distorted with the recipe's ranges, testing plain, from the LMDBs that the data set names."""
    train, plain, test = (
        augment.parse(layer.python_param.param_str, layer.include[0].phase == 0) for layer in data_layers()
    )
    assert train == augment.Settings(source=CIFAR10_LARGE.train_lmdb, batch_size=50), "its defaults are the recipe's"
    assert (test.source, test.distort, test.shuffle, test.size) == (CIFAR10_LARGE.test_lmdb, False, False, 126)
    assert (plain.source, plain.distort, plain.shuffle) == (CIFAR10_LARGE.train_lmdb, False, True)
    assert plain.start == 400 * 50_000, "the plain epochs go on in the order of the records"
    for layer in data_layers():
        assert (layer.python_param.module, layer.python_param.layer) == ("allconv_caffe.python_layers", "AugmentedData")
        assert not layer.HasField("transform_param")
    assert COLOUR_SIGMAS == augment.COLOUR


def test_options_of_the_distortion() -> None:
    """Seed, batch sizes, field, colour form and Graham's slips are written into param_str; those of a Data layer are refused."""
    options = RenderOptions(
        random_seed=7, batch_size=25, test_batch_size=100, crop_size=127, graham=True, colour_form="linear", epochs=4.1
    )
    train, plain, test = (json.loads(layer.python_param.param_str) for layer in data_layers(options))
    assert [one["seed"] for one in (train, plain, test)] == [7, 7, 7]
    assert [one["batch_size"] for one in (train, plain, test)] == [25, 25, 100]
    assert (train["size"], train["graham"], train["colour_form"]) == (127, True, "linear")
    assert tuple(train["colour"]) == augment.COLOUR["linear"]
    assert plain["start"] == 4 * 50_000
    deploy = parse_text(render(NAME, options)["deploy.prototxt"], NetParameter)
    assert list(deploy.layer[0].input_param.shape[0].dim) == [1, 3, 127, 127]
    for entries in ({"mirror": True}, {"scale": 2.0}, {"mean_value": (1.0,)}, {"mean_file": "m"}):
        with pytest.raises(
            RenderError, match=r"expected none: a layer AugmentedData makes the images of cifar10-large"
        ):
            render(NAME, RenderOptions(**entries))
    with pytest.raises(RenderError, match=r"option graham: found True, expected none: a layer Data makes the images"):
        render("cifar10-model-a", RenderOptions(graham=True))
    with pytest.raises(RenderError, match="a path without apostrophes"):
        render(NAME, RenderOptions(train_lmdb="it's"))


def test_two_solvers_share_net_rate_and_snapshots() -> None:
    """400 epochs with distortion, then 10 plain ones from the last snapshot: another stage, a later end, all else the same."""
    texts = render(NAME)
    assert (
        tuple(texts)
        == r.file_names(EXPERIMENTS[NAME])
        == (r.SOLVER, r.PLAIN_SOLVER, "train_val.prototxt", "deploy.prototxt")
    )
    assert r.file_names(EXPERIMENTS["cifar10-model-a"]) == r.FILES
    first, second = (parse_text(texts[name], SolverParameter) for name in (r.SOLVER, r.PLAIN_SOLVER))
    assert (first.max_iter, second.max_iter) == (400_000, 410_000)
    assert (list(first.train_state.stage), list(second.train_state.stage)) == ([], ["plain"])
    assert (first.type, first.weight_decay) == ("Nesterov", 0) and first.momentum == pytest.approx(0.99)
    for solver in (first, second):
        solver.ClearField("train_state")
        solver.ClearField("max_iter")
    assert first == second
    rules = [
        (layer.include[0].phase, list(layer.include[0].stage), list(layer.include[0].not_stage))
        for layer in data_layers()
    ]
    assert rules == [(0, [], ["plain"]), (0, ["plain"], []), (1, [], [])]


def test_the_plain_solver_is_written_and_compared_too(tmp_path: Path) -> None:
    """`allconv render` writes four files, and `--check` misses the fourth."""
    assert [path.name for path in r.write(NAME, root=tmp_path)] == list(r.file_names(EXPERIMENTS[NAME]))
    (tmp_path / "solvers" / NAME / r.PLAIN_SOLVER).unlink()
    assert r.check(tmp_path, [NAME]) == [f"solvers/{NAME}/{r.PLAIN_SOLVER}: missing; run: allconv render {NAME}"]


def test_grahams_filler() -> None:
    """Uniform with s^2 = 6 / (fan_in + fan_out a): a is 4 for 2x2, 1 for 2x2 with stride 2 and for 1x1, 10,000 at the top."""
    bounds = {
        layer.name: layer.filler_bound
        for layer in build(a.LARGE_ALL_CNN, NetOptions(filler="graham"))
        if layer.type == "Convolution"
    }
    assert bounds["conv2"] == pytest.approx(math.sqrt(6 / (320 * 4 + 320 * 4)))
    assert bounds["conv3"] == pytest.approx(math.sqrt(6 / (320 * 4 + 320)))
    assert bounds["conv17"] == pytest.approx(math.sqrt(6 / (1920 + 1920)))
    assert bounds["conv18"] == pytest.approx(0.0077, abs=5e-5)
    pooled = a.Architecture("p", "test", (a.conv(4, 2, pad=0), a.max_pool(2, 2), a.conv(a.CLASSES, 1), a.global_pool()))
    first = build(pooled, NetOptions(filler="graham"))[0]
    assert first.filler_bound == pytest.approx(math.sqrt(6 / (3 * 4 + 4))), "2x2 followed by 2x2 pooling: a = 1"
    text = render(NAME, RenderOptions(filler="graham"))["deploy.prototxt"]
    filler = parse_text(text, NetParameter).layer[1].convolution_param.weight_filler
    assert filler.type == "uniform" and -filler.min == filler.max == pytest.approx(bounds["conv1"])


def test_the_imagenet_net_begins_as_network_in_network_does() -> None:
    """Gaussian fillers layer by layer, biases with twice the rate and without decay, a mean image; options change each."""

    def stds(options: RenderOptions | None = None) -> list[float]:
        net = parse_text(render("imagenet-allcnn", options)["train_val.prototxt"], NetParameter)
        return [
            round(layer.convolution_param.weight_filler.std, 6) for layer in net.layer if layer.type == "Convolution"
        ]

    assert stds() == [0.01, 0.05, 0.05, 0.05, 0.05, 0.03, 0.01, 0.05, 0.025, 0.05, 0.05, 0.01]
    assert set(stds(RenderOptions(filler_std=0.02))) == {0.02}
    net = parse_text(render("imagenet-allcnn")["train_val.prototxt"], NetParameter)
    for layer in net.layer:
        if layer.type == "Convolution":
            assert [(one.lr_mult, one.decay_mult) for one in layer.param] == [(1, 1), (2, 0)]
    for data in net.layer[:2]:
        assert (
            data.transform_param.mean_file == "data/imagenet/mean.binaryproto" and not data.transform_param.mean_value
        )
    options = RenderOptions(bias_lr_mult=1, bias_decay_mult=1, mean_value=(104, 117, 123), filler="xavier")
    net = parse_text(render("imagenet-allcnn", options)["train_val.prototxt"], NetParameter)
    assert (
        list(net.layer[0].transform_param.mean_value) == [104, 117, 123] and not net.layer[0].transform_param.mean_file
    )
    assert [(one.lr_mult, one.decay_mult) for one in net.layer[2].param] == [(1, 1), (1, 1)]
    with pytest.raises(TableError, match="ImageNet All-CNN-B: layer 1: std: found 0, expected a number above 0"):
        build(a.Architecture("ImageNet All-CNN-B", "t", (a.conv(a.CLASSES, 1, std=0),)))


# ---------------------------------------------------------------------------------------------------------------------
# Dropout of whole channels

BATCH, CHANNELS = 6, 40


def batchwise(tmp_path: Path) -> Path:
    """A net of one 1x1 convolution of 40 channels, ReLU, batchwise dropout of one half, and a class layer."""
    rows = (a.conv(CHANNELS, 1, dropout=0.5), a.conv(a.CLASSES, 1), a.global_pool())
    network = a.Architecture("b", "test", rows, input_shape=(3, 4, 4))
    experiment = replace(EXPERIMENTS["cifar10-model-a"], architecture=network)
    text = render(experiment, RenderOptions(image_size=4, batchwise_dropout=True, filler="msra"))["train_val.prototxt"]
    net = parse_text(text, NetParameter)
    del net.layer[:2], net.layer[-2:]
    source = f"layer {{ name: 'data' type: 'Input' top: 'data' input_param {{ shape {{ dim: {BATCH} dim: 3 dim: 4 dim: 4 }} }} }}"
    path = tmp_path / "net.prototxt"
    path.write_text(f"force_backward: true {source}\n{net}")
    return path


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(BATCH, 3, 4, 4)).astype(np.float32)


def slopes() -> np.ndarray:
    """What flows in above the dropout."""
    return np.random.default_rng(9).normal(size=(BATCH, CHANNELS, 4, 4)).astype(np.float32)


def check_mask(found: Mapping[str, np.ndarray]) -> None:
    """conv1 is its ReLU times the mask, the gradient of the image is that of the channels that stay, doubled."""
    mask = found["mask"].ravel()
    assert set(np.unique(mask)) == {0.0, 2.0}
    weights = found["weights"][:, :, 0, 0]
    linear = np.einsum("uc,ncyx->nuyx", weights, pixels(0)) + found["biases"][None, :, None, None]
    factors = mask[None, :, None, None] * (linear > 0)
    np.testing.assert_allclose(found["conv1"], linear * factors, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        found["diff"], np.einsum("uc,nuyx->ncyx", weights, slopes() * factors), rtol=1e-4, atol=1e-5
    )


def test_batchwise_dropout_drops_the_same_channels_for_the_whole_batch(tmp_path: Path) -> None:
    """In TRAIN other channels fall out each time, at the rate of the table; TEST and deploy have none of the layers."""
    path = batchwise(tmp_path)
    net = Net(str(path), 0)
    masks = []
    for _ in range(40):
        net.blobs["data"].data[...] = pixels(0)
        net.forward()
        masks.append(net.blobs["drop1_mask"].data.ravel().copy())
    found = {"mask": masks[-1], "conv1": net.blobs["conv1"].data.copy()}
    found |= {"weights": net.params["conv1"][0].data, "biases": net.params["conv1"][1].data}
    net.blobs["conv1"].diff[...] = slopes()
    net.backward(start="drop1")
    check_mask({**found, "diff": net.blobs["data"].diff})
    dropped = np.mean(np.array(masks) == 0)
    assert abs(dropped - 0.5) < 5 * math.sqrt(0.25 / (40 * CHANNELS)), "five standard errors"
    assert any((one != masks[0]).any() for one in masks[1:])
    assert "drop1_mask" not in Net(str(path), 1).blobs
    texts = render(NAME, RenderOptions(batchwise_dropout=True))
    deploy = parse_text(texts["deploy.prototxt"], NetParameter)
    assert not {"DummyData", "Scale", "Dropout"} & {layer.type for layer in deploy.layer}
    train_val = parse_text(texts["train_val.prototxt"], NetParameter)
    ratios = [layer.dropout_param.dropout_ratio for layer in train_val.layer if layer.type == "Dropout"]
    assert ratios == pytest.approx([0.1, 0.1, 0.2, 0.2, 0.3, 0.3, 0.4, 0.4, 0.5, 0.5])


REAL = """
import os
os.environ["GLOG_minloglevel"] = "2"
import caffe
import numpy as np
given = np.load("given.npz")
net = caffe.Net("net.prototxt", caffe.TRAIN)
net.blobs["data"].data[...] = given["pixels"]
net.forward()
found = {"mask": net.blobs["drop1_mask"].data.copy(), "conv1": net.blobs["conv1"].data.copy()}
found["weights"], found["biases"] = [blob.data for blob in net.params["conv1"]]
net.blobs["conv1"].diff[...] = given["slopes"]
net.backward(start="drop1")
np.savez("found.npz", diff=net.blobs["data"].diff, **found)
assert "drop1_mask" not in caffe.Net("net.prototxt", caffe.TEST).blobs
"""


@pytest.mark.caffe
def test_batchwise_dropout_in_real_caffe(tmp_path: Path) -> None:
    """The same file in stock Caffe masks forward and backward alike."""
    batchwise(tmp_path)
    np.savez(tmp_path / "given.npz", pixels=pixels(0), slopes=slopes())
    done = subprocess.run([str(PYTHON), "-c", REAL], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    check_mask(np.load(tmp_path / "found.npz"))

"""Whole nets in real Caffe and in ours: the paper's twelve and its ImageNet net, and those that come with Caffe.

Every net in TRAIN, with dropout, one forward and backward pass from random weights, saved by ours and loaded by real Caffe;
then saved by real Caffe and loaded by ours. Images are normal noise; everything is float32.

Two readings of the gradients, since a unit whose input lies within rounding of 0 (ReLU), or two within rounding of each other
(maximum), may be on in one engine and off in the other, and what passes through it then differs as a whole:

* as it is: each gradient's difference, as a vector, is at most 2% as long as the gradient. (Real Caffe with another BLAS kernel
  departs up to 3% from itself where one sign flips.)
* smooth, with TanH for ReLU and mean for maximum, nothing can flip: element by element, 1e-4 of the largest. One layer keeps
  1e-5; here the roundings of up to 22 layers add up. Left out for the largest three, whose layers the
  others have, too.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zoo_side as side
from nets import reference as zoo

import allconv_caffe.pycaffe as caffe
from allconv_caffe.caffe_torch import glog
from allconv_caffe.proto import TRAIN, NetParameter, PoolingParameter, parse_text, to_text

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PYTHON = ROOT / ".caffe" / "bin" / "python"
FORCED = "force_backward: true"  # so that the image has a gradient, too
SIDES = {"cifar10-large-allcnn": 126}  # whose images are made in that size
DATA, SMOOTH, FLIPPED = 2e-5, 1e-4, 0.02


def prototxt_of(name: str, batch: int) -> str:
    """The rendered train_val of one of the project's nets, its Data layers as Inputs."""
    param = parse_text((ROOT / "solvers" / name / "train_val.prototxt").read_text(encoding="utf-8"), NetParameter)
    sources = [layer for layer in param.layer if not layer.bottom]  # Data, or Python layers that make their images
    size = sources[0].transform_param.crop_size or SIDES.get(name, 32)
    text = f'name: "{param.name}" {FORCED}\n'
    for blob, dims in (("data", (batch, 3, size, size)), ("label", (batch,))):
        shape = " ".join(f"dim: {d}" for d in dims)
        text += f'layer {{ name: "{blob}" type: "Input" top: "{blob}" input_param {{ shape {{ {shape} }} }} }}\n'
    return text + "".join(to_text(NetParameter(layer=[layer])) for layer in param.layer if layer.bottom)


PAPER = sorted(
    p.parent.name for p in (ROOT / "solvers").glob("cifar10-*/train_val.prototxt") if p.parent.name[-4:] != "-aug"
)
NETS: dict[str, Callable[[], str]] = {
    **{name: lambda name=name: prototxt_of(name, 1 if "large" in name else 2) for name in PAPER},  # type: ignore[misc]
    "imagenet-allcnn": lambda: prototxt_of("imagenet-allcnn", 1),
    "lenet": lambda: zoo.lenet(2, FORCED),
    "cifar10_quick": lambda: zoo.cifar10(2, FORCED),
    "cifar10_full": lambda: zoo.cifar10(2, FORCED, full=True),
    "alexnet": lambda: zoo.alexnet(1, FORCED),
    "caffenet": lambda: zoo.alexnet(1, FORCED, pool_first=True),
    "googlenet": lambda: zoo.googlenet(1, FORCED),
}
LARGE = ("alexnet", "caffenet", "cifar10-large-allcnn")  # one reading only
PARAMETERS = {  # as published
    "lenet": 431_080,
    "cifar10_quick": 145_578,
    "cifar10_full": 89_578,
    "alexnet": 60_965_224,
    "caffenet": 60_965_224,
    "googlenet": 13_378_280,
    "cifar10-allcnn-c": 1_369_738,
}


def without_fillers(text: str, smooth: bool) -> str:
    """The net without fillers, which take long on 60 million weights; smooth: without kinks."""
    param = parse_text(text, NetParameter)
    for layer in param.layer:
        for own in (layer.convolution_param, layer.inner_product_param):
            own.ClearField("weight_filler")
            own.ClearField("bias_filler")
        for word in ("convolution_param", "inner_product_param"):
            if not getattr(layer, word).ByteSize():
                layer.ClearField(word)
        if smooth and layer.type == "ReLU":
            layer.type = "TanH"
        if smooth and layer.type == "Pooling":
            layer.pooling_param.pool = PoolingParameter.AVE
    return to_text(param)


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glog, "_min_level", glog.ERROR)


def compare(net: caffe.Net, folder: Path, smooth: bool) -> list[str]:
    """What departs further than it may."""
    wrong = []
    with np.load(folder / "real.npz") as file:
        mine = side.arrays(net)
        assert sorted(file.files) == sorted(mine)
        for key, found in mine.items():
            expected = file[key]
            off, scale = np.abs(found - expected).max(), max(float(np.abs(expected).max()), 1e-30)
            # a loss is a difference of scores and may be much smaller than they are, so it rounds by more
            error, bound = float(off) / scale, DATA if key.startswith("data") and expected.ndim else SMOOTH
            if not key.startswith("data") and not smooth:
                a, b = found.astype(np.float64), expected.astype(np.float64)
                error, bound = float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30)), FLIPPED
            if not error <= bound:
                wrong.append(f"{key}: {error:.1e}")
    return wrong


@pytest.mark.parametrize("name", NETS)
def test_a_whole_net_computes_what_caffe_computes(name: str, tmp_path: Path) -> None:
    """Names, weights both ways bit for bit, every blob, every bottom diff and every parameter diff."""
    readings = (False,) if name in LARGE else (False, True)
    nets = {}
    for smooth in readings:
        folder = tmp_path / str(smooth)
        folder.mkdir()
        (folder / "net.prototxt").write_text(without_fillers(NETS[name](), smooth))
        nets[folder] = net = caffe.Net(folder / "net.prototxt", TRAIN)
        assert PARAMETERS.get(name) in (None, sum(blob.count for blobs in net.params.values() for blob in blobs))
        side.draw_weights(net)
        net.save(folder / "ours.caffemodel")
    command = [str(PYTHON), str(HERE / "zoo_side.py"), *map(str, nets)]
    environment = {"GLOG_minloglevel": "2", "OPENBLAS_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, env=environment)
    assert not done.returncode, done.stderr[-3000:]
    for folder, net in nets.items():
        weights, blob_names, outputs = json.loads((folder / "real.json").read_text())
        assert (weights, blob_names, outputs) == (side.digest(net), list(net.blobs), net.outputs)
        caffe.set_random_seed(side.SEED)
        side.run(net)
        wrong = compare(net, folder, folder.name == "True")
        assert not wrong, f"smooth {folder.name}\n" + "\n".join(wrong)
        for blobs in net.params.values():
            for blob in blobs:
                blob.data[...] = 0  # until real Caffe's come
        net.copy_from(folder / "real.caffemodel")
        assert side.digest(net) == weights
        for path in folder.iterdir():  # up to 1 GB
            path.unlink()

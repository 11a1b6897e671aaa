"""What one layer alone does not show, beside real Caffe: gradients through indices, state between batches, random streams.

"WindowData" is the one type of Caffe that cannot be compared, since ours refuses it.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import layer_harness as harness
import numpy as np
import pytest
from support.prototxt import input_layer, layer

from allconv_caffe.caffe_torch.compute.rng import CaffeGenerator
from allconv_caffe.caffe_torch.layer import REGISTRY, Context
from allconv_caffe.caffe_torch.net import Net
from allconv_caffe.proto import TRAIN, BlobProto, NetParameter, parse_text, write_binary

HERE = Path(__file__).resolve().parent
PYTHON = HERE.parents[1] / ".caffe" / "bin" / "python"
TOLERANCE = 1e-5
SEED = 17

# runs on both sides: `net` is pycaffe's Net or what looks like it
STEPS = """
def run(net, arrays):
    out = {}
    for name, params in net.params.items():
        for i, blob in enumerate(params):
            out["filled data %s %d" % (name, i)] = blob.data.copy()
    for step in range(3):
        for key in arrays:
            name, _, at = key.partition("@")
            if int(at) == step:
                net.blobs[name].reshape(*arrays[key].shape)
                net.blobs[name].data[...] = arrays[key]
        net.forward()
        net.backward()
        for name, blob in net.blobs.items():
            if "_split" not in name:
                out["%d data %s" % (step, name)] = blob.data.copy()
                out["%d diff %s" % (step, name)] = blob.diff.copy()
        for name, params in net.params.items():
            for i, blob in enumerate(params):
                out["%d diff %s %d" % (step, name, i)] = blob.diff.copy()
    return out
"""
SCRIPT = (
    STEPS
    + f"""
import os, sys
import numpy as np
import caffe
for folder in sys.argv[1:]:
    os.chdir(folder)
    caffe.set_random_seed({SEED})
    net = caffe.Net("net.prototxt", caffe.TRAIN)
    np.savez("out.npz", **run(net, dict(np.load("in.npz"))))
"""
)


def gaussian(extra: str = "") -> str:
    return f"weight_filler {{ type: 'gaussian' std: 0.3 }} bias_filler {{ type: 'uniform' min: -1 max: 1 }} {extra}"


def recurrent(extra: str = "") -> str:
    return f"recurrent_param {{ num_output: 4 {gaussian(extra)} }}"


def values(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


AFTER = (
    "inner_product_param { num_output: 3 axis: 2 weight_filler { type: 'xavier' } }"  # shows where the stream stands
)
SELECT = [np.array(v, np.float32) for v in ([1, 0, 1, 1], [0, 0, 0, 3], [1, 1, 1, 1])]
PICK = [np.array(v, np.float32) for v in ([2, 0, 2], [3, 3, 3, 1, 0], [1])]
WORDS = [
    np.array(v, np.float32) for v in ([[0, 3], [3, 4], [1, 1]], [[2.9, 2], [0, 0], [4, 3]], [[1, 2], [3, 4], [0, 0]])
]
STREAM = {f"x@{i}": values(3, 2, 5, seed=i) for i in range(3)} | {
    f"cont@{i}": np.array([[i > 0, 1], [1, i != 1], [1, 1]], np.float32) for i in range(3)
}
ONE_STEP = {f"x@{i}": values(1, 2, 5, seed=i) for i in range(3)} | {
    f"cont@{i}": np.ones((1, 2), np.float32) for i in range(3)
}


def write_matrices(folder: Path) -> None:
    """Two 3x3 matrices for InfogainLoss, the second with the four axes of old files."""
    matrix = BlobProto(data=list(range(1, 10)))
    matrix.shape.dim.extend([3, 3])
    write_binary(folder / "new.binaryproto", matrix)
    write_binary(folder / "old.binaryproto", BlobProto(num=1, channels=1, height=3, width=3, data=[0.5, 2, -1] * 3))


def nets() -> dict[str, tuple[str, dict[str, np.ndarray]]]:
    """Name -> prototxt, and inputs "<blob>@<step>"."""
    out = {}
    ip = f"inner_product_param {{ num_output: 3 {gaussian()} }}"
    out["filter"] = (
        input_layer("x", 4, 2)
        + input_layer("y", 4, 3)
        + input_layer("s", 4)
        + layer("ip", "InnerProduct", "x", ip)
        + layer("f", "Filter", "ip y s", tops="fx fy")
        + layer("loss", "EuclideanLoss", "fx fy"),
        {f"s@{i}": SELECT[i] for i in range(3)}
        | {f"x@{i}": values(4, 2, seed=i) for i in range(3)}
        | {"y@0": values(4, 3)},
    )
    out["reindex"] = (
        input_layer("x", 4, 2)
        + input_layer("i", 3)
        + layer("ip", "InnerProduct", "x", ip)
        + layer("r", "BatchReindex", "ip i")
        + layer("t", "Reduction", "r", "loss_weight: 1 reduction_param { operation: SUMSQ }"),
        {f"i@{i}": PICK[i] for i in range(3)} | {f"x@{i}": values(4, 2, seed=i) for i in range(3)},
    )
    out["embed"] = (
        input_layer("w", 3, 2)
        + layer("e", "Embed", "w", f"embed_param {{ input_dim: 5 num_output: 4 {gaussian()} }}")
        + layer("t", "Reduction", "e", "loss_weight: 1 reduction_param { operation: SUMSQ }"),
        {f"w@{i}": WORDS[i] for i in range(3)},
    )
    out["parameter"] = (
        input_layer("x", 2, 3)
        + layer("p", "Parameter", "", "parameter_param { shape { dim: 2 dim: 3 } }")
        + layer("loss", "EuclideanLoss", "p x"),
        {f"x@{i}": values(2, 3, seed=i) for i in range(3)},
    )
    for type_ in ("LSTM", "RNN"):
        top = layer("ip", "InnerProduct", "top", AFTER) + layer(
            "t", "Reduction", "ip", "loss_weight: 1 reduction_param { operation: SUMSQ }"
        )
        two = input_layer("x", 3, 2, 5) + input_layer("cont", 3, 2) + layer("below", type_, "x cont", recurrent())
        out[f"{type_} above another"] = (two + layer("above", type_, "below cont", recurrent(), "top") + top, STREAM)
        out[f"{type_} of one step, changed in place"] = (
            input_layer("x", 1, 2, 5)
            + input_layer("cont", 1, 2)
            + layer("only", type_, "x cont", recurrent(), "top")
            + layer("relu", "ReLU", "top", "relu_param { negative_slope: 0.1 }", "top")
            + top,
            ONE_STEP,
        )
        out[f"{type_} with static input and shared weights"] = (
            input_layer("x", 3, 2, 5)
            + input_layer("cont", 3, 2)
            + input_layer("still", 2, 3)
            + layer("a", type_, "x cont still", recurrent() + ' param { name: "w" } param { name: "b" }')
            + layer("b", type_, "x cont still", recurrent() + ' param { name: "w" } param { name: "b" }')
            + layer("sum", "Eltwise", "a b", tops="top")
            + top,
            STREAM | {f"still@{i}": values(2, 3, seed=9 + i) for i in range(3)},
        )
    # found by the fuzzer
    square = "loss_weight: 1 reduction_param { operation: SUMSQ }"
    out["Flatten takes the gradient from an LSTM"] = (
        input_layer("x", 3, 2, 5)
        + input_layer("cont", 3, 2)
        + layer("below", "LSTM", "x cont", recurrent())
        + layer("flat", "Flatten", "below")
        + layer("t", "Reduction", "flat", square),
        STREAM,
    )
    out["Flatten takes the gradient from a Concat of one"] = (
        input_layer("x", 4, 2)
        + layer("ip", "InnerProduct", "x", ip)
        + layer("one", "Concat", "ip")
        + layer("flat", "Flatten", "one")
        + layer("t", "Reduction", "flat", square),
        {f"x@{i}": values(4, 2, seed=i) for i in range(3)},
    )
    out["BatchNorm is reached by a gradient, though nothing learns"] = (
        input_layer("x", 4, 2)
        + layer("scale", "Power", "x")
        + layer("norm", "BatchNorm", "scale")
        + layer("power", "Power", "norm", "power_param { power: 3 }")
        + layer("t", "Reduction", "power", square),
        {f"x@{i}": values(4, 2, seed=i) for i in range(3)},
    )
    exposed = [input_layer(name, 1, 2, 4) for name in ("h", "c")]
    out["in place over what LSTM exposes, one step"] = (
        input_layer("x", 1, 2, 5)
        + input_layer("cont", 1, 2)
        + "".join(exposed)
        + layer("lstm", "LSTM", "x cont h c", recurrent("expose_hidden: true"), "top h1 c1")
        + layer("bend", "Sigmoid", "c1", "", "c1")
        + layer("more", "Power", "h1", "power_param { shift: 1 }", "h1")
        + layer("t", "Reduction", "top", square),
        ONE_STEP | {f"{name}@0": values(1, 2, 4, seed=i) for i, name in enumerate(("h", "c"))},
    )
    scores = {f"x@{i}": values(4, 2, seed=i) for i in range(3)} | {"l@0": np.array([0, 2, 1, 2], np.float32)}
    for age in ("new", "old"):
        param = f'infogain_loss_param {{ source: "{age}.binaryproto" }}'
        out[f"infogain by a matrix from a file, {age}"] = (
            input_layer("x", 4, 2)
            + input_layer("l", 4)
            + layer("ip", "InnerProduct", "x", ip)
            + layer("loss", "InfogainLoss", "ip l", param),
            scores,
        )
    return out


NETS = nets()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One folder for each net, with what real Caffe computed, all by one process."""
    folders = {}
    for name, (text, arrays) in NETS.items():
        folder = folders[name] = tmp_path_factory.mktemp("net")
        (folder / "net.prototxt").write_text(text)
        np.savez(folder / "in.npz", **arrays)  # type: ignore[arg-type]
        write_matrices(folder)
    command = [str(PYTHON), "-c", SCRIPT, *map(str, folders.values())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env={"GLOG_minloglevel": "2"})
    assert not done.returncode, done.stderr[-3000:]
    return folders


@pytest.mark.parametrize("name", NETS)
def test_a_small_net_computes_what_caffe_computes(
    name: str, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three batches: every blob, every diff and every parameter's diff; and the same initial parameters from one seed."""
    text, arrays = NETS[name]
    monkeypatch.chdir(folders[name])
    net = Net(parse_text(text, NetParameter), Context(phase=TRAIN, rng=CaffeGenerator(SEED)))
    scope: dict[str, Any] = {}
    exec(STEPS, scope)
    ours = scope["run"](harness.OurNet(net), arrays)
    with np.load("out.npz") as file:
        real = dict(file)
    for key in real:
        if key.startswith("filled"):
            assert np.array_equal(ours[key], real[key]), key
    wrong = {key: error for key, error in harness.compare(ours, real).items() if not error <= TOLERANCE}
    assert not wrong


def test_only_window_data_is_missing() -> None:
    """Every type that real Caffe lists is known to ours, and none besides."""
    command = [str(PYTHON), "-c", "import caffe; print(' '.join(caffe.layer_type_list()))"]
    listed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.split()
    assert len(listed) == 61 and "WindowData" in listed
    assert set(listed) == set(REGISTRY)

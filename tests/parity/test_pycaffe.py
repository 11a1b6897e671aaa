"""The drop-in beside real pycaffe: one script under both interpreters, its answers compared."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from allconv_caffe.bvlc import find as bvlc

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.caffe

OURS = "import allconv_caffe.pycaffe\nallconv_caffe.pycaffe.install()\n"

SCRIPT = '''
import json, sys
import numpy as np
import caffe
from caffe import layers as L, params as P

answers = {}

def put(name, value):
    if isinstance(value, np.ndarray) or isinstance(value, np.generic):
        value = {"shape": list(np.shape(value)), "values": np.asarray(value, dtype=float).ravel().tolist()}
    answers[name] = value

def message(name, call):
    try:
        call()
    except BaseException as error:
        put(name, str(error))
    else:
        put(name, "no error")

caffe.set_random_seed(5)
open("net.prototxt", "w").write("""
name: "tiny" force_backward: true
input: "data" input_shape { dim: 2 dim: 3 dim: 8 dim: 8 }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 4 kernel_size: 3
        weight_filler { type: "gaussian" std: 0.2 } bias_filler { type: "uniform" } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { pool: MAX kernel_size: 3 stride: 2 } }
layer { name: "drop" type: "Dropout" bottom: "pool" top: "pool" }
layer { name: "ip" type: "InnerProduct" bottom: "pool" top: "ip" inner_product_param { num_output: 5
        weight_filler { type: "xavier" } } }
layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" }
layer { name: "aux" type: "Power" bottom: "pool" top: "Aux" power_param { scale: 2 } }
""")
data = np.random.RandomState(0).randn(5, 3, 8, 8).astype(np.float32)
for phase, word in ((caffe.TRAIN, "train"), (caffe.TEST, "test")):
    net = caffe.Net("net.prototxt", phase)
    put(word + " blobs", [(name, list(blob.shape)) for name, blob in net.blobs.items()])
    put(word + " params", [(name, [list(p.shape) for p in blobs]) for name, blobs in net.params.items()])
    put(word + " layers", [(name, layer.type) for name, layer in net.layer_dict.items()])
    put(word + " names", [net.inputs, net.outputs, list(net.top_names.items()), list(net.bottom_names.items()),
                          list(net._inputs), list(net._outputs), [list(net._top_ids(i)) for i in range(len(net.layers))]])
    put(word + " loss weights", list(net.blob_loss_weights.values()))
    for name, blobs in net.params.items():
        for i, blob in enumerate(blobs):
            put("%s %s %d" % (word, name, i), blob.data)
    for name, value in sorted(net.forward(blobs=["conv", "pool"], data=data[:2]).items()):
        put("%s forward %s" % (word, name), value)
    diffs = {name: np.random.RandomState(1).randn(*net.blobs[name].shape) for name in net.outputs}
    for name, value in sorted(net.backward(diffs=["conv"], **diffs).items()):
        put("%s backward %s" % (word, name), value)
    for name, blobs in net.params.items():
        for i, blob in enumerate(blobs):
            put("%s diff %s %d" % (word, name, i), blob.diff)
net.blobs["pool"].data.reshape(-1)[...] = 0.5
put("start end", net.forward(start="ip", end="prob")["prob"])
net.blobs["ip"].diff[...] = 1
put("backward start end", sorted(net.backward(start="ip", end="ip")))
put("pool diff", net.blobs["pool"].diff)
for name, value in sorted(net.forward_all(blobs=["ip"], data=data).items()):
    put("all " + name, value)
outs, diffs = net.forward_backward_all(data=data, prob=np.arange(25.0).reshape(5, 5), Aux=np.ones((5, 4, 3, 3)))
put("all prob", np.asarray(outs["prob"])[:5])  # real pycaffe packs only as many as there are diffs
put("all data diff", diffs["data"])
net.blobs["data"].reshape(1, 3, 8, 8)
net.reshape()
put("reshaped", [list(blob.shape) for blob in net.blobs.values()])
put("blob", [net.blobs["ip"].num, net.blobs["ip"].channels, net.blobs["ip"].height, net.blobs["ip"].count])
net = caffe.Net("net.prototxt", caffe.TEST)
message("no file", lambda: caffe.Net("nope.prototxt", caffe.TEST))
message("no weights", lambda: caffe.Net("net.prototxt", caffe.TEST, weights="nope"))
message("inputs", lambda: net.forward(x=data))
message("batch", lambda: net.forward(data=data))
message("outputs", lambda: net.backward(ip=data))
message("arrays", lambda: net.set_input_arrays(data, np.zeros(5, np.float32)))
message("kwargs", lambda: net.blobs["data"].reshape(a=1))
message("seed", lambda: caffe.set_random_seed(-1))
put("types", sorted(caffe.layer_type_list()))
put("state", [caffe.solver_count(), caffe.solver_rank(), caffe.has_nccl(), caffe.__version__, caffe.TRAIN, caffe.TEST])

order = []
net.before_forward(lambda i: order.append(["bf", i]))
net.after_forward(lambda i: order.append(["af", i]))
net.before_backward(lambda i: order.append(["bb", i]))
net.after_backward(lambda i: order.append(["ab", i]))
net.forward(); net.backward()
put("callbacks", order)

rs = np.random.RandomState(2)
image = rs.rand(13, 11, 3).astype(np.float32)
for dims in ((8, 8), (20, 17), (13, 5), (1, 1), (30, 9)):
    for order in (0, 1, 3):
        put("resize %s %d" % (dims, order), caffe.io.resize_image(image, dims, order))
    put("resize grey %s" % (dims,), caffe.io.resize_image(image[:, :, :1], dims))
    put("zoom %s" % (dims,), caffe.io.resize_image(rs.rand(13, 11, 4), dims))
    put("zoom 3 %s" % (dims,), caffe.io.resize_image(rs.rand(13, 11, 2), dims, 3))
put("constant", caffe.io.resize_image(np.ones((4, 4, 3)), (3, 3)))
put("oversample", caffe.io.oversample([image, image[::-1]], (6, 5)))
t = caffe.io.Transformer({"data": (2, 3, 8, 8)})
t.set_transpose("data", (2, 0, 1)); t.set_channel_swap("data", (2, 1, 0)); t.set_raw_scale("data", 255)
t.set_mean("data", rs.rand(3, 6, 6) * 100); t.set_input_scale("data", 0.25)
put("preprocess", t.preprocess("data", image.copy()))
put("deprocess", t.deprocess("data", t.preprocess("data", image.copy())))
message("transpose", lambda: t.set_transpose("data", (0, 1)))
message("not an input", lambda: t.set_raw_scale("x", 1))
datum = caffe.io.array_to_datum((image * 255).astype(np.uint8).transpose(2, 0, 1), 3)
put("datum", [list(datum.SerializeToString())])
put("datum array", caffe.io.datum_to_array(datum))
put("float datum", list(caffe.io.array_to_datum(image, 3).SerializeToString()))
put("blobproto", list(caffe.io.array_to_blobproto(image, image * 2).SerializeToString()))

c = caffe.Classifier("net.prototxt", "w.caffemodel" if net.save("w.caffemodel") else "w.caffemodel", image_dims=(12, 10),
                     mean=np.array([1.0, 2, 3]), raw_scale=255, channel_swap=(2, 1, 0), input_scale=0.01)
put("classify", c.predict([image, image[:, ::-1]]))
put("classify centre", c.predict([image, image[:, ::-1]], oversample=False))

n = caffe.NetSpec()
n.data, n.label = L.Data(source="x", backend=P.Data.LMDB, batch_size=4, ntop=2, transform_param=dict(scale=0.5, mirror=True))
n.conv = L.Convolution(n.data, kernel_size=5, num_output=3, pad=[1, 2], weight_filler=dict(type="xavier"),
                       param=[dict(lr_mult=1), dict(lr_mult=2, decay_mult=0)])
n.pool = L.Pooling(L.ReLU(n.conv, in_place=True), kernel_size=2, stride=2, pool=P.Pooling.AVE)
n.up = L.Deconvolution(n.pool, convolution_param=dict(num_output=3, kernel_size=4, stride=2))
n.silent = L.Silence(n.label, ntop=0)
n["loss"] = L.EuclideanLoss(n.up, n.conv, loss_weight=[2], include=dict(phase=caffe.TRAIN))
put("net spec", list(n.to_proto().SerializeToString()))
from caffe.coord_map import coord_map_from_to
axis, scale, shift = coord_map_from_to(n.up, n.data)
put("coord map", [axis, np.ravel(scale).tolist(), np.ravel(shift).tolist()])

open("train.prototxt", "w").write("""
layer { name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param { shape { dim: 4 dim: 6 } shape { dim: 4 }
  data_filler { type: "gaussian" std: 1 } data_filler { type: "constant" value: 1 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 3
  weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
""")
for kind in ("SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam"):
    open("solver.prototxt", "w").write("""net: "train.prototxt" base_lr: 0.1 lr_policy: "multistep" gamma: 0.5 stepvalue: 2
      stepvalue: 4 max_iter: 7 random_seed: 11 snapshot_prefix: "s" weight_decay: 0.01 test_iter: 1 test_interval: 3
      snapshot_after_train: false type: "%s" %s""" % (
        kind, "" if kind in ("AdaGrad", "RMSProp") else "momentum: 0.9"))
    s = caffe.get_solver("solver.prototxt")
    put(kind + " class", [type(s).__name__, s.param.max_iter, s.param.display, len(s.test_nets)])
    rates = []
    for _ in range(5):
        rates.append(s.lr)
        s.step(1)
    put(kind + " rates", rates)
    s.net.forward(); s.net.clear_param_diffs(); s.net.backward(); s.apply_update()
    put(kind + " iter", s.iter)
    s.solve()
    put(kind + " weights", s.net.params["ip"][0].data)
    put(kind + " loss", s.net.blobs["loss"].data)
json.dump(answers, open(sys.argv[1], "w"), default=lambda value: np.asarray(value).tolist())
'''


def answers_of(command: list[str], script: str, folder: Path, environment: dict[str, str]) -> dict[str, Any]:
    folder.mkdir()
    answer = subprocess.run(
        [*command, "-c", script, "answers.json"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert answer.returncode == 0, answer.stderr[-3000:]
    return json.loads((folder / "answers.json").read_text())


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """(real pycaffe's answers, ours)."""
    caffe = bvlc.find_caffe(ROOT)
    if caffe is None or caffe.python is None:
        pytest.skip("no real pycaffe: make caffe")
    folder = tmp_path_factory.mktemp("pycaffe")
    quiet = {"GLOG_minloglevel": "2", "GLOG_log_dir": str(folder)}
    real = answers_of([str(caffe.python), "-W", "ignore"], SCRIPT, folder / "real", {**caffe.environment(), **quiet})
    ours = answers_of(
        [sys.executable], OURS + SCRIPT, folder / "ours", {**os.environ, "PYTHONPATH": str(ROOT), **quiet}
    )
    return real, ours


def test_every_answer_is_pycaffes(both: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Names, texts and bytes are equal; numbers agree to 2e-5 of their array's largest (float32 sums, other orders)."""
    real, ours = both
    assert ours.keys() == real.keys() and len(real) > 100
    wrong = []
    for name, expected in real.items():
        found = ours[name]
        if isinstance(expected, dict):
            a, b = np.array(expected["values"]), np.array(found["values"])
            if expected["shape"] != found["shape"] or not np.allclose(
                a, b, rtol=0, atol=2e-5 * max(1e-3, np.abs(a).max())
            ):
                wrong.append(f"{name}: {expected['shape']} {a[:4]} | {found['shape']} {b[:4]}")
        elif expected != found and not (isinstance(found, str) and expected in found):
            if name.endswith("rates") and np.allclose(expected, found, rtol=1e-6):
                continue
            wrong.append(f"{name}: {expected!s:.300} | {found!s:.300}")
    assert not wrong, "\n".join(wrong)

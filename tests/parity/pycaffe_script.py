"""Questions to pycaffe that both sides answer: run by test_pycaffe_script.py under real pycaffe and under ours.

Prints nothing; writes its answers as JSON to the file that is named.
"""

import json
import os
import sys

import caffe
import numpy as np
from caffe import layers as L, params as P
from caffe.coord_map import coord_map_from_to, crop
from caffe.proto import caffe_pb2
from google.protobuf import text_format

answers = {}


def plain(value):
    if isinstance(value, (np.ndarray, np.generic)):
        return {"shape": list(np.shape(value)), "values": np.asarray(value, dtype=float).ravel().tolist()}
    if isinstance(value, dict):
        return {str(key): plain(value[key]) for key in sorted(value)}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return value


def put(name, value):
    assert name not in answers, name
    answers[name] = plain(value)


def fails(name, call, text=True):
    """Which kind of exception it is, and its text where `text` says so. Boost's ArgumentError is a TypeError."""
    kinds = (TypeError, AttributeError, KeyError, IndexError, RuntimeError, OverflowError, AssertionError, OSError)
    try:
        call()
    except Exception as error:
        kind = [k.__name__ for k in kinds if isinstance(error, k)][:1]
        put(name, [*kind, str(error) if text else ""])
    else:
        put(name, "no error")


def write(name, text):
    with open(name, "w") as file:
        file.write(text)
    return name


CONV = """
name: "probe"
layer { name: "in" type: "Input" top: "data" top: "other"
  input_param { shape { dim: 3 dim: 2 dim: 6 dim: 5 } shape { dim: 3 dim: 4 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" param { lr_mult: 1 } param { lr_mult: 0 }
  convolution_param { num_output: 4 kernel_size: 3 pad: 1 weight_filler { type: "msra" } bias_filler { type: "gaussian" } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "norm" type: "BatchNorm" bottom: "conv" top: "norm" }
layer { name: "pool" type: "Pooling" bottom: "norm" top: "pool" pooling_param { pool: MAX kernel_size: 3 stride: 2 } }
layer { name: "ip" type: "InnerProduct" bottom: "pool" top: "ip" param { name: "w" }
  inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "sum" type: "Eltwise" bottom: "ip" bottom: "other" top: "sum" }
layer { name: "flat" type: "Flatten" bottom: "pool" top: "Flat" }
layer { name: "prob" type: "Softmax" bottom: "sum" top: "prob" include { not_stage: "raw" } }
layer { name: "deep" type: "Power" bottom: "sum" top: "deep" include { min_level: 2 } power_param { scale: 3 } }
"""
rs = np.random.RandomState(1)
data, other = rs.randn(7, 2, 6, 5).astype(np.float32), rs.randn(7, 4).astype(np.float32)
caffe.set_random_seed(3)
net = caffe.Net(write("probe.prototxt", CONV), caffe.TEST)

# what a net is
put("types", [layer.type for layer in net.layers])
put("layer names", list(net._layer_names))
put("blob names", list(net._blob_names))
put("loss weights", [float(w) for w in net._blob_loss_weights])
put("ids", [[list(net._top_ids(i)), list(net._bottom_ids(i))] for i in range(len(net.layers))])
put("params", [(name, [list(b.shape) for b in vec], len(vec)) for name, vec in net.params.items()])
put("blob counts", [(b.num, b.channels, b.count) for b in net.blobs.values()])
put("height", [(b.height, b.width) for b in net.blobs.values() if len(b.shape) <= 4])
put("layer blobs", [len(layer.blobs) for layer in net.layers])
put("dict is cached", net.blobs is net.blobs)
put(
    "levels",
    [
        list(caffe.Net("probe.prototxt", caffe.TEST, level=n, stages=s).outputs)
        for n, s in ((0, None), (2, None), (2, ["raw"]), (3, ["raw", "x"]))
    ],
)
for call, name in (
    (lambda: caffe.Net("probe.prototxt"), "no phase"),
    (lambda: caffe.Net(), "nothing"),
    (lambda: caffe.Net(3, 1), "no text"),
    (lambda: net.blobs["nope"], "no blob"),
    (lambda: net.params["relu"], "no params"),
    (lambda: net.layer_dict["x"], "no layer"),
    (lambda: setattr(net.blobs["ip"], "data", 3), "assign data"),
    (lambda: setattr(net.blobs["ip"], "shape", 3), "assign shape"),
    (lambda: setattr(net, "blobs", 3), "assign blobs"),
    (lambda: net.forward(data=data[:3]), "one input"),
    (lambda: net.forward(data=data, other=other), "long inputs"),
    (lambda: net.forward(data=data[:3, :1], other=other[:3]), "channels do broadcast"),
    (lambda: net.forward(data=data[:3, :, :3], other=other[:3]), "wrong height"),
    (lambda: net.forward(start="nope"), "no start"),
    (lambda: net.backward(start="nope"), "no backward start"),
    (lambda: net.forward(end="nope"), "no end"),
    (lambda: net.forward(blobs=["nope"]), "no such blob"),
    (lambda: net.blobs["ip"].reshape("x"), "reshape text"),
    (lambda: net.blobs["ip"].reshape(1.5), "reshape float"),
    (lambda: net.set_input_arrays(data, other), "no memory data"),
    (lambda: net.layers[0].blobs[0], "blob of none"),
    (lambda: net.params["ip"][7], "blob beyond"),
    (lambda: caffe.get_solver("nope.prototxt") if False else open("nope.prototxt"), "missing"),
    (lambda: caffe.set_random_seed(2**40), "seed large"),
    (lambda: caffe.set_random_seed("x"), "seed text"),
    (lambda: caffe.set_random_seed(1.5), "seed float"),
):
    fails(name, call, text=name in ("one input", "long inputs", "no such blob", "no blob", "no layer", "missing"))

# running
out = net.forward(data=data[:3], other=other[:3])
put("outputs", sorted(out))
put("forward", dict(out.items()))
put("live", float(out["prob"][0, 0]) == float(net.blobs["prob"].data[0, 0]))
out["prob"][...] = 0.25
put("written through", net.blobs["prob"].data)
put("forward ints", net.forward(data=np.arange(180).reshape(3, 2, 6, 5), other=np.ones((3, 4), int))["prob"])
put("forward doubles", net.forward(data=data[:3].astype(float) / 3, other=other[:3].astype(float))["prob"])
put("end", dict(net.forward(data=data[:3], other=other[:3], end="pool").items()))
put("start end", dict(net.forward(start="pool", end="ip", blobs=["norm", "ip"]).items()))
put("_forward", net._forward(0, len(net.layers) - 1))
for count in (1, 2, 3, 4, 6, 7):
    put(
        f"forward_all {count}",
        dict(net.forward_all(blobs=["ip", "pool"], data=data[:count], other=other[:count]).items()),
    )
trainable = caffe.Net(write("forced.prototxt", "force_backward: true\n" + CONV), caffe.TRAIN)
trainable.forward(data=data[:3], other=other[:3])
put("train", [trainable.blobs[name].data for name in trainable.blobs])
put("statistics", [b.data for b in trainable.params["norm"]])
top = {"Flat": np.ones(trainable.blobs["Flat"].data.shape), "prob": rs.randn(3, 4)}
put("backward", dict(trainable.backward(diffs=["norm", "ip"], **top).items()))
put("backward end", dict(trainable.backward(end="pool").items()))
put("backward start end", dict(trainable.backward(start="ip", end="ip", diffs=["sum"]).items()))
put("diffs", {name: [b.diff for b in vec] for name, vec in trainable.params.items()})
trainable.clear_param_diffs()
put("cleared", {name: [b.diff for b in vec] for name, vec in trainable.params.items()})
fails("backward with some", lambda: trainable.backward(prob=rs.randn(3, 4)))
fails("backward too long", lambda: trainable.backward(prob=rs.randn(5, 4), Flat=np.ones((5, 8))))

# shapes
view = net.blobs["data"].data
net.blobs["data"].reshape(2, 2, 6, 5)
net.blobs["other"].reshape(2, 4)
net.reshape()
for kind, param in (
    ("Convolution", "convolution_param { num_output: 2 kernel_size: 2 }"),
    ("Im2col", "convolution_param { kernel_size: 2 }"),
    ("Pooling", "pooling_param { kernel_size: 2 }"),
    ("Pooling", "pooling_param { kernel_size: 2 pool: AVE }"),
):  # an image that is smaller than the window, after one that was not
    text = """layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 4 dim: 5 } } }
layer { name: "l" type: "%s" bottom: "x" top: "l" %s }"""
    window = caffe.Net(write("window.prototxt", text % (kind, param)), caffe.TEST)
    window.forward()
    window.blobs["x"].reshape(2, 3, 1, 1)
    put("no place of %s %s" % (kind, param), [list(blob.shape) for blob in window.forward().values()])
put("smaller", [list(b.data.shape) for b in net.blobs.values()])
view[...] = 7
put("same memory when smaller", net.blobs["data"].data)
net.blobs["data"].data[...] = data[:2]
net.blobs["other"].data[...] = other[:2]
put("forward smaller", net.forward()["prob"])
for n in (5, 1, 3):
    net.blobs["data"].reshape(n, 2, 6, 5)
    net.blobs["other"].reshape(n, 4)
    net.blobs["data"].data[...] = 0.5
    net.blobs["other"].data[...] = 0.25
    put(f"reshaped {n}", {k: v.copy() for k, v in net.forward().items()})

# parameters
net.params["conv"][0].data[...] = 0.1
net.params["conv"][1].data[1] = 5
net.params["ip"][0].data.reshape(-1)[::2] = -1
put("set parameters", net.forward(data=data[:3], other=other[:3])["prob"])
net.save("probe.caffemodel")
saved = caffe_pb2.NetParameter()
with open("probe.caffemodel", "rb") as file:
    saved.ParseFromString(file.read())
put(
    "saved layers",
    [
        [
            layer.name,
            layer.type,
            list(layer.bottom),
            list(layer.top),
            layer.phase,
            len(layer.blobs),
            [list(b.shape.dim) for b in layer.blobs],
        ]
        for layer in saved.layer
    ],
)
put("saved text", [text_format.MessageToString(layer.param[0]) if layer.param else "" for layer in saved.layer])
net.save_hdf5("probe.h5")
for source in ("probe.caffemodel", "probe.h5"):
    fresh = caffe.Net("probe.prototxt", caffe.TEST, weights=source)
    put("loaded " + source, {name: [b.data for b in vec] for name, vec in fresh.params.items()})
fresh = caffe.Net("probe.prototxt", "probe.caffemodel", caffe.TEST)
put("old constructor", fresh.params["ip"][0].data)
fresh = caffe.Net("probe.prototxt", caffe.TEST)
fresh.load_hdf5("probe.h5")
put("load_hdf5", fresh.params["conv"][0].data)
part = caffe.Net(write("part.prototxt", CONV.replace('name: "ip"', 'name: "new"')), caffe.TEST)
before = part.params["new"][0].data.copy()
part.copy_from("probe.caffemodel")
put("copy_from part", [bool((part.params["new"][0].data == before).all()), part.params["conv"][0].data])
part.share_with(net)
net.params["conv"][0].data[0, 0] = 3
put("share_with", part.params["conv"][0].data)
part.params["conv"][0].data[1] = 4
put("shared both ways", net.params["conv"][0].data)
put("shared forward", part.forward(data=data[:3], other=other[:3])["prob"])

# callbacks
order = []
net.before_forward(lambda i: order.append(f"bf{i}"))
net.after_forward(lambda i: order.append(f"af{i}"))
net.forward(start="ip", end="sum")
put("callbacks", order)

# memory data, labels, losses, shared weights
MEMORY = """
layer { name: "d" type: "MemoryData" top: "data" top: "label" memory_data_param { batch_size: 2 channels: 3 height: 2 width: 2 } }
layer { name: "a" type: "InnerProduct" bottom: "data" top: "a" param { name: "w" } param { name: "b" }
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "b" type: "InnerProduct" bottom: "data" top: "b" param { name: "w" } param { name: "b" }
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "c" type: "Eltwise" bottom: "a" bottom: "b" top: "c" eltwise_param { operation: PROD } }
layer { name: "l" type: "SoftmaxWithLoss" bottom: "c" bottom: "label" top: "l" loss_weight: 0.5 }
layer { name: "acc" type: "Accuracy" bottom: "c" bottom: "label" top: "acc" include { phase: TEST } }
"""
memory = caffe.Net(write("memory.prototxt", MEMORY), caffe.TRAIN)
images = rs.randn(4, 3, 2, 2).astype(np.float32)
memory.set_input_arrays(images, np.array([0, 1, 2, 1], np.float32))
for i in range(3):
    put(f"memory {i}", [memory.forward()["l"], memory.blobs["label"].data, memory.blobs["data"].data])
    memory.backward()
put("shared diffs", [memory.params["a"][0].diff, memory.params["b"][0].diff, memory.params["a"][1].diff])
put("shared data", bool((memory.params["a"][0].data == memory.params["b"][0].data).all()))
put("memory blobs", list(memory.blobs))
memory.save_hdf5("memory.h5")
put("memory loss", memory._forward(0, len(memory.layers) - 1))
for name, array, labels in (
    ("three axes", images[0], np.zeros(3, np.float32)),
    ("doubles", images.astype(float), np.zeros(4, np.float32)),
    ("odd", images[:3], np.zeros(3, np.float32)),
    ("not contiguous", images[:, :, ::-1], np.zeros(4, np.float32)),
    ("label count", images, np.zeros(2, np.float32)),
    ("channels", images[:, :2].copy(), np.zeros(4, np.float32)),
    ("label doubles", images, np.zeros(4)),
    ("height", np.zeros((2, 3, 1, 2), np.float32), np.zeros(2, np.float32)),
):
    fails("arrays " + name, lambda array=array, labels=labels: memory.set_input_arrays(array, labels))

# old prototxt
OLD = """
name: "old" input: "data" input_dim: 2 input_dim: 3 input_dim: 5 input_dim: 5
layers { name: "c" type: CONVOLUTION bottom: "data" top: "c" blobs_lr: 1 blobs_lr: 2 weight_decay: 1 weight_decay: 0
  convolution_param { num_output: 2 kernel_size: 3 weight_filler { type: "xavier" } } }
layers { name: "r" type: RELU bottom: "c" top: "c" }
layers { name: "i" type: INNER_PRODUCT bottom: "c" top: "i" inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layers { name: "s" type: SOFTMAX bottom: "i" top: "s" }
"""
caffe.set_random_seed(8)
old = caffe.Net(write("old.prototxt", OLD), caffe.TEST)
put("old layers", [[name, layer.type] for name, layer in old.layer_dict.items()])
put("old forward", old.forward(data=data[:2, :1, :5, :5].repeat(3, 1))["s"])

# net_spec
n = caffe.NetSpec()
n.data, n.label = L.DummyData(shape=[dict(dim=[2, 3, 9, 9]), dict(dim=[2])], ntop=2)
n.conv1 = L.Convolution(
    n.data,
    num_output=4,
    kernel_size=[3, 2],
    stride=2,
    pad=1,
    dilation=1,
    name="first",
    weight_filler=dict(type="gaussian", std=0.01),
    param=[dict(lr_mult=1, decay_mult=0), dict(lr_mult=2)],
)
n.relu1 = L.ReLU(n.conv1, in_place=True, negative_slope=0.1)
n.lrn = L.LRN(n.relu1, local_size=3, norm_region=P.LRN.WITHIN_CHANNEL)
n.a, n.b = L.Slice(n.lrn, slice_point=2, ntop=2, axis=1)
n.cat = L.Concat(n.a, n.b, n.a)
n.rec = L.LSTM(n.cat, n.label, recurrent_param=dict(num_output=3))
n.py = L.Python(n.cat, module="m", layer="K", param_str="{'a': 1}", python_param=dict(share_in_parallel=False))
n.drop = L.Dropout(n.py, dropout_ratio=0.3, include=[dict(phase=caffe.TRAIN, stage=["x"]), dict(min_level=1)])
n["odd/name"] = L.InnerProduct(n.drop, num_output=2, inner_product_param=dict(bias_term=False), axis=-1)
n.loss = L.SoftmaxWithLoss(
    n["odd/name"], n.label, loss_weight=2, propagate_down=[True, False], loss_param=dict(ignore_label=3)
)
put("net spec", list(n.to_proto().SerializeToString()))
put("to_proto", list(caffe.to_proto(n.cat, n.loss).SerializeToString()))
put("tops", [str(n.tops[k].fn.type_name) for k in n.tops])
fails("unknown layer", lambda: L.Nope(n.data).to_proto())
fails("unknown field", lambda: L.ReLU(n.data, nope=3).to_proto(), text=False)
fails("bad bottom", lambda: L.ReLU(3), text=True)
fails("bad value", lambda: L.Convolution(n.data, num_output="x").to_proto(), text=False)
fails("two tops as bottom", lambda: L.ReLU(L.Slice(n.lrn, ntop=2)), text=False)
put("enums", [P.Pooling.MAX, P.Pooling.AVE, P.Eltwise.MAX, P.Data.LMDB, P.Reduction.MEAN])
m = caffe.NetSpec()
m.data = L.Input(input_param=dict(shape=dict(dim=[1, 3, 40, 40])))
m.c1 = L.Convolution(m.data, num_output=2, kernel_size=4, stride=2, pad=4)
m.p1 = L.Pooling(m.c1, kernel_size=3, stride=3, pool=P.Pooling.MAX)
m.up = L.Deconvolution(m.p1, convolution_param=dict(num_output=2, kernel_size=6, stride=6, pad=1))
m.crop = crop(m.up, m.data)
m.s = L.Eltwise(m.c1, m.c1)
put("crop", str(m.to_proto()))  # no floats in it: their text depends on protobuf's version
for name, a, b in (
    ("up data", m.up, m.data),
    ("p1 data", m.p1, m.data),
    ("c1 up", m.c1, m.up),
    ("s data", m.s, m.data),
):
    put(
        "coord map " + name,
        [coord_map_from_to(a, b)[0], np.asarray(coord_map_from_to(a, b)[1]), np.asarray(coord_map_from_to(a, b)[2])],
    )

# io
image = rs.rand(9, 7, 3).astype(np.float32)
put("datum", list(caffe.io.array_to_datum((image * 255).astype(np.uint8), 4).SerializeToString()))
put("datum floats", list(caffe.io.array_to_datum(image.astype(float)).SerializeToString()))
put("datum back", caffe.io.datum_to_array(caffe.io.array_to_datum(image.astype(float), 1)))
put("datum bytes", caffe.io.datum_to_array(caffe.io.array_to_datum((image * 255).astype(np.uint8), 4)))
fails("datum 2-D", lambda: caffe.io.array_to_datum(image[0]))
proto = caffe.io.array_to_blobproto(image, image * 2)
put(
    "blobproto",
    [caffe.io.blobproto_to_array(proto), caffe.io.blobproto_to_array(proto, return_diff=True), list(proto.shape.dim)],
)
legacy = caffe_pb2.BlobProto(num=1, channels=2, height=1, width=2, data=[1, 2, 3, 4])
put("blobproto old", caffe.io.blobproto_to_array(legacy))
put("blobprotovec", list(caffe.io.arraylist_to_blobprotovector_str([image, image[0]])))
put(
    "blobprotovec back",
    caffe.io.blobprotovector_str_to_arraylist(caffe.io.arraylist_to_blobprotovector_str([image, image[:2]])),
)
for dims in ((4, 4), (18, 21), (9, 3)):
    put(f"resize {dims}", caffe.io.resize_image(image, dims))
    put(f"resize order 0 {dims}", caffe.io.resize_image(image, dims, interp_order=0))
    put(f"resize 1 channel {dims}", caffe.io.resize_image(image[:, :, :1], dims))
    put(f"resize 5 channels {dims}", caffe.io.resize_image(rs.rand(9, 7, 5), dims))
put("oversample", caffe.io.oversample([image, image * 2], (5, 4)))
t = caffe.io.Transformer({"data": (1, 3, 5, 4)})
put("transformer bare", t.preprocess("data", rs.rand(3, 5, 4)))
for step, call in (
    ("transpose", lambda: t.set_transpose("data", (2, 0, 1))),
    ("swap", lambda: t.set_channel_swap("data", (2, 0, 1))),
    ("scale", lambda: t.set_raw_scale("data", 10)),
    ("mean", lambda: t.set_mean("data", np.array([1.0, 2, 3]))),
    ("input scale", lambda: t.set_input_scale("data", 0.5)),
):
    call()
    put("preprocess " + step, t.preprocess("data", image.copy()))
put("deprocess", t.deprocess("data", t.preprocess("data", image.copy())))
t.set_mean("data", rs.rand(3, 5, 4))
put("preprocess mean image", t.preprocess("data", image.copy()))
for name, call in (
    ("mean shape", lambda: t.set_mean("data", np.zeros((4, 5, 4)))),
    ("mean size", lambda: t.set_mean("data", np.zeros(5))),
    ("mean axes", lambda: t.set_mean("data", np.zeros((3, 2)))),
    ("swap size", lambda: t.set_channel_swap("data", (0, 1))),
    ("transpose size", lambda: t.set_transpose("data", (0, 1))),
    ("unknown", lambda: t.preprocess("x", image)),
):
    fails("transformer " + name, call)
deploy = write(
    "deploy.prototxt",
    'layer { name: "d" type: "Input" top: "data" input_param { shape { dim: 4 dim: 3 dim: 6 dim: 6 } } }\n'
    'layer { name: "i" type: "InnerProduct" bottom: "data" top: "i" '
    'inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }\n'
    'layer { name: "p" type: "Softmax" bottom: "i" top: "p" }\n',
)
caffe.set_random_seed(4)
caffe.Net(deploy, caffe.TEST).save("deploy.caffemodel")
c = caffe.Classifier(
    deploy,
    "deploy.caffemodel",
    image_dims=(10, 8),
    mean=rs.rand(3),
    input_scale=0.5,
    raw_scale=2,
    channel_swap=(2, 1, 0),
)
images = [rs.rand(12, 9, 3).astype(np.float32) for _ in range(3)]
put("classifier", [c.predict(images), c.predict(images, oversample=False), list(c.crop_dims), list(c.image_dims)])
c = caffe.Classifier(deploy, "deploy.caffemodel")
put("classifier plain", c.predict(images[:1]))
d = caffe.Detector(deploy, "deploy.caffemodel", mean=rs.rand(3), raw_scale=3, channel_swap=(2, 1, 0))
caffe.io.save = None
windows = [(images[0], [[0, 0, 6, 6], [2, 1, 9, 8]]), (images[1], [[1, 1, 12, 9]])]
original, caffe.io.load_image = caffe.io.load_image, lambda image: image
put("detector", [[r["prediction"], list(map(int, r["window"]))] for r in d.detect_windows(windows)])

# solvers
SOLVER = """net: "train.prototxt" base_lr: 0.1 lr_policy: "step" gamma: 0.5 stepsize: 3 max_iter: 6 random_seed: 2 momentum: 0.9
weight_decay: 0.01 snapshot_prefix: "snap" test_iter: 2 test_interval: 4 display: 0 snapshot_format: %s """
write(
    "train.prototxt",
    MEMORY.replace("MemoryData", "DummyData").replace(
        "memory_data_param { batch_size: 2 channels: 3 height: 2 width: 2 }",
        "dummy_data_param { shape { dim: 4 dim: 3 dim: 2 dim: 2 } shape { dim: 4 } "
        "data_filler { type: 'gaussian' } data_filler { value: 1 } }",
    ),
)
for form in ("BINARYPROTO", "HDF5"):
    s = caffe.get_solver(write("solver.prototxt", SOLVER % form))
    put(
        form + " solver",
        [type(s).__name__, s.iter, len(s.test_nets), list(s.net.outputs), list(s.test_nets[0].outputs)],
    )
    put(form + " test net has its own", bool((s.net.params["a"][0].data == s.test_nets[0].params["a"][0].data).all()))
    events = []
    s.add_callback(
        lambda s=s, events=events: events.append(f"start {s.iter}"),
        lambda s=s, events=events: events.append(f"ready {s.iter}"),
    )
    s.step(2)
    put(form + " events", events)
    s.snapshot()
    put(form + " files", sorted(name for name in os.listdir(".") if name.startswith("snap")))
    weights = s.net.params["a"][0].data.copy()
    s.step(3)
    end = s.net.params["a"][0].data.copy()
    put(form + " after 5", [end, s.iter, s.lr])
    s.restore("snap_iter_2.solverstate" + (".h5" if form == "HDF5" else ""))
    put(form + " restored", [s.iter, bool((s.net.params["a"][0].data == weights).all())])
    s.share_weights(s.test_nets[0])
    s.net.params["a"][0].data[...] = 0.5
    put(form + " shared", s.test_nets[0].params["a"][0].data)
    s.param.base_lr = 0.001
    put(form + " lr", s.lr)
    s.solve()
    put(form + " solved", [s.iter, s.net.params["a"][0].data])
    for name in os.listdir("."):
        if name.startswith("snap"):
            os.remove(name)
put("param", [s.param.max_iter, s.param.display, s.param.layer_wise_reduce])
solver = caffe.NesterovSolver("solver.prototxt")
put("nesterov", [type(solver).__name__, isinstance(solver, caffe.SGDSolver)])
solver.solve()
put("nesterov solved", solver.net.params["a"][0].data)
put(
    "module",
    sorted(
        name
        for name in (
            "Net",
            "SGDSolver",
            "NesterovSolver",
            "AdaGradSolver",
            "RMSPropSolver",
            "AdaDeltaSolver",
            "AdamSolver",
            "NCCL",
            "Timer",
            "init_log",
            "log",
            "set_mode_cpu",
            "set_mode_gpu",
            "set_device",
            "Layer",
            "get_solver",
            "layer_type_list",
            "set_random_seed",
            "solver_count",
            "set_solver_count",
            "solver_rank",
            "set_solver_rank",
            "set_multiprocess",
            "has_nccl",
            "TRAIN",
            "TEST",
            "Classifier",
            "Detector",
            "io",
            "layers",
            "params",
            "NetSpec",
            "to_proto",
            "__version__",
            "pycaffe",
            "classifier",
            "detector",
            "net_spec",
            "proto",
        )
        if not hasattr(caffe, name)
    ),
)
timer = caffe.Timer()
timer.start()
timer.stop()
put("timer", 0 <= timer.ms < 10000)

with open(sys.argv[1], "w") as file:
    json.dump(answers, file)

"""Every name that pycaffe has, and the arguments of its functions, as JSON: run by test_pycaffe_names.py under both."""

import inspect
import json
import sys
import types

sys.modules["pydot"] = types.ModuleType("pydot")  # which draw.py imports, there
import caffe  # noqa: E402
import caffe.classifier  # noqa: E402
import caffe.coord_map  # noqa: E402
import caffe.detector  # noqa: E402
import caffe.draw  # noqa: E402
import caffe.io  # noqa: E402
import caffe.net_spec  # noqa: E402
from caffe.proto import caffe_pb2  # noqa: E402

NET = """layer { name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param { shape { dim: 2 dim: 3 }
  shape { dim: 2 } data_filler { type: "constant" value: 1 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 2 } }
layer { name: "own" type: "Python" bottom: "ip" top: "own" python_param { module: "__main__" layer: "Own" } }
"""
LOSS = 'layer { name: "%s" type: "%s" bottom: "own" bottom: "label" %s }\n'


class Own(caffe.Layer):
    def setup(self, bottom, top):
        found["a Python layer"] = dir(self)

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        top[0].data[...] = bottom[0].data

    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = top[0].diff


sys.modules["__main__"].Own = Own
found, arguments, outputs = {}, {}, {}


def written(text, name="net.prototxt"):
    with open(name, "w") as file:
        file.write(text)
    return name


def signature(function):
    return [[p.name, str(p.kind), None if p.default is p.empty else repr(p.default)]
            for p in inspect.signature(function).parameters.values()]  # fmt: skip


modules = {"caffe": caffe, "caffe.proto.caffe_pb2": caffe_pb2}
for name in ("io", "draw", "coord_map", "detector", "classifier", "net_spec", "proto", "pycaffe", "_caffe"):
    modules["caffe." + name] = getattr(caffe, name)
for place, module in modules.items():
    found[place] = dir(module)
    for name in dir(module):
        thing = getattr(module, name)
        if isinstance(thing, types.FunctionType):
            arguments[place + "." + name] = signature(thing)
        if (
            isinstance(thing, type)
            and place != "caffe.proto.caffe_pb2"
            and name not in ("OrderedDict", "Counter", "izip_longest")
        ):
            found[place + "." + name] = dir(thing)
            for method in dir(thing):
                if isinstance(getattr(thing, method), types.FunctionType):
                    arguments["%s.%s.%s" % (place, name, method)] = signature(getattr(thing, method))

written(NET + LOSS % ("loss", "SoftmaxWithLoss", 'top: "loss"'))
written('net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 4 snapshot_prefix: "x"', "solver.prototxt")
solver = caffe.get_solver("solver.prototxt")
net = solver.net
for name, thing in {
    "a Solver": solver, "a Net": net, "a Blob": net.blobs["ip"], "a BlobVec": net.params["ip"], "a Layer": net.layers[1],
    "layers": net.layers, "test_nets": solver.test_nets, "_blobs": net._blobs, "_layer_names": net._layer_names,
    "_inputs": net._inputs, "blobs": net.blobs, "params": net.params, "top_names": net.top_names,
    "a SolverParameter": solver.param, "L": caffe.layers, "P": caffe.params, "P.Pooling": caffe.params.Pooling,
    "a Top": caffe.layers.Data(ntop=2)[0], "a Datum": caffe_pb2.Datum(), "a LayerParameter": caffe_pb2.LayerParameter(),
    "class LayerParameter": caffe_pb2.LayerParameter, "repeated messages": caffe_pb2.NetParameter().layer,
    "repeated numbers": caffe_pb2.BlobShape().dim, "an enum": caffe_pb2.Phase,
}.items():  # fmt: skip
    found[name] = dir(thing)

for losses in (
    [("a", "SoftmaxWithLoss", "")],
    [("a", "SoftmaxWithLoss", ""), ("b", "SoftmaxWithLoss", "")],
    [("a", "SoftmaxWithLoss", "loss_weight: 2"), ("b", "HingeLoss", "loss_weight: 0.5"), ("c", "HingeLoss", "")],
    [("a", "SoftmaxWithLoss", ""), ("b", "HingeLoss", 'top: "l"')],
    [("a", "SoftmaxWithLoss", 'top: "l"'), ("b", "HingeLoss", "")],
    [("a", "SoftmaxWithLoss", 'top: "(automatic)"'), ("b", "HingeLoss", "")],
):
    net = caffe.Net(written(NET + "".join(LOSS % loss for loss in losses)), caffe.TRAIN)
    net.save("net.caffemodel")
    saved = caffe_pb2.NetParameter()
    with open("net.caffemodel", "rb") as file:
        saved.ParseFromString(file.read())
    outputs[str(losses)] = [
        list(net.outputs), list(net._outputs), list(net.blobs), list(net._blob_names), list(net._blob_loss_weights),
        [list(net._top_ids(i)) for i in range(len(net.layers))], sorted(net.forward()), sorted(net.backward()),
        [[round(float(each), 4) for each in blob.data.ravel()] for blob in net._blobs],
        [[layer.name, list(layer.bottom), list(layer.top)] for layer in saved.layer],
    ]  # fmt: skip

with open(sys.argv[1], "w") as file:
    json.dump({"names": found, "arguments": arguments, "outputs": outputs}, file)

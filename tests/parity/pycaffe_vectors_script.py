"""What scripts do with pycaffe's vectors, names and mistakes; run by test_pycaffe_script under both. Writes answers."""

import json
import sys
import threading

import caffe
import numpy as np

answers = {}


def ask(name, call):
    """Notes what `call` returns, or the kind of its exception (Boost's ArgumentError: a TypeError)."""
    try:
        value = call()
    except BaseException as error:
        kinds = (KeyError, AttributeError, IndexError, TypeError, ValueError, OverflowError, RuntimeError, Exception)
        answers[name] = ["raises", next(kind.__name__ for kind in kinds if isinstance(error, kind))]
        return
    if isinstance(value, np.ndarray):
        value = {"shape": list(value.shape), "values": value.astype(float).ravel().tolist()}
    answers[name] = value


open("net.prototxt", "w").write("""name: "tiny" force_backward: true
input: "data" input_shape { dim: 2 dim: 3 }
layer { name: "a" type: "InnerProduct" bottom: "data" top: "a" inner_product_param { num_output: 3
        weight_filler { type: "xavier" } bias_filler { type: "uniform" } } }
layer { name: "b" type: "InnerProduct" bottom: "a" top: "b" inner_product_param { num_output: 3
        weight_filler { type: "xavier" } bias_filler { type: "uniform" } } }
""")
data = np.arange(6, dtype=np.float32).reshape(2, 3)


def fresh():
    caffe.set_random_seed(3)
    return caffe.Net("net.prototxt", caffe.TEST)


def run(net):
    return net.forward(data=data)["b"].copy()


def stored(net):
    """The arrays of a .caffemodel, and what a second net reads from it and from HDF5."""
    net.save("v.caffemodel")
    message = caffe.proto.caffe_pb2.NetParameter.FromString(open("v.caffemodel", "rb").read())
    kept = [list(blob.data) for layer in message.layer for blob in layer.blobs]
    net.save_hdf5("v.h5")
    other = caffe.Net("net.prototxt", caffe.TEST)
    other.load_hdf5("v.h5")
    return [kept, [blob.data.tolist() for blobs in other.params.values() for blob in blobs]]


net = fresh()
p, q = net.params["a"], net.params["b"]
ask("before", lambda: run(net))
ask("in", lambda: [p[0] in p, p[0] in q, q[1] in p])
p[0] = q[0]
ask("set: forward", lambda: run(net))
ask("set: stored", lambda: stored(net))
ask("set: shared", lambda: (q[0].data.fill(2), run(net))[1])
net.blobs["b"].diff[...] = 1
net.clear_param_diffs()
net.backward()
ask("set: gradients", lambda: [p[0].diff.tolist(), q[0].diff.tolist()])
net.save("before.caffemodel")
net.copy_from("before.caffemodel")
ask("set: copied", lambda: run(net))
p[-1] = q[1]
ask("set -1: forward", lambda: run(net))
net = fresh()
p, q = net.params["a"], net.params["b"]
p[0:1] = [q[0]]
ask("set slice: forward", lambda: run(net))
part = q[:]
ask("slice", lambda: [len(part), type(part).__name__ == type(q).__name__, [list(blob.shape) for blob in part]])
part[0].data[...] = 5
ask("slice: shared", lambda: run(net))
part[0] = p[1]
ask("slice: apart", lambda: run(net))
q.append(p[1])
ask("append", lambda: [len(q), len(net.params["b"]), len(net.layers[2].blobs)])
ask("append: forward", lambda: run(net))
q.extend([p[0], p[1]])
q.extend(p)
ask("extend", lambda: [list(blob.shape) for blob in q])
del q[-1]
del q[2:]
ask("del", lambda: [len(q), len(net.layers[2].blobs)])
ask("del: stored", lambda: stored(net))
q.add_blob(4, 5)
ask("add_blob", lambda: [list(q[2].shape), q[2].data.tolist()])
for name, call in {
    "get 7": lambda: q[7],
    "get text": lambda: q["a"],
    "set 3": lambda: q.__setitem__(0, 3),
    "set 7": lambda: q.__setitem__(7, q[0]),
    "append 3": lambda: q.append(3),
    "extend 3": lambda: q.extend([3]),
    "del 9": lambda: q.__delitem__(9),
    "add_blob text": lambda: q.add_blob("x"),
    "add_blob a=1": lambda: q.add_blob(a=1),
    "insert": lambda: q.insert(0, q[0]),
    "pop": lambda: q.pop(),
    "index": lambda: q.index(q[0]),
    "data =": lambda: setattr(net.blobs["data"], "data", data),
    "shape =": lambda: setattr(net.blobs["data"], "shape", (2, 3)),
    "other = ": lambda: setattr(net.blobs["data"], "other", 1),
    "other": lambda: net.blobs["data"].other,
    "another": lambda: net.blobs["data"].another,
    "net.blobs =": lambda: setattr(net, "blobs", 1),
    "net.other": lambda: net.other,
    "layer.blobs =": lambda: setattr(net.layers[1], "blobs", 1),
    "layer.name": lambda: net.layers[1].name,
    "params x": lambda: net.params["x"],
    "blobs x": lambda: net.blobs["x"],
    "forward x=": lambda: net.forward(x=data),
    "forward 5": lambda: net.forward(data=np.zeros((5, 3))),
    "forward shape": lambda: net.forward(data=np.zeros((2, 4))),
    "forward start": lambda: net.forward(start="x"),
    "forward blobs": lambda: net.forward(blobs=["x"]),
    "forward blobs text": lambda: net.forward(blobs="a"),
    "backward x=": lambda: net.backward(x=data),
    "backward 5": lambda: net.backward(b=np.zeros((5, 3))),
    "backward diffs": lambda: net.backward(diffs=["x"]),
    "_forward text": lambda: net._forward("a", 1),
    "forward_all": lambda: net.forward_all(),
    "share_with 3": lambda: net.share_with(3),
    "save 3": lambda: net.save(3),
    "Net": lambda: caffe.Net(),
    "Net f": lambda: caffe.Net("net.prototxt"),
    "Net f text": lambda: caffe.Net("net.prototxt", "TEST"),
    "Net gone": lambda: caffe.Net("gone.prototxt", caffe.TEST),
    "Net foo=": lambda: caffe.Net("net.prototxt", caffe.TEST, foo=1),
    "seed text": lambda: caffe.set_random_seed("x"),
    "seed -1": lambda: caffe.set_random_seed(-1),
    "seed 2^32": lambda: caffe.set_random_seed(2**32),
    "Blob()": lambda: caffe._caffe.Blob(),
    "Solver()": lambda: caffe._caffe.Solver(),
    "get_solver 3": lambda: caffe.get_solver(3),
    "L foo=": lambda: str(caffe.to_proto(caffe.layers.Convolution(caffe.layers.Data(), foo=1))),
    "L type": lambda: str(caffe.to_proto(caffe.layers.Convolution(num_output="x"))),
    "L enum": lambda: str(caffe.to_proto(caffe.layers.Pooling(pool="AVG"))),
    "P": lambda: caffe.params.Pooling.AVG,
    "P x": lambda: caffe.params.Nope.AVG,
    "P pool": lambda: caffe.params.Pooling.AVE,
    "spec x": lambda: caffe.NetSpec().x,
    "spec [x]": lambda: caffe.NetSpec()["x"],
    "pb2 x": lambda: caffe.proto.caffe_pb2.Nope,
    "pb2 field": lambda: caffe.proto.caffe_pb2.NetParameter(foo=1),
    "transformer": lambda: caffe.io.Transformer({"data": (1, 3, 2, 2)}).set_mean("x", data),
    "mean": lambda: caffe.io.Transformer({"data": (1, 3, 2, 2)}).set_mean("data", np.zeros(2)),
    "datum": lambda: caffe.io.array_to_datum(data),
}.items():
    ask(name, call)

vector = caffe._caffe.RawBlobVec()
vector.append(net.blobs["data"])
top = caffe._caffe.RawBlobVec()
top.append(net.blobs["a"])
ask("raw", lambda: [len(vector), list(vector[0].shape), vector[0] in vector])
ask("raw reshape", lambda: net.layers[1].reshape(vector, top))
for kind, items in {"IntVec": [1, 2], "StringVec": ["a"], "DtypeVec": [0.5], "BoolVec": [True, False]}.items():
    filled = getattr(caffe._caffe, kind)()
    filled.extend(items)
    ask(kind, lambda vector=filled: list(vector))
ask("kinds", lambda: [isinstance(net.params["a"], caffe._caffe.BlobVec), isinstance(net.blobs["a"], caffe._caffe.Blob)])
ask("kinds of layers", lambda: [isinstance(layer, caffe.Layer) for layer in net.layers])
ask(
    "solver is",
    lambda: [issubclass(caffe.AdamSolver, caffe.SGDSolver), issubclass(caffe.SGDSolver, caffe._caffe.Solver)],
)
names = sorted(name for name in dir(caffe.proto.caffe_pb2) if name[0] == "_" and name[1] != "_" and name.isupper())
ask("descriptors", lambda: names)
v1 = caffe.proto.caffe_pb2._V1LAYERPARAMETER_LAYERTYPE
ask("layer types", lambda: sorted([value.name, value.number] for value in v1.values))
ask(
    "attributes",
    lambda: [
        name
        for name in (
            "_blobs",
            "_blob_names",
            "_layer_names",
            "_inputs",
            "_outputs",
            "_top_ids",
            "_bottom_ids",
            "_forward",
            "_backward",
            "_batch",
            "_set_input_arrays",
            "_blob_loss_weights",
            "_blobs_dict",
            "_input_list",
            "_output_list",
            "_params",
            "name",
            "phase",
        )
        if (net.inputs, net.outputs) and hasattr(net, name)
    ],
)
open("split.prototxt", "w").write("""force_backward: true
input: "data" input_shape { dim: 2 dim: 3 }
layer { name: "a" type: "Power" bottom: "data" top: "a" }
layer { name: "b" type: "Flatten" bottom: "data" top: "b" }
layer { name: "c" type: "Reshape" bottom: "data" top: "c" reshape_param { shape { dim: -1 dim: 2 } } }
layer { name: "d" type: "Power" bottom: "a" top: "d" }
layer { name: "e" type: "Concat" bottom: "a" top: "e" }
""")
net = caffe.Net("split.prototxt", caffe.TEST)


def blobs_of(net):
    return [[name, blob.data.ravel().tolist()] for name, blob in net.blobs.items()]


net.blobs["data"].data[...] = data
ask("split: before", lambda: blobs_of(net))
ask("split: from c", lambda: [net._forward(4, 4), blobs_of(net)])
net.forward()
ask("split: after", lambda: blobs_of(net))
net.blobs["data"].data[...] = 7
net.blobs["a"].data[...] = 8
ask("split: shared", lambda: blobs_of(net))
net.blobs["data"].reshape(4, 3)
net.reshape()
ask("split: reshaped", lambda: [list(blob.shape) for blob in net.blobs.values()])
net.forward(data=np.arange(12, dtype=np.float32).reshape(4, 3))
ask("split: again", lambda: blobs_of(net))

FILLED = """
layer { name: "x" type: "DummyData" top: "x" dummy_data_param { shape { dim: 5 } data_filler { type: "gaussian" } } }"""
open("filled.prototxt", "w").write(FILLED)


def drawn():
    net = caffe.Net("filled.prototxt", caffe.TEST)
    net.forward()
    return net.blobs["x"].data.tolist()


def in_thread(call):
    found = []
    thread = threading.Thread(target=lambda: found.append(call()))
    thread.start()
    thread.join()
    return found[0]


caffe.set_random_seed(3)
first = [drawn(), drawn()]
caffe.set_random_seed(3)
apart = [drawn(), in_thread(lambda: [caffe.set_random_seed(3), drawn()][1]), in_thread(drawn), drawn()]
ask("threads", lambda: [first, apart[0], apart[1], apart[3], apart[2] in first])
ask("threads: state", lambda: [caffe.set_solver_rank(2), in_thread(caffe.solver_rank), caffe.solver_rank()])
caffe.set_solver_rank(0)

from caffe.io import skimage  # noqa: E402

rs = np.random.RandomState(4)
image = rs.rand(13, 11, 3).astype(np.float32)
bytes_ = rs.randint(0, 256, (9, 14, 3)).astype(np.uint8)
for dims in ((8, 8), (20, 17), (13, 5), (1, 1), (3, 30)):
    ask("resize %s" % (dims,), lambda dims=dims: caffe.io.resize(image, dims))
    ask("resize bytes %s" % (dims,), lambda dims=dims: caffe.io.resize(bytes_, dims))
    ask("resize constant %s" % (dims,), lambda dims=dims: caffe.io.resize(image, dims, mode="constant"))
    ask("resize grey %s" % (dims,), lambda dims=dims: caffe.io.resize(bytes_[:, :, 0], dims))
    ask("resize 3 %s" % (dims,), lambda dims=dims: caffe.io.resize(image, (*dims, 3), order=3))
    ask("resize range %s" % (dims,), lambda dims=dims: caffe.io.resize(bytes_, dims, preserve_range=True))
    ask("resize sharp %s" % (dims,), lambda dims=dims: caffe.io.resize(image, dims, anti_aliasing=False))
    ask("resize sharp bytes %s" % (dims,), lambda dims=dims: caffe.io.resize(bytes_, dims, anti_aliasing=False))
    ask("resize type %s" % (dims,), lambda dims=dims: str(caffe.io.resize(image, dims).dtype))
for kind in (np.uint8, np.int16, np.float32, np.float64, np.bool_):
    values = (rs.rand(3, 4) * 100).astype(kind)
    ask("as float %s" % np.dtype(kind), lambda values=values: skimage.img_as_float(values))
    ask("as float type %s" % np.dtype(kind), lambda values=values: str(skimage.img_as_float(values).dtype))


def zoomed(array, order, *factors):
    for factor in factors:
        ask("zoom %s %s %s" % (array.dtype, order, factor), lambda by=factor: caffe.io.zoom(array, by, order=order))


for order in (0, 1, 3):
    zoomed(image, order, 2, 0.5, (0.7, 1.9, 1), [1, 3, 0.1])
    zoomed(bytes_, order, 2, 0.5, [1, 3, 0.1])
    zoomed((image[:, :, 0] * 200 - 100).astype(np.int16), order, (3, 0.4))
ask(
    "zoom type",
    lambda: [str(caffe.io.zoom(each, 2).dtype) for each in (image, bytes_, image > 0.5, image.astype(float))],
)
ask("zoom a row", lambda: caffe.io.zoom(image[0, :, 0], 1.7))
ask("zoom mirror", lambda: caffe.io.zoom(image, (2, 0.5, 1), mode="mirror"))
ask("zoom nearest", lambda: caffe.io.zoom(image, (2, 0.5, 1), order=1, mode="nearest"))
ask("zoom factors", lambda: caffe.io.zoom(image, (2, 2)))
ask("zoom order", lambda: caffe.io.zoom(image, 2, order=6))

net = caffe.Net("filled.prototxt", caffe.TEST)
texts = caffe._caffe.StringVec()
texts.append("a")
ask("in", lambda: ["a" in texts, "b" in texts, 3 in texts, "x" in net._blob_names])
ask("in layers", lambda: [net.layers[0] in net.layers, None in net.layers, 3 in net.layers])
ask("transform", lambda: skimage.transform.resize(image, (4, 5)))
json.dump(answers, open(sys.argv[1], "w"), default=lambda value: np.asarray(value).tolist())

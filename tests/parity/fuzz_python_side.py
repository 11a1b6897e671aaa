"""pycaffe's Python parts on random arguments: io, Transformer, Classifier, Detector, NetSpec, coord_map, draw.

Runs on either side, as fuzz_side.py does.
"""

import importlib
import random
import sys
import types

import numpy as np


def attempt(out, name, call):
    """The result of `call` under `name`, or the kind of its exception."""
    try:
        value = call()
    except Exception as error:
        value = "raises " + (type(error).__name__ if name != "crop" else "")  # of two equal maps: AttributeError there
    out[name] = np.array(value) if isinstance(value, str) else np.asarray(value)


class Recorded:
    """In place of pydot's classes, which are not installed beside real Caffe: remembers how it was made, and what was added."""

    def __init__(self, *words, **options):
        self.text = repr([getattr(w, "text", w) for w in words]) + repr(sorted(options.items()))
        self.added = []

    def add_node(self, node):
        self.added.append(node.text)

    add_edge = add_node


PYDOT = types.ModuleType("pydot")
PYDOT.Dot = PYDOT.Node = PYDOT.Edge = Recorded


def resize(caffe, rng, rs, out):
    channels = rng.choice([1, 3, 3, 2, 4])
    shape = (rng.randint(1, 20), rng.randint(1, 20), channels)
    image = rs.uniform(-2, 255, shape)
    image = image.astype(rng.choice(["f4", "f4", "f4", "f8", "u1"] if channels in (1, 3) else ["f4"]))
    order = rng.choice([1, 1, 1, 0, 3]) if image.dtype == np.float32 else 1  # LAPACK's last bits decide the edges of 2
    if rng.random() < 0.1:
        image[...] = image.ravel()[0]
    attempt(out, "resize", lambda: caffe.io.resize_image(image, (rng.randint(1, 25), rng.randint(1, 25)), order))


def oversample(caffe, rng, rs, out):
    shape = (rng.randint(2, 12), rng.randint(2, 12), rng.choice([1, 3]))
    images = [rs.rand(*shape).astype("f4") for _ in range(rng.randint(1, 3))]
    crop = (rng.randint(1, shape[0]), rng.randint(1, shape[1]))
    attempt(out, "oversample", lambda: caffe.io.oversample(images, np.array(crop) if rng.random() < 0.5 else crop))


def transformer(caffe, rng, rs, out):
    k, h, w = rng.choice([1, 3, 3]), rng.randint(2, 9), rng.randint(2, 9)
    t = caffe.io.Transformer({"data": (1, k, h, w)})
    image = rs.rand(*((h, w) if rng.random() < 0.5 else (rng.randint(2, 12), rng.randint(2, 12))), k).astype("f4")
    steps = [
        ("transpose", lambda: t.set_transpose("data", rng.choice([(2, 0, 1), (2, 0, 1), (2, 1, 0), (0, 1)]))),
        ("swap", lambda: t.set_channel_swap("data", tuple(reversed(range(k if rng.random() < 0.9 else 2))))),
        ("raw", lambda: t.set_raw_scale("data", rng.choice([255, 0.5, 255.0]))),
        ("scale", lambda: t.set_input_scale("data", rng.choice([0.017, 2]))),
        (
            "mean",
            lambda: t.set_mean(
                "data", rs.rand(*rng.choice([(k,), (k, h, w), (k, h + 1, w), (h, w), (k + 1,), (1, k, h, w)]))
            ),
        ),
    ]
    rng.shuffle(steps)
    for name, call in steps[: rng.randint(0, 5)]:
        attempt(out, "set " + name, lambda call=call: call() or "done")
        attempt(out, "after " + name, lambda: t.preprocess("data", image.copy()))
    attempt(out, "back", lambda: t.deprocess("data", t.preprocess("data", image.copy())))


NET = """layer {{ name: "d" type: "Input" top: "data" input_param {{ shape {{ dim: {n} dim: 3 dim: {h} dim: {w} }} }} }}
layer {{ name: "c" type: "Convolution" bottom: "data" top: "c" convolution_param {{ num_output: 4 kernel_size: 2
  weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "i" type: "InnerProduct" bottom: "c" top: "i" inner_product_param {{ num_output: 3
  weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "p" type: "Softmax" bottom: "i" top: "prob" }}
"""


def options_of(rng, rs, h, w):
    out = {}
    for chance, name, value in (
        (0.5, "mean", rs.rand(3) if rng.random() < 0.6 else rs.rand(3, h, w)),
        (0.4, "input_scale", 0.5),
        (0.5, "raw_scale", 255.0),
        (0.5, "channel_swap", (2, 1, 0)),
    ):
        if rng.random() < chance:
            out[name] = value
    return out


def deploy(caffe, rng):
    n, h, w = rng.randint(1, 12), rng.randint(3, 8), rng.randint(3, 8)
    with open("deploy.prototxt", "w") as file:
        file.write(NET.format(n=n, h=h, w=w))
    caffe.set_random_seed(rng.randint(0, 1000))
    caffe.Net("deploy.prototxt", caffe.TEST).save("deploy.caffemodel")
    return h, w


def classifier(caffe, rng, rs, out):
    h, w = deploy(caffe, rng)
    options = options_of(rng, rs, h, w)
    if rng.random() < 0.6:
        options["image_dims"] = (h + rng.randint(0, 4), w + rng.randint(0, 4))
    shape = (rng.randint(3, 12), rng.randint(3, 12), 3)
    images = [rs.rand(*shape).astype("f4") for _ in range(rng.randint(1, 3))]
    attempt(
        out,
        "classes",
        lambda: caffe.Classifier("deploy.prototxt", "deploy.caffemodel", **options).predict(
            images, oversample=rng.random() < 0.7
        ),
    )


def detector(caffe, rng, rs, out):
    h, w = deploy(caffe, rng)
    options = options_of(rng, rs, h, w)
    images = [rs.rand(rng.randint(8, 14), rng.randint(8, 14), 3).astype("f4") for _ in range(2)]
    caffe.io.load_image, original = (lambda image: image), caffe.io.load_image
    windows = []
    for image in images[: rng.randint(1, 2)]:
        boxes = []
        for _ in range(rng.randint(1, 4)):
            top, left = rng.randint(0, 5), rng.randint(0, 5)
            boxes.append([top, left, rng.randint(top + 2, image.shape[0]), rng.randint(left + 2, image.shape[1])])
        windows.append((image, np.array(boxes) if rng.random() < 0.5 else boxes))
    try:
        attempt(
            out,
            "windows",
            lambda: [
                r["prediction"]
                for r in caffe.Detector("deploy.prototxt", "deploy.caffemodel", **options).detect_windows(windows)
            ],
        )
    finally:
        caffe.io.load_image = original


def graph_text(graph):
    return "\n".join([graph.text, *sorted(graph.added)])


def spec(caffe, rng, rs, out):
    """A random fully convolutional net: its prototxt through NetSpec, and coord_map between its tops."""
    L, P = caffe.layers, caffe.params
    sys.modules.setdefault("pydot", PYDOT)
    coord_map, draw = (importlib.import_module(caffe.__name__ + part) for part in (".coord_map", ".draw"))
    n = caffe.NetSpec()
    n.data = L.Input(input_param=dict(shape=dict(dim=[1, 3, 50, 50])))
    tops = [n.data]
    for i in range(rng.randint(1, 6)):
        below, kind = rng.choice(tops), rng.randrange(8)
        sizes = dict(kernel_size=rng.randint(1, 4), stride=rng.randint(1, 3), pad=rng.randint(0, 2))
        if kind == 0:
            top = L.Pooling(below, pool=rng.choice([P.Pooling.MAX, P.Pooling.AVE]), **sizes)
        elif kind == 1:
            top = L.Deconvolution(below, convolution_param=dict(num_output=2, **sizes))
        elif kind == 2:
            top = L.ReLU(below, in_place=True, negative_slope=rng.choice([0.5, 2]))
        elif kind == 3:
            top = L.Eltwise(below, below, operation=P.Eltwise.SUM, coeff=[1, rng.choice([2, -1])])
        elif kind == 4:
            top = L.LRN(
                below, local_size=3, name=f"named{i}", include=[dict(phase=rng.choice([caffe.TRAIN, caffe.TEST]))]
            )
        elif kind == 5:
            a, b = L.Slice(below, ntop=2, slice_point=1, axis=1)
            n[f"slice{i}"], top = a, b
            tops.append(a)
        else:
            top = L.Convolution(
                below,
                num_output=rng.randint(1, 9),
                dilation=rng.randint(1, 2),
                bias_term=rng.random() < 0.5,
                param=[dict(lr_mult=rng.choice([1, 0, 2]))],
                weight_filler=dict(type="xavier"),
                **sizes,
            )
        n[f"t{i}"] = top
        tops.append(n[f"t{i}"])
    a, b = rng.choice(tops), rng.choice(tops)
    attempt(
        out,
        "coord_map",
        lambda: [
            np.asarray(x if x is not None else -1, float).ravel().tolist() for x in coord_map.coord_map_from_to(a, b)
        ].__str__(),
    )
    if rng.random() < 0.6:
        attempt(out, "crop", lambda: a is not b and str(coord_map.crop(a, b).to_proto().SerializeToString()))
    attempt(out, "spec", lambda: np.frombuffer(n.to_proto().SerializeToString(), "u1"))
    param = caffe.proto.caffe_pb2.NetParameter()
    param.CopyFrom(n.to_proto())
    for layer in param.layer:
        if layer.type in ("Convolution", "Deconvolution", "Pooling"):
            for word in ("TB", "LR"):
                attempt(
                    out, f"label {layer.name} {word}", lambda layer=layer, word=word: draw.get_layer_label(layer, word)
                )
        attempt(out, "edge " + layer.name, lambda layer=layer: draw.get_edge_label(layer))
        attempt(out, "colour " + layer.name, lambda layer=layer: draw.choose_color_by_layertype(layer.type))
        attempt(
            out,
            "graph",
            lambda: graph_text(
                draw.get_pydot_graph(
                    param, rng.choice(["TB", "LR"]), rng.random() < 0.5, rng.choice([None, 0, 1]), rng.random() < 0.3
                )
            ),
        )
        attempt(out, "lr " + layer.name, lambda layer=layer: str(draw.get_layer_lr_mult(layer)))


PARTS = (resize, resize, oversample, transformer, classifier, detector, spec, spec)


def run_python(caffe, job, jitter=0.0):
    """Does what the job's seed draws. Returns: dict name -> array or text."""
    rng, rs, out = random.Random(job["seed"]), np.random.RandomState(job["seed"]), {}
    PARTS[job["seed"] % len(PARTS)](caffe, rng, rs, out)
    return out

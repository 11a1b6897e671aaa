"""A net's forward played from a tape: every bit, and every change by the user, as when its layers run one by one."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from support.prototxt import input_layer, layer

from allconv_caffe import pycaffe
from allconv_caffe.caffe_torch.compute import caffe_math, fast_math
from allconv_caffe.caffe_torch.compute.math_functions import TorchMath
from allconv_caffe.caffe_torch.errors import CaffeError
from allconv_caffe.caffe_torch.tape import Run

pytestmark = pytest.mark.skipif(caffe_math.why_not() is not None, reason="this machine has not Caffe's order")

XAVIER = 'weight_filler { type: "xavier" } bias_filler { type: "uniform" min: -1 max: 1 }'
INPUT = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 4 dim: 7 dim: 6 } } }\n'
NET = INPUT + "".join(
    [
        "force_backward: true\n",
        layer("conv1", "Convolution", "x", f"convolution_param {{ num_output: 6 kernel_size: 3 pad: 1 {XAVIER} }}"),
        'layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }\n',
        layer(
            "conv2",
            "Convolution",
            "conv1",
            f"convolution_param {{ num_output: 4 kernel_size: 3 group: 2 stride: 2 {XAVIER} }}",
        ),
        layer("relu2", "ReLU", "conv2", ""),
        layer("max", "Pooling", "conv1", "pooling_param { pool: MAX kernel_size: 3 stride: 2 pad: 1 }"),
        layer("batch", "BatchNorm", "max", "batch_norm_param { use_global_stats: false }"),  # between two runs
        layer("ave", "Pooling", "batch", "pooling_param { pool: AVE kernel_size: 3 stride: 2 }"),
        layer("drop", "Dropout", "ave", ""),
        layer("flat", "Flatten", "relu2", ""),
        layer("shape", "Reshape", "drop", "reshape_param { shape { dim: 0 dim: -1 } }"),
        layer("wide", "Concat", "conv2 relu2 conv2", "concat_param { axis: 3 }"),
        layer("deep", "Concat", "conv2 relu2", ""),
        layer("flat2", "Flatten", "shape", ""),
        layer("ip", "InnerProduct", "flat", f"inner_product_param {{ num_output: 5 {XAVIER} }}"),
        layer("ip2", "InnerProduct", "flat2", f"inner_product_param {{ num_output: 3 bias_term: false {XAVIER} }}"),
        layer("prob", "Softmax", "ip", ""),
        layer("across", "LRN", "x", "lrn_param { local_size: 3 alpha: 0.5 k: 2 }"),
        layer("within", "LRN", "across", "lrn_param { norm_region: WITHIN_CHANNEL local_size: 3 alpha: 2 }"),
        layer("norm", "BatchNorm", "within", ""),
        'layer { name: "scale" type: "Scale" bottom: "norm" top: "norm" '
        'scale_param { bias_term: true filler { type: "uniform" } bias_filler { type: "uniform" } } }\n',
        'layer { name: "norm2" type: "BatchNorm" bottom: "norm" top: "norm" batch_norm_param { eps: 0.1 } }\n',
        layer("by_blob", "Scale", "norm x", "scale_param { axis: 0 }"),
        layer("bias", "Bias", "by_blob", 'bias_param { axis: 2 num_axes: 2 filler { type: "uniform" } }'),
        layer("sum", "Eltwise", "bias norm x", "eltwise_param { coeff: 1 coeff: -2.5 coeff: 0 }"),
        layer("product", "Eltwise", "bias sum x", "eltwise_param { operation: PROD }"),
        layer("most", "Eltwise", "product sum x", "eltwise_param { operation: MAX }"),
        'layer { name: "cleared" type: "Eltwise" bottom: "most" bottom: "sum" top: "most" }\n',
        'layer { name: "prelu" type: "PReLU" bottom: "most" top: "most" }\n',
        layer("prelu2", "PReLU", "most", "prelu_param { channel_shared: true }"),
        layer("leaky", "ReLU", "prelu2", "relu_param { negative_slope: 0.1 }"),
        layer("elu", "ELU", "leaky", ""),
        layer("cut", "Slice", "elu", "slice_param { slice_point: 1 }", tops="cut1 cut2"),
        layer("cut2b", "Slice", "cut2", "slice_param { axis: 3 }", tops="left right_half"),
        layer("sigmoid", "Sigmoid", "left", ""),
        layer("tanh", "TanH", "sigmoid", ""),
        layer("power", "Power", "tanh", "power_param { power: 2 scale: 0.5 shift: 1 }"),
        layer("same", "Power", "power", ""),
        layer("abs", "AbsVal", "same", ""),
        layer("exp", "Exp", "abs", "exp_param { base: 2 scale: 0.5 }"),
        layer("log", "Log", "exp", "log_param { base: 10 shift: 1 }"),
        layer("bnll", "BNLL", "log", ""),
        layer("clip", "Clip", "bnll", "clip_param { min: -0.5 max: 0.7 }"),
        layer("swish", "Swish", "clip", "swish_param { beta: 2 }"),
        layer("silent", "Silence", "right_half", tops=""),
        layer(
            "up", "Deconvolution", "conv2", f"convolution_param {{ num_output: 4 kernel_size: 4 stride: 2 {XAVIER} }}"
        ),
        layer(
            "bilinear",
            "Deconvolution",
            "conv2",
            "convolution_param { num_output: 4 group: 4 kernel_size: 4 stride: 2 pad: 1 bias_term: false "
            'weight_filler { type: "bilinear" } }',
        ),
        layer("cropped", "Crop", "up bilinear", "crop_param { axis: 2 offset: 1 offset: 2 }"),
        layer("cropped2", "Crop", "x cropped", "crop_param { axis: 2 }"),
        layer("mvn", "MVN", "cropped"),
        layer("mean", "MVN", "x", "mvn_param { normalize_variance: false across_channels: true }"),
        layer("rows", "Reduction", "mean", "reduction_param { axis: 1 operation: MEAN }"),
        layer("squares", "Reduction", "mean", "reduction_param { axis: 2 operation: SUMSQ }"),
        layer("absolute", "Reduction", "mean", "reduction_param { axis: 2 operation: ASUM }"),
        layer("tiled", "Tile", "mvn", "tile_param { axis: 1 tiles: 3 }"),
        layer("permuted", "Permute", "tiled", "permute_param { order: 0 order: 2 order: 3 order: 1 }"),
        layer("shuffled", "ShuffleChannel", "x", "shuffle_channel_param { group: 2 }"),
        layer("patches", "Im2col", "x", "convolution_param { kernel_size: 3 pad: 1 stride: 2 dilation: 2 }"),
    ]
)

#: Labels are found in the net itself: ArgMax's places, of which the second class is not counted somewhere.
LOSSES = INPUT + "".join(
    [
        layer("ip", "InnerProduct", "x", f"inner_product_param {{ num_output: 6 axis: 2 {XAVIER} }}"),
        layer("label", "ArgMax", "x", "argmax_param { axis: 1 }"),
        layer("first", "Slice", "label", "slice_param { axis: 2 slice_point: 1 }", tops="first others"),
        layer("row", "Slice", "first", "slice_param { axis: 3 slice_point: 4 }", tops="row column"),
        layer("unused", "Silence", "others column", tops=""),
        layer("loss", "SoftmaxWithLoss", "x label", "loss_weight: 0.3"),
        layer("loss2", "SoftmaxWithLoss", "ip row", "softmax_param { axis: 2 } loss_param { ignore_label: 1 }"),
        layer("loss3", "SoftmaxWithLoss", "x label", "loss_param { ignore_label: 1 normalization: FULL }"),
        layer("right", "Accuracy", "x label", "accuracy_param { top_k: 2 ignore_label: 0 }", tops="right right_each"),
        layer("ip2", "InnerProduct", "x", f"inner_product_param {{ num_output: 6 axis: 2 {XAVIER} }}"),
        layer("distance", "EuclideanLoss", "ip ip2", "loss_weight: 2"),
        layer("each", "SigmoidCrossEntropyLoss", "x x"),
        layer("each2", "SigmoidCrossEntropyLoss", "x x", "loss_param { ignore_label: 0 normalization: VALID }"),
        layer("weighed", "Reduction", "ip2", "loss_weight: 0.1"),
        layer("weighed_each", "Power", "ip2", "loss_weight: 0.1"),
        layer("embedded", "Embed", "label", f"embed_param {{ num_output: 3 input_dim: 4 {XAVIER} }}"),
        layer("embedded2", "Embed", "label", "embed_param { num_output: 3 input_dim: 4 bias_term: false }"),
    ]
)


@pytest.fixture(autouse=True, params=["exact", "fast"])
def _order(request: pytest.FixtureRequest) -> Iterator[None]:
    """Sums in Caffe's order, and by the fastest kernels."""
    if request.param == "fast" and fast_math.why_not() is not None:
        pytest.skip("this machine has not the kernels")
    pycaffe.set_seed_exact(request.param == "exact")
    yield
    pycaffe.set_seed_exact(False)


def build(text: str = NET) -> pycaffe.Net:
    pycaffe.set_random_seed(3)
    return pycaffe.Net.from_text(text, pycaffe.TEST)


def watched(text: str = NET) -> pycaffe.Net:
    """The same net, whose layers run one by one, since somebody looks on."""
    net = build(text)
    net.after_forward(lambda _: None)
    return net


class Played:
    """How many runs were played, of how many that were asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        play = Run.play

        def counted(run: Run, first: int, end: int) -> int:
            self.count += 1
            return play(run, first, end)

        monkeypatch.setattr(Run, "play", counted)


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Played:
    return Played(monkeypatch)


def same(one: pycaffe.Net, two: pycaffe.Net) -> None:
    for (name, a), b in zip(one.blobs.items(), two.blobs.values(), strict=True):
        assert a.data.shape == b.data.shape, name
        assert a.data.tobytes() == b.data.tobytes(), name
        assert a.diff.tobytes() == b.diff.tobytes(), name
    for name in one.params:
        for a, b in zip(one.params[name], two.params[name], strict=True):
            assert a.data.tobytes() == b.data.tobytes() and a.diff.tobytes() == b.diff.tobytes(), name


def _write(net: pycaffe.Net, rng: np.random.Generator) -> None:
    net.blobs["x"].data[...] = rng.standard_normal(net.blobs["x"].data.shape)


def _forward(net: pycaffe.Net, rng: np.random.Generator) -> None:
    net.forward()


def _part(net: pycaffe.Net, rng: np.random.Generator) -> None:
    first, last = sorted(rng.integers(0, len(net.layers), 2).tolist())
    net._forward(first, last)


def _in_between(net: pycaffe.Net, rng: np.random.Generator) -> None:
    """Stop, write into a blob in the middle, go on."""
    net.forward(end="relu2")
    net.blobs["relu2"].data[...] = rng.standard_normal(net.blobs["relu2"].data.shape)
    net.forward(start="max")


def _reshape(net: pycaffe.Net, rng: np.random.Generator) -> None:
    net.blobs["x"].reshape(int(rng.integers(1, 4)), 4, 7, 6)


def _reshape_all(net: pycaffe.Net, rng: np.random.Generator) -> None:
    _reshape(net, rng)
    net.reshape()
    net.blobs["x"].reshape(2, 4, 7, 6)


def _weights(net: pycaffe.Net, rng: np.random.Generator) -> None:
    for blob in net.params["conv2"]:
        blob.data[...] = rng.standard_normal(blob.data.shape)


def _statistics(net: pycaffe.Net, rng: np.random.Generator) -> None:
    """BatchNorm's sums and their factor, and what stands beside them."""
    for name in ("norm", "norm2", "scale", "bias", "prelu", "prelu2"):
        for blob in net.params[name]:
            blob.data[...] = rng.uniform(0.1, 2, blob.data.shape)


def _no_statistics(net: pycaffe.Net, rng: np.random.Generator) -> None:
    """A factor of 0: as none were gathered yet."""
    net.params["norm"][2].data[...] = 0


def _share(net: pycaffe.Net, rng: np.random.Generator) -> None:
    other = build()
    other.params["ip"][0].data[...] = rng.standard_normal(other.params["ip"][0].data.shape)
    net.share_with(other)


def _swap(net: pycaffe.Net, rng: np.random.Generator) -> None:
    """Another blob where a layer's weights were."""
    other = build()
    other.params["conv1"][0].data[...] *= 2
    net.params["conv1"][0] = other.params["conv1"][0]


def _by_hand(net: pycaffe.Net, rng: np.random.Generator) -> None:
    """A layer run with blobs that are not its own: what it keeps for backward follows these."""
    names = list(net._layer_names)
    bottom, top = pycaffe.Net.from_text(INPUT.replace("dim: 7 dim: 6", "dim: 5 dim: 9"), 1).blobs["x"], build()
    for name in ("max", "conv1"):
        i, into = names.index(name), top.blobs[name]
        net.layers[i].reshape([bottom], [into])
        net.layers[i].forward([bottom], [into])


def _backward(net: pycaffe.Net, rng: np.random.Generator) -> None:
    net.forward()
    net.blobs["prob"].diff[...] = rng.standard_normal(net.blobs["prob"].diff.shape)
    net.blobs["ip2"].diff[...] = rng.standard_normal(net.blobs["ip2"].diff.shape)
    net.blobs["swish"].diff[...] = rng.standard_normal(net.blobs["swish"].diff.shape)
    net.blobs["permuted"].diff[...] = rng.standard_normal(net.blobs["permuted"].diff.shape)
    net.blobs["cut1"].diff[...] = rng.standard_normal(net.blobs["cut1"].diff.shape)
    net.backward()


def _release(net: pycaffe.Net, rng: np.random.Generator) -> None:
    """Memories that come back elsewhere."""
    net._net.release()


def _threads(net: pycaffe.Net, rng: np.random.Generator) -> None:
    torch.set_num_threads(int(rng.integers(1, 3)))


ACTIONS = [
    f for name, f in list(globals().items()) if name.startswith("_") and getattr(f, "__annotations__", {}).get("rng")
]
Action = Callable[[pycaffe.Net, np.random.Generator], None]


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.__name__.strip("_"))
def test_after_any_change_a_tape_gives_what_the_layers_give(action: Action, played: Played) -> None:
    """Three forwards, of which the last is played; the change; three more, backward among them."""
    threads = torch.get_num_threads()
    nets = build(), watched()
    try:
        for act in (
            _write,
            _forward,
            _forward,
            _forward,
            action,
            _forward,
            _write,
            _forward,
            _backward,
            _backward,
            action,
        ):
            seed = random.Random(act.__name__).randrange(2**31)
            for net in nets:
                act(net, np.random.default_rng(seed))
            same(*nets)
    finally:
        torch.set_num_threads(threads)
    assert played.count >= 3


@pytest.mark.parametrize("seed", range(6))
def test_any_row_of_changes_gives_what_the_layers_give(seed: int, played: Played) -> None:
    """Actions in any order, forwards between them often enough that much is played."""
    threads, choose = torch.get_num_threads(), random.Random(seed)
    nets = build(), watched()
    try:
        for step in range(40):
            act = choose.choice([*ACTIONS, *[_forward, _write] * 6])
            said = []
            for net in nets:
                try:
                    act(net, np.random.default_rng(1000 * seed + step))
                    said.append("")
                except CaffeError as error:  # such as shapes that do not fit, when only a part runs
                    said.append(str(error))
            assert said[0] == said[1]
            same(*nets)
    finally:
        torch.set_num_threads(threads)
    assert played.count >= 3


def _lost(net: pycaffe.Net, rng: np.random.Generator) -> float:
    return net._forward(0, len(net.layers) - 1)


def _learned(net: pycaffe.Net, rng: np.random.Generator) -> None:
    net.forward()
    net.backward()


def _wrong(net: pycaffe.Net, rng: np.random.Generator) -> str:
    """A label that no class has, or an ignored one, in one place."""
    net.forward(end="label")
    label = net.blobs["label"].data
    label[tuple(rng.integers(0, label.shape))] = rng.choice([-1, 4, 9, 1, np.nan])
    try:
        net.forward(start="first")
    except CaffeError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("seed", range(6))
def test_losses_and_labels_give_what_the_layers_give(seed: int, played: Played) -> None:
    """Also the sum of the losses; and a label that is refused, by the same words and with the same blobs before it."""
    threads, choose = torch.get_num_threads(), random.Random(seed)
    nets = build(LOSSES), watched(LOSSES)
    try:
        for step in range(40):
            act: Any = choose.choice([_part, _reshape, _reshape_all, _threads, _wrong, _learned, *[_lost, _write] * 5])
            said = [act(net, np.random.default_rng(1000 * seed + step)) for net in nets]
            assert said[0] == said[1]
            same(*nets)
    finally:
        torch.set_num_threads(threads)
    assert played.count >= 3


def calls_of(run: Callable[[], Any]) -> int:
    """How many functions, of Python and of C, are called meanwhile."""
    count = 0

    def note(*event: Any) -> None:
        nonlocal count
        count += event[1] in ("call", "c_call")

    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize(
    ("type_", "param"),
    [
        ("ReLU", ""),
        ("Convolution", f"convolution_param {{ num_output: 4 kernel_size: 3 pad: 1 {XAVIER} }}"),
        ("Pooling", "pooling_param { pool: MAX kernel_size: 3 stride: 1 pad: 1 }"),
        ("Pooling", "pooling_param { pool: AVE kernel_size: 3 stride: 1 pad: 1 }"),
        ("InnerProduct", f"inner_product_param {{ num_output: 4 {XAVIER} }}"),
        ("Dropout", ""),
        ("Softmax", ""),
        ("LRN", ""),
        ("LRN", "lrn_param { norm_region: WITHIN_CHANNEL }"),
        ("BatchNorm", ""),
        ("Scale", "scale_param { bias_term: true }"),
        ("Bias", ""),
        ("Eltwise", ""),
        ("Eltwise", "eltwise_param { operation: MAX }"),
        ("PReLU", ""),
        ("Power", "power_param { power: 2 shift: 1 }"),
        ("Deconvolution", f"convolution_param {{ num_output: 4 kernel_size: 3 pad: 1 {XAVIER} }}"),
        ("Crop", ""),
        ("ArgMax", "argmax_param { axis: 1 top_k: 4 }"),
        ("MVN", ""),
        ("Tile", "tile_param { tiles: 1 }"),
        ("Permute", "permute_param { order: 0 order: 1 order: 2 order: 3 }"),
        ("ShuffleChannel", ""),
        *(
            (name, "")
            for name in ("AbsVal", "BNLL", "Clip", "ELU", "Exp", "Log", "Sigmoid", "Swish", "TanH", "Threshold")
        ),
    ],
)
def test_a_layer_more_costs_no_call_more(type_: str, param: str) -> None:
    """A chain of three and one of fifty call the same number of functions; without a tape, many for each layer, to the same end."""

    def chain(length: int) -> pycaffe.Net:
        bottoms = ["x", *(f"l{i}" for i in range(length - 1))]
        if type_ in ("Eltwise", "Crop"):
            bottoms = [f"{bottom} {bottom}" for bottom in bottoms]
        return build(INPUT + "".join(layer(f"l{i}", type_, bottom, param) for i, bottom in enumerate(bottoms)))

    counts = []
    for length in (3, 50):
        net = chain(length)
        for _ in range(3):
            net.forward()
        counts.append(calls_of(net.forward))
    assert counts[0] == counts[1] < 100
    _write(net, np.random.default_rng(0))
    net.forward()
    played = net.blobs["l49"].data.tobytes()
    net.after_forward(lambda _: None)
    assert calls_of(net.forward) > counts[1] + 10 * 50
    assert net.blobs["l49"].data.tobytes() == played


@pytest.mark.parametrize(
    ("type_", "fields", "shape"),
    [
        ("Embed", f"embed_param {{ input_dim: 8 num_output: 8 {XAVIER} }}", (1, 16)),
        ("Im2col", "convolution_param { kernel_size: 3 pad: 1 }", (2, 3, 5, 4)),
        ("SoftmaxWithLoss", "", (3, 1)),
        ("Accuracy", "", (3, 1)),
        ("EuclideanLoss", "", (2, 16)),
        ("SigmoidCrossEntropyLoss", "", (2, 16)),
    ],
)
def test_a_loss_or_a_lookup_more_costs_no_call_more(type_: str, fields: str, shape: tuple[int, ...]) -> None:
    """Three of them and fifty, all upon the input, call the same number of functions."""
    bottoms = "x" if type_ in ("Embed", "Im2col") else "x x"
    counts = []
    for length in (3, 50):
        net = build(input_layer("x", *shape) + "".join(layer(f"l{i}", type_, bottoms, fields) for i in range(length)))
        for _ in range(3):
            net._forward(0, length)
        counts.append(calls_of(lambda net=net, length=length: net._forward(0, length)))  # type: ignore[misc]
    assert counts[0] == counts[1] < 100


def test_an_input_may_lie_elsewhere_each_time(played: Played) -> None:
    """MemoryData serves the caller's arrays without copying them; what follows is played all the same."""
    text = (
        'layer { name: "x" type: "MemoryData" top: "x" top: "label" '
        "memory_data_param { batch_size: 2 channels: 4 height: 7 width: 6 } }\n" + NET.removeprefix(INPUT)
    )
    nets = build(text), watched(text)
    images = np.random.default_rng(0).standard_normal((8, 4, 7, 6)).astype(np.float32)
    for net in nets:
        net.set_input_arrays(images, np.zeros(8, np.float32))
    for _ in range(7):
        for net in nets:
            net.forward()
        same(*nets)
    assert played.count >= 4


def test_what_computes_in_other_ways_is_not_recorded() -> None:
    """Statistics of the batch, places of maxima, training's masks, a convolution that looks behind the image: layer by layer."""
    text = INPUT + "".join(
        [
            layer("batch", "BatchNorm", "x", "batch_norm_param { use_global_stats: false }"),
            layer("masked", "Dropout", "batch", "phase: TRAIN dropout_param { dropout_ratio: 0 }"),
            'layer { name: "max" type: "Pooling" bottom: "masked" top: "max" top: "place" '
            "pooling_param { kernel_size: 2 stride: 2 } }\n",
            layer(
                "wide", "Convolution", "max", f"convolution_param {{ num_output: 2 kernel_size: 4 stride: 3 {XAVIER} }}"
            ),
            'layer { name: "relu" type: "ReLU" bottom: "max" top: "relu" }\n',
        ]
    )
    nets = build(text), watched(text)
    for step in range(5):
        for net in nets:
            _write(net, np.random.default_rng(step))
            net.forward()
        same(*nets)
    recorded = [net.layer.recording is not None for net in nets[0].layers]
    names = nets[0]._net.layer_names
    assert [name for name, is_recorded in zip(names, recorded, strict=True) if is_recorded] == [
        name for name in names if name in ("x", "relu") or "split" in name
    ]


def test_a_maximum_remembers_its_place_for_backward() -> None:
    """The places of a played forward are those of its own input."""
    nets = build(), watched()
    for step in range(5):
        for net in nets:
            rng = np.random.default_rng(step)
            _write(net, rng)
            _backward(net, rng)
        same(*nets)


def test_places_of_the_greatest_are_played(played: Played) -> None:
    """Of ArgMax, which has no backward; equal values and nan among them."""
    text = INPUT + "".join(
        layer(f"l{i}", "ArgMax", "x", f"argmax_param {{ {param} }}")
        for i, param in enumerate(
            (
                "axis: 1",
                "axis: 2 top_k: 3",
                "axis: 3 top_k: 2 out_max_val: true",
                "top_k: 5",
                "top_k: 4 out_max_val: true",
            )
        )
    )
    nets = build(text), watched(text)
    rng = np.random.default_rng(0)
    for step in range(6):
        values = rng.integers(0, 5, nets[0].blobs["x"].data.shape).astype(np.float32)
        if step == 5:
            values[rng.random(values.shape) < 0.1] = np.nan
        for net in nets:
            net.blobs["x"].data[...] = values
            net.forward()
        same(*nets)
    assert played.count >= 3


def test_relu_in_one_pass_has_every_bit_of_two() -> None:
    """nan and both infinities among them, in place or not, over more values than one thread takes; -0 stays, as in Caffe."""
    ours = caffe_math.find()
    assert ours is not None
    x = torch.randn(70_001)
    x[:8] = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1e-45, -1e-45, -3e38])
    expected = TorchMath().relu(x.clone())
    for y in (ours.relu(x), ours.relu(x, 0, torch.empty_like(x)), ours.relu(z := x.clone(), 0, z)):
        assert torch.equal(y.nan_to_num(7), expected.nan_to_num(7)) and np.signbit(y[3:5].numpy()).tolist() == [0, 1]
    assert expected[:5].isnan().tolist() == [True, False, True, False, False]

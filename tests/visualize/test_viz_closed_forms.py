"""What must hold exactly of the three rules, whatever the weights: closed forms and identities on small nets.

Each holds in both forms of the rule: native in the engine's ReLU, and Python layers behind the pycaffe API.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.prototxt import layer

from allconv_caffe import pycaffe as drop_in
from allconv_caffe.proto import NetParameter, parse_text
from allconv_caffe.visualize.crops import crop
from allconv_caffe.visualize.nets.base import VizNet
from allconv_caffe.visualize.nets.errors import VizError
from allconv_caffe.visualize.nets.open import open_net
from allconv_caffe.visualize.nets.pycaffe_net import PycaffeNet
from allconv_caffe.visualize.nets.rules import RULES, plain
from allconv_caffe.visualize.patterns import interior_unit, patterns
from allconv_caffe.visualize.receptive_field import receptive_field, table
from allconv_caffe.visualize.reconstruct import reconstruct
from allconv_caffe.visualize.surgery import strides_to_pools
from allconv_caffe.visualize.unit import Unit, argmax_units

ROOT = Path(__file__).resolve().parents[2]


def conv(name: str, bottom: str, outputs: int, kernel: int = 3, more: str = "") -> str:
    fields = f"convolution_param {{ num_output: {outputs} kernel_size: {kernel} {more} }}"
    return layer(name, "Convolution", bottom, fields)


def relu(blob: str) -> str:
    return layer(f"relu_{blob}", "ReLU", blob, tops=blob)


def pool(name: str, bottom: str, kernel: int, stride: int, method: str = "MAX") -> str:
    return layer(name, "Pooling", bottom, f"pooling_param {{ pool: {method} kernel_size: {kernel} stride: {stride} }}")


def fc(name: str, bottom: str, outputs: int) -> str:
    return layer(name, "InnerProduct", bottom, f"inner_product_param {{ num_output: {outputs} }}")


def head(size: int) -> str:
    return f'name: "small" input: "data" input_shape {{ dim: 1 dim: 3 dim: {size} dim: {size} }}\n'


CHAIN = head(16) + "".join(
    (
        conv("conv1", "data", 5),
        relu("conv1"),
        conv("conv2", "conv1", 6, 3, "stride: 2 pad: 1"),
        relu("conv2"),
        conv("conv3", "conv2", 4),
        relu("conv3"),
        pool("pool", "conv3", 5, 1, "AVE"),
        layer("prob", "Softmax", "pool"),
    )
)

# CaffeNet in small: LRN, overlapping max-pooling, groups, in-place ReLUs and one that is not, dropout, fc with ReLU
CAFFENET = head(20) + "".join(
    (
        conv("conv1", "data", 6),
        relu("conv1"),
        pool("pool1", "conv1", 3, 2),
        layer("norm1", "LRN", "pool1", "lrn_param { local_size: 3 alpha: 0.1 beta: 0.75 }"),
        conv("conv2", "norm1", 6, 3, "pad: 1 group: 2"),
        layer("relu2", "ReLU", "conv2", tops="conv2_on"),
        pool("pool2", "conv2_on", 2, 2),
        fc("fc6", "pool2", 12),
        relu("fc6"),
        layer("drop6", "Dropout", "fc6", tops="fc6"),
        fc("fc7", "fc6", 10),
        relu("fc7"),
        fc("fc8", "fc7", 4),
        layer("prob", "Softmax", "fc8"),
    )
)

NETS = {"chain": (CHAIN, "conv3"), "caffenet": (CAFFENET, "fc8")}
TANH = {"tanh": (CHAIN.replace('"ReLU"', '"TanH"'), "conv3")}
Opener = Callable[..., VizNet]


@pytest.fixture(params=["native", "Python layers"])
def opened(request: pytest.FixtureRequest) -> Opener:
    """Opens a net's text with either form of the rule, its weights drawn with one seed."""

    def open_it(text: str) -> VizNet:
        param = parse_text(text, NetParameter)
        net: VizNet
        if request.param == "native":
            net = open_net(param)
        else:
            net = PycaffeNet.build(drop_in, plain(param), None)
        rng = np.random.default_rng(7)
        net.set_params(
            {
                name: [rng.normal(0, std, p.shape) for p, std in zip(blobs, (0.3, 0.1), strict=True)]
                for name, blobs in net.params().items()
            }
        )
        return net

    return open_it


def noise(size: int, n: int = 2, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, 3, size, size)).astype(np.float32)


def best(net: VizNet, images: np.ndarray, blob: str) -> list[Unit]:
    return list(argmax_units(net, images, blob)[0])


def without_relus(text: str) -> str:
    """The same net, linear: every ReLU line left out, what it wrote renamed."""
    return "".join(line for line in text.splitlines(True) if '"ReLU"' not in line).replace("conv2_on", "conv2")


@pytest.mark.parametrize("name", [*NETS, *TANH])
def test_backprop_equals_finite_differences(opened: Opener, name: str) -> None:
    """The gradient by plain backprop is the slope of the unit's value along it, over random halves of the pixels."""
    text, blob = {**NETS, **TANH}[name]
    net = opened(text)
    size = net.input_shape[1]
    image = noise(size, 1)
    unit = best(net, image, blob)[0]
    gradient = reconstruct(net, image, [unit], "backprop").maps[0].astype(np.float64)
    step = 1e-3
    slopes, expected = [], []
    for seed in range(8):
        direction = (gradient * (np.random.default_rng(seed).random(gradient.shape) < 0.5))[None].astype(np.float32)
        direction /= np.linalg.norm(direction)
        values = [
            float(net.forward(image + sign * step * direction, (blob,))[blob][(0, *unit.index(net.blob_shape(blob)))])
            for sign in (1, -1)
        ]
        slopes.append((values[0] - values[1]) / (2 * step))
        expected.append(float((gradient * direction[0]).sum()))
    # the unit's value, about 10 in float32, over a step of 1e-3: rounding leaves 1e-3 of slopes of about 1
    np.testing.assert_allclose(slopes, expected, rtol=5e-3)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("rule", RULES)
def test_every_relu_follows_the_rule(opened: Opener, name: str, rule: str) -> None:
    """At each ReLU's bottom, fc layers included: guided and deconvnet have no negative, all but deconvnet the mask."""
    text, blob = NETS[name]
    net = opened(text)
    images = noise(net.input_shape[1])
    units = best(net, images, blob)
    data = net.forward(images, net.blob_names)
    seeds = np.zeros_like(data[blob])
    for i, unit in enumerate(units):
        seeds[(i, *unit.index(data[blob].shape[1:]))] = 1
    net.backward(blob, seeds, rule)
    bottoms = [node.bottoms[0] for node in net.graph.nodes if node.type in ("ReLU", "Python")]
    assert len(bottoms) == text.count('"ReLU"') >= 3
    for bottom in bottoms:
        diff, inactive = net.diff(bottom), data[bottom] <= 0
        assert diff.any(), bottom
        if rule != "backprop":
            assert diff.min() >= 0, bottom
        if rule == "deconvnet":
            assert name == "caffenet" or bottom == blob or (diff[inactive] > 0).any(), bottom
        else:
            assert inactive.any() and not diff[inactive].any(), bottom


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("rule", ["deconvnet", "guided"])
def test_the_image_itself_may_be_negative(opened: Opener, name: str, rule: str) -> None:
    """No rule stands at the pixels: a map has both signs."""
    text, blob = NETS[name]
    net = opened(text)
    images = noise(net.input_shape[1])
    found = reconstruct(net, images, best(net, images, blob), rule)
    for map_ in found.maps:
        assert map_.min() < 0 < map_.max()


def test_where_everything_is_active_guided_is_deconvnet(opened: Opener) -> None:
    """All ReLU bottoms above 0: guided equals deconvnet, and backprop the linear net."""
    net = opened(CHAIN)
    raised = {"conv1": 50, "conv2": 2_000, "conv3": 100_000}  # each above what the layers below can add up to
    params = {name: [w, b + raised[name]] for name, (w, b) in net.params().items()}
    linear = opened(without_relus(CHAIN))
    for one in (net, linear):
        one.set_params(params)
    images = noise(16)
    units = best(net, images, "conv3")
    assert min(net.forward(images, ("conv1", "conv2", "conv3"))[blob].min() for blob in ("conv1", "conv2", "conv3")) > 0
    maps = {rule: reconstruct(net, images, units, rule).maps for rule in RULES}
    assert np.array_equal(maps["guided"], maps["deconvnet"])
    assert not np.allclose(maps["guided"], maps["backprop"])
    np.testing.assert_allclose(maps["backprop"], reconstruct(linear, images, units, "backprop").maps, rtol=1e-6)


def test_where_no_gradient_is_negative_guided_is_backprop(opened: Opener) -> None:
    """All weights above conv1 at least 0: guided equals backprop; the deconvnet still has no mask."""
    net = opened(CHAIN)
    net.set_params({name: [w if name == "conv1" else np.abs(w), b] for name, (w, b) in net.params().items()})
    images = noise(16)
    units = best(net, images, "conv3")
    maps = {rule: reconstruct(net, images, units, rule).maps for rule in RULES}
    assert maps["guided"].any() and np.array_equal(maps["guided"], maps["backprop"])
    assert not np.allclose(maps["deconvnet"], maps["guided"])


PAPER = head(63) + "".join(
    (
        conv("conv1", "data", 6, 11, "stride: 4"),
        relu("conv1"),
        conv("conv2", "conv1", 5, 1),
        relu("conv2"),
        conv("conv3", "conv2", 4, 3, "stride: 2 pad: 1"),
        relu("conv3"),
    )
)


def test_conv3_of_the_imagenet_net_has_its_closed_form(opened: Opener) -> None:
    """Figure 2: R2 = relu(W3), R1 = relu(W2^T R2), W1^T R1 with stride 4 gives 3x19x19; conv1 and conv2 are 11x11."""
    net = opened(PAPER)
    w1, w2, w3 = (torch.from_numpy(net.params()[name][0]).double() for name in ("conv1", "conv2", "conv3"))
    expected = {
        "conv1": w1,
        "conv2": torch.einsum("ck,kixy->cixy", w2[:, :, 0, 0].clamp(min=0), w1),
        "conv3": F.conv_transpose2d(F.conv_transpose2d(w3.clamp(min=0), w2).clamp(min=0), w1, stride=4),
    }
    for blob, form in expected.items():
        found = patterns(net, blob)
        assert found.shape == tuple(form.shape) and found.shape[-1] == (19 if blob == "conv3" else 11)
        np.testing.assert_allclose(found, form.numpy(), atol=1e-6 * float(form.abs().max()))


def test_a_pattern_is_the_same_everywhere(opened: Opener) -> None:
    """Two interior units of one filter give one pattern, each in its own box, and nothing outside."""
    net = opened(PAPER)
    y, x, _ = interior_unit(net, "conv3")
    found = []
    for place in ((y, x), (y - 1, x), (y, x + 1)):
        unit = Unit("conv3", 2, *place)
        map_ = reconstruct(net, noise(63, 1), [unit], "deconvnet").maps[0]
        box = receptive_field(net, "conv3").box(unit)
        found.append(crop(map_, box))
        map_[:, box.top : box.bottom, box.left : box.right] = 0
        assert not map_.any()
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])


BOXES = {
    "strided": {
        "conv1": (11, 4, 0),
        "conv2": (11, 4, 0),
        "conv3": (19, 8, -4),
        "conv4": (51, 8, -20),
        "conv5": (51, 8, -20),
        "conv6": (67, 16, -20),
        "conv7": (99, 16, -36),
        "conv9": (131, 32, -36),
        "conv10": (195, 32, -68),
        "conv12": (195, 32, -68),
    },
    "pooled": {
        "conv1": (11, 4, 0),
        "conv3_pool": (23, 8, -4),
        "conv4": (55, 8, -20),
        "conv6_pool": (79, 16, -20),
        "conv7": (111, 16, -36),
        "conv9_pool": (159, 32, -36),
        "conv12": (223, 32, -68),
    },
}


@pytest.mark.parametrize("form", BOXES)
def test_boxes_of_the_imagenet_net(form: str) -> None:
    """Size, jump and start of the paper's network, strided and with its strides made pooling."""
    param = parse_text((ROOT / "solvers/imagenet-allcnn/deploy.prototxt").read_text(), NetParameter)
    for one in param.layer:  # thin: boxes do not depend on channels
        if one.type == "Convolution":
            one.convolution_param.num_output = 2
    net = open_net(strides_to_pools(param) if form == "pooled" else param)
    found = {field.blob: (field.size, field.jump, field.start) for field in table(net)}
    assert {blob: found[blob] for blob in BOXES[form]} == {
        blob: ((size, size), (jump, jump), (start, start)) for blob, (size, jump, start) in BOXES[form].items()
    }


ODD = head(25) + "".join(
    (
        conv("conv1", "data", 3, 3, "dilation: 2 pad: 2"),
        relu("conv1"),
        layer(
            "conv2",
            "Convolution",
            "conv1",
            "convolution_param { num_output: 3 kernel_h: 5 kernel_w: 1 stride_h: 1 stride_w: 2 pad_h: 2 pad_w: 0 }",
        ),
        relu("conv2"),
        pool("mean", "conv2", 3, 2, "AVE"),
        conv("conv3", "mean", 2, 2),
        relu("conv3"),
    )
)


@pytest.mark.parametrize(
    ("text", "blobs"), [(CHAIN, ("conv1", "conv2", "conv3")), (ODD, ("conv1", "conv2", "mean", "conv3"))]
)
def test_the_support_is_where_gradients_are(opened: Opener, text: str, blobs: tuple[str, ...]) -> None:
    """With positive weights the gradient is non-zero exactly in the support, at every edge of the map."""
    net = opened(text)
    net.set_params({name: [np.abs(w) + 0.01, np.abs(b) + 0.01] for name, (w, b) in net.params().items()})
    size = net.input_shape[1]
    for blob in blobs:
        _, h, w = net.blob_shape(blob)
        for y, x in ((0, 0), (h // 2, w // 2), (h - 1, w - 1), (0, w - 1)):
            unit = Unit(blob, 1, y, x)
            seen = reconstruct(net, np.ones((1, 3, size, size), np.float32), [unit], "backprop").maps[0].any(axis=0)
            box = receptive_field(net, blob).support(unit)
            rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
            assert [rows[0], columns[0], rows[-1] + 1, columns[-1] + 1] == box.as_list(), (blob, y, x)


@pytest.mark.parametrize("rule", RULES)
def test_rules_scale_with_the_seed_but_do_not_add(opened: Opener, rule: str) -> None:
    """Three times the seed, three times the map; the map of two units is their sum for backprop alone."""
    net = opened(CHAIN)
    image = noise(16, 1)
    values = net.forward(image, ("conv3",))["conv3"]
    half = np.random.default_rng(1).random(values.shape) < 0.5
    once, other = values * half, values * ~half

    def run(seeds: np.ndarray) -> np.ndarray:
        return net.backward("conv3", seeds, rule).astype(np.float64)

    first, second, both = run(once), run(other), run(once + other)
    assert first.any() and second.any()
    np.testing.assert_allclose(run(3 * once), 3 * first, rtol=1e-5, atol=1e-5 * np.abs(first).max())
    gap = np.abs(first + second - both).max() / np.abs(both).max()
    assert gap < 1e-5 if rule == "backprop" else gap > 1e-3


@pytest.mark.parametrize("rule", RULES)
def test_a_negative_seed_gives_nothing_unless_backprop(opened: Opener, rule: str) -> None:
    """A unit behind a ReLU has no map under deconvnet and guided from a negative seed, and the note says so."""
    net = opened(CHAIN)
    image = noise(16, 1)
    found = reconstruct(net, image, best(net, image, "conv3"), rule, seed=-1.0)
    assert found.maps.any() == (rule == "backprop")
    assert len(found.notes) == (rule != "backprop")
    assert all("negative" in note for note in found.notes)


def _order(first: str) -> str:
    """conv, ReLU, pool or conv, pool, ReLU: the same function."""
    middle = (
        (relu("conv1"), pool("pool1", "conv1", 2, 2))
        if first == "relu"
        else (pool("pool1", "conv1", 2, 2), relu("pool1"))
    )
    return head(16) + "".join((conv("conv1", "data", 6), *middle, conv("conv2", "pool1", 4), relu("conv2")))


def test_pool_and_relu_in_the_other_order_change_the_deconvnet_alone(opened: Opener) -> None:
    """In a dead window all tie at 0 and the first place gets the deconvnet's signal; the other rules pass none."""
    nets = [opened(_order(first)) for first in ("relu", "pool")]
    params = nets[0].params()
    images = noise(16)
    maps = []
    for net in nets:
        net.set_params(params)
        maps.append({rule: reconstruct(net, images, best(net, images, "conv2"), rule).maps for rule in RULES})
    assert np.array_equal(maps[0]["backprop"], maps[1]["backprop"])
    assert np.array_equal(maps[0]["guided"], maps[1]["guided"])
    difference = np.linalg.norm(maps[0]["deconvnet"] - maps[1]["deconvnet"])
    assert difference > 0.05 * np.linalg.norm(maps[0]["deconvnet"])


def test_a_tie_goes_to_the_first_place(opened: Opener) -> None:
    """Caffe's strict comparison: of equal ones in a window, the first in row order is the switch."""
    text = head(4) + layer("on", "ReLU", "data", tops="on") + pool("pool1", "on", 2, 2) + layer("end", "Power", "pool1")
    net = opened(text)
    net.forward(np.zeros((1, 3, 4, 4), np.float32), ("end",))
    map_ = net.backward("end", np.ones((1, 3, 2, 2), np.float32), "deconvnet")
    assert np.array_equal(np.argwhere(map_[0, 0]), [[0, 0], [0, 2], [2, 0], [2, 2]])


def test_the_gradient_reaches_the_image_and_dead_units_are_named(opened: Opener) -> None:
    """A live unit's map is not all zero in any net; a dead unit is reported with the remedy."""
    for text, blob in NETS.values():
        net = opened(text)
        images = noise(net.input_shape[1])
        found = reconstruct(net, images, best(net, images, blob), "backprop")
        assert not found.zero.any() and not found.notes
    net = opened(CHAIN)
    values = net.forward(noise(16, 1), ("conv3",))["conv3"][0]
    dead = [Unit("conv3", *(int(i) for i in place)) for place in np.argwhere(values <= 0)[:1]]
    found = reconstruct(net, noise(16, 1), dead, "guided")
    assert found.dead.all() and not found.maps.any()
    assert found.notes[0].startswith(f"unit {dead[0]} is not active on image 0") and "choose an image" in found.notes[0]


def test_a_net_that_gives_no_gradient_is_refused_with_the_remedy(opened: Opener) -> None:
    """All active units with zero gradients: not a picture of zeros, but where to look."""
    net = opened(CHAIN)
    params = net.params()
    net.set_params({name: [np.zeros_like(w), np.ones_like(b)] for name, (w, b) in params.items()})
    with pytest.raises(VizError, match="force_backward: true"):
        reconstruct(net, noise(16, 1), [Unit("conv3", 1, 2, 2)], "backprop")


@pytest.mark.parametrize("name", NETS)
def test_a_call_leaves_the_net_as_it_was(opened: Opener, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters, outputs and the rule of each ReLU are the same afterwards, also after an exception."""
    text, blob = NETS[name]
    net = opened(text)
    images = noise(net.input_shape[1])
    units = best(net, images, blob)
    before = net.params()
    scores = net.forward(images, (blob,))[blob]
    reference = reconstruct(net, images, units, "backprop").maps

    rules_before = _rules(net)
    for rule in RULES:
        reconstruct(net, images, units, rule)
        assert _rules(net) == rules_before
    with pytest.raises(VizError):
        net.backward(blob, np.zeros((7, 7), np.float32), "guided")
    _break(net, monkeypatch)
    with pytest.raises(RuntimeError, match="broken"):
        reconstruct(net, images, units, "deconvnet")
    monkeypatch.undo()
    assert _rules(net) == rules_before
    after = net.params()
    assert all(np.array_equal(a, b) for key in before for a, b in zip(before[key], after[key], strict=True))
    assert np.array_equal(net.forward(images, (blob,))[blob], scores)
    assert np.array_equal(reconstruct(net, images, units, "backprop").maps, reference)


def _rules(net: VizNet) -> list[str]:
    layers = net._rule_layers if isinstance(net, PycaffeNet) else net._relus  # type: ignore[attr-defined]
    return [one.rule for one in layers]


def _break(net: VizNet, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("broken")

    inner = net.net  # type: ignore[attr-defined]
    if isinstance(net, PycaffeNet):
        monkeypatch.setattr(inner, "_backward", broken)
    else:
        first = next(one for one in inner.layers if one.type == "Convolution")
        monkeypatch.setattr(first, "backward", broken)

"""The rules, reconstructions, patterns and the surgery, on small nets whose answers are known in closed form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from allconv_caffe import pycaffe as drop_in
from allconv_caffe.proto import NetParameter, parse_text
from allconv_caffe.visualize.nets.base import VizNet
from allconv_caffe.visualize.nets.errors import VizError
from allconv_caffe.visualize.nets.open import open_net, read_deploy
from allconv_caffe.visualize.nets.pycaffe_net import PycaffeNet
from allconv_caffe.visualize.nets.rules import relu_names, rewrite
from allconv_caffe.visualize.patterns import patterns
from allconv_caffe.visualize.receptive_field import receptive_field, table
from allconv_caffe.visualize.reconstruct import reconstruct
from allconv_caffe.visualize.surgery import strides_to_pools
from allconv_caffe.visualize.unit import Unit

FIGURE_1 = """
input: "data" input_shape {{ dim: 1 dim: 1 dim: 3 dim: 3 }}
layer {{ name: "relu" type: "ReLU" bottom: "data" top: "{top}" }}
layer {{ name: "after" type: "Power" bottom: "{top}" top: "after" }}
"""
CONV = """layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}" convolution_param {{ num_output: {n}
  kernel_size: 3 {more} weight_filler {{ type: "gaussian" std: 0.3 }} bias_filler {{ type: "gaussian" std: 0.1 }} }} }}
"""
RELU = 'layer {{ name: "relu_{name}" type: "ReLU" bottom: "{name}" top: "{name}" }}\n'


def small_net(relus: bool = True) -> str:
    text = 'name: "small" input: "data" input_shape { dim: 1 dim: 3 dim: 16 dim: 16 }\n'
    for name, bottom, n, more in (
        ("conv1", "data", 5, ""),
        ("conv2", "conv1", 6, "stride: 2 pad: 1"),
        ("conv3", "conv2", 4, ""),
    ):
        text += CONV.format(name=name, bottom=bottom, n=n, more=more)
        if relus:
            text += RELU.format(name=name)
    return text + (
        'layer { name: "global_pool" type: "Pooling" bottom: "conv3" top: "global_pool" '
        "pooling_param { pool: AVE global_pooling: true } }\n"
        'layer { name: "prob" type: "Softmax" bottom: "global_pool" top: "prob" }\n'
    )


@pytest.fixture
def net(tmp_path: Path) -> VizNet:
    torch.manual_seed(3)
    (tmp_path / "net.prototxt").write_text(small_net())
    return open_net(tmp_path / "net.prototxt")


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("backprop", [[-2, 0, -1], [6, 0, 0], [0, 0, 3]]),
        ("deconvnet", [[0, 3, 0], [6, 0, 1], [2, 0, 3]]),
        ("guided", [[0, 0, 0], [6, 0, 0], [0, 0, 3]]),
    ],
)
@pytest.mark.parametrize("top", ["relu", "data"])
def test_the_three_rules_of_figure_1(tmp_path: Path, rule: str, expected: list[list[int]], top: str) -> None:
    """Figure 1's rules on a 3x3 toy with one exact zero, in place and not."""
    (tmp_path / "toy.prototxt").write_text(FIGURE_1.format(top=top))
    toy = open_net(tmp_path / "toy.prototxt")
    f = np.array([[1, -1, 5], [2, -5, -7], [-3, 0, 4]], np.float32)[None, None]
    g = np.array([[-2, 3, -1], [6, -3, 1], [2, -1, 3]], np.float32)[None, None]
    toy.forward(f, ("after",))
    assert toy.backward("after", g, rule)[0, 0].tolist() == expected


def test_without_relu_the_rules_are_one(tmp_path: Path, images: np.ndarray) -> None:
    """A linear net gives one map by any rule, exactly."""
    (tmp_path / "net.prototxt").write_text(small_net(relus=False))
    linear = open_net(tmp_path / "net.prototxt")
    maps = [reconstruct(linear, images, [Unit("conv3", 1, 2, 3)] * 2, rule).maps for rule in ("backprop", "deconvnet")]
    guided = reconstruct(linear, images, [Unit("conv3", 1, 2, 3)] * 2, "guided").maps
    assert np.array_equal(maps[0], maps[1]) and np.array_equal(maps[0], guided) and maps[0].any()


class _Rule(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, rule):  # type: ignore[no-untyped-def]
        ctx.rule, ctx.positive = rule, x > 0
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, g):  # type: ignore[no-untyped-def]
        if ctx.rule != "backprop":
            g = g.clamp(min=0)
        return (g if ctx.rule == "deconvnet" else g * ctx.positive), None


@pytest.mark.parametrize("rule", ["backprop", "deconvnet", "guided"])
def test_maps_equal_autograd_with_the_rule_as_function(net: VizNet, images: np.ndarray, rule: str) -> None:
    """The same network in PyTorch, the rule as an autograd function, is an independent oracle."""
    params = {name: [torch.from_numpy(p) for p in blobs] for name, blobs in net.params().items()}
    x = torch.from_numpy(images).requires_grad_()
    y = x
    for name, stride, pad in (("conv1", 1, 0), ("conv2", 2, 1), ("conv3", 1, 0)):
        y = _Rule.apply(F.conv2d(y, *params[name], stride, pad), rule)
    unit = Unit("conv3", 2, 1, 4)
    y[:, unit.channel, unit.y, unit.x].sum().backward()
    assert x.grad is not None
    found = reconstruct(net, images, [unit, unit], rule)
    np.testing.assert_allclose(found.maps, x.grad.numpy(), rtol=1e-4, atol=1e-6)
    if not found.dead.any():
        assert found.maps.any()


def test_the_deconvnet_without_pooling_sees_no_image(net: VizNet, images: np.ndarray) -> None:
    """For one unit two images give the same map, bit for bit; guided backpropagation gives two."""
    unit = Unit("conv3", 1, 2, 2)
    deconvnet = reconstruct(net, images, [unit, unit], "deconvnet").maps
    assert deconvnet.any() and np.array_equal(deconvnet[0], deconvnet[1])
    best = [Unit("conv2", int(c), 3, 3) for c in net.forward(images, ("conv2",))["conv2"][:, :, 3, 3].argmax(1)]
    guided = reconstruct(net, images, best, "guided").maps
    assert guided.any() and not np.array_equal(guided[0], guided[1])


def test_patterns_have_their_closed_form(net: VizNet) -> None:
    """conv1: the filters themselves; conv2: the positive weights' sum of them, laid out by the strides."""
    w1, w2 = (torch.from_numpy(net.params()[name][0]) for name in ("conv1", "conv2"))
    np.testing.assert_allclose(patterns(net, "conv1"), w1.numpy(), atol=1e-6)
    np.testing.assert_allclose(patterns(net, "conv2"), F.conv_transpose2d(w2.clamp(min=0), w1).numpy(), atol=1e-5)


def test_the_receptive_field_is_where_the_gradient_is(net: VizNet) -> None:
    """With positive weights, the map of a unit is non-zero exactly in its box."""
    net.set_params({name: [np.abs(w) + 0.01, np.abs(b) + 0.01] for name, (w, b) in net.params().items()})
    unit = Unit("conv3", 0, 3, 2)
    map_ = reconstruct(net, np.ones((1, 3, 16, 16), np.float32), [unit], "backprop").maps[0, 0]
    box = receptive_field(net, "conv3").box(unit)
    rows, columns = np.nonzero(map_.any(1))[0], np.nonzero(map_.any(0))[0]
    found = [rows[0], rows[-1] + 1, columns[0], columns[-1] + 1]
    assert found == [max(box.top, 0), min(box.bottom, 16), max(box.left, 0), min(box.right, 16)]


def test_surgery_that_takes_the_top_left_changes_nothing(tmp_path: Path, images: np.ndarray) -> None:
    """The null test: stride 1 and every second element is the strided net; with the maximum, nothing is less."""
    from allconv_caffe.proto import NetParameter, parse_text

    param = parse_text(small_net(), NetParameter)
    strided = open_net(param)
    null = open_net(strides_to_pools(param, method="top-left"))
    pooled = open_net(strides_to_pools(param))
    for other in (null, pooled):
        other.set_params(strided.params())
    before = strided.forward(images, ("conv2", "conv3"))
    after = null.forward(images, ("conv2_pool", "conv3"))
    np.testing.assert_allclose(after["conv3"], before["conv3"], atol=1e-6)
    assert (pooled.forward(images, ("conv2_pool",))["conv2_pool"] >= before["conv2"] - 1e-6).all()
    units = [Unit("conv3", 0, 1, 1)] * 2
    np.testing.assert_allclose(
        reconstruct(null, images, units).maps, reconstruct(strided, images, units).maps, atol=1e-6
    )


@pytest.mark.parametrize(
    ("unit", "words"),
    [
        (Unit("conv9", 0), "conv9"),
        (Unit("conv3", 4), "channel 4"),
        (Unit("conv3", 0, 9, 0), "y 9"),
        (Unit("prob", 0), "prob"),
    ],
)
def test_units_that_cannot_be_explained_are_refused(net: VizNet, images: np.ndarray, unit: Unit, words: str) -> None:
    """One line names the unit, what was found and what was expected."""
    with pytest.raises(VizError) as caught:
        reconstruct(net, images[:1], [unit])
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("engine", ["torch", "drop-in"])
def test_level_and_stages_say_which_layers_there_are(engine: str) -> None:
    """Layers whose rules do not hold are nowhere: neither in the net, nor in fields, surgery or candidates."""
    text = (
        small_net()
        .replace('name: "conv2" type', 'name: "conv2" include { stage: "wide" } type')
        .replace('name: "conv3" type', 'name: "conv3" include { min_level: 2 } type')
        .replace('bottom: "conv3" top: "global_pool"', 'bottom: "conv2" top: "global_pool"')
    )
    plain = 'layer { name: "plain" type: "Convolution" bottom: "conv1" top: "conv2" exclude { stage: "wide" } convolution_param '
    text = text.replace('layer { name: "conv2"', plain + '{ num_output: 2 kernel_size: 1 } }\nlayer { name: "conv2"', 1)
    text = text.replace('layer { name: "relu_conv3"', 'layer { name: "relu_conv3" include { min_level: 2 }')
    for level, stages, layers in (
        (0, [], ["conv1", "plain"]),
        (0, ["wide"], ["conv1", "conv2"]),
        (2, ["x", "wide"], None),
    ):
        param = read_deploy(parse_text(text, NetParameter), level, stages)
        net = open_net(param) if engine == "torch" else PycaffeNet.build(drop_in, param, None)
        assert list(net.params()) == (layers or ["conv1", "conv2", "conv3"])
        assert ("conv3" in net.blob_names) == (level == 2)
        assert {field.blob for field in table(net)} >= {"conv1", "conv2"}
        if "wide" in stages:
            assert "conv2_pool" in [layer.name for layer in strides_to_pools(param).layer]
        else:
            with pytest.raises(VizError, match="found no convolution with stride 2"):
                strides_to_pools(param)
    with pytest.raises(VizError, match="layer 'relu_conv1': Specify either include rules or exclude rules; not both"):
        open_net(parse_text(text.replace('"relu_conv1"', '"relu_conv1" include { } exclude { }'), NetParameter))


def test_rewriting_replaces_every_relu() -> None:
    """The guided form of a user's net has Python layers where ReLUs were, and asks for gradients at the image."""
    from allconv_caffe.proto import NetParameter, parse_text

    param = parse_text(small_net(), NetParameter)
    guided = rewrite(param, "guided")
    assert [layer.python_param.layer for layer in guided.layer if layer.type == "Python"] == ["GuidedReLU"] * 3
    assert len(relu_names(param)) == 3 and guided.force_backward

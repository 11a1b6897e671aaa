"""Switches given and taken away: surgery on nets of every habit, and the deconvnet with pooling's gradient spread evenly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from allconv_caffe.proto import NetParameter, parse_text
from allconv_caffe.visualize.comparison import Question, Variant, comparison
from allconv_caffe.visualize.look import Look
from allconv_caffe.visualize.nets.base import VizNet
from allconv_caffe.visualize.nets.errors import VizError
from allconv_caffe.visualize.nets.open import open_net
from allconv_caffe.visualize.reconstruct import backward_alone
from allconv_caffe.visualize.surgery import null_test, strides_to_pools, without_switches
from allconv_caffe.visualize.unit import Unit

INPUT = 'input: "data" input_shape { dim: 1 dim: 3 dim: 12 dim: 12 }\n'


def conv(name: str, bottom: str, channels: int, more: str = "") -> str:
    return (
        f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}" convolution_param {{ '
        f'num_output: {channels} kernel_size: 3 {more} weight_filler {{ type: "msra" }} bias_filler {{ type: "constant" '
        "value: 0.1 } } }\n"
    )


def layer(kind: str, bottom: str, top: str = "", more: str = "") -> str:
    return f'layer {{ name: "{kind}_{bottom}" type: "{kind}" bottom: "{bottom}" top: "{top or bottom}" {more} }}\n'


BATCH_NORM = "batch_norm_param { use_global_stats: true }"
SCALE = 'scale_param { bias_term: true filler { type: "uniform" min: 0.5 max: 1.5 } }'
CHAINS = {
    "BatchNorm and Scale": layer("BatchNorm", "conv1", more=BATCH_NORM)
    + layer("Scale", "conv1", more=SCALE)
    + layer("ReLU", "conv1"),
    "BatchNorm elsewhere": layer("BatchNorm", "conv1", "norm1", BATCH_NORM) + layer("ReLU", "norm1"),
    "PReLU": layer("PReLU", "conv1"),
    "ELU": layer("ELU", "conv1"),
    "Sigmoid": layer("Sigmoid", "conv1"),
    "MVN in place": layer("ReLU", "conv1") + layer("MVN", "conv1"),  # no place by itself: the pool comes before it
}


def net_of(chain: str) -> NetParameter:
    """A strided convolution, `chain`, and a second convolution with ReLU."""
    last = "norm1" if "norm1" in chain else "conv1"
    first = INPUT + conv("conv1", "data", 4, "stride: 2 pad: 1")
    return parse_text(first + chain + conv("conv2", last, 3) + layer("ReLU", "conv2"), NetParameter)


def filled(net: VizNet, other: VizNet) -> None:
    """The same random parameters for both; BatchNorm's are a mean, a variance, and the factor of both."""
    rng = np.random.default_rng(1)
    params = {
        name: [rng.uniform(-0.3, 0.5, b.shape).astype(np.float32) for b in blobs]
        for name, blobs in net.params().items()
    }
    for name, blobs in params.items():
        if name.startswith("BatchNorm"):
            params[name] = [blobs[0], np.abs(blobs[1]) + 1, np.ones(1, np.float32)]
    net.set_params(params)
    other.set_params(params)


def images(n: int = 3) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((n, 3, 12, 12)).astype(np.float32)


@pytest.mark.parametrize("chain", [name for name in CHAINS if name != "MVN in place"])
def test_what_works_in_place_stays_before_the_pool(chain: str) -> None:
    """The null test holds for every layer that treats each place by itself, in place or not; the pool comes after it."""
    param = net_of(CHAINS[chain])
    net, null = open_net(param), open_net(strides_to_pools(param, method="top-left"))
    filled(net, null)
    values, maps = null_test(net, null, images(), "conv2")
    assert values < 1e-5 and maps < 1e-5 and net.forward(images(), ("conv2",))["conv2"].any()
    pool = next(i for i, each in enumerate(null.param.layer) if each.type == "Pooling")
    assert null.param.layer[pool + 1].name == "conv2"


def test_a_layer_that_mixes_places_in_place_comes_after_the_pool() -> None:
    """MVN in place on the convolution's blob goes on in place on the pool's: each blob is written where it was, once."""
    param = net_of(CHAINS["MVN in place"])
    net, null = open_net(param), open_net(strides_to_pools(param, method="top-left"))
    filled(net, null)
    np.testing.assert_allclose(
        null.forward(images(), ("conv2",))["conv2"], net.forward(images(), ("conv2",))["conv2"], rtol=1e-4, atol=1e-5
    )
    assert [each.type for each in null.param.layer[1:]] == [
        "Convolution",
        "ReLU",
        "Pooling",
        "MVN",
        "Convolution",
        "ReLU",
    ]


V1 = """
input: "data" input_dim: 1 input_dim: 3 input_dim: 12 input_dim: 12
layers { name: "conv1" type: CONVOLUTION bottom: "data" top: "conv1"
  convolution_param { num_output: 4 kernel_size: 3 stride: 2 weight_filler { type: "xavier" } } }
layers { name: "relu1" type: RELU bottom: "conv1" top: "conv1" }
layers { name: "conv2" type: CONVOLUTION bottom: "conv1" top: "conv2"
  convolution_param { num_output: 2 kernel_size: 3 weight_filler { type: "xavier" } } }
"""


def test_a_net_of_the_first_format_is_operated_on() -> None:
    """Its strides are found, its layers come out in today's format."""
    param = strides_to_pools(parse_text(V1, NetParameter))
    assert [each.type for each in param.layer] == ["Input", "Convolution", "ReLU", "Pooling", "Convolution"]
    assert not param.layers and param.layer[4].bottom == ["conv1_pool"]
    assert open_net(param).blob_shape("conv1_pool") == (4, 5, 5)


POOLED = (
    INPUT
    + conv("conv1", "data", 4)
    + layer("ReLU", "conv1")
    + layer("Pooling", "conv1", "pool1", "pooling_param { pool: MAX kernel_size: 2 stride: 2 }")
    + conv("conv2", "pool1", 3)
    + layer("ReLU", "conv2")
)


def test_without_switches_the_deconvnet_has_its_closed_form() -> None:
    """relu(W2^T seed), each value a fourth of it to each of its four places, W1^T of that: the image does not enter."""
    net = open_net(parse_text(POOLED, NetParameter))
    spread = open_net(without_switches(net.param, "conv2"))
    filled(net, spread)
    w1, w2 = (torch.from_numpy(net.params()[name][0]) for name in ("conv1", "conv2"))
    units = [Unit("conv2", 1, 0, 2), Unit("conv2", 2, 1, 1)]
    seeds = np.array([1.0, 2.5], np.float32)
    top = torch.zeros(2, 3, 3, 3)
    top[0, 1, 0, 2], top[1, 2, 1, 1] = 1.0, 2.5
    below = F.conv_transpose2d(top, w2).clamp(min=0)
    placed = below.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3) / 4
    expected = F.conv_transpose2d(placed, w1).numpy()
    assert expected.any()
    np.testing.assert_allclose(backward_alone(spread, units, seeds, "deconvnet", batch_size=1), expected, atol=1e-6)


def test_beside_its_own_switches_a_net_explains_the_same_units_without() -> None:
    """A comparison with the spread net draws the deconvnet alone, of the trained net's units, from its activations."""
    net = open_net(parse_text(POOLED, NetParameter))
    spread = open_net(without_switches(net.param, "conv2"))
    filled(net, spread)
    variants = [Variant(name="with", net=net), Variant(name="without", net=spread, backward_only=True)]
    drawing = comparison(variants, Question(images=images(), keys=["a", "b", "c"], blob="conv2", seed=None), Look())
    own = [tile for tile in drawing.tiles if tile["variant"] == "with" and tile["rule"] == "deconvnet"]
    alone = [tile for tile in drawing.tiles if tile["variant"] == "without"]
    assert [tile["rule"] for tile in alone] == ["deconvnet"] * 3 and [tile["switches"] for tile in alone] == [[]] * 3
    assert [tile["switches"] for tile in own] == [["Pooling_conv1"]] * 3
    for name in ("unit", "activation", "seed"):
        assert [tile[name] for tile in own] == [tile[name] for tile in alone]
    units, seeds = [Unit.parse(tile["unit"]) for tile in own], np.array([tile["seed"] for tile in own], np.float32)
    np.testing.assert_array_equal(
        drawing.arrays["1.deconvnet"], backward_alone(spread, units, seeds, "deconvnet")[:, ::-1]
    )
    with_, without = drawing.facts["variants"]
    assert without["one_unit_on_all_images"]["deconvnet"]["largest_difference"] == 0
    assert without["one_unit_on_all_images"]["deconvnet"]["largest"] > 0
    assert with_["one_unit_on_all_images"]["deconvnet"]["largest_difference"] > 0.01


def test_switches_cannot_be_taken_where_there_are_none_or_where_the_image_enters_otherwise() -> None:
    """A net without max-pooling, and one with LRN below."""
    plain = parse_text(INPUT + conv("conv1", "data", 2) + layer("ReLU", "conv1"), NetParameter)
    with pytest.raises(VizError) as caught:
        without_switches(plain, "conv1", "plain.prototxt")
    assert str(caught.value) == "plain.prototxt: blob 'conv1': found no max-pooling below, expected a net with switches"
    normed = parse_text(POOLED.replace('bottom: "pool1"', 'bottom: "norm1"'), NetParameter)
    normed.layer.append(parse_text(layer("LRN", "pool1", "norm1"), NetParameter).layer[0])
    ordered = NetParameter()
    ordered.CopyFrom(normed)
    del ordered.layer[:]
    ordered.layer.extend([*list(normed.layer)[:3], normed.layer[5], *list(normed.layer)[3:5]])
    with pytest.raises(VizError) as caught:
        without_switches(ordered, "conv2")
    assert str(caught.value) == (
        "net: layer 'LRN_pool1': found type LRN below 'conv2', expected none: its gradient reads the image"
    )

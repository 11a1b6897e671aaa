"""What the torch engine's net does for speed changes no number: blobs are bound instead of copied."""

from __future__ import annotations

import numpy as np
import pytest

from allconv_caffe.caffe_torch.tracing import is_tracing
from allconv_caffe.proto import NetParameter, parse_text
from allconv_caffe.visualize.nets.native import EngineNet
from allconv_caffe.visualize.nets.open import open_net
from allconv_caffe.visualize.nets.rules import RULES

NET = """
input: "data" input_shape { dim: 1 dim: 3 dim: 23 dim: 20 }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1" convolution_param { num_output: 8 kernel_size: 5 stride: 2 pad: 1
        weight_filler { type: "gaussian" std: 0.3 } bias_filler { type: "gaussian" std: 0.1 } } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1" pooling_param { pool: MAX kernel_size: 3 stride: 2 } }
layer { name: "norm1" type: "LRN" bottom: "pool1" top: "norm1" lrn_param { local_size: 5 alpha: 0.01 beta: 0.75 } }
layer { name: "left" type: "Convolution" bottom: "norm1" top: "left" convolution_param { num_output: 6 kernel_size: 1
        weight_filler { type: "gaussian" std: 0.5 } } }
layer { name: "right" type: "Convolution" bottom: "norm1" top: "right" convolution_param { num_output: 6 kernel_size: 3 pad: 1 group: 2
        weight_filler { type: "gaussian" std: 0.3 } } }
layer { name: "both" type: "Eltwise" bottom: "left" bottom: "right" top: "both" }
layer { name: "relu2" type: "ReLU" bottom: "both" top: "on" }
layer { name: "wide" type: "Concat" bottom: "on" bottom: "left" top: "wide" }
layer { name: "fc" type: "InnerProduct" bottom: "wide" top: "fc" inner_product_param { num_output: 9
        weight_filler { type: "gaussian" std: 0.2 } } }
layer { name: "relu3" type: "ReLU" bottom: "fc" top: "fc" }
layer { name: "drop" type: "Dropout" bottom: "fc" top: "fc" }
layer { name: "scores" type: "InnerProduct" bottom: "fc" top: "scores" inner_product_param { num_output: 4
        weight_filler { type: "gaussian" std: 0.5 } } }
layer { name: "prob" type: "Softmax" bottom: "scores" top: "prob" }
"""


def two_nets() -> tuple[EngineNet, EngineNet]:
    """The same net, with blobs bound, and as the plain executor runs it."""
    bound = open_net(parse_text(NET, NetParameter))
    plain = open_net(parse_text(NET, NetParameter))
    assert isinstance(bound, EngineNet) and isinstance(plain, EngineNet) and bound._bound
    plain._bound = False
    rng = np.random.default_rng(1)  # fillers draw from the system: now and then all units of a layer are dead
    weights = {
        name: [rng.normal(0, 0.3, blob.shape).astype(np.float32) for blob in blobs]
        for name, blobs in bound.params().items()
    }
    for net in (bound, plain):
        net.set_params(weights)
    return bound, plain


def test_bound_blobs_hold_what_the_plain_executor_computes() -> None:
    """Every blob and every rule's map agree to float32's rounding, with pooling, LRN, branches and fc layers on the way."""
    bound, plain = two_nets()
    rng = np.random.default_rng(3)
    for batch in (3, 1, 4):  # of changing size: what was bound before must not be seen
        images = rng.normal(0, 1, (batch, 3, 23, 20)).astype(np.float32)
        names = bound.blob_names
        one, other = bound.forward(images, names), plain.forward(images, names)
        for name in names:
            assert one[name].flags.c_contiguous
            np.testing.assert_allclose(one[name], other[name], rtol=1e-4, atol=1e-5, err_msg=name)
        for blob in ("conv1", "wide", "scores"):
            seeds = rng.normal(0, 1, one[blob].shape).astype(np.float32)
            for rule in RULES:
                found, expected = bound.backward(blob, seeds, rule), plain.backward(blob, seeds, rule)
                np.testing.assert_allclose(
                    found, expected, rtol=0, atol=1e-4 * np.abs(expected).max(), err_msg=f"{blob} {rule}"
                )
                assert expected.any()
    assert not is_tracing()


def test_new_parameters_are_seen() -> None:
    """After `set_params` both passes use them; `params` gives them back; an error in a layer leaves no mode behind."""
    bound, plain = two_nets()
    images = np.random.default_rng(0).normal(0, 1, (2, 3, 23, 20)).astype(np.float32)
    before = bound.forward(images, ("scores",))["scores"]
    changed = {"conv1": [-array for array in bound.params()["conv1"]]}
    for net in (bound, plain):
        net.set_params(changed)
    after = bound.forward(images, ("scores",))["scores"]
    np.testing.assert_allclose(after, plain.forward(images, ("scores",))["scores"], rtol=1e-4, atol=1e-5)
    assert np.abs(after - before).max() > 1e-3
    assert all(np.array_equal(a, b) for a, b in zip(bound.params()["conv1"], changed["conv1"], strict=True))
    seeds = np.ones_like(after)
    np.testing.assert_allclose(bound.backward("scores", seeds), plain.backward("scores", seeds), atol=1e-5)
    bound._relus[0].negative_slope = 0.5
    with pytest.raises(Exception, match="defined for negative_slope 0"):
        bound.backward("scores", seeds, "guided")
    assert not is_tracing() and bound._relus[0].rule == "backprop"


def test_a_layer_that_sends_nothing_down_sends_nothing() -> None:
    """Where the net says that a bottom needs no gradient, phases compute none."""
    net, _ = two_nets()
    images = np.random.default_rng(0).normal(0, 1, (1, 3, 23, 20)).astype(np.float32)
    scores = net.forward(images, ("scores",))["scores"]
    assert net.backward("scores", np.ones_like(scores), "backprop").any()
    net.net.bottom_need_backward[net.net.layer_names.index("conv1")] = [False]
    assert not net.backward("scores", np.ones_like(scores), "backprop").any()

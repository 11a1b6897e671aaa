"""captum, which shares no line with ours, gives the same maps on the same network written as an `nn.Module`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import (
    Deconvolution,
    GuidedBackprop,
    NeuronDeconvolution,
    NeuronGradient,
    NeuronGuidedBackprop,
    Saliency,
)
from torch import nn

from allconv_caffe.paper.options import RenderOptions
from allconv_caffe.paper.render import render
from allconv_caffe.proto import NetParameter, parse_text
from allconv_caffe.visualize.nets.base import VizNet
from allconv_caffe.visualize.nets.open import open_net
from allconv_caffe.visualize.reconstruct import reconstruct
from allconv_caffe.visualize.unit import Unit, argmax_units

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # captum says that it sets hooks

CAFFENET = """
input: "data" input_shape { dim: 1 dim: 3 dim: 27 dim: 27 }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1" convolution_param { num_output: 8 kernel_size: 5 stride: 2 } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1" pooling_param { pool: MAX kernel_size: 3 stride: 2 } }
layer { name: "norm1" type: "LRN" bottom: "pool1" top: "norm1" lrn_param { local_size: 5 alpha: 0.01 beta: 0.75 } }
layer { name: "conv2" type: "Convolution" bottom: "norm1" top: "conv2"
        convolution_param { num_output: 6 kernel_size: 3 pad: 1 group: 2 } }
layer { name: "relu2" type: "ReLU" bottom: "conv2" top: "conv2_on" }
layer { name: "fc6" type: "InnerProduct" bottom: "conv2_on" top: "fc6" inner_product_param { num_output: 12 } }
layer { name: "relu6" type: "ReLU" bottom: "fc6" top: "fc6" }
layer { name: "drop6" type: "Dropout" bottom: "fc6" top: "fc6" }
layer { name: "fc8" type: "InnerProduct" bottom: "fc6" top: "fc8" inner_product_param { num_output: 5 } }
layer { name: "prob" type: "Softmax" bottom: "fc8" top: "prob" }
"""


def _caffenet() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, 2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.LocalResponseNorm(5, 0.01, 0.75, 1.0),
        nn.Conv2d(8, 6, 3, padding=1, groups=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(216, 12),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(12, 5),
    )


def _all_cnn_c() -> nn.Sequential:
    """Table 1 and section 3.1, ten times thinner."""
    layers: list[nn.Module] = []
    for before, after, kernel, stride, pad in (
        (3, 10, 3, 1, 1),
        (10, 10, 3, 1, 1),
        (10, 10, 3, 2, 1),
        (10, 20, 3, 1, 1),
        (20, 20, 3, 1, 1),
        (20, 20, 3, 2, 1),
        (20, 20, 3, 1, 0),
        (20, 20, 1, 1, 0),
        (20, 10, 1, 1, 0),
    ):
        layers += [nn.Conv2d(before, after, kernel, stride, pad), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _thin_all_cnn_c() -> NetParameter:
    param = parse_text(render("cifar10-allcnn-c", RenderOptions(relu_last=True))["deploy.prototxt"], NetParameter)
    for layer in param.layer:
        if layer.type == "Convolution":
            outputs = layer.convolution_param.num_output
            layer.convolution_param.num_output = {96: 10, 192: 20}.get(outputs, outputs)
    return param


# net, its twin, the scores, an inner blob, the module of the twin that gives it after its ReLU
NETS: dict[str, tuple[Callable[[], Any], Callable[[], nn.Sequential], str, str, int]] = {
    "CaffeNet in small": (lambda: parse_text(CAFFENET, NetParameter), _caffenet, "fc8", "conv2_on", 5),
    "All-CNN-C in thin": (_thin_all_cnn_c, _all_cnn_c, "global_pool", "conv6", 11),
}


@pytest.fixture(params=NETS)
def pair(request: pytest.FixtureRequest) -> tuple[VizNet, nn.Sequential, str, str, int, np.ndarray]:
    param, twin, scores, blob, index = NETS[request.param]
    net, module = open_net(param()), twin().eval()
    rng = np.random.default_rng(3)
    params = {}
    for name, blobs in net.params().items():  # by fan-in, so that activations keep their size, and some bias
        fan_in = float(np.prod(blobs[0].shape[1:]))
        params[name] = [rng.normal(0, np.sqrt(2 / fan_in), blobs[0].shape), rng.normal(0, 0.1, blobs[1].shape)]
    net.set_params(params)
    with_weights = [one for one in module if isinstance(one, nn.Conv2d | nn.Linear)]
    for one, (weight, bias) in zip(with_weights, params.values(), strict=True):
        one.weight.data = torch.tensor(weight, dtype=torch.float32)
        assert one.bias is not None
        one.bias.data = torch.tensor(bias, dtype=torch.float32)
    images = rng.standard_normal((3, *net.input_shape)).astype(np.float32)
    return net, module, scores, blob, index, images


def _same(found: np.ndarray, expected: torch.Tensor) -> None:
    theirs = expected.detach().numpy()
    assert all(one.any() for one in theirs)
    for ours, other in zip(found, theirs, strict=True):
        np.testing.assert_allclose(ours, other, rtol=0, atol=1e-4 * np.abs(other).max())


@pytest.mark.parametrize("rule", ["backprop", "deconvnet", "guided"])
def test_maps_of_scores_equal_captums(pair: Any, rule: str) -> None:
    """From the highest score of each image: Saliency, Deconvolution, GuidedBackprop."""
    net, module, scores, _, _, images = pair
    units = argmax_units(net, images, scores)[0]
    x, target = torch.from_numpy(images), [unit.channel for unit in units]
    method = {"backprop": Saliency, "deconvnet": Deconvolution, "guided": GuidedBackprop}[rule](module)
    signed = {"abs": False} if rule == "backprop" else {}
    expected = method.attribute(x.requires_grad_(), target=target, **signed)
    _same(reconstruct(net, images, units, rule).maps, expected)


@pytest.mark.parametrize("rule", ["backprop", "deconvnet", "guided"])
def test_maps_of_inner_units_equal_captums(pair: Any, rule: str) -> None:
    """From the most active unit of an inner layer of each image: captum's Neuron methods, the seed above the ReLU."""
    net, module, _, blob, index, images = pair
    units = argmax_units(net, images, blob)[0]
    kinds = {"backprop": NeuronGradient, "deconvnet": NeuronDeconvolution, "guided": NeuronGuidedBackprop}
    found = reconstruct(net, images, units, rule).maps
    expected = []
    for i, unit in enumerate(units):
        x = torch.from_numpy(images[i : i + 1]).requires_grad_()
        method = kinds[rule](module, module[index])
        expected.append(method.attribute(x, neuron_selector=(unit.channel, unit.y, unit.x))[0])
    _same(found, torch.stack(expected))


def test_units_of_one_image_in_one_pass(pair: Any) -> None:
    """Many units of one image in one batch equal captum's one by one."""
    net, module, _, blob, index, images = pair
    values = net.forward(images[:1], (blob,))[blob][0]
    places = np.argsort(-values, axis=None)[:5]
    units = [Unit(blob, *(int(i) for i in np.unravel_index(place, values.shape))) for place in places]
    x = torch.from_numpy(images[:1]).requires_grad_()
    method = NeuronGuidedBackprop(module, module[index])
    expected = [method.attribute(x, neuron_selector=(unit.channel, unit.y, unit.x))[0] for unit in units]
    _same(reconstruct(net, images[:1], units, "guided").maps, torch.stack(expected))

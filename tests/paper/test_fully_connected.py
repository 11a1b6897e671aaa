"""Section 3.1's control: fully connected layers in place of the 1x1 convolutions at the top."""

from __future__ import annotations

import pytest

from allconv_caffe.paper import architectures as a
from allconv_caffe.paper.architectures import Architecture, FullyConnected
from allconv_caffe.paper.assumptions import assumptions
from allconv_caffe.paper.errors import TableError
from allconv_caffe.paper.experiments import EXPERIMENTS
from allconv_caffe.paper.options import NetOptions, RenderOptions
from allconv_caffe.paper.plan import build, parameters
from allconv_caffe.paper.render import render
from allconv_caffe.proto import NetParameter, parse_text

HEADS = {  # conv8 and conv9 of All-CNN-C have 192*192+192 and 192*10+10; maps are 6x6
    "class_layer": 1_369_738 - 1930 + (192 * 36 * 10 + 10),
    "all_1x1": 1_369_738 - 1930 - 37_056 + (192 * 36 * 192 + 192) + 1930,
    "average": 1_369_738 + (10 * 36 * 10 + 10),
}


@pytest.mark.parametrize("head", HEADS)
def test_parameters_of_each_head(head: str) -> None:
    """The three readings of "fully connected layers instead of 1-by-1 convolutions" have these many weights and biases."""
    assert parameters(a.fully_connected(a.all_conv(a.MODEL_C), head)) == HEADS[head]
    network = EXPERIMENTS["cifar10-allcnn-c-fc"].network(NetOptions(fc_head=head))
    assert parameters(network) == HEADS[head]


def test_the_heads_layers() -> None:
    """conv8, dropout of one half, fc9 on 192x6x6; or fc8, ReLU, dropout, fc9 on conv7; or fc10 on conv9's ten maps."""
    net = a.all_conv(a.MODEL_C)

    def top(head: str, count: int, **options: object) -> list[tuple[str, str, str, float]]:
        layers = build(a.fully_connected(net, head), NetOptions(**options))
        return [(layer.name, layer.type, layer.bottom, layer.dropout_ratio) for layer in layers[-count:]]

    assert top("class_layer", 4) == [
        ("conv8", "Convolution", "conv7", 0),
        ("relu8", "ReLU", "conv8", 0),
        ("drop3", "Dropout", "conv8", 0.5),
        ("fc9", "InnerProduct", "conv8", 0),
    ]
    assert top("all_1x1", 4) == [
        ("fc8", "InnerProduct", "conv7", 0),
        ("relu8", "ReLU", "fc8", 0),
        ("drop3", "Dropout", "fc8", 0.5),
        ("fc9", "InnerProduct", "fc8", 0),
    ]
    assert top("average", 3) == [
        ("conv9", "Convolution", "conv8", 0),
        ("relu9", "ReLU", "conv9", 0),
        ("fc10", "InnerProduct", "conv9", 0),
    ]
    assert top("class_layer", 1, relu_last=True) == [("relu9", "ReLU", "fc9", 0)]
    assert top("class_layer", 2, dropout="none")[0][0] == "relu8"
    assert [layer.name for layer in build(a.fully_connected(a.MODEL_B, "all_1x1"))][-5:] == [
        "relu5",
        "fc6",
        "relu6",
        "drop3",
        "fc7",
    ]


def test_any_net_gets_a_fully_connected_head() -> None:
    """Large-All-CNN's and the ImageNet net's too; one that ends in no class layer is refused by its row."""
    large = a.fully_connected(a.LARGE_ALL_CNN)
    assert parameters(large) == parameters(a.LARGE_ALL_CNN), "on a 1x1 map the inner product is the 1x1 convolution"
    assert parameters(a.fully_connected(a.IMAGENET)) == 9_372_840 + 1024 * 35 * 1000
    ended = a.fully_connected(a.MODEL_A)
    with pytest.raises(TableError) as caught:
        a.fully_connected(ended)
    assert str(caught.value) == (
        "Model A-FC: transform fully_connected: found 'fully connected classes', expected a convolution with one output per "
        "class, and at most global averaging above it"
    )
    with pytest.raises(TableError, match="fc_head: found 'both', expected what becomes fully connected"):
        a.fully_connected(a.MODEL_A, "both")
    above = Architecture("own", "test", (FullyConnected(num_output=3), a.conv(a.CLASSES, 1)))
    with pytest.raises(
        TableError, match="layer 1: found 'fully connected 3', expected nothing but fully connected layers"
    ):
        build(above)


def test_each_base_network_has_its_control() -> None:
    """Beside Models A, B, C and All-CNN-C stands an experiment, with the paper's words where it gives no figure."""
    names = [name for name in EXPERIMENTS if name.endswith("-fc")]
    assert names == [f"cifar10-{name}-fc" for name in ("model-a", "model-b", "model-c", "allcnn-c")]
    for name in names:
        control, plain = EXPERIMENTS[name], EXPERIMENTS[name.removesuffix("-fc")]
        assert control.published == f"0.5 to 1 % worse than {plain.title}" and control.published_error_percent is None
        assert (control.schedule, control.dataset) == (plain.schedule, plain.dataset)
        assert {"fc_head"} <= {entry.key for entry in assumptions(control.network())}
        assert "fc_head" not in {entry.key for entry in assumptions(plain.network())}
    text = render("cifar10-model-a-fc", RenderOptions(filler="gaussian", bias_lr_mult=2))["train_val.prototxt"]
    (layer,) = [layer for layer in parse_text(text, NetParameter).layer if layer.type == "InnerProduct"]
    assert layer.inner_product_param.num_output == 10 and layer.inner_product_param.weight_filler.type == "gaussian"
    assert [one.lr_mult for one in layer.param] == [1, 2]

"""Tables and transformations, beside columns and counts written out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from allconv_caffe.paper import architectures as a
from allconv_caffe.paper.architectures import Architecture, Conv, Pool
from allconv_caffe.paper.assumptions import ASSUMPTIONS, assumptions
from allconv_caffe.paper.errors import TableError
from allconv_caffe.paper.options import NetOptions
from allconv_caffe.paper.plan import build, map_sizes, parameters

# network: parameters 10-way, 100-way, map sizes; computed apart from this code, by hand from Tables 1 and 2
COUNTS = {
    "model_a": (839_242, 856_612, [32, 16, 16, 8, 6, 6, 6]),
    "strided_cnn_a": (839_242, 856_612, [16, 8, 6, 6, 6]),
    "convpool_cnn_a": (1_254_250, 1_271_620, [32, 32, 16, 16, 16, 8, 6, 6, 6]),
    "all_cnn_a": (1_254_250, 1_271_620, [32, 16, 16, 8, 6, 6, 6]),
    "model_b": (885_610, 902_980, [32, 32, 16, 16, 16, 8, 6, 6, 6]),
    "strided_cnn_b": (885_610, 902_980, [32, 16, 16, 8, 6, 6, 6]),
    "convpool_cnn_b": (1_300_618, 1_317_988, [32, 32, 32, 16, 16, 16, 16, 8, 6, 6, 6]),
    "all_cnn_b": (1_300_618, 1_317_988, [32, 32, 16, 16, 16, 8, 6, 6, 6]),
    "model_c": (954_730, 972_100, [32, 32, 16, 16, 16, 8, 6, 6, 6]),
    "strided_cnn_c": (954_730, 972_100, [32, 16, 16, 8, 6, 6, 6]),
    "convpool_cnn_c": (1_369_738, 1_387_108, [32, 32, 32, 16, 16, 16, 16, 8, 6, 6, 6]),
    "all_cnn_c": (1_369_738, 1_387_108, [32, 32, 16, 16, 16, 8, 6, 6, 6]),
}


def column(net: Architecture) -> list[tuple[object, ...]]:
    """What Table 2 prints of a network: kernel size, channels (or "pool"), stride."""
    return [
        (row.kernel_size, row.num_output if isinstance(row, Conv) else "pool", row.stride)
        for row in net.layers
        if isinstance(row, Conv | Pool)
    ]


TOP = [(3, 192, 1), (1, 192, 1), (1, "classes", 1)]
COLUMNS = {
    "model_c": [(3, 96, 1), (3, 96, 1), (3, "pool", 2), (3, 192, 1), (3, 192, 1), (3, "pool", 2)],
    "strided_cnn_c": [(3, 96, 1), (3, 96, 2), (3, 192, 1), (3, 192, 2)],
    "convpool_cnn_c": [
        (3, 96, 1),
        (3, 96, 1),
        (3, 96, 1),
        (3, "pool", 2),
        (3, 192, 1),
        (3, 192, 1),
        (3, 192, 1),
        (3, "pool", 2),
    ],
    "all_cnn_c": [(3, 96, 1), (3, 96, 1), (3, 96, 2), (3, 192, 1), (3, 192, 1), (3, 192, 2)],
    "model_a": [(5, 96, 1), (3, "pool", 2), (5, 192, 1), (3, "pool", 2)],
    "all_cnn_a": [(5, 96, 1), (3, 96, 2), (5, 192, 1), (3, 192, 2)],
    "convpool_cnn_a": [(5, 96, 1), (3, 96, 1), (3, "pool", 2), (5, 192, 1), (3, 192, 1), (3, "pool", 2)],
    "model_b": [(5, 96, 1), (1, 96, 1), (3, "pool", 2), (5, 192, 1), (1, 192, 1), (3, "pool", 2)],
    "strided_cnn_b": [(5, 96, 1), (1, 96, 2), (5, 192, 1), (1, 192, 2)],
    "all_cnn_b": [(5, 96, 1), (1, 96, 1), (3, 96, 2), (5, 192, 1), (1, 192, 1), (3, 192, 2)],
}


@pytest.mark.parametrize("name", a.TABLE_3)
def test_counts_and_map_sizes(name: str) -> None:
    """Each of the twelve has the parameters and map sizes that Table 1 implies, and 6x6 before the global average."""
    ten, hundred, sizes = COUNTS[name]
    net = a.architecture(name)
    assert parameters(net) == ten
    assert parameters(net, NetOptions(num_output=100)) == hundred
    assert map_sizes(net) == sizes
    layers = build(net)
    assert layers[-1].name == "global_pool" and layers[-1].shape == (10, 1, 1)
    assert layers[-2].shape == (10, 6, 6)


@pytest.mark.parametrize("name", COLUMNS)
def test_columns_of_table_2(name: str) -> None:
    """The transformations give the columns of Table 2, and for A and B what is built analogously."""
    assert column(a.architecture(name)) == COLUMNS[name] + TOP


def test_large_all_cnn() -> None:
    """Large-All-CNN has Table 5's layers and a 10-way conv18 without ReLU: 77,455,690 parameters, maps down to 1x1."""
    assert parameters(a.LARGE_ALL_CNN) == 77_455_690
    assert map_sizes(a.LARGE_ALL_CNN) == [125, 124, 62, 61, 60, 30, 29, 28, 14, 13, 12, 6, 5, 4, 2, 1, 1, 1]
    layers = build(a.LARGE_ALL_CNN)
    assert layers[-1].name == "conv18" and layers[-1].type == "Convolution"
    assert {layer.negative_slope for layer in layers if layer.type == "ReLU"} == {0.333}
    drops = [layer.dropout_ratio for layer in layers if layer.type == "Dropout"]
    assert drops == [0.1, 0.1, 0.2, 0.2, 0.3, 0.3, 0.4, 0.4, 0.5, 0.5]


def test_imagenet() -> None:
    """The ImageNet network has 9,372,840 parameters, and 6x6 before its global average at 224."""
    assert parameters(a.IMAGENET) == 9_372_840
    assert map_sizes(a.IMAGENET) == [54, 54, 27, 27, 27, 13, 13, 13, 6, 6, 6, 6]
    assert [(layer.bottom, layer.dropout_ratio) for layer in build(a.IMAGENET) if layer.type == "Dropout"] == [
        ("conv9", 0.5)
    ]


def test_names() -> None:
    """Blobs are called as in the paper."""
    names = [layer.name for layer in build(a.architecture("all_cnn_c"))]
    convs = [f"conv{n}" for n in range(1, 10)]
    assert [name for name in names if name.startswith("conv")] == convs
    assert names[0] == "drop0" and names[-1] == "global_pool"
    assert [name for name in names if name.startswith("drop")] == ["drop0", "drop1", "drop2"]
    relus = [layer for layer in build(a.architecture("all_cnn_c")) if layer.type == "ReLU"]
    assert all(layer.bottom == layer.top == f"conv{n}" for n, layer in enumerate(relus, 1)) and len(relus) == 9


def test_general_transformations() -> None:
    """Any base: the pool's own kernel and stride count, strides multiply, channels stay."""
    base = Architecture(
        "own",
        source="test",
        layers=(
            a.conv(8, kernel_size=3, stride=2),
            a.max_pool(2, 3),
            a.conv(a.CLASSES, kernel_size=1),
            a.global_pool(),
        ),
    )
    assert column(a.strided(base))[0] == (3, 8, 6)
    assert column(a.conv_pool(base))[1:3] == [(2, 8, 1), (2, "pool", 3)]
    assert column(a.all_conv(base))[1] == (2, 8, 3)
    first = replace(base, layers=(a.max_pool(3, 2), *base.layers))
    assert column(a.all_conv(first))[0] == (3, 3, 2), "a pool on the image keeps the image's channels"
    assert base.layers[0] == a.conv(8, kernel_size=3, stride=2), "the base is left as it was"


def test_stride_on() -> None:
    """In Model B the stride may go to the 5x5; in A and C, where no 1x1 precedes a pool, nothing changes."""
    assert column(a.strided(a.MODEL_B, "5x5"))[:4] == [(5, 96, 2), (1, 96, 1), (5, 192, 2), (1, 192, 1)]
    for base in (a.MODEL_A, a.MODEL_C):
        assert a.strided(base, "5x5") == a.strided(base, "1x1")
    assert parameters(a.strided(a.MODEL_B, "5x5")) == 885_610


def drops(net: Architecture, **options: object) -> dict[str, float]:
    return {layer.bottom: layer.dropout_ratio for layer in build(net, NetOptions(**options)) if layer.type == "Dropout"}


def test_dropout_places() -> None:
    """Dropout stands on the input and after each pool or what replaces it; footnote 4's variants add to that."""
    assert drops(a.MODEL_C) == {"data": 0.2, "pool1": 0.5, "pool2": 0.5}
    assert drops(a.strided(a.MODEL_C)) == {"data": 0.2, "conv2": 0.5, "conv4": 0.5}
    assert drops(a.all_conv(a.MODEL_C)) == {"data": 0.2, "conv3": 0.5, "conv6": 0.5}
    assert drops(a.all_conv(a.MODEL_C), dropout="none") == {}
    assert drops(a.all_conv(a.MODEL_C), dropout="1x1") == {"data": 0.2, "conv3": 0.5, "conv6": 0.5, "conv8": 0.5}
    everywhere = drops(a.all_conv(a.MODEL_C), dropout="all")
    assert everywhere == {"data": 0.2, **{f"conv{n}": 0.5 for n in range(1, 9)}}
    assert drops(a.MODEL_A, dropout_ratio=0.3, input_dropout=0.0) == {"pool1": 0.3, "pool2": 0.3}


def test_options() -> None:
    """ReLU on the class layer, the padding of conv7 and the slope follow the options."""
    net = a.architecture("all_cnn_c")
    assert "relu9" in [layer.name for layer in build(net)]
    assert "relu9" not in [layer.name for layer in build(net, NetOptions(relu_last=False))]
    assert map_sizes(net, NetOptions(conv7_pad=1))[-1] == 8
    assert [layer.name for layer in build(a.LARGE_ALL_CNN, NetOptions(relu_last=True))][-1] == "relu18"
    slopes = {layer.negative_slope for layer in build(net, NetOptions(negative_slope=0.1)) if layer.type == "ReLU"}
    assert slopes == {0.1}


@pytest.mark.parametrize("pad", [0, 1])
@pytest.mark.parametrize("size", range(5, 12))
def test_pooled_size_by_windows(size: int, pad: int) -> None:
    """A pooled map has a window at every stride that reaches a pixel, and none that begins beyond the image."""
    kernel, stride = 3, 2
    starts = [
        start for start in range(-pad, size + pad, stride) if start == -pad or start + kernel - stride < size + pad
    ]
    starts = [start for start in starts if start < size or not pad]
    net = Architecture(
        "own", "test", (a.max_pool(kernel, stride, pad), a.conv(a.CLASSES, 1)), input_shape=(1, size, size)
    )
    assert map_sizes(net)[0] == len(starts)


WRONG = [
    ({"kernel_size": 0}, "own: layer 1: kernel_size: found 0, expected a whole number of at least 1"),
    ({"stride": "2"}, "own: layer 1: stride: found '2', expected a whole number of at least 1"),
    ({"num_output": 0}, "own: layer 1: num_output: found 0, expected a whole number of at least 1, or 'classes'"),
    ({"pad": -1}, "own: layer 1: pad: found -1, expected a whole number of at least 0, or 'same'"),
    ({"dropout": 1.0}, "own: layer 1: dropout: found 1.0, expected a rate of at least 0 and below 1"),
]


@pytest.mark.parametrize(("entries", "message"), WRONG)
def test_wrong_rows_are_named(entries: dict[str, object], message: str) -> None:
    """A wrong row is named with what was found and what was expected."""
    row = replace(a.conv(8, kernel_size=3), **entries)
    net = Architecture("own", "test", (row, a.conv(a.CLASSES, kernel_size=1)))
    with pytest.raises(TableError) as caught:
        build(net)
    assert str(caught.value) == message


def test_other_wrong_tables() -> None:
    """So are tables without a class layer, maps that are too small, pools without a convolution, unknown names."""
    with pytest.raises(TableError, match="own: last convolution: num_output: found 8, expected 'classes'"):
        build(Architecture("own", "test", (a.conv(8, kernel_size=3),)))
    with pytest.raises(TableError, match=r"layer 1 \(9x9 conv. classes\): found 'a map of 4 pixels with padding 0'"):
        build(Architecture("own", "test", (a.conv(a.CLASSES, 9, pad=0),), input_shape=(3, 4, 4)))
    with pytest.raises(TableError, match="layer 1 .*no convolution directly before it"):
        a.strided(Architecture("own", "test", (a.max_pool(2, 2), a.conv(a.CLASSES, 1))))
    with pytest.raises(TableError, match="All-CNN-C: transform all_conv: found 'no pool'"):
        a.all_conv(a.architecture("all_cnn_c"))
    with pytest.raises(TableError, match="architecture: found 'model_d'.*all_cnn_c"):
        a.architecture("model_d")
    with pytest.raises(TableError) as caught:
        NetOptions(filler="he")
    assert (
        str(caught.value)
        == "option filler: found 'he', expected one of the choices (choices: xavier, gaussian, msra, graham)"
    )


def test_assumptions() -> None:
    """Every open point has a reason, concerns a table, and reports the value that the options give it."""
    keys = [entry.key for entry in ASSUMPTIONS]
    assert len(keys) == len(set(keys))
    assert all(entry.reason and entry.value and entry.choices and entry.families for entry in ASSUMPTIONS)
    found = {entry.key: entry.value for entry in assumptions(a.MODEL_C, NetOptions(filler="msra", relu_last=False))}
    assert found["filler"] == "msra" and found["relu_last"] == "false" and found["conv7_pad"] == "0"
    assert "stride_on" not in found and "large_filler" not in found
    assert "stride_on" in {entry.key for entry in assumptions(a.strided(a.MODEL_B))}
    assert {"large_negative_slope", "large_class_layer"} <= {entry.key for entry in assumptions(a.LARGE_ALL_CNN)}

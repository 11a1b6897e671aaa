"""The summary of any net: shapes, counts, receptive fields; by hand, by trial, and beside the tables."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest

from allconv_caffe.caffe_torch import summary as s
from allconv_caffe.proto import Datum, NetParameter, ProtoError, parse_text

SOLVERS = Path(__file__).resolve().parents[1] / "solvers"


def net(body: str, shape: str = "dim: 1 dim: 3 dim: 8 dim: 8") -> s.Summary:
    """The summary of an Input layer ``x`` of that shape and what follows."""
    head = f'layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ {shape} }} }} }}\n'
    return s.summarize_net(parse_text(head + body, NetParameter), "n.prototxt")


def layer(type_: str, extra: str = "", bottom: str = "x", top: str = "y") -> str:
    bottoms = " ".join(f'bottom: "{name}"' for name in bottom.split())
    tops = " ".join(f'top: "{name}"' for name in top.split())
    return f'layer {{ name: "{top.split()[0] if top else type_}" type: "{type_}" {bottoms} {tops} {extra} }}\n'


def field(row: s.LayerRow) -> tuple[Fraction, Fraction, Fraction]:
    assert row.receptive_field is not None
    high, wide = row.receptive_field
    assert high == wide
    return high.size, high.jump, high.left


@pytest.mark.parametrize(
    ("name", "parameters", "mega_adds"),
    [
        ("cifar10-model-a", 839_242, 139),
        ("cifar10-strided-cnn-a", 839_242, 45),
        ("cifar10-convpool-cnn-a", 1_254_250, 309),
        ("cifar10-allcnn-a", 1_254_250, 181),
        ("cifar10-model-b", 885_610, 158),
        ("cifar10-strided-cnn-b", 885_610, 143),
        ("cifar10-convpool-cnn-b", 1_300_618, 327),
        ("cifar10-allcnn-b", 1_300_618, 200),
        ("cifar10-model-c", 954_730, 228),
        ("cifar10-strided-cnn-c", 954_730, 101),
        ("cifar10-convpool-cnn-c", 1_369_738, 398),
        ("cifar10-allcnn-c", 1_369_738, 271),
        ("cifar10-large-allcnn", 77_455_690, 26_500),
        ("imagenet-allcnn", 9_372_840, None),
    ],
)
def test_papers_networks(name: str, parameters: int, mega_adds: int | None) -> None:
    """The rendered networks have the known parameters and forward multiply-adds."""
    summary = s.summarize(SOLVERS / name / "deploy.prototxt")
    assert summary.parameters == parameters
    if mega_adds is not None:
        assert summary.multiply_adds / 1e6 == pytest.approx(mega_adds, rel=0.005, abs=0.6)


def test_receptive_fields_of_the_imagenet_network() -> None:
    """Receptive fields and jumps of the ImageNet network: 11 (4), 19 (8), 51, 67 (16), 99, 131 (32), 195."""
    rows = {row.name: row for row in s.summarize(SOLVERS / "imagenet-allcnn/deploy.prototxt").layers}
    found = {name: tuple(map(int, field(row)[:2])) for name, row in rows.items() if name.startswith("conv")}
    assert found == {
        "conv1": (11, 4),
        "conv2": (11, 4),
        "conv3": (19, 8),
        "conv4": (51, 8),
        "conv5": (51, 8),
        "conv6": (67, 16),
        "conv7": (99, 16),
        "conv8": (99, 16),
        "conv9": (131, 32),
        "conv10": (195, 32),
        "conv11": (195, 32),
        "conv12": (195, 32),
    }


def test_receptive_field_by_tracing() -> None:
    """Size, jump and left edge equal those found by tracing which pixels reach an output, window by window."""
    windows = [(5, 1, 2, 1), (3, 2, 0, 1), (3, 1, 2, 2), (2, 2, 1, 1)]  # kernel, stride, pad, dilation
    body, bottom = "", "x"
    for index, (kernel, stride, pad, dilation) in enumerate(windows):
        body += layer(
            "Convolution",
            f"convolution_param {{ num_output: 1 kernel_size: {kernel} stride: {stride} pad: {pad} dilation: {dilation} }}",
            bottom,
            f"c{index}",
        )
        bottom = f"c{index}"
    reached = {position: {position} for position in (0, 1)}
    for kernel, stride, pad, dilation in reversed(windows):
        reached = {
            top: {p * stride - pad + k * dilation for p in places for k in range(kernel)}
            for top, places in reached.items()
        }
    size, jump, left = field(net(body, "dim: 1 dim: 1 dim: 40 dim: 40").layers[-1])
    assert (size, left) == (max(reached[0]) - min(reached[0]) + 1, min(reached[0]))
    assert jump == min(reached[1]) - min(reached[0])


SHAPES = [
    (layer("Convolution", "convolution_param { num_output: 6 kernel_size: 3 group: 3 }"), [(1, 6, 6, 6)], 6 * 9 + 6),
    (
        layer(
            "Convolution",
            "convolution_param { num_output: 4 kernel_h: 3 kernel_w: 1 stride_h: 1 stride_w: 2 bias_term: false }",
        ),
        [(1, 4, 6, 4)],
        36,
    ),
    (
        layer("Convolution", "convolution_param { num_output: 4 kernel_size: 3 dilation: 2 pad: 2 }"),
        [(1, 4, 8, 8)],
        112,
    ),
    (
        layer("Deconvolution", "convolution_param { num_output: 4 kernel_size: 4 stride: 2 pad: 1 }"),
        [(1, 4, 16, 16)],
        196,
    ),
    (layer("Pooling", "pooling_param { kernel_size: 3 stride: 2 }"), [(1, 3, 4, 4)], 0),
    (layer("Pooling", "pooling_param { kernel_size: 3 stride: 2 round_mode: FLOOR }"), [(1, 3, 3, 3)], 0),
    (layer("Pooling", "pooling_param { kernel_size: 2 stride: 2 pad: 1 }"), [(1, 3, 5, 5)], 0),
    (layer("Pooling", "pooling_param { kernel_size: 2 stride: 4 pad: 1 }"), [(1, 3, 3, 3)], 0),
    (layer("Pooling", "pooling_param { global_pooling: true }"), [(1, 3, 1, 1)], 0),
    (layer("InnerProduct", "inner_product_param { num_output: 5 }"), [(1, 5)], 192 * 5 + 5),
    (layer("InnerProduct", "inner_product_param { num_output: 5 axis: -1 bias_term: false }"), [(1, 3, 8, 5)], 40),
    (layer("Flatten"), [(1, 192)], 0),
    (layer("Flatten", "flatten_param { axis: 1 end_axis: 2 }"), [(1, 24, 8)], 0),
    (layer("Reshape", "reshape_param { shape { dim: 0 dim: -1 dim: 4 } }"), [(1, 48, 4)], 0),
    (layer("Reshape", "reshape_param { shape { dim: 2 dim: 4 } axis: 2 num_axes: 1 }"), [(1, 3, 2, 4, 8)], 0),
    (layer("Reshape", "reshape_param { shape { dim: 1 } axis: -1 num_axes: 0 }"), [(1, 3, 8, 8, 1)], 0),
    (layer("Concat", "", "x x"), [(1, 6, 8, 8)], 0),
    (layer("Concat", "concat_param { axis: -1 }", "x x"), [(1, 3, 8, 16)], 0),
    (layer("Slice", "", top="a b c"), [(1, 1, 8, 8)] * 3, 0),
    (layer("Slice", "slice_param { slice_point: 1 }", top="a b"), [(1, 1, 8, 8), (1, 2, 8, 8)], 0),
    (layer("Eltwise", "", "x x"), [(1, 3, 8, 8)], 0),
    (layer("BatchNorm"), [(1, 3, 8, 8)], 7),
    (layer("Scale", "scale_param { bias_term: true }"), [(1, 3, 8, 8)], 6),
    (layer("Bias"), [(1, 3, 8, 8)], 3),
    (layer("PReLU"), [(1, 3, 8, 8)], 3),
    (layer("PReLU", "prelu_param { channel_shared: true }"), [(1, 3, 8, 8)], 1),
    (layer("LRN"), [(1, 3, 8, 8)], 0),
    (layer("Tile", "tile_param { tiles: 3 }"), [(1, 9, 8, 8)], 0),
    (layer("Reduction", "reduction_param { axis: 2 }"), [(1, 3)], 0),
    (layer("ArgMax", "argmax_param { top_k: 2 }"), [(1, 1, 2, 1)], 0),
    (layer("ArgMax", "argmax_param { axis: 1 }"), [(1, 1, 8, 8)], 0),
    (layer("Im2col", "convolution_param { kernel_size: 3 }"), [(1, 27, 6, 6)], 0),
    (layer("Silence", top=""), [], 0),
    (layer("Python", 'python_param { module: "allconv_caffe.python_layers" layer: "GuidedReLU" }'), [(1, 3, 8, 8)], 0),
]


@pytest.mark.parametrize(("body", "shapes", "parameters"), SHAPES)
def test_shapes(body: str, shapes: list[s.Shape], parameters: int) -> None:
    """Output shapes and parameters of each type follow Caffe's rules."""
    row = net(body).layers[-1]
    assert list(row.shapes) == shapes and row.parameters == parameters


def test_loss_and_accuracy() -> None:
    """Losses and accuracies are scalars; labels come with Data layers."""
    text = """layer { name: "d" type: "Data" top: "data" top: "label" data_param { batch_size: 4 }
      transform_param { crop_size: 8 mean_value: 1 mean_value: 2 mean_value: 3 } }
    layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 5 }
      param { lr_mult: 1 } param { lr_mult: 2 decay_mult: 0 } }
    layer { name: "a" type: "Accuracy" bottom: "ip" bottom: "label" top: "a" include { phase: TEST } }
    layer { name: "l" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "l" }"""
    summary = s.summarize_net(parse_text(text, NetParameter), phase="TEST")
    assert [row.shapes for row in summary.layers] == [((4, 3, 8, 8), (4,)), ((4, 5),), ((),), ((),)]
    assert summary.layers[1].multipliers == ((1, 1), (2, 0))
    assert summary.multiply_adds == 192 * 5 and summary.notes == ()
    assert [row.name for row in s.summarize_net(parse_text(text, NetParameter), phase="TRAIN").layers] == [
        "d",
        "ip",
        "l",
    ]


def test_receptive_fields_of_deconvolution_and_joins() -> None:
    """A deconvolution halves the jump; a join of branches covers both; an inner product sees the whole image."""
    up = layer("Deconvolution", "convolution_param { num_output: 4 kernel_size: 2 stride: 2 }")
    assert field(net(up).layers[-1]) == (1, Fraction(1, 2), 0)
    branches = (
        layer("Convolution", "convolution_param { num_output: 1 kernel_size: 5 pad: 2 }", top="a")
        + layer("Convolution", "convolution_param { num_output: 1 kernel_size: 3 pad: 1 }", top="b")
        + layer("Concat", "", "a b", "y")
    )
    assert field(net(branches).layers[-1]) == (5, 1, -2)
    assert field(net(layer("InnerProduct", "inner_product_param { num_output: 1 }")).layers[-1])[0] == 8
    assert (
        field(
            net(layer("Flatten") + layer("InnerProduct", "inner_product_param { num_output: 1 }", "y", "z")).layers[-1]
        )[0]
        == 8
    )


def test_shared_parameters_count_once() -> None:
    """A parameter shared by name counts at its first layer alone."""
    shared = 'param { name: "w" } param { name: "b" } inner_product_param { num_output: 2 }'
    summary = net(layer("InnerProduct", shared, top="a") + layer("InnerProduct", shared, top="b"))
    assert [row.parameters for row in summary.layers] == [0, 386, 0]


def test_legacy_input_and_given_shape(tmp_path: Path) -> None:
    """Old input_dim is read; an explicit shape replaces what the file says; without any the error names the way out."""
    legacy = tmp_path / "old.prototxt"
    legacy.write_text('input: "x" input_dim: 2 input_dim: 3 input_dim: 8 input_dim: 8\n' + layer("ReLU"))
    assert [row.shapes for row in s.summarize(legacy).layers] == [((2, 3, 8, 8),)] * 2
    assert s.summarize(legacy, input_shape=(3, 9, 9)).layers[-1].shapes == ((2, 3, 9, 9),)
    data = tmp_path / "data.prototxt"
    data.write_text(
        'layer { name: "d" type: "Data" top: "x" data_param { source: "nowhere" batch_size: 5 } }\n' + layer("ReLU")
    )
    assert s.summarize(data, input_shape=(1, 4, 6)).layers[-1].shapes == ((5, 1, 4, 6),)
    with pytest.raises(s.SummaryError) as caught:
        s.summarize(data)
    assert str(caught.value) == (
        f"{data}: layer 'd': source: found 'nowhere', expected an LMDB that is there, crop_size, "
        "a deploy.prototxt beside it, or --input-shape"
    )


OLD = """name: "old" input: "x" input_dim: 1 input_dim: 3 input_dim: 8 input_dim: 8
layers { name: "c" type: CONVOLUTION bottom: "x" top: "c" blobs_lr: 1 blobs_lr: 2 weight_decay: 1 weight_decay: 0
         convolution_param { num_output: 2 kernel_size: 3 } }
layers { name: "r" type: RELU bottom: "c" top: "c" }
"""
OLDEST = """name: "old" input: "x" input_dim: 1 input_dim: 3 input_dim: 8 input_dim: 8
layers { layer { name: "p" type: "padding" pad: 1 } bottom: "x" top: "p" }
layers { layer { name: "c" type: "conv" num_output: 2 kernelsize: 3 blobs_lr: 1 blobs_lr: 2 } bottom: "p" top: "c" }
layers { layer { name: "r" type: "relu" } bottom: "c" top: "c" }
"""


@pytest.mark.parametrize(("text", "size"), [(OLD, 6), (OLDEST, 8)])
def test_nets_of_old_formats_are_upgraded(text: str, size: int) -> None:
    """V1, and V0, whose padding layer becomes the convolution's; 3 * 3 * 3 * 2 weights and 2 biases. The net is not changed."""
    param = parse_text(text, NetParameter)
    found = s.summarize_net(param, "n.prototxt")
    assert [(row.name, row.type, row.shapes[0]) for row in found.layers] == [
        ("input", "Input", (1, 3, 8, 8)),
        ("c", "Convolution", (1, 2, size, size)),
        ("r", "ReLU", (1, 2, size, size)),
    ]
    assert found.parameters == 56 and found.layers[1].multipliers[1][0] == 2
    assert param == parse_text(text, NetParameter)


def test_an_old_net_that_cannot_be_upgraded_is_named() -> None:
    param = parse_text('layers { layer { name: "q" type: "nope" } bottom: "x" top: "q" } input: "x"', NetParameter)
    with pytest.raises(ProtoError, match=r"^n.prototxt: layer 'q': Unknown layer name: nope \(known: accuracy, "):
        s.summarize_net(param, "n.prototxt")


def test_without_its_lmdb_a_net_is_as_large_as_its_deploy_net() -> None:
    """Committed train_val files say no image size: the deploy net beside them does, and a note says that it was asked."""
    path = SOLVERS / "cifar10-allcnn-c/train_val.prototxt"
    summary = s.summarize(path, root=Path("nowhere"))
    assert summary.parameters == 1_369_738 and summary.layers[0].shapes[0][1:] == (3, 32, 32)
    assert summary.notes == (
        "layer 'data': 3x32x32 as deploy.prototxt beside it says; its LMDB is not there to be asked",
    )


def test_lmdb_is_asked(tmp_path: Path) -> None:
    """A Data layer whose LMDB is there takes channels and size from its first Datum."""
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(tmp_path / "l"), map_size=1 << 20) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"0", Datum(channels=2, height=5, width=7).SerializeToString())
    path = tmp_path / "n.prototxt"
    path.write_text('layer { name: "d" type: "Data" top: "x" top: "t" data_param { source: "l" batch_size: 3 } }\n')
    assert s.summarize(path, root=tmp_path).layers[0].shapes == ((3, 2, 5, 7), (3,))
    data = tmp_path / "l" / "data.mdb"
    data.write_bytes(data.read_bytes()[:8192])  # what the library itself would die of
    with pytest.raises(
        s.SummaryError, match=r"layer 'd': source: found '.*/l: MDB_PAGE_NOTFOUND.*', expected an LMDB of"
    ):
        s.summarize(path, root=tmp_path)


def test_formats() -> None:
    """Text, Markdown and JSON carry the same numbers."""
    summary = s.summarize(SOLVERS / "cifar10-allcnn-c/deploy.prototxt")
    text, markdown, data = (s.format_summary(summary, form) for form in ("text", "markdown", "json"))
    assert "conv4        Convolution  1x192x16x16     166,080     42,467,328" in text
    assert "| conv4 | Convolution | 1x192x16x16 | 166,080 | 42,467,328 | 11 | 2 | -5 | 1, 1 | 1, 1 |" in markdown
    read = json.loads(data)
    assert read["parameters"] == 1_369_738 and read["multiply_adds"] == summary.multiply_adds
    conv4 = next(one for one in read["layers"] if one["name"] == "conv4")
    assert conv4["tops"] == {"conv4": [1, 192, 16, 16]} and conv4["receptive_field"]["size"] == [11, 11]
    with pytest.raises(s.SummaryError, match="option format: found 'html'"):
        s.format_summary(summary, "html")


WRONG = [
    (
        layer("Convolution", "convolution_param { kernel_size: 3 }"),
        "layer 'y': top 'y': found (1, 0, 6, 6), expected at least 1 in",
    ),
    (
        layer("Input", "input_param { shape { dim: 1 dim: -3 } }", ""),
        "layer 'y': top 'y': found (1, -3), expected at least 1",
    ),
    (layer("ReLU") + layer("TanH"), "layer 'y': top: found 'y', expected a top of this layer alone, or its own bottom"),
    (layer("Nope"), "layer 'y': type: found 'Nope', expected a type with a shape rule (choices: AbsVal, "),
    (layer("ReLU", bottom="z"), "layer 'y': bottom 0: found 'z', expected a top of a layer before it (choices: x)"),
    (layer("ReLU", bottom=""), "layer 'y': bottom: found '0 bottoms', expected 1"),
    (layer("Convolution", "convolution_param { num_output: 4 kernel_size: 3 group: 2 }"), "layer 'y': group: found 2"),
    (
        layer("Convolution", "convolution_param { num_output: 4 kernel_size: 9 }"),
        "layer 'y': found 'a map of 8 with padding 0'",
    ),
    (layer("Slice", top="a b"), "layer 'a': top: found '2 tops', expected a divisor of 3"),
    (layer("Reshape", "reshape_param { shape { dim: 5 } }"), "layer 'y': shape: found (5,), expected 192 values"),
    (layer("Python", 'python_param { module: "m" layer: "Mine" }'), "layer 'y': python_param.layer: found 'Mine'"),
    (layer("Flatten", "flatten_param { axis: 7 }"), "layer 'y': axis: found 7, expected an axis of a blob with 4 axes"),
]


@pytest.mark.parametrize(("body", "message"), WRONG)
def test_errors_name_the_layer(body: str, message: str) -> None:
    """What cannot be summarised stops with one line: file, layer, found, expected."""
    with pytest.raises(s.SummaryError) as caught:
        net(body)
    assert str(caught.value).startswith("n.prototxt: ") and message in str(caught.value)


def test_other_errors(tmp_path: Path) -> None:
    """A file that is no net, an unknown phase and a wrong input shape are refused."""
    broken = tmp_path / "broken.prototxt"
    broken.write_text("layer { nmae: 'x' }")
    with pytest.raises(ProtoError):
        s.summarize(broken)
    with pytest.raises(s.SummaryError, match="option phase: found 'VAL'"):
        s.summarize(broken, "VAL")
    assert s.shape_from_text("3x32x32") == s.shape_from_text("3,32,32") == (3, 32, 32)
    with pytest.raises(s.SummaryError, match="option input-shape: found '32'"):
        s.shape_from_text("32")


def test_rules_are_registered_once() -> None:
    """A second rule for a type is refused."""
    with pytest.raises(ValueError, match="layer type ReLU has a rule already"):
        s._rule("ReLU")(lambda one: s._Result([]))

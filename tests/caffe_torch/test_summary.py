"""The summary of any net, held to the engine's net and to Caffe's sentences; counts and receptive fields by hand."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path

import h5py
import layer_harness as harness
import numpy as np
import pytest
import torch
from nets import reference
from support.databases import write_lmdb
from support.prototxt import input_layer, layer as layer_named

import allconv_caffe.pycaffe  # noqa: F401  (answers to `import caffe` in Python layers)
from allconv_caffe.caffe_torch import glog, summary as s
from allconv_caffe.caffe_torch.errors import CaffeError
from allconv_caffe.caffe_torch.layer import Context
from allconv_caffe.caffe_torch.layers import data_hdf5
from allconv_caffe.caffe_torch.net import Net
from allconv_caffe.proto import (
    TEST,
    TRAIN,
    BlobProto,
    BlobShape,
    Datum,
    NetParameter,
    ProtoError,
    parse_text,
    read_net,
    write_binary,
)

SOLVERS = Path(__file__).resolve().parents[2] / "solvers"


def net(body: str, shape: s.Shape = (1, 3, 8, 8)) -> s.Summary:
    """The summary of an Input layer ``x`` of that shape and what follows."""
    return s.summarize_net(parse_text(input_layer("x", *shape) + body, NetParameter), "n.prototxt")


def layer(type_: str, extra: str = "", bottom: str = "x", top: str = "y") -> str:
    return layer_named(top.split()[0] if top else type_, type_, bottom, extra, top)


def field(row: s.LayerRow) -> tuple[Fraction | int, Fraction | int, Fraction | int]:
    assert row.receptive_field is not None
    high, wide = row.receptive_field
    assert high == wide
    return high.size, high.jump, high.left


Told = dict[str, list[s.Shape]] | str
"""Shapes of every layer's tops and of its parameters by name; or why the net was refused."""


def engine(param: NetParameter, phase: int, where: str = "") -> tuple[Told, int]:
    """What a net of real memory has, without the Splits put into it; and how much it learns."""
    with glog.quiet():
        try:
            built = Net(param, Context(phase=phase), where=where)
        except CaffeError as error:
            return str(error), 0
    own = [(i, one) for i, one in enumerate(built.layers) if not one.name.endswith("_split")]
    shapes = {one.name: [blob.shape for blob in built.top_vecs[i]] for i, one in own}
    return shapes, sum(blob.count for blob in built.learnable_params)


def summarized(param: NetParameter, phase: int, where: str = "") -> tuple[Told, int]:
    try:
        found = s.summarize_net(param, where, "TRAIN" if phase == TRAIN else "TEST")
    except CaffeError as error:
        return str(error), 0
    return {row.name: list(row.shapes) for row in found.layers}, found.parameters


def test_a_summary_has_the_shapes_of_the_engines_net(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over all cases that layers are compared with real Caffe by: the same shapes, the same number of parameters."""
    wrong = {}
    for case in harness.collect():
        if case.path:
            monkeypatch.syspath_prepend(case.path)
        param = parse_text(case.net, NetParameter)
        built = engine(param, case.phase)
        if summarized(param, case.phase) != built or isinstance(built[0], str):
            wrong[case.text] = built
    print(f"{len(harness.collect())} cases, {len(wrong)} differ")
    assert not wrong


def test_a_summary_refuses_what_the_engines_net_refuses() -> None:
    """Over all error cases: where the net cannot be built, the summary says Caffe's sentence; where only a run fails, none."""
    wrong, refused = {}, Counter[str]()
    for case in harness.collect_errors():
        param = parse_text(case.net, NetParameter)
        built = engine(param, case.phase, "n.prototxt")
        refused["when built" if isinstance(built[0], str) else "when run"] += 1
        if summarized(param, case.phase, "n.prototxt") != built:
            wrong[case.text] = built
    print(f"{refused}, {len(wrong)} differ")
    assert not wrong and refused["when built"] > 100 > 30 > refused["when run"]


@pytest.mark.parametrize("path", sorted(SOLVERS.glob("*/deploy.prototxt")), ids=lambda path: path.parent.name)
def test_the_committed_nets_have_the_engines_shapes(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """deploy and train_val of every experiment, the latter over LMDBs of one record: shapes and parameters are the net's."""
    deploy = read_net(path)
    shapes, _ = found = engine(deploy, TEST)
    assert isinstance(shapes, dict) and summarized(deploy, TEST) == found
    _, channels, height, width = size = next(iter(shapes.values()))[0]
    datum = Datum(channels=channels, height=height, width=width, data=bytes(channels * height * width))
    train_val = read_net(path.with_name("train_val.prototxt"))
    monkeypatch.chdir(tmp_path)
    for layer_ in train_val.layer:
        augmented = layer_.python_param.param_str
        source = Path(json.loads(augmented)["source"] if augmented else layer_.data_param.source)
        if (layer_.type == "Data" or augmented) and not source.exists():
            source.parent.mkdir(parents=True, exist_ok=True)
            write_lmdb(source, [datum])
        if layer_.transform_param.mean_file:
            mean = BlobProto(shape=BlobShape(dim=size), data=[0] * math.prod(size))
            write_binary(layer_.transform_param.mean_file, mean)
    for phase in (TRAIN, TEST):
        found = engine(train_val, phase)
        assert isinstance(found[0], dict) and summarized(train_val, phase) == found


MEASURE = """
import sys
from allconv_caffe.caffe_torch import summary

def peak():  # not getrusage: that counts what the parent had, too
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

before = peak()
found = summary.summarize(sys.argv[1])
print(before, peak(), found.parameters)
"""


def test_nothing_is_allocated(tmp_path: Path) -> None:
    """AlexNet's 61 million parameters and a batch of 256 take no memory: less than 20 MB more than the imports do.

    Under 300 MB in all, with a PyTorch for the CPU; one for a GPU is larger by itself.
    """
    path = tmp_path / "alexnet.prototxt"
    path.write_text(reference.alexnet(256))
    done = subprocess.run([sys.executable, "-c", MEASURE, path], check=True, capture_output=True, text=True)
    before, after, parameters = map(int, done.stdout.split())
    assert parameters == 60_965_224
    assert after - before < 20_000
    assert after < 300_000 or torch.version.cuda is not None


def test_nothing_is_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """No file is written, no random number drawn, no line logged; a module of Python layers may be set up."""
    monkeypatch.setattr(data_hdf5.RAND, "rand", None)
    with h5py.File(tmp_path / "in.h5", "w") as file:
        file["x"], file["y"] = np.zeros((5, 3, 8, 8)), np.zeros(5)
    (tmp_path / "list").write_text(f"{tmp_path / 'in.h5'}\n")
    source = f'hdf5_data_param {{ source: "{tmp_path / "list"}" batch_size: 2 shuffle: true }}'
    filler = 'convolution_param { num_output: 2 kernel_size: 3 weight_filler { type: "xavier" } }'
    guided = 'python_param { module: "allconv_caffe.python_layers" layer: "GuidedReLU" }'
    body = (
        layer("HDF5Data", source, "", "x y")
        + layer("Convolution", filler, "x", "c")
        + layer("Python", guided, "c", "c")
        + layer("HDF5Output", f'hdf5_output_param {{ file_name: "{tmp_path / "out.h5"}" }}', "c y", "")
    )
    state = torch.get_rng_state()
    found = s.summarize_net(parse_text(body, NetParameter))
    assert [row.shapes for row in found.layers] == [((2, 3, 8, 8), (2,)), ((2, 2, 6, 6),), ((2, 2, 6, 6),), ()]
    assert found.layers[2].receptive_field == found.layers[1].receptive_field is not None
    assert torch.equal(torch.get_rng_state(), state) and not (tmp_path / "out.h5").exists()
    assert capfd.readouterr() == ("", "")


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
    size, jump, left = field(net(body, (1, 1, 40, 40)).layers[-1])
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
    (layer("MVN", "mvn_param { across_channels: true }"), [(1, 3, 8, 8)], 0),
    (layer("SPP", "spp_param { pyramid_height: 2 }"), [(1, 15)], 0),
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


def test_multiply_adds_of_other_layers() -> None:
    """By hand, for one image or one step: weights times the places they meet; twice as many images cost the same."""
    deconv = "convolution_param { num_output: 4 kernel_size: 2 stride: 2 group: 1 }"
    for batch in (1, 2):
        found = net(layer("Deconvolution", deconv) + layer("Scale", "", "y", "z"), (batch, 3, 8, 8))
        assert [row.multiply_adds for row in found.layers] == [0, 3 * 4 * 2 * 2 * 8 * 8, 4 * 16 * 16]
    sequences = input_layer("c", 4, 3) + input_layer("s", 3, 7)
    lstm = layer("LSTM", "recurrent_param { num_output: 5 }", "x c s")
    found = net(sequences + lstm, (4, 3, 6))
    assert found.layers[-1].multiply_adds == 3 * (20 * 6 + 20 * 5) + 3 * 20 * 7 // 4


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
    with pytest.raises(CaffeError, match=r"^n.prototxt: layer 'q': Unknown layer name: nope \(known: accuracy, "):
        s.summarize_net(param, "n.prototxt")


def test_without_its_lmdb_a_net_is_as_large_as_its_deploy_net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Committed train_val files say no image size: the deploy net beside them does, and a note says that it was asked."""
    path = SOLVERS / "cifar10-allcnn-c/train_val.prototxt"
    monkeypatch.chdir(tmp_path)
    summary = s.summarize(path)
    assert summary.parameters == 1_369_738 and summary.layers[0].shapes[0][1:] == (3, 32, 32)
    assert summary.notes == (
        "layer 'data': 3x32x32 as deploy.prototxt beside it says; its LMDB is not there to be asked",
    )


def test_lmdb_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Data layer whose LMDB is there takes channels and size from its first Datum, and says what is wrong with it."""
    monkeypatch.chdir(tmp_path)
    write_lmdb("l", [Datum(channels=2, height=5, width=7, data=bytes(70))])
    path = tmp_path / "n.prototxt"
    text = layer(
        "Data", 'data_param { source: "l" batch_size: 3 backend: LMDB } transform_param { crop_size: CROP }', ""
    )
    path.write_text(text.replace("CROP", "4"))
    assert s.summarize(path).layers[0].shapes == ((3, 2, 4, 4),)
    path.write_text(text.replace("CROP", "6"))
    with pytest.raises(CaffeError, match=r"Check failed: datum_height >= crop_size \(5 vs. 6\)"):
        s.summarize(path)
    data = tmp_path / "l" / "data.mdb"
    data.write_bytes(data.read_bytes()[:8192])  # what the library itself would die of
    with pytest.raises(CaffeError, match=r"n.prototxt: layer 'y': l: .*MDB_PAGE_NOTFOUND"):
        s.summarize(path)


AUGMENTED = """layer { name: "data" type: "Python" top: "data" top: "label" python_param { layer: "AugmentedData"
  module: "allconv_caffe.python_layers" param_str: '{"source": "l", "batch_size": 5, "size": 12, "background": 128}' } }
"""


def test_augmented_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """AugmentedData gives fields of its own size, of its LMDB's channels, or those of the deploy net where there is none."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "train_val.prototxt"
    path.write_text(AUGMENTED)
    with pytest.raises(s.SummaryError) as caught:
        s.summarize(path)
    assert str(caught.value) == (
        f"{path}: layer 'data': source: found 'l', expected an LMDB that is there, a deploy.prototxt beside it, or --input-shape"
    )
    (tmp_path / "deploy.prototxt").write_text(input_layer("x", 1, 3, 9, 9))
    found = s.summarize(path)
    assert found.layers[0].shapes == ((5, 3, 12, 12), (5,)) and found.layers[0].type == "Python" and found.notes
    write_lmdb("l", [Datum(channels=2, height=5, width=5, data=bytes(50))])
    found = s.summarize(path)
    assert found.layers[0].shapes == ((5, 2, 12, 12), (5,)) and not found.notes


IMAGES = "image_data_param { source: 'no' batch_size: 3 new_height: 5 new_width: 6 is_color: COLOR }"


@pytest.mark.parametrize(
    ("body", "shapes"),
    [
        (layer("ImageData", IMAGES.replace("COLOR", "true"), "", "a b"), ((3, 3, 5, 6), (3,))),
        (layer("ImageData", IMAGES.replace("COLOR", "false"), "", "a b"), ((3, 1, 5, 6), (3,))),
        (
            layer("ImageData", IMAGES + " transform_param { crop_size: 4 }", "", "a b").replace("COLOR", "true"),
            ((3, 3, 4, 4), (3,)),
        ),
        (layer("Data", "data_param { batch_size: 2 } transform_param { crop_size: 4 }", "", "a"), ((2, 3, 4, 4),)),
        (
            layer("MemoryData", "memory_data_param { batch_size: 2 channels: 1 height: 3 width: 4 }", "", "a b"),
            ((2, 1, 3, 4), (2,)),
        ),
        (layer("DummyData", "dummy_data_param { shape { dim: 2 dim: 3 } }", "", "a b"), ((2, 3), (2, 3))),
    ],
)
def test_data_that_are_not_there(body: str, shapes: tuple[s.Shape, ...]) -> None:
    """Sizes that the prototxt says itself are taken from it."""
    row = s.summarize_net(parse_text(body, NetParameter)).layers[0]
    assert row.shapes == shapes and body.count(f'type: "{row.type}"') == 1


@pytest.mark.parametrize(
    ("type_", "param", "found", "expected"),
    [
        (
            "ImageData",
            "image_data_param { batch_size: 3 source: 'no' }",
            "no size",
            "new_height and new_width, or --input-shape",
        ),
        (
            "HDF5Data",
            "hdf5_data_param { batch_size: 3 source: 'no' }",
            "no",
            "a source that is there, or --input-shape",
        ),
        ("WindowData", "window_data_param { batch_size: 3 source: 'no' }", "no", "--input-shape"),
        ("Data", "data_param { source: 'no' } transform_param { crop_size: 4 }", 0, "at least 1"),
    ],
)
def test_data_of_unknown_size(type_: str, param: str, found: object, expected: str) -> None:
    """Where nothing says a size, the summary says what would; with one given, any data layer has it."""
    body = parse_text(layer(type_, param, "", "a b"), NetParameter)
    with pytest.raises(s.SummaryError) as caught:
        s.summarize_net(body, "n.prototxt")
    assert (caught.value.found, caught.value.expected) == (found, expected)
    if found != 0:
        assert s.summarize_net(body, input_shape=(3, 9, 9)).layers[0].shapes == ((3, 3, 9, 9), (3,))


def test_old_and_new_inputs_in_one_net() -> None:
    """`input:` and an Input layer beside it, as Caffe reads them; a given shape is that of both."""
    text = (
        'input: "a" input_shape { dim: 1 dim: 3 dim: 8 dim: 8 }'
        + input_layer("b", 1, 3, 8, 8)
        + layer("Eltwise", "", "a b")
    )
    param = parse_text(text, NetParameter)
    found = s.summarize_net(param)
    assert [(row.name, row.shapes) for row in found.layers] == [(n, ((1, 3, 8, 8),)) for n in ("input", "b", "y")]
    assert summarized(param, TEST) == engine(param, TEST)
    assert s.summarize_net(param, input_shape=(3, 5, 4)).layers[-1].shapes == ((1, 3, 5, 4),)


def test_shared_parameters_must_have_one_shape() -> None:
    """In Caffe's words; with share_mode PERMISSIVE the counts alone."""
    word = "param { name: 'w' } inner_product_param { bias_term: false num_output: "
    with pytest.raises(CaffeError) as caught:
        net(layer("InnerProduct", word + "4 }", top="a") + layer("InnerProduct", word + "3 }", bottom="a", top="b"))
    assert str(caught.value) == (
        "n.prototxt: layer 'b': Cannot share param 'w' owned by layer 'a' with layer 'b'; shape mismatch.  Owner layer "
        "param shape is 4 192 (768); sharing layer expects shape 3 4 (12)"
    )


def test_a_split_of_the_file_stays() -> None:
    """A Split layer that the file itself has is a row; those that Caffe puts in are not."""
    found = net(layer("Split", top="a b") + layer("ReLU", "", "a", "r") + layer("TanH", "", "a", "t"))
    assert [row.name for row in found.layers] == ["x", "a", "r", "t"]


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
        "layer 'y': Check failed: num_output_ > 0 (0 vs. 0)",
    ),
    (
        layer("Input", "input_param { shape { dim: 1 dim: -3 } }", ""),
        "layer 'y': Check failed: shape[i] >= 0 (-3 vs. 0)",
    ),
    (layer("ReLU") + layer("TanH"), "layer 'y': Top blob 'y' produced by multiple sources."),
    (layer("Nope"), "layer 'y': Unknown layer type: Nope (known types: AbsVal, "),
    (layer("ReLU", bottom="z"), "Unknown bottom blob 'z' (layer 'y', bottom index 0)"),
    (layer("ReLU", bottom=""), "layer 'y': ReLU Layer takes 1 bottom blob(s) as input."),
    (layer("Slice", top="a b"), "layer 'a': Number of top blobs (2) should evenly divide input slice axis (3)"),
    (
        layer("Python", 'python_param { module: "m" layer: "Mine" }'),
        "layer 'y': python_param { module: 'm' layer: 'Mine' }: ",
    ),
]


@pytest.mark.parametrize(("body", "message"), WRONG)
def test_errors_name_the_layer(body: str, message: str) -> None:
    """What Caffe refuses stops with one line: file, layer, Caffe's sentence."""
    with pytest.raises(CaffeError) as caught:
        net(body)
    assert str(caught.value).startswith("n.prototxt: " + message)


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

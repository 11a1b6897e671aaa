"""Layers and fields of Caffe's forks: those that run are read by name, the others are named; nothing of Caffe's changes."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from allconv_caffe import proto
from allconv_caffe.caffe_torch import glog
from allconv_caffe.caffe_torch.errors import CaffeError
from allconv_caffe.caffe_torch.layer import FORKS, REGISTRY, Context, Layer, register
from allconv_caffe.caffe_torch.net import Net
from allconv_caffe.proto import (
    LayerParameter,
    NetParameter,
    ProtoError,
    fork_fields,
    forks,
    parse_text,
    schema,
    to_text,
)

INPUT = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 2 dim: 3 dim: 3 } } }\n'
NET = f"""{INPUT}
layer {{ name: "norm" type: "Normalize" bottom: "data" top: "norm"
  norm_param {{ across_spatial: false channel_shared: false scale_filler {{ value: 20 }} }} }}
layer {{ name: "perm" type: "Permute" bottom: "norm" top: "perm" permute_param {{ order: 0 order: 2 order: 3 order: 1 }} }}
layer {{ name: "bn" type: "BatchNorm" bottom: "data" top: "bn"
  batch_norm_param {{ eps: 0.001 scale_bias: true bias_filler {{ value: 3 }} }} }}
"""


def test_no_fork_has_what_caffe_has() -> None:
    """Neither a type that is registered nor a field of the schema is called a fork's."""
    assert not forks.TYPES.keys() & REGISTRY.keys()
    assert not forks.FIELDS.keys() & {field.name for message in schema.MESSAGES for field in message.fields}


def test_what_runs_is_named_too() -> None:
    """Every type of a fork that runs is in the table of types, every field that is read in that of fields; none runs twice."""
    assert len(REGISTRY) == 61  # as many as Caffe lists: a fork's type that is not in the table would be one more
    assert FORKS
    (layer,) = (message for message in forks.ADDED if message.name == "LayerParameter")
    assert {field.name for field in layer.fields} < forks.FIELDS.keys()
    numbers = [field.number for message in forks.ADDED for field in message.fields]
    assert len(set(numbers)) == len(numbers) and all(forks.FIRST <= number <= forks.LAST for number in numbers)
    for word, owner in (("Permute", FORKS["Permute"]), ("Convolution", REGISTRY["Convolution"])):
        with pytest.raises(ValueError, match=f"^Layer type {word} already registered by {owner.__name__}."):
            register(word)(Layer)


@pytest.mark.parametrize(
    ("kind", "fork"),
    [
        ("DetectionOutput", "SSD"),
        ("SmoothL1Loss", "Fast R-CNN or SSD"),
        ("ROIPooling", "Fast R-CNN"),
        ("Correlation", "FlowNet 2"),
    ],
)
def test_a_layer_of_a_fork_is_named(kind: str, fork: str) -> None:
    """Behind Caffe's sentence, which lists Caffe's own types alone, stands whose layer it is; behind an unknown word nothing."""
    for word, end in ((kind, f"; {kind} belongs to a fork of Caffe, that of {fork}"), (f"{kind}d", ")")):
        net = parse_text(f'{INPUT}layer {{ name: "y" type: "{word}" bottom: "data" top: "y" }}', NetParameter)
        with glog.quiet(), pytest.raises(CaffeError) as error:
            Net(net, Context(), where="net.prototxt")
        line = str(error.value)
        assert line.startswith(f"net.prototxt: layer 'y': Unknown layer type: {word} (known types: AbsVal, ")
        assert line.endswith(end) and line.count("fork") == (word == kind)
        assert not any(f" {name}," in line for name in FORKS)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "layer { detection_output_param { num_classes: 21 } }",
            ':1:9: Message type "caffe.LayerParameter" has no field named "detection_output_param". '
            "(it belongs to a fork of Caffe, that of SSD)",
        ),
        (
            "layer { permute_param { order: 1 } roi_pooling_param { } }",
            ':1:36: Message type "caffe.LayerParameter" has no field named "roi_pooling_param". '
            "(it belongs to a fork of Caffe, that of Fast R-CNN)",
        ),
        (
            "layer { permute_param {\n ordr: 1 } }",
            ':2:2: Message type "caffe.PermuteParameter" has no field named "ordr". (known: order)',
        ),
        (
            "layer { bn_param { bn_mode: LEARNED } }",
            ':1:29: Unknown enumeration value of "LEARNED" for field "bn_mode". (known: LEARN, INFERENCE)',
        ),
        ("layer { permute_param { order: -1 } }", ":1:32: Expected integer, got: -"),
        (
            "layer { permute_param { } permute_param { } }",
            ':1:41: Non-repeated field "permute_param" is specified multiple times.',
        ),
        # a mistake in a net of Caffe's: its own fields alone are known
        (
            "layer { permut_param { } }",
            ':1:9: Message type "caffe.LayerParameter" has no field named "permut_param". '
            "(did you mean prelu_param or power_param or input_param?)",
        ),
        (
            "layer { batch_norm_param { scale_bis: true } }",
            ':1:28: Message type "caffe.BatchNormParameter" has no field named "scale_bis". '
            "(known: eps, moving_average_fraction, use_global_stats)",
        ),
        # a field of one message in another
        (
            "layer { scale_param { scale_bias: true } }",
            ':1:23: Message type "caffe.ScaleParameter" has no field named "scale_bias". '
            "(it belongs to a fork of Caffe, that of NVCaffe)",
        ),
    ],
)
def test_a_field_that_is_not_read_is_said_with_its_place(text: str, sentence: str) -> None:
    """A fork's is named; in a text that has fields of forks, every other mistake has Caffe's words and its place."""
    with pytest.raises(ProtoError) as error:
        parse_text(text, NetParameter, "net.prototxt")
    assert str(error.value) == f"net.prototxt{sentence}"


def test_fields_of_forks_are_read_kept_and_printed() -> None:
    """They come through copies, pickles, prototxt and binary; what is not given has the fork's default."""
    net = parse_text(NET, NetParameter)
    copy = NetParameter()
    copy.CopyFrom(net)
    for found in (net, copy, pickle.loads(pickle.dumps(net)), parse_text(to_text(net), NetParameter)):
        assert found == net
        _, norm, perm, bn = found.layer
        param = fork_fields.field(norm, "norm_param")
        assert (param.across_spatial, param.scale_filler.value, param.eps) == (False, 20, pytest.approx(1e-10))
        assert list(fork_fields.field(perm, "permute_param").order) == [0, 2, 3, 1]
        assert fork_fields.field(bn.batch_norm_param, "scale_bias") is True
        assert fork_fields.field(bn.batch_norm_param, "bias_filler").value == 3
        assert not fork_fields.has(bn.batch_norm_param, "scale_filler") and not fork_fields.has(bn, "norm_param")
    assert NetParameter.FromString(net.SerializeToString()) == net
    assert "\n  permute_param {\n    order: 0\n    order: 2\n    order: 3\n    order: 1\n  }\n" in to_text(net)
    assert fork_fields.used(net) == {"SSD": ["Normalize", "Permute"], "NVCaffe": ["scale_bias", "bias_filler"]}


def test_caffes_own_messages_have_no_field_more() -> None:
    """Nor does any message of theirs or of pycaffe's bear a fork's name: they are extensions, under numbers of nobody's."""
    from allconv_caffe.pycaffe.proto import caffe_pb2

    assert not forks.FIELDS.keys() & {field.name for field in LayerParameter.DESCRIPTOR.fields}
    assert not {message.name for message in forks.MESSAGES} & set(dir(caffe_pb2))
    assert not {message.name for message in forks.MESSAGES} & set(dir(proto))
    net = parse_text(NET, NetParameter)
    stripped = parse_text(NET.replace("scale_bias: true bias_filler { value: 3 }", ""), NetParameter)
    for layer in stripped.layer:
        for name in ("norm_param", "permute_param"):
            layer.ClearExtension(LayerParameter.DESCRIPTOR.file.pool.FindExtensionByName(f"caffe.{name}"))
    assert not any(
        "param" in line and "input" not in line for line in to_text(stripped).splitlines() if "batch" not in line
    )
    assert len(stripped.SerializeToString()) < len(net.SerializeToString())


def test_a_saved_net_has_the_bytes_of_the_message(tmp_path: Path) -> None:
    """A caffemodel of a net with fields of forks is whole: what is written piece by piece parses to what was to be written."""
    with glog.quiet():
        net = Net(parse_text(NET, NetParameter), Context())
    net.to_binary_proto(tmp_path / "a.caffemodel")
    message = proto.read_binary(tmp_path / "a.caffemodel", NetParameter)
    assert message == net.to_proto()
    norm = next(layer for layer in message.layer if layer.name == "norm")
    assert fork_fields.field(norm, "norm_param").scale_filler.value == 20


def foreign(type_: str, number: int, content: bytes, blobs: bytes) -> bytes:
    """A NetParameter of one layer, "norm", of this type and with these blobs, behind them a field of a fork's."""
    body = b"\x0a\x04norm" + b"\x12" + bytes([len(type_)]) + type_.encode()
    key = number << 3 | 2
    body += blobs + bytes([key & 0x7F | 0x80, key >> 7]) + bytes([len(content)]) + content
    return b"\xa2\x06" + bytes([len(body)]) + body


@pytest.mark.parametrize("number", [143, 206])
def test_weights_are_read_whatever_a_forks_fields_mean(
    tmp_path: Path, number: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of a fork's layer in a caffemodel name, type and blobs count: 143 is Caffe's input_param, and something else here."""
    blob = proto.BlobProto(data=[5, 7])
    blob.shape.dim.append(2)
    raw = blob.SerializeToString()
    blobs = b"\x3a" + bytes([len(raw)]) + raw
    (tmp_path / "fork.caffemodel").write_bytes(foreign("Normalize", number, b"\x0a\x09nothing", blobs))
    with glog.quiet():
        net = Net(parse_text(NET, NetParameter), Context())
    net.copy_trained_layers_from(tmp_path / "fork.caffemodel")
    norm = net.layers[net.layer_names.index("norm")]
    np.testing.assert_array_equal(norm.blobs[0].data.numpy(), [5, 7])
    assert "unknown to Caffe" not in capfd.readouterr().err
    # a layer of Caffe's own with such a field is no net, as for Caffe itself
    (tmp_path / "fork.caffemodel").write_bytes(foreign("Scale", 143, b"\x0a\x09nothing", blobs))
    with pytest.raises(CaffeError, match="that are no binary caffe.NetParameter, truncated or corrupt"):
        net.copy_trained_layers_from(tmp_path / "fork.caffemodel")

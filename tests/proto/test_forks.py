"""Layers of Caffe's forks are named as such, and none that Caffe or this engine has."""

from __future__ import annotations

import pytest

from allconv_caffe import proto
from allconv_caffe.caffe_torch import glog
from allconv_caffe.caffe_torch.errors import CaffeError
from allconv_caffe.caffe_torch.layer import REGISTRY, Context
from allconv_caffe.caffe_torch.net import Net
from allconv_caffe.proto import forks, schema

INPUT = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 2 dim: 3 dim: 3 } } }\n'


def test_no_fork_has_what_caffe_has() -> None:
    """Neither a type that is registered nor a field of the schema is called a fork's."""
    assert not forks.TYPES.keys() & REGISTRY.keys()
    assert not forks.FIELDS.keys() & {field.name for message in schema.MESSAGES for field in message.fields}


@pytest.mark.parametrize(
    ("kind", "fork"), [("Permute", "SSD"), ("Axpy", "SENet"), ("ShuffleChannel", "ShuffleNet"), ("Upsample", "SegNet")]
)
def test_a_layer_of_a_fork_is_named(kind: str, fork: str) -> None:
    """Behind Caffe's sentence stands whose layer it is; behind an unknown word nothing."""
    for word, end in ((kind, f"; {kind} belongs to a fork of Caffe, that of {fork}"), (f"{kind}d", ")")):
        net = proto.parse_text(
            f'{INPUT}layer {{ name: "y" type: "{word}" bottom: "data" top: "y" }}', proto.NetParameter
        )
        with glog.quiet(), pytest.raises(CaffeError) as error:
            Net(net, Context(), where="net.prototxt")
        line = str(error.value)
        assert line.startswith(f"net.prototxt: layer 'y': Unknown layer type: {word} (known types: AbsVal, ")
        assert line.endswith(end) and line.count("fork") == (word == kind)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "layer { permute_param { order: 0 } }",
            'Message type "caffe.LayerParameter" has no field named "permute_param". (it belongs to a fork of Caffe, that of SSD)',
        ),
        (
            "layer { batch_norm_param { scale_bias: true } }",
            'Message type "caffe.BatchNormParameter" has no field named "scale_bias". '
            "(it belongs to a fork of Caffe, that of NVCaffe)",
        ),
    ],
)
def test_a_field_of_a_fork_is_named(text: str, sentence: str) -> None:
    """So is a field, where Caffe's parser has no more to say than that there is none."""
    with pytest.raises(proto.ProtoError) as error:
        proto.parse_text(text, proto.NetParameter)
    assert str(error.value).endswith(sentence)

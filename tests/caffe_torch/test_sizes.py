"""Sizes that no int holds, in Caffe's sentences."""

from __future__ import annotations

import pytest
import torch

from allconv_caffe.caffe_torch.compute.window import c_int
from allconv_caffe.caffe_torch.errors import CaffeError
from allconv_caffe.caffe_torch.layer import Context
from allconv_caffe.caffe_torch.net import Net
from allconv_caffe.proto import TRAIN, NetParameter, parse_text

BIG = 4294967295  # -1 for an int
CASES = [
    (
        "Convolution",
        "convolution_param { num_output: 4000000000 kernel_size: 1 }",
        "num_output_ > 0 (-294967296 vs. 0)",
    ),
    ("Convolution", f"convolution_param {{ num_output: 2 kernel_size: {BIG} }}", "Filter dimensions must be nonzero."),
    (
        "Convolution",
        f"convolution_param {{ num_output: 2 kernel_size: 3 stride: {BIG} }}",
        "Stride dimensions must be nonzero.",
    ),
    ("Convolution", "convolution_param { num_output: 2 kernel_size: 3 group: 0 }", "group_ > 0 (0 vs. 0)"),
    (
        "Convolution",
        "convolution_param { num_output: 2 kernel_size: 3 dilation: 0 }",
        "dilation must be at least 1, found 0",
    ),
    *(
        (kind, f"convolution_param {{ num_output: 2 kernel_size: 2 pad: {BIG} }}", "pad must be at least 0, found -1")
        for kind in ("Convolution", "Deconvolution", "Im2col")
    ),
    ("Pooling", f"pooling_param {{ kernel_size: 2 pad_h: {BIG} pad_w: 0 }}", "pad must be at least 0, found -1"),
    ("Pooling", f"pooling_param {{ kernel_size: 2 stride: {BIG} }}", "shape[i] >= 0 (-1 vs. 0)"),
    ("Im2col", f"convolution_param {{ kernel_size: 2 dilation: {BIG} }}", "dilation must be at least 1, found -1"),
    ("LRN", "lrn_param { local_size: 2147483647 }", "shape[i] >= 0 (-2147483647 vs. 0)"),
    ("LRN", f"lrn_param {{ local_size: {BIG} }}", "LRN only supports odd values for local_size"),
    ("Embed", f"embed_param {{ input_dim: {BIG} num_output: 2 }}", "EmbedLayer input_dim must be positive."),
]


@pytest.mark.parametrize(
    ("number", "value"), [(0, 0), (2**31 - 1, 2**31 - 1), (2**31, -(2**31)), (BIG, -1), (2**32 + 2, 2)]
)
def test_fields_become_ints_as_in_c(number: int, value: int) -> None:
    assert c_int(number) == value


@pytest.mark.parametrize(("kind", "param", "sentence"), CASES)
def test_what_is_negative_as_an_int_is_refused(kind: str, param: str, sentence: str) -> None:
    """Recorded from real Caffe, but for group, dilation and pad, where it crashes or looks at other pixels."""
    text = (
        'layer { name: "d" type: "Input" top: "d" input_param { shape { dim: 1 dim: 3 dim: 4 dim: 4 } } }'
        f'layer {{ name: "c" type: "{kind}" bottom: "d" top: "c" {param} }}'
    )
    with pytest.raises(CaffeError) as caught:
        Net(parse_text(text, NetParameter))
    assert str(caught.value).endswith(sentence)


@pytest.mark.parametrize("number", [2**31 - 1, 2**30, 500_000_000])
@pytest.mark.parametrize("kind", ["LSTM", "RNN"])
def test_recurrent_layers_of_too_many_outputs_are_refused(kind: str, number: int) -> None:
    """Of five streams; recorded from real Caffe."""
    text = f"""layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ dim: 2 dim: 5 dim: 4 }} }} }}
        layer {{ name: "c" type: "Input" top: "c" input_param {{ shape {{ dim: 2 dim: 5 }} }} }}
        layer {{ name: "l" type: "{kind}" bottom: "x" bottom: "c" top: "t" recurrent_param {{ num_output: {number} }} }}"""
    with pytest.raises(CaffeError, match="layer 'l': blob size exceeds INT_MAX$"):
        Net(parse_text(text, NetParameter))


@pytest.mark.parametrize("stride", [65536, 2**30, 2**31 - 1])
@pytest.mark.parametrize("more", ["kernel_size: 3", "kernel_size: 9 pad: 1", "kernel_size: 2 dilation: 3 pad: 2"])
def test_a_stride_beyond_the_image_is_any_stride_beyond_it(stride: int, more: str) -> None:
    """There is one window, forward and backward as by a stride of 40; PyTorch's kernels hang and crash at such strides."""
    found = []
    for each in (stride, 40):
        text = f"""force_backward: true
            layer {{ name: "b" type: "Input" top: "b" input_param {{ shape {{ dim: 2 dim: 3 dim: 6 dim: 8 }} }} }}
            layer {{ name: "l" type: "Convolution" bottom: "b" top: "t"
                     convolution_param {{ num_output: 4 {more} stride: {each} }} }}"""
        net = Net(parse_text(text, NetParameter), Context(phase=TRAIN, device=torch.device("cpu")))
        blobs = [net.blobs["b"], *net.params]
        for i, blob in enumerate(blobs):
            blob.data = torch.linspace(-1, 2, blob.count).reshape(blob.shape).sin() * (i + 1)
        net.forward()
        net.blobs["t"].diff = torch.linspace(-1, 1, 8).reshape(2, 4, 1, 1)
        net.backward()
        found.append([net.blobs["t"].data, *(blob.diff for blob in blobs)])
    assert found[0][0].shape == (2, 4, 1, 1)
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-6)

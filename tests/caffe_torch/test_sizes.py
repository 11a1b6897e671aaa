"""Sizes that no int holds, in Caffe's sentences."""

from __future__ import annotations

import pytest

from allconv_caffe.caffe_torch.compute.window import c_int
from allconv_caffe.caffe_torch.errors import CaffeError
from allconv_caffe.caffe_torch.net import Net
from allconv_caffe.proto import NetParameter, parse_text

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

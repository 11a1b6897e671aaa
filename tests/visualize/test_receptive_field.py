"""Receptive fields of nets that put rows elsewhere: held to gradients, or refused by name."""

from __future__ import annotations

import numpy as np
import pytest
from support.prototxt import input_layer, layer

from allconv_caffe.proto import NetParameter, parse_text
from allconv_caffe.visualize.nets.base import VizNet
from allconv_caffe.visualize.nets.errors import VizError
from allconv_caffe.visualize.nets.open import open_net
from allconv_caffe.visualize.receptive_field import receptive_field, table
from allconv_caffe.visualize.reconstruct import reconstruct
from allconv_caffe.visualize.unit import Unit

SIZE = 12
HEAD = input_layer("data", 1, 3, SIZE, SIZE)


def conv(name: str, bottom: str, text: str, type_: str = "Convolution") -> str:
    return layer(name, type_, bottom, f"convolution_param {{ num_output: 3 {text} }}") + layer(
        "r", "ReLU", name, "", name
    )


def opened(body: str) -> VizNet:
    """The net over 3 x 12 x 12, with positive weights."""
    net = open_net(parse_text(HEAD + body, NetParameter))
    net.set_params({name: [np.abs(blob) + 0.01 for blob in blobs] for name, blobs in net.params().items()})
    return net


NETS = {
    "up": conv("c", "data", "kernel_size: 3 stride: 2 pad: 1")
    + conv("up", "c", "kernel_size: 3 stride: 2 pad: 1", "Deconvolution")
    + conv("top", "up", "kernel_size: 2"),
    "up, dilated": conv("c", "data", "kernel_size: 2 stride: 2")
    + conv("up", "c", "kernel_size: 3 stride: 2 dilation: 3 pad: 2", "Deconvolution")
    + conv("top", "up", "kernel_size: 3 dilation: 2"),
    "rows": layer("s", "Slice", "data", "slice_param { axis: 2 slice_point: 5 }", "a b")
    + layer("sink", "Silence", "a", "", "")
    + conv("top", "b", "kernel_size: 3 pad: 1"),
    "columns, cut": conv("c", "data", "kernel_size: 3 stride: 2")
    + layer("like", "Slice", "c", "slice_param { axis: 3 slice_point: 2 }", "a b")
    + layer("cut", "Crop", "c a", "crop_param { axis: 3 offset: 1 }")
    + layer("sink", "Silence", "b", "", "")
    + conv("top", "cut", "kernel_size: 2"),
    "within": layer("n", "LRN", "data", "lrn_param { norm_region: WITHIN_CHANNEL local_size: 3 alpha: 0.001 }")
    + conv("top", "n", "kernel_size: 2 stride: 3 pad: 1"),
    "a larger window": conv("c", "data", "kernel_size: 5 stride: 6") + conv("top", "c", "kernel_size: 3 stride: 2"),
}


@pytest.mark.parametrize("name", NETS)
def test_the_support_is_where_gradients_are(name: str) -> None:
    """Every unit's gradient reaches exactly from the support's first row and column to its last; no box is smaller."""
    net = opened(NETS[name])
    field = receptive_field(net, "top")
    _, h, w = net.blob_shape("top")
    units = [Unit("top", 1, y, x) for y in range(h) for x in range(w)]
    image = np.ones((1, 3, SIZE, SIZE), np.float32)
    for unit, map_ in zip(units, reconstruct(net, image, [(0, u) for u in units], "backprop").maps, strict=True):
        rows, columns = np.flatnonzero(map_.any(axis=(0, 2))), np.flatnonzero(map_.any(axis=(0, 1)))
        support, box = field.support(unit), field.box(unit)
        assert [rows[0], columns[0], rows[-1] + 1, columns[-1] + 1] == support.as_list(), unit
        assert box.top <= support.top and box.left <= support.left
        assert box.bottom >= support.bottom and box.right >= support.right
        assert box.height <= field.size[0] and box.width <= field.size[1]


def test_a_softmax_over_rows_sees_columns() -> None:
    """Softmax along the height: all rows of the unit's own column."""
    net = opened(layer("p", "Softmax", "data", "softmax_param { axis: 2 }"))
    field = receptive_field(net, "p")
    assert (field.size, field.jump, field.start, field.whole) == ((SIZE, 1), (0, 1), (0, 0), False)
    assert field.box(Unit("p", 0, 3, 4)).as_list() == [0, 4, SIZE, 5]


def test_what_sees_everything() -> None:
    """Global pooling, and what stands on it, and a flattened map."""
    up = conv("up", "g", "kernel_size: 4", "Deconvolution")
    body = conv("c", "data", "kernel_size: 3 pad: 1") + layer(
        "g", "Pooling", "c", "pooling_param { global_pooling: true }"
    )
    fields = {field.blob: field for field in table(opened(body + up + layer("f", "Flatten", "c")))}
    assert [fields[blob].whole for blob in ("c", "g", "up", "f")] == [False, True, True, True]
    for blob in ("g", "up", "f"):
        assert (fields[blob].size, fields[blob].jump, fields[blob].start) == ((SIZE + 2,) * 2, (0, 0), (-1, -1))
        assert fields[blob].box(Unit(blob, 0)).as_list() == [-1, -1, SIZE + 1, SIZE + 1]


def test_rows_put_together_have_no_one_field() -> None:
    """Concat along the height: the field cannot be told, here and above; the line names the layer."""
    body = layer("both", "Concat", "data data", "concat_param { axis: 2 }") + conv("top", "both", "kernel_size: 3")
    with pytest.raises(VizError) as caught:
        receptive_field(opened(body), "top")
    assert str(caught.value).startswith(
        "layer 'both': found type Concat, whose places see fields that do not move evenly, "
        "expected a layer whose receptive field is known (choices: AbsVal, "
    )


def test_a_unit_that_sees_nothing() -> None:
    """A deconvolution whose stride exceeds its kernel leaves gaps; a unit there has no box."""
    field = receptive_field(opened(conv("up", "data", "kernel_size: 1 stride: 2", "Deconvolution")), "up")
    assert (field.size, field.jump, field.start) == ((1, 1), (0.5, 0.5), (0, 0))
    assert field.support(Unit("up", 0, 2, 4)).as_list() == [1, 2, 2, 3]
    with pytest.raises(VizError, match="unit up:0:1:4: found no pixel that it sees"):
        field.support(Unit("up", 0, 1, 4))

"""Receptive fields, held to pixels traced one by one."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest

from allconv_caffe.caffe_torch import geometry as g
from allconv_caffe.caffe_torch.compute.window import Window
from allconv_caffe.proto import LayerParameter, parse_text

Sees = list[set[int]]
"""For each place of a blob, the pixels it sees along one axis."""


# One axis of a random net, walked place by place: pixels -50 to 149 stand for the image and all that lies around it.
EDGE = 50


class Traced:
    """A blob along one axis: `sees` of the places -margin to len - margin - 1; those near the ends are not to be trusted."""

    def __init__(self, sees: Sees, margin: int, count: int) -> None:
        self.sees, self.margin, self.count = sees, margin, count

    def at(self, place: int) -> set[int]:
        return self.sees[place + self.margin]


def windows(rng: random.Random) -> tuple[str, str]:
    """The type and the parameters of a layer that moves or spreads places."""
    kernel, stride, pad = rng.randint(1, 4), rng.randint(1, 3), rng.randint(0, 2)
    dilation = rng.randint(1, 3)
    kind = rng.choice(["Convolution", "Deconvolution", "Pooling"])
    if kind == "Pooling":
        return kind, f"pooling_param {{ kernel_size: {kernel} stride: {stride} pad: {min(pad, kernel - 1)} }}"
    text = f"num_output: 1 kernel_size: {kernel} stride: {stride} pad: {pad} dilation: {dilation}"
    return kind, f"convolution_param {{ {text} }}"


def numbers(layer: LayerParameter) -> tuple[int, int, int, int]:
    if layer.type == "Pooling":
        param = layer.pooling_param
        return param.kernel_size, param.stride, param.pad, 1
    param = layer.convolution_param
    return param.kernel_size[0], param.stride[0], param.pad[0], param.dilation[0]


def window(layer: LayerParameter) -> Window:
    kernel, stride, pad, dilation = numbers(layer)
    return Window(kernel=(kernel,), stride=(stride,), pad=(pad,), dilation=(dilation,))


def trace(layer: LayerParameter, below: Traced) -> Traced:
    """What the layer's places see, from what each of its formula's terms reads."""
    kernel, stride, pad, dilation = numbers(layer)
    first, last = -below.margin, len(below.sees) - below.margin - 1
    if layer.type == "Deconvolution":
        spread: dict[int, set[int]] = {}
        for x in range(first, last + 1):
            for j in range(kernel):
                spread.setdefault(x * stride - pad + dilation * j, set()).update(below.at(x))
        reach = dilation * (kernel - 1)
        low, high = first * stride - pad + reach, last * stride - pad
        sees = [spread.get(y, set()) for y in range(low, high + 1)]
        return Traced(sees, -low, window(layer).input_size([below.count])[0])
    low = -((-first - pad) // stride)
    high = (last + pad - dilation * (kernel - 1)) // stride
    sees = [
        set().union(*(below.at(y * stride - pad + dilation * j) for j in range(kernel))) for y in range(low, high + 1)
    ]
    return Traced(sees, -low, max(1, window(layer).output_size([below.count])[0]))


def layer_of(type_: str, text: str, bottom: str = "x", top: str = "y") -> LayerParameter:
    bottoms = " ".join(f'bottom: "{name}"' for name in bottom.split())
    tops = " ".join(f'top: "{name}"' for name in top.split())
    return parse_text(f'name: "y" type: "{type_}" {bottoms} {tops} {text}', LayerParameter)


@pytest.mark.parametrize("seed", range(150))
def test_a_span_is_what_tracing_finds(seed: int) -> None:
    """Through up to four random convolutions, deconvolutions and poolings every place's field is the traced pixels' hull.

    Size, jump and left are those of the fields: the largest, the mean distance, the first.
    """
    rng = random.Random(seed)
    traced = Traced([{pixel} for pixel in range(-EDGE, 150)], EDGE, 100)
    span = g.Span.image(100)
    for _ in range(rng.randint(1, 4)):
        layer = layer_of(*windows(rng))
        reaches = g.reach(layer, 0, 0, [(1, 1, traced.count, 1)], [(1, 1, 1, 1)])
        assert reaches is not None
        after = trace(layer, traced)
        if len(after.sees) < 12:
            break
        traced, found = after, span.through(reaches[0], after.count)
        assert found is not None
        span = found
    for place in range(-traced.margin, len(traced.sees) - traced.margin):
        pixels = traced.at(place)
        assert span.seen(place) == ((min(pixels), max(pixels)) if pixels else None)
    phases = [span.seen(place) for place in range(len(span.phases))]
    assert span.size == max((seen[1] - seen[0] + 1 for seen in phases if seen), default=0)
    for place, seen in enumerate(phases):
        later = span.seen(place + len(phases))
        if seen and later:
            assert span.jump == Fraction(later[0] - seen[0], len(phases)) and span.left == next(filter(None, phases))[0]


@pytest.mark.parametrize("seed", range(100))
def test_a_support_is_the_traced_pixels_of_the_image(seed: int) -> None:
    """Through up to four random layers, each over what the one below really has: hulls of the pixels, no padding."""
    rng = random.Random(seed)
    traced, support = Traced([{pixel} for pixel in range(17)], 0, 17), g.Support.image(17)
    for _ in range(rng.randint(1, 4)):
        layer = layer_of(*windows(rng))
        kernel, stride, pad, dilation = numbers(layer)
        count, reaches = traced.count, g.reach(layer, 0, 0, [(1, 1, traced.count, 1)], [(1, 1, 1, 1)])
        own = window(layer)
        (after,) = own.input_size([count]) if layer.type == "Deconvolution" else own.output_size([count])
        if after < 1 or reaches is None:
            break
        terms = [(x, x * stride - pad + dilation * j) for x in range(count) for j in range(kernel)]
        if layer.type != "Deconvolution":
            places = [(y * stride - pad + dilation * j, y) for y in range(after) for j in range(kernel)]
            terms = [(x, y) for x, y in places if 0 <= x < count]
        sees: Sees = [set() for _ in range(after)]
        for x, y in terms:
            if 0 <= y < after:
                sees[y] |= traced.at(x)
        traced, support = Traced(sees, 0, after), support.through(reaches[0], after)
        assert support.fields == tuple((min(pixels), max(pixels)) if pixels else None for pixels in sees)


SHAPE = (1, 4, 6, 8)
HALF, ROW = (1, 4, 2, 8), (1, 4, 12, 8)
ROWS = [  # layer, shapes of its bottoms and tops, which top and bottom, a row, and the rows below
    ("Slice", "slice_param { axis: 2 slice_point: 2 }", [SHAPE], [HALF, (1, 4, 4, 8)], (1, 0), 1, [3]),
    ("Slice", "", [SHAPE], [(1, 2, 6, 8)] * 2, (1, 0), 3, [3]),
    ("Concat", "concat_param { axis: 2 }", [SHAPE, SHAPE], [ROW], (0, 1), 7, [1]),
    ("Concat", "concat_param { axis: 2 }", [SHAPE, SHAPE], [ROW], (0, 0), 6, []),
    ("Concat", "", [SHAPE, SHAPE], [(1, 8, 6, 8)], (0, 1), 5, [5]),
    ("Crop", "crop_param { offset: 3 offset: 1 }", [SHAPE, HALF], [HALF], (0, 0), 1, [4]),
    ("Crop", "crop_param { offset: 3 }", [SHAPE, HALF], [HALF], (0, 1), 0, None),
    ("Softmax", "softmax_param { axis: 2 }", [SHAPE], [SHAPE], (0, 0), 1, [0, 1, 2, 3, 4, 5]),
    ("Softmax", "softmax_param { axis: 3 }", [SHAPE], [SHAPE], (0, 0), 1, [1]),
    ("ArgMax", "", [SHAPE], [(1, 1, 1, 1)], (0, 0), 0, [0, 1, 2, 3, 4, 5]),
    ("ArgMax", "argmax_param { axis: 1 }", [SHAPE], [(1, 1, 6, 8)], (0, 0), 2, [2]),
    ("Tile", "tile_param { axis: 2 tiles: 2 }", [SHAPE], [ROW], (0, 0), 7, [1]),
    ("MVN", "", [SHAPE], [SHAPE], (0, 0), 2, [0, 1, 2, 3, 4, 5]),
    ("InnerProduct", "", [SHAPE], [(1, 3)], (0, 0), 0, [0, 1, 2, 3, 4, 5]),
    ("InnerProduct", "inner_product_param { axis: 3 }", [SHAPE], [(1, 4, 6, 3)], (0, 0), 2, [2]),
    ("Reduction", "reduction_param { axis: 1 }", [SHAPE], [(1,)], (0, 0), 0, [0, 1, 2, 3, 4, 5]),
    ("Pooling", "pooling_param { global_pooling: true }", [SHAPE], [(1, 4, 1, 1)], (0, 0), 0, [0, 1, 2, 3, 4, 5]),
    ("Pooling", "pooling_param { kernel_h: 3 kernel_w: 1 pad_h: 1 pad_w: 0 }", [SHAPE], [SHAPE], (0, 0), 0, [-1, 0, 1]),
    ("Flatten", "", [SHAPE], [(1, 192)], (0, 0), 0, [0, 1, 2, 3, 4, 5]),
    ("Reshape", "", [SHAPE], [(2, 2, 6, 8)], (0, 0), 4, [4]),
    ("Scale", "", [SHAPE, (4,)], [SHAPE], (0, 0), 4, [4]),
    ("Scale", "", [SHAPE, (4,)], [SHAPE], (0, 1), 4, [0]),
    ("Filter", "", [SHAPE, SHAPE, (1,)], [SHAPE, SHAPE], (1, 1), 4, [4]),
    ("Filter", "", [SHAPE, SHAPE, (1,)], [SHAPE, SHAPE], (1, 2), 4, None),
    ("Convolution", "convolution_param { kernel_size: 3 axis: 2 }", [SHAPE], [HALF], (0, 0), 1, [0, 1, 2, 3, 4, 5]),
    ("Convolution", "convolution_param { kernel_size: 2 }", [SHAPE, SHAPE], [SHAPE, SHAPE], (0, 1), 1, None),
    ("LRN", "lrn_param { norm_region: WITHIN_CHANNEL local_size: 3 }", [SHAPE], [SHAPE], (0, 0), 2, [1, 2, 3]),
    ("Im2col", "convolution_param { kernel_size: 3 stride: 2 }", [SHAPE], [(1, 36, 2, 3)], (0, 0), 1, [2, 3, 4]),
    ("SoftmaxWithLoss", "softmax_param { axis: 3 }", [SHAPE, (48,)], [(), SHAPE], (1, 0), 1, [1]),
]


@pytest.mark.parametrize(("type_", "text", "bottoms", "tops", "which", "row", "below"), ROWS)
def test_a_row_sees_rows(
    type_: str,
    text: str,
    bottoms: list[g.Shape],
    tops: list[g.Shape],
    which: tuple[int, int],
    row: int,
    below: list[int] | None,
) -> None:
    """By hand: the rows of a bottom that a row of a top is computed from."""
    reaches = g.reach(layer_of(type_, text), *which, bottoms, tops)
    assert (None if reaches is None else list(reaches[0].places(row))) == below


UNKNOWN = [
    ("LSTM", "", [(1, 4)], (1, 4), "type LSTM"),
    ("Reshape", "", [SHAPE], (1, 4, 8, 6), "a Reshape from 1x4x6x8 to 1x4x8x6"),
    ("Reduction", "reduction_param { axis: 3 }", [SHAPE], (1, 4, 6), "a Reduction of 1x4x6x8 from axis 3 on"),
    (
        "InnerProduct",
        "inner_product_param { axis: 2 }",
        [(1, 4, 9)],
        (1, 4, 2),
        "an InnerProduct of 1x4x9 from axis 2 on",
    ),
    ("Scale", "", [SHAPE, (4, 6, 8)], SHAPE, "a Scale by a blob with 3 axes, from axis 1 on"),
    ("Python", 'python_param { module: "m" layer: "Mine" }', [SHAPE], SHAPE, "Python layer m.Mine"),
    ("SoftmaxWithLoss", "", [SHAPE], (), "type SoftmaxWithLoss"),
]


@pytest.mark.parametrize(("type_", "text", "bottoms", "top", "found"), UNKNOWN)
def test_what_has_no_reach_is_named(type_: str, text: str, bottoms: list[g.Shape], top: g.Shape, found: str) -> None:
    with pytest.raises(g.NoReach) as caught:
        g.reach(layer_of(type_, text), 0, len(bottoms) - 1, bottoms, [top])
    assert (caught.value.layer, caught.value.found) == ("y", found)


def fields_of(*layers: tuple[LayerParameter, list[g.Shape], list[g.Shape]]) -> g.Fields[g.Span]:
    fields = g.Fields(g.Span)
    fields.image("x", (1, 3, 8, 8))
    for one, bottoms, tops in layers:
        fields.add(one, bottoms, tops)
    return fields


def test_joins() -> None:
    """Branches of one pace unite; of two, they have no field; what sees everything makes everything seen."""
    image = (1, 3, 8, 8)
    one = layer_of("Convolution", "convolution_param { num_output: 3 kernel_size: 5 pad: 2 }", top="a")
    two = layer_of("Convolution", "convolution_param { num_output: 3 kernel_size: 3 pad: 1 }", top="b")
    both = layer_of("Eltwise", "", "a b", "c")
    found = fields_of((one, [image], [image]), (two, [image], [image]), (both, [image] * 2, [image])).of["c"]
    assert isinstance(found, tuple) and (found[0].size, found[0].jump, found[0].left) == (5, 1, -2)
    half = layer_of("Crop", "", "x r", "b"), [image, (1, 3, 4, 4)], [(1, 3, 4, 4)]
    slow = layer_of("Pooling", "pooling_param { kernel_size: 2 stride: 2 }", top="a"), [image], [(1, 3, 4, 4)]
    join = both, [(1, 3, 4, 4)] * 2, [(1, 3, 4, 4)]
    found = fields_of(half, slow, join).of["c"]
    assert (
        isinstance(found, g.NoReach) and found.found == "type Eltwise, which joins fields that move at different paces"
    )
    whole = layer_of("InnerProduct", "", top="b"), [image], [(1, 3)]
    scale = layer_of("Scale", "scale_param { axis: 0 }", "a b", "c"), [(1, 3, 4, 4), (1, 3)], [(1, 3, 4, 4)]
    found = fields_of(slow, whole, scale).of["c"]
    assert isinstance(found, tuple) and found[0].whole and found[0].seen(3) == (0, 7)


def test_a_flattened_map() -> None:
    """Each value of a flattened map sees what it saw; an InnerProduct over it sees everything; other mixtures are named."""
    image = (1, 3, 8, 8)
    conv = (
        layer_of("Convolution", "convolution_param { num_output: 2 kernel_size: 3 }", top="c"),
        [image],
        [(1, 2, 6, 6)],
    )
    flat = layer_of("Flatten", "", "c", "f"), [(1, 2, 6, 6)], [(1, 72)]
    relu = layer_of("ReLU", "", "f", "f"), [(1, 72)], [(1, 72)]
    dense = layer_of("InnerProduct", "", "f", "i"), [(1, 72)], [(1, 2)]
    mixed = layer_of("Softmax", "", "f", "s"), [(1, 72)], [(1, 72)]
    fields = fields_of(conv, flat, relu, dense, mixed)
    for blob, size in (("f", 3), ("i", 8)):
        found = fields.of[blob]
        assert isinstance(found, tuple) and found[0].size == size
    found = fields.of["s"]
    assert isinstance(found, g.NoReach) and str(found) == "layer 'y': type Softmax over a flattened map"


def test_what_sees_no_image_has_no_field() -> None:
    """A label, and a layer over it; a layer of an unknown type over an image stops the fields above it, by name."""
    fields = fields_of((layer_of("ReLU", "", "label", "l"), [(1,)], [(1,)]))
    assert "l" not in fields.of
    lost = layer_of("LSTM", "", "x", "m"), [(1, 3, 8, 8)], [(1, 3, 8, 8)]
    fields = fields_of(lost, (layer_of("ReLU", "", "m", "n"), [(1, 3, 8, 8)], [(1, 3, 8, 8)]))
    found = fields.of["n"]
    assert isinstance(found, g.NoReach) and found.found == "type LSTM"


def test_more_phases_than_can_be_told_apart() -> None:
    """Two deconvolutions of stride 40 see 1,600 kinds of fields: none is given."""
    first = g.Span.image(2).through(g.Transposed(3, 40, 0, 1), 80)
    assert first is not None and len(first.phases) == 40 and first.jump == Fraction(1, 40)
    assert first.through(g.Transposed(3, 40, 0, 1), 3200) is None

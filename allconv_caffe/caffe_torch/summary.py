"""What a network is made of, layer by layer: shapes, parameters, multiply-adds, receptive fields, multipliers.

Works on any Caffe net prototxt whose layer types have a rule here; it reads the prototxt alone and builds no net. Output sizes
follow Caffe: convolution rounds down, pooling up, with a window that would begin in the padding dropped.

Source: the ``Reshape`` of each layer in Caffe; net.cpp, ``FilterNet`` and ``StateMeetsRule``.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from allconv_caffe.errors import FoundError
from allconv_caffe.proto import BlobShape, Datum, NetParameter, read_net
from allconv_caffe.proto.lmdb_file import LmdbError, LmdbFile
from allconv_caffe.proto.upgrade import upgrade_net

Shape = tuple[int, ...]
"""Any Caffe shape, the batch first; () is a scalar."""


class SummaryError(FoundError, ValueError):
    """A net that cannot be summarised: file, layer, what was found, what was expected; the same facts are fields."""

    sentence = "found {found!r}, expected {expected}"


@dataclass(frozen=True)
class Span:
    """What the positions of a blob see of the input along one axis, in input pixels.

    size: of one position's receptive field. jump: between neighbouring positions. left: first pixel of the first position's
    field (negative: it begins in the padding). count: positions along the axis.
    """

    size: Fraction
    jump: Fraction
    left: Fraction
    count: int


Field = tuple[Span, Span]
"""Receptive field along height and width."""


@dataclass(frozen=True)
class LayerRow:
    """One layer. shapes: of the tops, with the batch. multiply_adds: for one image, of weights with inputs, forward.

    parameters: values in the layer's blobs; shared ones count at their owner. multipliers: (lr_mult, decay_mult) of each blob.
    """

    name: str
    type: str
    tops: tuple[str, ...]
    shapes: tuple[Shape, ...]
    parameters: int
    multiply_adds: int
    receptive_field: Field | None
    multipliers: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Summary:
    """A net: its layers in order and the totals. notes: what had to be supposed about the input."""

    file: str
    name: str
    phase: str
    layers: tuple[LayerRow, ...]
    notes: tuple[str, ...] = ()

    @property
    def parameters(self) -> int:
        """Values in all parameter blobs."""
        return sum(row.parameters for row in self.layers)

    @property
    def multiply_adds(self) -> int:
        """Forward multiply-adds for one image."""
        return sum(row.multiply_adds for row in self.layers)


@dataclass
class _Net:
    """What a rule may ask about the file being summarised."""

    where: str
    input_shape: Shape | None
    root: Path
    notes: list[str] = field(default_factory=list)


@dataclass
class _Result:
    """What a rule says of a layer: shapes of the tops and of the parameter blobs, multiply-adds of the whole batch."""

    tops: list[Shape]
    blobs: list[Shape] = field(default_factory=list)
    multiply_adds: int = 0
    fields: list[Field | None] | None = None


@dataclass
class _Layer:
    """One layer with its bottoms' shapes and receptive fields."""

    net: _Net
    param: Any
    bottoms: list[Shape]
    fields: list[Field | None]

    @property
    def where(self) -> str:
        return f"{self.net.where}: layer '{self.param.name}'"

    def axis(self, value: int, dims: int, name: str = "axis") -> int:
        """Caffe's CanonicalAxisIndex."""
        if not -dims <= value < dims:
            raise SummaryError(f"{self.where}: {name}", value, f"an axis of a blob with {dims} axes")
        return value % dims if dims else 0


_Rule = Callable[[_Layer], _Result]

RULES: dict[str, tuple[_Rule, int, int | None]] = {}
"""Caffe type -> rule, least and greatest number of bottoms (None: any)."""


def _rule(*types: str, bottoms: tuple[int, int | None] = (1, 1)) -> Callable[[_Rule], _Rule]:
    def register(rule: _Rule) -> _Rule:
        for type_ in types:
            if type_ in RULES:
                raise ValueError(f"layer type {type_} has a rule already")
            RULES[type_] = (rule, *bottoms)
        return rule

    return register


# ---------------------------------------------------------------------------------------------------------------------
# Inputs


def _start(shape: Shape) -> Field | None:
    """The receptive field of an input: each pixel sees itself."""
    if len(shape) != 4:
        return None
    height, width = (Span(Fraction(1), Fraction(1), Fraction(0), size) for size in shape[2:])
    return height, width


def _inputs(shapes: list[Shape]) -> _Result:
    return _Result(shapes, fields=[_start(shape) for shape in shapes])


@_rule("Input", bottoms=(0, 0))
def _input(layer: _Layer) -> _Result:
    shapes = [tuple(int(size) for size in shape.dim) for shape in layer.param.input_param.shape]
    count = len(layer.param.top)
    if len(shapes) not in (1, count):
        raise SummaryError(
            f"{layer.where}: input_param", f"{len(shapes)} shapes", f"1 shape, or one for each of {count}"
        )
    shapes = shapes * count if len(shapes) == 1 else shapes
    if layer.net.input_shape is not None:
        shapes[0] = _given(layer, shapes[0][0] if shapes[0] else 1)
    return _inputs(shapes)


def _given(layer: _Layer, batch_size: int) -> Shape:
    """The explicit input shape, with the layer's own batch size if it names none."""
    shape = layer.net.input_shape or ()
    return shape if len(shape) == 4 else (batch_size, *shape)


def _with_label(layer: _Layer, data: Shape) -> _Result:
    return _inputs([data, *[(data[0],)] * (len(layer.param.top) - 1)])


@_rule("Data", bottoms=(0, 0))
def _data(layer: _Layer) -> _Result:
    batch = layer.param.data_param.batch_size
    if layer.net.input_shape is not None:
        return _with_label(layer, _given(layer, batch))
    transform = layer.param.transform_param
    crop = transform.crop_size
    peeked = _peek(layer)
    if peeked is not None:
        channels, height, width = peeked
    elif crop:
        channels, height, width = max(len(transform.mean_value), 1), crop, crop
        if channels == 1:
            channels = 3
            layer.net.notes.append(
                f"layer '{layer.param.name}': 3 channels supposed; its LMDB is not there to be asked"
            )
    else:
        beside = _deploy_shape(layer.net)
        if beside is None:
            raise SummaryError(
                f"{layer.where}: source",
                layer.param.data_param.source,
                "an LMDB that is there, crop_size, a deploy.prototxt beside it, or --input-shape",
            )
        channels, height, width = beside
        layer.net.notes.append(
            f"layer '{layer.param.name}': {channels}x{height}x{width} as deploy.prototxt beside it says; its LMDB is not "
            "there to be asked"
        )
    return _with_label(layer, (batch, channels, crop or height, crop or width))


def _deploy_shape(net: _Net) -> tuple[int, int, int] | None:
    """(C, H, W) of the input of the deploy.prototxt in the same folder, if there is such a file with one image input."""
    path = Path(net.where).with_name("deploy.prototxt")
    if not path.is_file():
        return None
    deploy = read_net(path)
    shapes = [shape for layer in deploy.layer if layer.type == "Input" for shape in layer.input_param.shape]
    dims = tuple(int(size) for size in (shapes or list(deploy.input_shape) or [BlobShape()])[0].dim)
    return (dims[1], dims[2], dims[3]) if len(dims) == 4 else None


def _peek(layer: _Layer) -> tuple[int, int, int] | None:
    """(C, H, W) of the first Datum of a Data layer's LMDB, if that is there."""
    source = Path(layer.param.data_param.source)
    path = source if source.is_absolute() else layer.net.root / source
    if not (path / "data.mdb").is_file():
        return None
    datum = Datum()
    try:
        _, value = next(iter(LmdbFile(str(path)).items()))
        datum.ParseFromString(bytes(value))
    except StopIteration:
        raise SummaryError(f"{layer.where}: source", f"{path}: no record", "an LMDB of Datum") from None
    except (LmdbError, DecodeError) as error:
        raise SummaryError(f"{layer.where}: source", f"{path}: {error}", "an LMDB of Datum") from None
    if datum.encoded:
        import cv2
        import numpy as np

        image = cv2.imdecode(np.frombuffer(datum.data, np.uint8), cv2.IMREAD_UNCHANGED)
        if image is None:
            raise SummaryError(f"{layer.where}: source", f"{path}: an image that cannot be decoded", "an LMDB of Datum")
        return (image.shape[2] if image.ndim == 3 else 1), image.shape[0], image.shape[1]
    return datum.channels, datum.height, datum.width


@_rule("ImageData", bottoms=(0, 0))
def _image_data(layer: _Layer) -> _Result:
    param = layer.param.image_data_param
    crop = layer.param.transform_param.crop_size
    if layer.net.input_shape is not None:
        return _with_label(layer, _given(layer, param.batch_size))
    height, width = crop or param.new_height, crop or param.new_width
    if not height or not width:
        raise SummaryError(f"{layer.where}: image_data_param", "no size", "new_height and new_width, or --input-shape")
    return _with_label(layer, (param.batch_size, 3 if param.is_color else 1, height, width))


@_rule("HDF5Data", "WindowData", bottoms=(0, 0))
def _file_data(layer: _Layer) -> _Result:
    batch = layer.param.hdf5_data_param.batch_size or layer.param.window_data_param.batch_size
    if layer.net.input_shape is None:
        raise SummaryError(layer.where, f"a {layer.param.type} layer", "--input-shape, since its file is not read")
    return _with_label(layer, _given(layer, batch))


@_rule("MemoryData", bottoms=(0, 0))
def _memory_data(layer: _Layer) -> _Result:
    param = layer.param.memory_data_param
    return _with_label(layer, (param.batch_size, param.channels, param.height, param.width))


@_rule("DummyData", bottoms=(0, 0))
def _dummy_data(layer: _Layer) -> _Result:
    param, count = layer.param.dummy_data_param, len(layer.param.top)
    shapes: list[Shape] = [tuple(int(size) for size in shape.dim) for shape in param.shape]
    if not shapes:
        old = zip(param.num, param.channels, param.height, param.width, strict=False)
        shapes = [tuple(int(size) for size in sizes) for sizes in old]
    if len(shapes) not in (1, count):
        raise SummaryError(f"{layer.where}: dummy_data_param", f"{len(shapes)} shapes", f"1 shape, or {count}")
    return _inputs(shapes * count if len(shapes) == 1 else shapes)


# ---------------------------------------------------------------------------------------------------------------------
# Windows that slide


def _pair(layer: _Layer, param: Any, word: str, default: int, tail: str = "") -> tuple[int, int]:
    """(height, width) of a field that may be repeated, single, or written as ``word_h`` and ``word_w``."""
    both = [f"{word}_h", f"{word}_w"]
    if all(name in param.DESCRIPTOR.fields_by_name for name in both) and any(param.HasField(name) for name in both):
        return getattr(param, both[0]), getattr(param, both[1])
    value = getattr(param, word + tail)
    if isinstance(value, int):
        return (value, value) if param.HasField(word + tail) else (default, default)
    if len(value) > 2:
        raise SummaryError(f"{layer.where}: {word}{tail}", list(value), "one or two values: only 2-D windows are known")
    values = list(value) or [default]
    return values[0], values[-1]


def _four_axes(layer: _Layer) -> tuple[int, int, int, int]:
    shape = layer.bottoms[0]
    if len(shape) != 4:
        raise SummaryError(f"{layer.where}: bottom '{layer.param.bottom[0]}'", shape, "a blob with 4 axes")
    return shape[0], shape[1], shape[2], shape[3]


def _output_size(layer: _Layer, size: int, kernel: int, stride: int, pad: int) -> int:
    if kernel < 1 or stride < 1:
        raise SummaryError(f"{layer.where}: kernel_size, stride", (kernel, stride), "at least 1 each")
    if size + 2 * pad < kernel:
        raise SummaryError(layer.where, f"a map of {size} with padding {pad}", f"at least {kernel}")
    return (size + 2 * pad - kernel) // stride + 1


def _slid(before: Field | None, kernels: Shape, strides: Shape, pads: Shape, counts: Shape) -> Field | None:
    """The receptive field after a window of ``kernels`` (dilation included) has slid over the map."""
    if before is None:
        return None
    spans = [
        Span(span.size + (kernel - 1) * span.jump, span.jump * stride, span.left - pad * span.jump, count)
        for span, kernel, stride, pad, count in zip(before, kernels, strides, pads, counts, strict=True)
    ]
    return spans[0], spans[1]


def _whole(before: Field | None) -> Field | None:
    """The receptive field of something that sees all positions."""
    if before is None:
        return None
    spans = [Span(s.size + (s.count - 1) * s.jump, s.jump * s.count, s.left, 1) for s in before]
    return spans[0], spans[1]


def _window(layer: _Layer) -> tuple[Any, Shape, Shape, Shape, Shape]:
    """convolution_param with kernel, stride, pad and dilated kernel as (height, width)."""
    param = layer.param.convolution_param
    if param.axis != 1:
        raise SummaryError(f"{layer.where}: axis", param.axis, "1")
    kernel = (
        _pair(layer, param, "kernel", 0, "_size")
        if not param.HasField("kernel_h")
        else (param.kernel_h, param.kernel_w)
    )
    dilation = _pair(layer, param, "dilation", 1)
    extent = tuple(d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True))
    return param, kernel, _pair(layer, param, "stride", 1), _pair(layer, param, "pad", 0), extent


def _groups(layer: _Layer, channels: int, num_output: int, group: int) -> None:
    if group < 1 or channels % group or num_output % group:
        raise SummaryError(
            f"{layer.where}: group", group, f"a divisor of {channels} channels and of num_output {num_output}"
        )


@_rule("Convolution", bottoms=(1, None))
def _convolution(layer: _Layer) -> _Result:
    param, kernel, stride, pad, extent = _window(layer)
    batch, channels, *sizes = _four_axes(layer)
    _groups(layer, channels, param.num_output, param.group)
    out = tuple(_output_size(layer, *one) for one in zip(sizes, extent, stride, pad, strict=True))
    weights = (param.num_output, channels // param.group, *kernel)
    tops: list[Shape] = [(shape[0], param.num_output, *out) for shape in layer.bottoms]
    blobs: list[Shape] = [weights] + ([(param.num_output,)] if param.bias_term else [])
    work = math.prod(weights) * math.prod(out) * batch * len(layer.bottoms)
    return _Result(tops, blobs, work, [_slid(one, extent, stride, pad, out) for one in layer.fields])


@_rule("Deconvolution", bottoms=(1, None))
def _deconvolution(layer: _Layer) -> _Result:
    param, kernel, stride, pad, extent = _window(layer)
    batch, channels, *sizes = _four_axes(layer)
    _groups(layer, channels, param.num_output, param.group)
    out = tuple(s * (size - 1) + e - 2 * p for size, e, s, p in zip(sizes, extent, stride, pad, strict=True))
    if min(out) < 1:
        raise SummaryError(layer.where, f"an output of {out[0]}x{out[1]}", "at least 1x1")
    weights = (channels, param.num_output // param.group, *kernel)
    blobs: list[Shape] = [weights] + ([(param.num_output,)] if param.bias_term else [])
    work = math.prod(weights) * math.prod(sizes) * batch * len(layer.bottoms)
    tops: list[Shape] = [(shape[0], param.num_output, *out) for shape in layer.bottoms]
    fields: list[Field | None] = []
    for before in layer.fields:
        if before is None:
            fields.append(None)
            continue
        spans = []
        for span, e, s, p, count in zip(before, extent, stride, pad, out, strict=True):
            first = -((e - 1 - p) // s)  # lowest position below that reaches output 0: ceil((p - e + 1) / s)
            size = span.size + (-(-e // s) - 1) * span.jump
            spans.append(Span(size, span.jump / s, span.left + first * span.jump, count))
        fields.append((spans[0], spans[1]))
    return _Result(tops, blobs, work, fields)


@_rule("Im2col")
def _im2col(layer: _Layer) -> _Result:
    _, kernel, stride, pad, extent = _window(layer)
    batch, channels, *sizes = _four_axes(layer)
    out = tuple(_output_size(layer, *one) for one in zip(sizes, extent, stride, pad, strict=True))
    return _Result(
        [(batch, channels * math.prod(kernel), *out)], fields=[_slid(layer.fields[0], extent, stride, pad, out)]
    )


@_rule("Pooling")
def _pooling(layer: _Layer) -> _Result:
    param = layer.param.pooling_param
    batch, channels, *sizes = _four_axes(layer)
    if param.global_pooling:
        return _Result([(batch, channels, 1, 1)] * len(layer.param.top), fields=[_whole(layer.fields[0])] * 2)
    kernel = (param.kernel_h, param.kernel_w) if param.HasField("kernel_h") else (param.kernel_size,) * 2
    stride, pad = _pair(layer, param, "stride", 1), _pair(layer, param, "pad", 0)
    out = []
    for size, k, s, p in zip(sizes, kernel, stride, pad, strict=True):
        down = _output_size(layer, size, k, s, p)
        up = down if param.round_mode == param.FLOOR or not (size + 2 * p - k) % s else down + 1
        if any(pad) and (up - 1) * s >= size + p:
            up -= 1
        out.append(up)
    return _Result(
        [(batch, channels, *out)] * len(layer.param.top),
        fields=[_slid(layer.fields[0], kernel, stride, pad, tuple(out))] * 2,
    )


# ---------------------------------------------------------------------------------------------------------------------
# Everything else


@_rule(
    "AbsVal",
    "BNLL",
    "Clip",
    "Dropout",
    "ELU",
    "Exp",
    "Log",
    "MVN",
    "Power",
    "ReLU",
    "Sigmoid",
    "Softmax",
    "Swish",
    "TanH",
    "Threshold",
)
def _same(layer: _Layer) -> _Result:
    return _Result([layer.bottoms[0]], fields=[layer.fields[0]])


@_rule("LRN")
def _lrn(layer: _Layer) -> _Result:
    param, before = layer.param.lrn_param, layer.fields[0]
    if param.norm_region == param.WITHIN_CHANNEL and before is not None:
        half, size = (param.local_size - 1) // 2, param.local_size
        before = _slid(before, (size, size), (1, 1), (half, half), (before[0].count, before[1].count))
    return _Result([layer.bottoms[0]], fields=[before])


@_rule("PReLU")
def _prelu(layer: _Layer) -> _Result:
    shape = layer.bottoms[0]
    return _Result([shape], [() if layer.param.prelu_param.channel_shared else (shape[1],)], fields=[layer.fields[0]])


@_rule("BatchNorm")
def _batch_norm(layer: _Layer) -> _Result:
    shape = layer.bottoms[0]
    channels = shape[1] if len(shape) > 1 else 1
    return _Result([shape], [(channels,), (channels,), (1,)], fields=[layer.fields[0]])


def _broadcast(layer: _Layer, param: Any) -> Shape:
    """The shape of a Scale or Bias layer's own blob."""
    shape = layer.bottoms[0]
    if param.num_axes == 0:
        return ()
    axis = layer.axis(param.axis, len(shape))
    return shape[axis:] if param.num_axes == -1 else shape[axis : axis + param.num_axes]


@_rule("Scale", bottoms=(1, 2))
def _scale(layer: _Layer) -> _Result:
    param, shape = layer.param.scale_param, layer.bottoms[0]
    blob = layer.bottoms[1] if len(layer.bottoms) == 2 else _broadcast(layer, param)
    blobs = [] if len(layer.bottoms) == 2 else [blob]
    blobs += [blob] if param.bias_term else []
    return _Result([shape], blobs, math.prod(shape), [layer.fields[0]])


@_rule("Bias", bottoms=(1, 2))
def _bias(layer: _Layer) -> _Result:
    blobs = [] if len(layer.bottoms) == 2 else [_broadcast(layer, layer.param.bias_param)]
    return _Result([layer.bottoms[0]], blobs, fields=[layer.fields[0]])


@_rule("InnerProduct")
def _inner_product(layer: _Layer) -> _Result:
    param, shape = layer.param.inner_product_param, layer.bottoms[0]
    axis = layer.axis(param.axis, len(shape))
    inner = math.prod(shape[axis:])
    weights = (inner, param.num_output) if param.transpose else (param.num_output, inner)
    blobs: list[Shape] = [weights] + ([(param.num_output,)] if param.bias_term else [])
    work = math.prod(shape[:axis]) * inner * param.num_output
    return _Result([(*shape[:axis], param.num_output)], blobs, work, [_whole(layer.fields[0])])


@_rule("Embed")
def _embed(layer: _Layer) -> _Result:
    param = layer.param.embed_param
    blobs: list[Shape] = [(param.input_dim, param.num_output)] + ([(param.num_output,)] if param.bias_term else [])
    return _Result([(*layer.bottoms[0], param.num_output)], blobs, fields=[None])


def _united(fields: Sequence[Field | None]) -> Field | None:
    """The receptive field of a blob that joins others position by position; None where their positions do not agree."""
    known = [one for one in fields if one is not None]
    if not known:
        return None
    spans = []
    for axis in (0, 1):
        ones = [one[axis] for one in known]
        if len({(one.jump, one.count) for one in ones}) != 1:
            return None
        left = min(one.left for one in ones)
        spans.append(Span(max(one.left + one.size for one in ones) - left, ones[0].jump, left, ones[0].count))
    return spans[0], spans[1]


@_rule("Eltwise", bottoms=(2, None))
def _eltwise(layer: _Layer) -> _Result:
    for name, shape in zip(layer.param.bottom, layer.bottoms, strict=True):
        if shape != layer.bottoms[0]:
            raise SummaryError(
                f"{layer.where}: bottom '{name}'", shape, f"the first bottom's shape, {layer.bottoms[0]}"
            )
    return _Result([layer.bottoms[0]], fields=[_united(layer.fields)])


@_rule("Concat", bottoms=(1, None))
def _concat(layer: _Layer) -> _Result:
    param, first = layer.param.concat_param, layer.bottoms[0]
    axis = layer.axis(param.concat_dim if param.HasField("concat_dim") else param.axis, len(first))
    for name, shape in zip(layer.param.bottom, layer.bottoms, strict=True):
        if len(shape) != len(first) or shape[:axis] != first[:axis] or shape[axis + 1 :] != first[axis + 1 :]:
            raise SummaryError(f"{layer.where}: bottom '{name}'", shape, f"{first} but for axis {axis}")
    total = sum(shape[axis] for shape in layer.bottoms)
    united = _united(layer.fields) if axis < 2 else None
    return _Result([(*first[:axis], total, *first[axis + 1 :])], fields=[united])


@_rule("Slice")
def _slice(layer: _Layer) -> _Result:
    param, shape, count = layer.param.slice_param, layer.bottoms[0], len(layer.param.top)
    axis = layer.axis(param.slice_dim if param.HasField("slice_dim") else param.axis, len(shape))
    points = list(param.slice_point)
    if points and (
        len(points) != count - 1 or points != sorted(set(points)) or points[-1] >= shape[axis] or not points[0]
    ):
        raise SummaryError(f"{layer.where}: slice_point", points, f"{count - 1} rising points below {shape[axis]}")
    if not points and shape[axis] % count:
        raise SummaryError(f"{layer.where}: top", f"{count} tops", f"a divisor of {shape[axis]}")
    edges = [0, *points, shape[axis]] if points else [shape[axis] // count * i for i in range(count + 1)]
    tops = [(*shape[:axis], b - a, *shape[axis + 1 :]) for a, b in itertools.pairwise(edges)]
    return _Result(tops, fields=[layer.fields[0] if axis < 2 else None] * count)


@_rule("Split")
def _split(layer: _Layer) -> _Result:
    return _Result([layer.bottoms[0]] * len(layer.param.top), fields=[layer.fields[0]] * len(layer.param.top))


@_rule("Flatten")
def _flatten(layer: _Layer) -> _Result:
    param, shape = layer.param.flatten_param, layer.bottoms[0]
    first, last = layer.axis(param.axis, len(shape)), layer.axis(param.end_axis, len(shape), "end_axis")
    if first > last:
        raise SummaryError(f"{layer.where}: end_axis", param.end_axis, f"an axis of at least {param.axis}")
    joined = math.prod(shape[first : last + 1])
    return _Result([(*shape[:first], joined, *shape[last + 1 :])], fields=[layer.fields[0]])


@_rule("Reshape")
def _reshape(layer: _Layer) -> _Result:
    param, shape = layer.param.reshape_param, layer.bottoms[0]
    start = param.axis if param.axis >= 0 else len(shape) + param.axis + 1
    end = len(shape) if param.num_axes == -1 else start + param.num_axes
    if not 0 <= start <= end <= len(shape):
        raise SummaryError(
            f"{layer.where}: axis, num_axes", (param.axis, param.num_axes), f"a range of {len(shape)} axes"
        )
    middle = [int(size) for size in param.shape.dim]
    if middle.count(-1) > 1:
        raise SummaryError(f"{layer.where}: shape", middle, "at most one -1")
    for index, size in enumerate(middle):
        if size == 0:
            if start + index >= len(shape):
                raise SummaryError(f"{layer.where}: shape", middle, f"a 0 only where the bottom {shape} has an axis")
            middle[index] = shape[start + index]
    out = [*shape[:start], *middle, *shape[end:]]
    if -1 in middle:
        rest = math.prod(size for size in out if size != -1)
        if not rest or math.prod(shape) % rest:
            raise SummaryError(f"{layer.where}: shape", middle, f"a divisor of {math.prod(shape)} values")
        out[start + middle.index(-1)] = math.prod(shape) // rest
    if math.prod(out) != math.prod(shape):
        raise SummaryError(f"{layer.where}: shape", tuple(out), f"{math.prod(shape)} values, as in {shape}")
    kept = len(out) == 4 and len(shape) == 4 and tuple(out[2:]) == shape[2:]
    return _Result([tuple(out)], fields=[layer.fields[0] if kept else _whole(layer.fields[0])])


@_rule("Crop", bottoms=(2, 2))
def _crop(layer: _Layer) -> _Result:
    param, shape, like = layer.param.crop_param, layer.bottoms[0], layer.bottoms[1]
    axis = layer.axis(param.axis, len(shape))
    offsets = list(param.offset) or [0]
    before, after = layer.fields[0], None
    if before is not None and len(shape) == 4:
        spans = []
        for index, span in enumerate(before):
            place = 2 + index - axis
            shift = 0 if place < 0 else offsets[place if len(offsets) > 1 else 0]
            count = like[2 + index] if place >= 0 else span.count
            spans.append(Span(span.size, span.jump, span.left + shift * span.jump, count))
        after = (spans[0], spans[1])
    return _Result([(*shape[:axis], *like[axis:])], fields=[after])


@_rule("Tile")
def _tile(layer: _Layer) -> _Result:
    param, shape = layer.param.tile_param, layer.bottoms[0]
    axis = layer.axis(param.axis, len(shape))
    kept = layer.fields[0] if axis < 2 else None
    return _Result([(*shape[:axis], shape[axis] * param.tiles, *shape[axis + 1 :])], fields=[kept])


@_rule("Reduction")
def _reduction(layer: _Layer) -> _Result:
    axis = layer.axis(layer.param.reduction_param.axis, len(layer.bottoms[0]))
    return _Result([layer.bottoms[0][:axis]], fields=[_whole(layer.fields[0])])


@_rule("ArgMax")
def _arg_max(layer: _Layer) -> _Result:
    param, shape = layer.param.argmax_param, layer.bottoms[0]
    if param.HasField("axis"):
        axis = layer.axis(param.axis, len(shape))
        return _Result(
            [(*shape[:axis], param.top_k, *shape[axis + 1 :])], fields=[layer.fields[0] if axis == 1 else None]
        )
    tail = [1] * max(len(shape) - 3, 0)
    return _Result([(shape[0], 2 if param.out_max_val else 1, param.top_k, *tail)], fields=[_whole(layer.fields[0])])


@_rule("Silence", bottoms=(1, None))
def _silence(layer: _Layer) -> _Result:
    return _Result([])


@_rule("Accuracy", bottoms=(2, 2))
def _accuracy(layer: _Layer) -> _Result:
    classes = layer.bottoms[0][layer.axis(layer.param.accuracy_param.axis, len(layer.bottoms[0]))]
    return _Result([(), (classes,)][: len(layer.param.top)], fields=[None, None])


@_rule(
    "ContrastiveLoss",
    "EuclideanLoss",
    "HingeLoss",
    "InfogainLoss",
    "MultinomialLogisticLoss",
    "SigmoidCrossEntropyLoss",
    "SoftmaxWithLoss",
    bottoms=(2, 3),
)
def _loss(layer: _Layer) -> _Result:
    return _Result([(), layer.bottoms[0]][: len(layer.param.top)], fields=[None, layer.fields[0]])


PYTHON_LAYERS: tuple[str, ...] = ("GuidedReLU", "DeconvReLU")
"""Layers of ``allconv_caffe.python_layers`` that keep the shape of their bottom."""


@_rule("Python", bottoms=(0, None))
def _python(layer: _Layer) -> _Result:
    name = layer.param.python_param.layer
    if name not in PYTHON_LAYERS or not layer.bottoms:
        raise SummaryError(f"{layer.where}: python_param.layer", name, "a Python layer of known shape", PYTHON_LAYERS)
    return _same(layer)


# ---------------------------------------------------------------------------------------------------------------------
# The net


def _meets(rule: Any, phase: int, level: int, stages: Sequence[str]) -> bool:
    return not (
        (rule.HasField("phase") and rule.phase != phase)
        or (rule.HasField("min_level") and level < rule.min_level)
        or (rule.HasField("max_level") and level > rule.max_level)
        or any(stage not in stages for stage in rule.stage)
        or any(stage in stages for stage in rule.not_stage)
    )


def _included(where: str, param: Any, phase: int, level: int, stages: Sequence[str]) -> bool:
    if param.include and param.exclude:
        raise SummaryError(f"{where}: layer '{param.name}'", "include and exclude rules", "one kind of them")
    if param.include:
        return any(_meets(rule, phase, level, stages) for rule in param.include)
    return not any(_meets(rule, phase, level, stages) for rule in param.exclude)


def _legacy_inputs(where: str, net: Any) -> list[Shape]:
    if net.input_shape:
        shapes: list[Shape] = [tuple(int(size) for size in shape.dim) for shape in net.input_shape]
    else:
        dims = list(net.input_dim)
        if len(dims) != 4 * len(net.input):
            raise SummaryError(f"{where}: input_dim", f"{len(dims)} numbers", f"4 for each of {len(net.input)} inputs")
        shapes = [tuple(dims[i : i + 4]) for i in range(0, len(dims), 4)]
    if len(shapes) != len(net.input) or any(not shape for shape in shapes):
        raise SummaryError(
            f"{where}: input", f"{len(shapes)} shapes for {len(net.input)} inputs", "a shape for each input"
        )
    return shapes


def _positive(place: str, shape: Shape) -> None:
    if any(size < 1 for size in shape):
        raise SummaryError(place, shape, "at least 1 in every dimension")


def summarize(
    path: str | Path,
    phase: str = "TEST",
    *,
    input_shape: Sequence[int] | None = None,
    level: int = 0,
    stages: Sequence[str] = (),
    root: str | Path = ".",
) -> Summary:
    """Read a net's prototxt and say what each of its layers is.

    Args:
        phase: ``TRAIN`` or ``TEST``: which include and exclude rules hold.
        input_shape: (C, H, W) or (N, C, H, W) of the first top of the data layers, instead of what the file says.
        root: where relative LMDB paths of Data layers begin; the LMDB is asked for the image size if it is there.
    Raises:
        SummaryError: a layer without a rule, or one that does not fit its bottoms. ProtoError: not a net's prototxt.
    """
    where = str(path)
    if phase not in ("TRAIN", "TEST"):
        raise SummaryError("option phase", phase, "a phase", ("TRAIN", "TEST"))
    if input_shape is not None and (len(input_shape) not in (3, 4) or min(input_shape) < 1):
        raise SummaryError("option input-shape", tuple(input_shape), "C,H,W or N,C,H,W, each at least 1")
    param = read_net(path)
    return summarize_net(
        param, where, phase, None if input_shape is None else tuple(input_shape), level, tuple(stages), Path(root)
    )


def summarize_net(
    param: NetParameter,
    where: str = "net",
    phase: str = "TEST",
    input_shape: Shape | None = None,
    level: int = 0,
    stages: Sequence[str] = (),
    root: Path = Path("."),
) -> Summary:
    """``summarize`` of a net already read."""
    if param.layers:
        old, param = param, NetParameter()
        param.CopyFrom(old)
        upgrade_net(param, where)
    if not param.layer:
        raise SummaryError(where, "no layer", "a net with layers")
    net = _Net(where, input_shape, root)
    number = {"TRAIN": 0, "TEST": 1}[phase]
    shapes: dict[str, Shape] = {}
    fields: dict[str, Field | None] = {}
    owners: set[str] = set()
    rows: list[LayerRow] = []
    if param.input:
        found = _legacy_inputs(where, param)
        if input_shape is not None:
            found[0] = input_shape if len(input_shape) == 4 else (found[0][0], *input_shape)
        for name, shape in zip(param.input, found, strict=True):
            _positive(f"{where}: input '{name}'", shape)
            shapes[name], fields[name] = shape, _start(shape)
        rows.append(LayerRow("input", "Input", tuple(param.input), tuple(found), 0, 0, fields[param.input[0]], ()))
    for one in param.layer:
        if not _included(where, one, number, level, stages):
            continue
        place = f"{where}: layer '{one.name}'"
        if one.type not in RULES:
            raise SummaryError(f"{place}: type", one.type, "a type with a shape rule", sorted(RULES))
        rule, least, most = RULES[one.type]
        if len(one.bottom) < least or (most is not None and len(one.bottom) > most):
            wanted = f"{least}" if least == most else f"{least} to {most}" if most is not None else f"at least {least}"
            raise SummaryError(f"{place}: bottom", f"{len(one.bottom)} bottoms", wanted)
        for index, name in enumerate(one.bottom):
            if name not in shapes:
                raise SummaryError(f"{place}: bottom {index}", name, "a top of a layer before it", shapes)
        bottoms = [shapes[name] for name in one.bottom]
        result = rule(_Layer(net, one, bottoms, [fields[name] for name in one.bottom]))
        tops = tuple(one.top) or tuple(f"({one.name})" for _ in result.tops[:1])  # a loss may leave its top unnamed
        if len(tops) > len(result.tops):
            raise SummaryError(f"{place}: top", f"{len(tops)} tops", f"{len(result.tops)}")
        seen = result.fields or [None] * len(result.tops)
        for name, shape, view in zip(tops, result.tops, seen, strict=False):
            _positive(f"{place}: top '{name}'", shape)
            if name in shapes and name not in one.bottom:
                raise SummaryError(f"{place}: top", name, "a top of this layer alone, or its own bottom")
            shapes[name], fields[name] = shape, view
        multipliers: list[tuple[float, float]] = []
        count = 0
        for index, blob in enumerate(result.blobs):
            spec = one.param[index] if index < len(one.param) else None
            frozen = one.type == "BatchNorm"
            lr, decay = (0.0, 0.0) if frozen else (1.0, 1.0) if spec is None else (spec.lr_mult, spec.decay_mult)
            multipliers.append((lr, decay))
            if spec is not None and spec.name:
                if spec.name in owners:
                    continue
                owners.add(spec.name)
            count += math.prod(blob)
        images = bottoms[0][0] if bottoms and bottoms[0] else 1
        rows.append(
            LayerRow(
                one.name,
                one.type,
                tops,
                tuple(result.tops),
                count,
                result.multiply_adds // max(images, 1),
                seen[0] if seen else None,
                tuple(multipliers),
            )
        )
    return Summary(where, param.name, phase, tuple(rows), tuple(net.notes))


# ---------------------------------------------------------------------------------------------------------------------
# Printing

COLUMNS: tuple[str, ...] = (
    "layer",
    "type",
    "output",
    "parameters",
    "multiply-adds",
    "field",
    "jump",
    "left",
    "lr_mult",
    "decay_mult",
)


def _number(value: Fraction) -> str:
    return str(value.numerator) if value.denominator == 1 else f"{float(value):.6g}"


def _axes(view: Field | None, word: str) -> str:
    """One number where height and width agree, else height x width."""
    if view is None:
        return "-"
    height, width = (_number(getattr(span, word)) for span in view)
    return height if height == width else f"{height}x{width}"


def _cells(row: LayerRow) -> list[str]:
    shapes = " + ".join("x".join(str(size) for size in shape) or "1" for shape in row.shapes)
    lr, decay = (", ".join(f"{pair[index]:g}" for pair in row.multipliers) or "-" for index in (0, 1))
    view = row.receptive_field
    return [
        row.name,
        row.type,
        shapes or "-",
        f"{row.parameters:,}",
        f"{row.multiply_adds:,}",
        _axes(view, "size"),
        _axes(view, "jump"),
        _axes(view, "left"),
        lr,
        decay,
    ]


def _total(summary: Summary) -> list[str]:
    return ["total", "", "", f"{summary.parameters:,}", f"{summary.multiply_adds:,}", "", "", "", "", ""]


_RIGHT = (3, 4, 5, 6, 7)


def to_text(summary: Summary) -> str:
    """Aligned columns, with what the words mean below."""
    table = [list(COLUMNS), *[_cells(row) for row in summary.layers], _total(summary)]
    widths = [max(len(line[index]) for line in table) for index in range(len(COLUMNS))]
    lines = [f"{summary.name or summary.file} ({summary.phase})"]
    for line in table:
        parts = (c.rjust(w) if i in _RIGHT else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
        lines.append("  ".join(parts).rstrip())
    lines += [f"note: {note}" for note in summary.notes]
    lines.append(
        "multiply-adds: forward, one image. field, jump, left: receptive field in input pixels, its step from one position to "
        "the next,"
    )
    lines.append(
        "and its first pixel at the first position. lr_mult, decay_mult: one of each for every parameter blob."
    )
    return "\n".join(lines) + "\n"


def to_markdown(summary: Summary) -> str:
    """A Markdown table."""
    lines = [f"### {summary.name or summary.file} ({summary.phase})", "", "| " + " | ".join(COLUMNS) + " |"]
    lines.append("|" + "|".join("---:" if index in _RIGHT else "---" for index in range(len(COLUMNS))) + "|")
    for cells in [*[_cells(row) for row in summary.layers], _total(summary)]:
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    lines += [f"\nNote: {note}" for note in summary.notes]
    return "\n".join(lines) + "\n"


def to_json(summary: Summary) -> str:
    """The same facts for programs; a receptive field is [height, width] for each of size, jump and left, or null."""

    def view(row: LayerRow) -> dict[str, list[float]] | None:
        if row.receptive_field is None:
            return None
        return {word: [float(getattr(span, word)) for span in row.receptive_field] for word in ("size", "jump", "left")}

    layers = [
        {
            "name": row.name,
            "type": row.type,
            "tops": {name: list(shape) for name, shape in zip(row.tops, row.shapes, strict=False)},
            "parameters": row.parameters,
            "multiply_adds": row.multiply_adds,
            "receptive_field": view(row),
            "lr_mult": [pair[0] for pair in row.multipliers],
            "decay_mult": [pair[1] for pair in row.multipliers],
        }
        for row in summary.layers
    ]
    whole = {
        "file": summary.file,
        "name": summary.name,
        "phase": summary.phase,
        "layers": layers,
        "parameters": summary.parameters,
        "multiply_adds": summary.multiply_adds,
        "notes": list(summary.notes),
    }
    return json.dumps(whole, indent=2) + "\n"


FORMATS: dict[str, Callable[[Summary], str]] = {"text": to_text, "markdown": to_markdown, "json": to_json}


def format_summary(summary: Summary, form: str = "text") -> str:
    """The summary in one of ``FORMATS``.

    Raises:
        SummaryError: no such format.
    """
    if form not in FORMATS:
        raise SummaryError("option format", form, "a format", FORMATS)
    return FORMATS[form](summary)


def shape_from_text(text: str) -> tuple[int, ...]:
    """``3,32,32`` or ``3x32x32`` -> (3, 32, 32).

    Raises:
        SummaryError: not three or four whole numbers.
    """
    try:
        shape = tuple(int(part) for part in text.lower().replace("x", ",").split(","))
    except ValueError:
        shape = ()
    if len(shape) not in (3, 4) or min(shape) < 1:
        raise SummaryError("option input-shape", text, "C,H,W or N,C,H,W, each at least 1")
    return shape

"""Caffe's layers as the operations of a graph: one function for each type, from a layer in its place to operations.

Operations have ONNX's names and meaning. `Graph` is what a format has to know of them; where a format has a shorter word for
something, it overrides a method.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from allconv_caffe.caffe_torch.compute.window import Window
from allconv_caffe.caffe_torch.layers.base import legacy
from allconv_caffe.export.graph import OF_SHAPES, Node
from allconv_caffe.proto import TRAIN, EltwiseParameter, PoolingParameter

FLT_MAX = float(np.finfo(np.float32).max)
FLOAT, INT64 = 1, 7
"""ONNX's numbers of the types."""


@dataclass(frozen=True, kw_only=True)
class Pool:
    """A pooling over (N, C, H, W), in Caffe's geometry."""

    # the layer's
    name: str
    channels: int
    # maxima, or means
    is_max: bool
    window: Window
    # the image, and the places of the window in it
    size: tuple[int, ...]
    out: tuple[int, ...]

    @property
    def pads(self) -> list[int]:
        """What windows need around the image: above, left, below, right."""
        left, right, above, below = self.window.margins(self.size, self.out)
        return [above, left, max(below, 0), max(right, 0)]

    @property
    def leaves(self) -> bool:
        """Whether the last window lies wholly behind the image."""
        start = ((n - 1) * s - p for n, s, p in zip(self.out, self.window.stride, self.window.pad, strict=True))
        return any(first >= h for first, h in zip(start, self.size, strict=True))

    @property
    def factors(self) -> np.ndarray | None:
        """(OH, OW): what the mean over a whole window is multiplied by, since Caffe divides by the window clipped to image
        and padding; None: by nothing."""
        lengths = []
        for k, s, p, h, places in zip(
            self.window.kernel, self.window.stride, self.window.pad, self.size, self.out, strict=True
        ):
            start = np.arange(places) * s - p
            lengths.append(np.minimum(start + k, h + p) - start)
        divisors, whole = lengths[0][:, None] * lengths[1][None, :], self.window.kernel[0] * self.window.kernel[1]
        if (divisors == whole).all():
            return None
        with np.errstate(divide="ignore"):
            return (whole / divisors).astype(np.float32)


class Graph(ABC):
    """Collects the operations and constants of one net."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def reserve(self, *names: str) -> None:
        """These names are given to values by whoever calls `add` with `output`."""
        self._taken.update(names)

    def name(self, hint: str) -> str:
        """`hint`, or a name after it that nothing else has."""
        name, count = hint, 1
        while name in self._taken:
            count += 1
            name = f"{hint}_{count}"
        self._taken.add(name)
        return name

    @abstractmethod
    def constant(self, values: Any, hint: str, dtype: Any = np.float32) -> str:
        """The name of a constant; `hint` is ``<layer>:<word>``."""

    @abstractmethod
    def add(self, op: str, *inputs: str, output: str | None = None, hint: str = "", **attributes: Any) -> str:
        """An operation; returns its value, called `output`, or after `hint`."""

    @abstractmethod
    def shaped(self, x: str, shape: Sequence[int], output: str | None = None) -> str:
        """`x` with these axes behind the one of the images."""

    def dropout(self, x: str, ratio: float, output: str) -> None:
        """What a file that does not train gives."""
        self.add("Identity", x, output=output)

    def batch_norm(
        self, x: str, layer: str, mean: np.ndarray, var: np.ndarray, eps: float, axes: int, output: str
    ) -> None:
        """(x - mean) / sqrt(var + eps) along axis 1 of `axes` axes."""
        ones, zeros = np.ones_like(mean), np.zeros_like(mean)
        words = zip(("scale", "bias", "mean", "variance"), (ones, zeros, mean, var), strict=True)
        constants = [self.constant(array, f"{layer}:{word}") for word, array in words]
        self.add("BatchNormalization", x, *constants, output=output, epsilon=eps)

    def pool(self, x: str, pool: Pool, output: str) -> None:
        """The places of the window are Caffe's, so padding is told for each side, with what windows need behind the image."""
        if pool.window.covers(pool.size) and tuple(pool.out) == (1, 1):
            self.add("GlobalMaxPool" if pool.is_max else "GlobalAveragePool", x, output=output)
            return
        pads, kernel, name = pool.pads, [*pool.window.kernel, *pool.window.kernel], pool.name
        if any(pad >= k for pad, k in zip(pads, kernel, strict=True)):  # a window that lies wholly outside
            amounts = self.constant([0, 0, *pads[:2], 0, 0, *pads[2:]], f"{name}:pads", np.int64)
            edge = self.constant(-FLT_MAX if pool.is_max else 0.0, f"{name}:edge")
            x, pads = self.add("Pad", x, amounts, edge, hint=name), [0, 0, 0, 0]
        words: dict[str, Any] = dict(kernel_shape=pool.window.kernel, strides=pool.window.stride, pads=pads)
        if pool.is_max:
            self.add("MaxPool", x, output=output, **words)
            return
        factors = pool.factors
        last = output if factors is None else None
        mean = self.add("AveragePool", x, output=last, hint=name, count_include_pad=1, **words)
        if factors is not None:
            self.add("Mul", mean, self.constant(factors, f"{name}:factors"), output=output)

    def places(self, x: str, pool: Pool, output: str) -> None:
        """Where each maximum lies, h * W + w as float, the first of equal ones: what ONNX's MaxPool leaves open, its ArgMax says."""
        kernel, stride, (oh, ow), name = pool.window.kernel, pool.window.stride, pool.out, pool.name

        def numbers(values: Any, word: str) -> str:
            return self.constant(values, f"{name}:{word}", np.int64)

        above, left, *_ = pads = pool.pads
        if any(pads):
            edge = self.constant(-FLT_MAX, f"{name}:edge")
            x = self.add("Pad", x, numbers([0, 0, *pads[:2], 0, 0, *pads[2:]], "pads"), edge, hint=name)
        reach, axes, steps = (
            np.multiply((oh - 1, ow - 1), stride) + 1,
            numbers([2, 3], "axes"),
            numbers(stride, "steps"),
        )
        under = []  # for each place within the window the values that lie there, (N, C, 1, OH, OW)
        for start in np.ndindex(*kernel):
            plane = self.add("Slice", x, numbers(start, "start"), numbers(reach + start, "end"), axes, steps, hint=name)
            under.append(self.shaped(plane, [pool.channels, 1, oh, ow]))
        first = self.add("ArgMax", self.add("Concat", *under, hint=name, axis=2), hint=name, axis=2, keepdims=0)
        rows, columns, width = np.arange(oh) * stride[0] - above, np.arange(ow) * stride[1] - left, pool.size[1]
        within = (np.arange(kernel[0])[:, None] * width + np.arange(kernel[1])).reshape(-1)
        place = self.add("Gather", numbers(within, "within"), first, hint=name, axis=0)
        place = self.add("Add", place, numbers(rows[:, None] * width + columns, "windows"), hint=name)
        self.add("Cast", place, output=output, to=FLOAT)

    def interp(self, x: str, layer: str, shape: Sequence[int], output: str) -> None:
        """`x`, (C, h, w), at the size (C, H, W) = `shape`, bilinear, corner on corner."""
        rows = self.add("Shape", x, hint=layer, start=0, end=1)  # all sizes are told: OpenCV 5 reads no `axes`
        size = self.add("Concat", rows, self.constant(shape, f"{layer}:size", np.int64), hint=layer, axis=0)
        words = dict(mode="linear", coordinate_transformation_mode="align_corners")
        self.add("Resize", x, "", "", size, output=output, **words)

    def unpool(self, x: str, places: str, layer: str, shape: Sequence[int], size: Sequence[int], output: str) -> None:
        """Each value of `x`, (C, H, W) = `shape`, at its place in planes of `size`, the last of several; 0 elsewhere."""
        channels, count = shape[0], math.prod(shape[1:])

        def add(op: str, *inputs: str, **attributes: Any) -> str:
            return self.add(op, *inputs, hint=layer, **attributes)

        def numbers(values: Any, word: str) -> str:
            return self.constant(values, f"{layer}:{word}", np.int64)

        index = add("Cast", self.shaped(places, [channels, count]), to=INT64)
        turns = add("Expand", numbers(np.arange(count) + 1, "turns"), add("Shape", index))
        planes = add(
            "Concat", add("Shape", index, start=0, end=1), numbers([channels, math.prod(size)], "planes"), axis=0
        )
        zeros = add("Expand", numbers([0], "zero"), planes)
        last = add("ScatterElements", zeros, index, turns, axis=2, reduction="max")
        row = add(
            "Pad", self.shaped(x, [channels, count]), numbers([0, 0, 1, 0, 0, 0], "before")
        )  # 0 for turn 0, no value's
        self.shaped(add("GatherElements", row, last, axis=2), [channels, *size], output=output)


Write = Callable[[Graph, Node], None]
WRITERS: dict[str, Write] = {}


def writes(*types: str) -> Callable[[Write], Write]:
    """The function writes layers of these types."""

    def add(function: Write) -> Write:
        for name in types:
            if name in WRITERS:
                raise ValueError(f"layer type {name} is written twice")
            WRITERS[name] = function
        return function

    return add


def values(blob: Any) -> np.ndarray:
    """A parameter, (…) float32."""
    return np.array(blob.data.cpu().numpy(), np.float32)


def _spread(array: np.ndarray, axis: int, axes: int) -> np.ndarray:
    """`array`, which lies along a value's axes from `axis` on, so that it is broadcast over `axes` axes."""
    return array.reshape(*array.shape, *[1] * (axes - axis - array.ndim))


def _filters(graph: Graph, node: Node, what: str) -> tuple[Window, list[str]]:
    """The window of a convolution or its transpose, and the names of its weight and, if it has one, bias."""
    layer: Any = node.layer
    if layer.axis != 1:
        raise node.refuse(f"axis {layer.axis}", f"{what} over channels at axis 1")
    names = ("weight", "bias") if layer.bias_term else ("weight",)
    blobs = zip(names, layer.blobs, strict=False)
    return layer.window, [graph.constant(values(blob), f"{layer.name}:{name}") for name, blob in blobs]


@writes("Convolution", "DepthwiseConvolution", "ConvolutionDepthwise")
def _convolution(graph: Graph, node: Node) -> None:
    window, constants = _filters(graph, node, "convolution")
    for x, y, bottom in zip(node.inputs, node.outputs, node.bottom, strict=True):
        behind = [p + more for p, more in zip(window.pad, window.behind(bottom.shape[2:]), strict=True)]
        pads = [*window.pad, *behind]
        graph.add(
            "Conv",
            x,
            *constants,
            output=y,
            kernel_shape=window.kernel,
            strides=window.stride,
            pads=pads,
            dilations=window.dilation,
            group=window.group,
        )


@writes("Deconvolution")
def _deconvolution(graph: Graph, node: Node) -> None:
    window, constants = _filters(graph, node, "deconvolution")
    for x, y in zip(node.inputs, node.outputs, strict=True):
        graph.add(
            "ConvTranspose",
            x,
            *constants,
            output=y,
            kernel_shape=window.kernel,
            strides=window.stride,
            pads=[*window.pad, *window.pad],
            dilations=window.dilation,
            group=window.group,
        )


@writes("Pooling")
def _pooling(graph: Graph, node: Node) -> None:
    layer: Any = node.layer
    _, channels, *size = node.bottom[0].shape
    pool = Pool(
        name=layer.name,
        channels=channels,
        is_max=layer.method == PoolingParameter.MAX,
        window=layer.window,
        size=tuple(size),
        out=tuple(layer.out),
    )
    graph.pool(node.inputs[0], pool, node.outputs[0])
    for places in node.outputs[1:]:
        if pool.leaves:
            raise node.refuse("a second top, and windows behind the image", "windows that have a maximum")
        graph.places(node.inputs[0], pool, places)


@writes("ReLU")
def _relu(graph: Graph, node: Node) -> None:
    slope = node.layer.negative_slope  # type: ignore[attr-defined]
    if slope == 0:
        graph.add("Relu", *node.inputs, output=node.outputs[0])
    else:
        graph.add("LeakyRelu", *node.inputs, output=node.outputs[0], alpha=slope)


@writes("ReLU6")
def _relu6(graph: Graph, node: Node) -> None:
    ends = [graph.constant(value, f"{node.layer.name}:{word}") for word, value in (("min", 0.0), ("max", 6.0))]
    graph.add("Clip", *node.inputs, *ends, output=node.outputs[0])


@writes("PReLU")
def _prelu(graph: Graph, node: Node) -> None:
    slope = values(node.layer.blobs[0]).reshape(-1)
    slope = _spread(slope, 1, node.bottom[0].num_axes) if len(slope) > 1 else slope
    graph.add("PRelu", *node.inputs, graph.constant(slope, f"{node.layer.name}:slope"), output=node.outputs[0])


@writes("ELU")
def _elu(graph: Graph, node: Node) -> None:
    graph.add("Elu", *node.inputs, output=node.outputs[0], alpha=node.layer.alpha)  # type: ignore[attr-defined]


@writes("Sigmoid")
def _sigmoid(graph: Graph, node: Node) -> None:
    graph.add("Sigmoid", *node.inputs, output=node.outputs[0])


@writes("TanH")
def _tanh(graph: Graph, node: Node) -> None:
    graph.add("Tanh", *node.inputs, output=node.outputs[0])


@writes("AbsVal")
def _abs(graph: Graph, node: Node) -> None:
    graph.add("Abs", *node.inputs, output=node.outputs[0])


@writes("Power")
def _power(graph: Graph, node: Node) -> None:
    layer: Any = node.layer
    (x,), (y,), name = node.inputs, node.outputs, layer.name
    if layer.diff_scale == 0:  # a constant, whatever the bottom is
        value = 1.0 if layer.power == 0 else float(np.power(np.float32(layer.shift), np.float32(layer.power)))
        zeros = graph.add("Mul", x, graph.constant(0.0, f"{name}:zero"), hint=name)
        graph.add("Add", zeros, graph.constant(value, f"{name}:value"), output=y)
        return
    steps = [("Mul", layer.scale, 1.0), ("Add", layer.shift, 0.0), ("Pow", layer.power, 1.0)]
    steps = [(op, value, idle) for op, value, idle in steps if value != idle] or [("Mul", 1.0, 1.0)]
    for i, (op, value, _) in enumerate(steps, 1):
        constant = graph.constant(value, f"{name}:{op.lower()}")
        x = graph.add(op, x, constant, output=y if i == len(steps) else None, hint=name)


@writes("LRN")
def _lrn(graph: Graph, node: Node) -> None:
    layer: Any = node.layer
    (x,), (y,), name = node.inputs, node.outputs, layer.name
    if layer.across:
        graph.add("LRN", x, output=y, size=layer.size, alpha=layer.alpha, beta=layer.beta, bias=layer.k)
        return
    square = graph.add("Mul", x, x, hint=f"{name}:square")
    half = (layer.size - 1) // 2
    mean = graph.add(
        "AveragePool",
        square,
        hint=name,
        kernel_shape=[layer.size] * 2,
        strides=[1, 1],
        pads=[half] * 4,
        count_include_pad=1,
    )
    scaled = graph.add("Mul", mean, graph.constant(layer.alpha, f"{name}:alpha"), hint=name)
    scale = graph.add("Add", scaled, graph.constant(1.0, f"{name}:one"), hint=name)  # as in Caffe, whatever k is
    power = graph.add("Pow", scale, graph.constant(-layer.beta, f"{name}:beta"), hint=name)
    graph.add("Mul", x, power, output=y)


@writes("InnerProduct")
def _inner_product(graph: Graph, node: Node) -> None:
    layer: Any = node.layer
    (x,), (y,), name = node.inputs, node.outputs, layer.name
    bottom, leading = node.bottom[0], node.top[0].shape[1:-1]
    if (*bottom.shape[1:],) != (*leading, layer.k):
        x = graph.shaped(x, [*leading, layer.k])
    w = values(layer.blobs[0]).reshape((layer.k, layer.n) if layer.transpose else (layer.n, layer.k))
    b = values(layer.blobs[1]).reshape(-1) if layer.bias_term else None
    if not leading:
        constants = [graph.constant(w, f"{name}:weight")]
        constants += [graph.constant(b, f"{name}:bias")] if b is not None else []
        graph.add("Gemm", x, *constants, output=y, transB=0 if layer.transpose else 1)
        return
    product = graph.add(
        "MatMul",
        x,
        graph.constant(w if layer.transpose else w.T, f"{name}:weight"),
        hint=name,
        output=y if b is None else None,
    )
    if b is not None:
        graph.add("Add", product, graph.constant(b, f"{name}:bias"), output=y)


@writes("BatchNorm")
def _batch_norm(graph: Graph, node: Node) -> None:
    layer: Any = node.layer
    if not layer.use_global_stats:
        raise node.refuse("statistics of the batch (use_global_stats: false)", "those of training")
    mean, var, factor = (values(blob) for blob in layer.blobs[:3])
    scale = np.float32(0 if factor[0] == 0 else 1 / factor[0])
    (x,), (y,), axes, name = node.inputs, node.outputs, node.bottom[0].num_axes, layer.name
    normed = graph.name(f"{name}:normed") if layer.scale_bias else y
    graph.batch_norm(x, name, mean * scale, var * scale, layer.eps, axes, normed)
    if layer.scale_bias:
        _affine(graph, normed, layer, layer.blobs[3:], axes, y)


def _affine(graph: Graph, x: str, layer: Any, blobs: Sequence[Any], axes: int, y: str) -> None:
    """y = a * x + b, per channel of `axes` axes, of two blobs."""
    a, b = (
        graph.constant(_spread(values(blob).reshape(-1), 1, axes), f"{layer.name}:{word}")
        for word, blob in zip(("scale", "bias"), blobs, strict=True)
    )
    graph.add("Add", graph.add("Mul", x, a, hint=layer.name), b, output=y)


@writes("BN")
def _bn(graph: Graph, node: Node) -> None:
    layer: Any = node.layer
    (x,), (y,), axes = node.inputs, node.outputs, node.bottom[0].num_axes
    if not layer.affine_only:
        if not layer.stored:
            raise node.refuse("statistics of the batch (bn_mode: LEARN)", "those of training")
        mean, var = (values(blob).reshape(-1) for blob in layer.blobs[2:])
        normed = graph.name(f"{layer.name}:normed")
        graph.batch_norm(x, layer.name, mean, var, layer.eps, axes, normed)
        x = normed
    _affine(graph, x, layer, layer.blobs[:2], axes, y)


@writes("Scale", "Bias")
def _scale_or_bias(graph: Graph, node: Node) -> None:
    layer: Any = node.layer
    op = "Mul" if layer.type == "Scale" else "Add"
    x, y, axes, name = node.inputs[0], node.outputs[0], node.bottom[0].num_axes, layer.name
    added = layer.type == "Scale" and layer.bias_term
    if len(node.inputs) == 1:
        other = graph.constant(_spread(values(layer.blobs[0]), layer.axis, axes), f"{name}:{layer.type.lower()}")
    elif layer.axis == 0:
        shape = node.bottom[1].shape
        other = node.inputs[1]
        if len(shape) < axes:
            other = graph.shaped(other, [*shape[1:], *[1] * (axes - len(shape))])
    else:
        raise node.refuse(f"a second bottom along axis {layer.axis}", "axis 0, that of the images")
    x = graph.add(op, x, other, output=None if added else y, hint=name)
    if added:
        bias = _spread(values(layer.blobs[-1]), layer.bias_axis, axes)
        graph.add("Add", x, graph.constant(bias, f"{name}:bias"), output=y)


@writes("Eltwise")
def _eltwise(graph: Graph, node: Node) -> None:
    layer: Any = node.layer
    (y,), name = node.outputs, layer.name
    terms = list(node.inputs)
    if layer.operation == EltwiseParameter.SUM:
        for i, coeff in enumerate(layer.coeffs):
            if coeff != 1:
                terms[i] = graph.add("Mul", terms[i], graph.constant(coeff, f"{name}:coeff"), hint=name)
    if node.in_place and layer.operation != EltwiseParameter.PROD:
        terms = terms[1:]  # Caffe clears the top before it reads it
    op = {EltwiseParameter.SUM: "Add", EltwiseParameter.PROD: "Mul", EltwiseParameter.MAX: "Max"}[layer.operation]
    total = terms[0]
    for i, term in enumerate(terms[1:], 2):
        total = graph.add(op, total, term, output=y if i == len(terms) else None, hint=name)
    if len(terms) == 1:
        graph.add("Identity", total, output=y)


@writes("Axpy")
def _axpy(graph: Graph, node: Node) -> None:
    (a, x, y), (out,), name = node.inputs, node.outputs, node.layer.name
    shape = node.bottom[1].shape
    if node.bottom[0].num_axes != len(shape):
        a = graph.shaped(a, [shape[1], *[1] * (len(shape) - 2)])
    graph.add("Add", graph.add("Mul", a, x, hint=name), y, output=out)


@writes("Permute")
def _permute(graph: Graph, node: Node) -> None:
    order = node.layer.order  # type: ignore[attr-defined]
    if order[0] != 0:
        raise node.refuse(f"order {', '.join(map(str, order))}", "0 first: the axis of the images stays")
    graph.add("Transpose", *node.inputs, output=node.outputs[0], perm=order)


@writes("ShuffleChannel")
def _shuffle_channel(graph: Graph, node: Node) -> None:
    layer: Any = node.layer
    (x,), (y,), shape = node.inputs, node.outputs, node.bottom[0].shape[1:]
    table = graph.shaped(x, [layer.group, layer.each, *shape[1:]])
    perm = [0, 2, 1, *range(3, len(shape) + 2)]
    graph.shaped(graph.add("Transpose", table, hint=layer.name, perm=perm), shape, output=y)


@writes("Normalize")
def _normalize(graph: Graph, node: Node) -> None:
    layer: Any = node.layer
    (x,), (y,), axes, name = node.inputs, node.outputs, node.bottom[0].num_axes, layer.name
    summed = graph.constant(range(1, axes) if layer.across_spatial else [1], f"{name}:summed", np.int64)
    total = graph.add("ReduceSum", graph.add("Mul", x, x, hint=name), summed, hint=name, keepdims=1)
    norm = graph.add("Sqrt", graph.add("Add", total, graph.constant(layer.eps, f"{name}:eps"), hint=name), hint=name)
    scale = graph.constant(_spread(values(layer.blobs[0]).reshape(-1), 1, axes), f"{name}:scale")
    graph.add("Mul", graph.add("Div", x, norm, hint=name), scale, output=y)


@writes("Interp")
def _interp(graph: Graph, node: Node) -> None:
    layer: Any = node.layer
    x, name, shape = node.inputs[0], layer.name, legacy(node.bottom[0])
    if node.bottom[0].num_axes != len(shape):
        x = graph.shaped(x, shape[1:])
    if layer.before or layer.behind:
        ends = [layer.before] * 2, [layer.before + size for size in layer.size], [2, 3]
        x = graph.add("Slice", x, *(graph.constant(v, f"{name}:kept", np.int64) for v in ends), hint=name)
    graph.interp(x, name, node.top[0].shape[1:], node.outputs[0])


@writes("Upsample")
def _upsample(graph: Graph, node: Node) -> None:
    (x, places), (y,), name = node.inputs, node.outputs, node.layer.name
    graph.unpool(x, places, name, node.bottom[0].shape[1:], node.top[0].shape[2:], y)


@writes(*OF_SHAPES)
def fixed(graph: Graph, node: Node) -> None:
    """A table for each top, of any layer that gives the same for any images."""
    for table, y in zip(node.fixed or (), node.outputs, strict=True):
        graph.add("Identity", graph.constant(table, f"{node.layer.name}:table"), output=y)


@writes("Concat")
def _concat(graph: Graph, node: Node) -> None:
    graph.add("Concat", *node.inputs, output=node.outputs[0], axis=node.layer.axis)  # type: ignore[attr-defined]


@writes("Softmax")
def _softmax(graph: Graph, node: Node) -> None:
    graph.add("Softmax", *node.inputs, output=node.outputs[0], axis=node.layer.axis)  # type: ignore[attr-defined]


@writes("Flatten", "Reshape")
def _reshape(graph: Graph, node: Node) -> None:
    graph.shaped(node.inputs[0], node.top[0].shape[1:], output=node.outputs[0])


@writes("Dropout")
def _dropout(graph: Graph, node: Node) -> None:
    if node.layer.phase == TRAIN:
        raise node.refuse("phase TRAIN", "phase TEST: a file answers, it does not train")
    graph.dropout(node.inputs[0], node.layer.param.dropout_param.dropout_ratio, node.outputs[0])


@writes("Split")
def _split(graph: Graph, node: Node) -> None:
    for y in node.outputs:
        graph.add("Identity", *node.inputs, output=y)

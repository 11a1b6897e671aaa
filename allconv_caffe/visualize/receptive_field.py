"""Which pixels a unit sees: boxes by walking down the prototxt, for any net.

A unit at y of a window layer (kernel k, stride s, pad p, dilation d) sees y s - p to y s - p + d (k - 1) of its bottom;
layers that work on single places pass the interval on; those that see everything give the whole bottom. Where
several layers read one blob, the intervals unite.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Tuple

from allconv_caffe.proto import LRNParameter
from allconv_caffe.visualize.nets.errors import VizError
from allconv_caffe.visualize.unit import Unit

if TYPE_CHECKING:
    from allconv_caffe.visualize.nets.base import VizNet

Interval = Tuple[int, int]  # both ends included
POINTWISE = {
    "AbsVal",
    "BNLL",
    "BatchNorm",
    "Bias",
    "Clip",
    "Concat",
    "Dropout",
    "ELU",
    "Eltwise",
    "Exp",
    "Log",
    "PReLU",
    "Power",
    "Python",
    "ReLU",
    "Scale",
    "Sigmoid",
    "Silence",
    "Slice",
    "Softmax",
    "Split",
    "Swish",
    "TanH",
    "Threshold",
}
GLOBAL = {"Flatten", "InnerProduct", "MVN", "Normalize", "Reduction", "Reshape"}
WINDOWED = {"Convolution", "Deconvolution", "Im2col", "LRN", "Pooling", "Crop"}


@dataclass(frozen=True)
class Box:
    """Rows top to bottom - 1 and columns left to right - 1 of the input; may reach beyond the image."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left

    def as_list(self) -> List[int]:
        """[top, left, bottom, right], for JSON."""
        return [self.top, self.left, self.bottom, self.right]


@dataclass(frozen=True)
class ReceptiveField:
    """Of every unit of one blob; pairs are (vertical, horizontal), in pixels of the input.

    Attributes:
        blob: its name. size: what a unit sees, padding included. jump: from one unit to the next; 0 where every unit
            sees the same (global pooling, fully connected). start: first row and column of unit (0, 0), negative by
            the padding. whole: whether every unit sees everything.
    """

    blob: str
    size: Tuple[int, int]
    jump: Tuple[int, int]
    start: Tuple[int, int]
    whole: bool
    _net: Any = None

    def box(self, unit: Unit) -> Box:
        """The nominal box: of the same size for every unit of a convolution, also where it reaches beyond the image."""
        return _box(self._net, self.blob, unit, clip=False)

    def support(self, unit: Unit) -> Box:
        """The pixels that can reach the unit: clipped to the image, and to what the layers between really read."""
        return _box(self._net, self.blob, unit, clip=True)


def receptive_field(net: VizNet, blob: str) -> ReceptiveField:
    """Size, jump and start of the receptive fields of `blob`'s units.

    Raises: VizError: unknown blob; a layer type on the way that has no rule here; no way down to the image.
    """
    _check(net, blob)
    _, first, one = (0, 0), _walk(net, blob, (0, 0), clip=False), _walk(net, blob, (1, 1), clip=False)
    whole = _sees_all(net, blob)
    return ReceptiveField(
        blob=blob,
        size=(first[0][1] - first[0][0] + 1, first[1][1] - first[1][0] + 1),
        jump=(0, 0) if whole else (one[0][0] - first[0][0], one[1][0] - first[1][0]),
        start=(first[0][0], first[1][0]),
        whole=whole,
        _net=net,
    )


def table(net: VizNet) -> List[ReceptiveField]:
    """The receptive fields of every blob that depends on the image, in the net's order."""
    out = []
    for blob in net.blob_names:
        if blob == net.input:
            continue
        try:
            out.append(receptive_field(net, blob))
        except VizError as error:
            if error.found != "no way down to the image":
                raise
    return out


def _check(net: VizNet, blob: str) -> None:
    if blob not in net.blob_names:
        raise VizError("blob", repr(blob), "a blob of the net", net.blob_names)


def _box(net: VizNet, blob: str, unit: Unit, clip: bool) -> Box:
    if unit.blob != blob:
        raise VizError(f"unit {unit}", f"blob '{unit.blob}'", f"'{blob}'")
    (top, bottom), (left, right) = _walk(net, blob, (unit.y, unit.x), clip)
    return Box(top, left, bottom + 1, right + 1)


def _walk(net: VizNet, blob: str, place: Tuple[int, int], clip: bool) -> Tuple[Interval, Interval]:
    """The intervals of rows and columns of the input that the unit at `place` of `blob` sees."""
    axes = [_walk_axis(net, blob, place[axis], axis, clip) for axis in (0, 1)]
    return axes[0], axes[1]


def _walk_axis(net: VizNet, blob: str, position: int, axis: int, clip: bool) -> Interval:
    live: Dict[str, Interval] = {blob: (position, position)}
    layers = list(net.param.layer)
    last = max(i for i, layer in enumerate(layers) if blob in layer.top)
    for layer in reversed(layers[: last + 1]):
        seen = [live.pop(top) for top in list(layer.top) if top in live]
        if not seen:
            continue
        if not layer.bottom:
            for top in layer.top:
                if top == net.input:
                    live[top] = _union(seen)
            continue
        for index, bottom in enumerate(layer.bottom):
            below = _below(net, layer, _union(seen), axis, bottom, index)
            if below is None:
                continue
            if clip:
                below = _clip(below, _size(net, bottom, axis))
            live[bottom] = _union([below, live[bottom]]) if bottom in live else below
    if net.input not in live:
        raise VizError(f"blob '{blob}'", "no way down to the image", f"a blob computed from '{net.input}'")
    found = live[net.input]
    return _clip(found, net.input_shape[1 + axis]) if clip else found


def _below(net: VizNet, layer: Any, interval: Interval, axis: int, bottom: str, index: int) -> Optional[Interval]:
    """What of `bottom` the interval of the layer's top depends on; None if not at all."""
    low, high = interval
    kind = layer.type
    if kind in POINTWISE:
        return interval
    if kind in GLOBAL or (kind == "Pooling" and layer.pooling_param.global_pooling):
        return 0, _size(net, bottom, axis) - 1
    if kind == "LRN":
        param = layer.lrn_param
        if param.norm_region != LRNParameter.WITHIN_CHANNEL:
            return interval
        reach = (param.local_size - 1) // 2
        return low - reach, high + reach
    if kind == "Crop":
        if index:
            return None
        param = layer.crop_param
        offsets = list(param.offset)
        where = axis - (param.axis - 2)
        offset = offsets[min(max(where, 0), len(offsets) - 1)] if offsets and where >= 0 else 0
        return low + offset, high + offset
    if kind in WINDOWED:
        kernel, stride, pad, dilation = _window(layer, axis)
        if kind == "Deconvolution":
            return -((kernel - 1) * dilation - low - pad) // stride, (high + pad) // stride
        return low * stride - pad, high * stride - pad + dilation * (kernel - 1)
    raise VizError(
        f"layer '{layer.name}'",
        f"type {kind}",
        "a type whose receptive field is known",
        sorted(POINTWISE | GLOBAL | WINDOWED),
    )


def _window(layer: Any, axis: int) -> Tuple[int, int, int, int]:
    """kernel, stride, pad, dilation of a convolution or pooling layer along one axis (0 vertical, 1 horizontal)."""
    letter = "hw"[axis]
    param = layer.pooling_param if layer.type == "Pooling" else layer.convolution_param

    def value(word: str, default: int, field: str = "") -> int:
        if param.HasField(f"{word}_{letter}"):
            return int(getattr(param, f"{word}_{letter}"))
        found = getattr(param, field or word)
        if layer.type == "Pooling":
            return int(found)
        values = list(found)
        return int(values[min(axis, len(values) - 1)]) if values else default

    dilations = list(param.dilation) if layer.type != "Pooling" else []
    return (
        value("kernel", 1, "kernel_size"),
        value("stride", 1),
        value("pad", 0),
        dilations[min(axis, len(dilations) - 1)] if dilations else 1,
    )


def _sees_all(net: VizNet, blob: str) -> bool:
    """Whether a global layer lies on the way down, so that every unit of the blob sees everything."""
    live = {blob}
    layers = list(net.param.layer)
    last = max(i for i, layer in enumerate(layers) if blob in layer.top)
    for layer in reversed(layers[: last + 1]):
        if live.intersection(layer.top):
            if layer.type in GLOBAL or (layer.type == "Pooling" and layer.pooling_param.global_pooling):
                return True
            live.difference_update(layer.top)
            live.update(layer.bottom)
    return False


def _size(net: VizNet, blob: str, axis: int) -> int:
    shape = net.blob_shape(blob)
    return shape[1 + axis] if len(shape) == 3 else 1


def _union(intervals: List[Interval]) -> Interval:
    return min(low for low, _ in intervals), max(high for _, high in intervals)


def _clip(interval: Interval, size: int) -> Interval:
    return min(max(interval[0], 0), size - 1), max(min(interval[1], size - 1), 0)

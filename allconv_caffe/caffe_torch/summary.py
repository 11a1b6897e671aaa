"""What a network is made of, layer by layer: shapes, parameters, multiply-adds, receptive fields, multipliers.

A summary is a `Net` built on PyTorch's ``meta`` device, where tensors have a shape and no memory: the engine's own rules give the
shapes and refuse, in Caffe's words, what Caffe refuses. Data layers ask their source; where it is not there, an Input of the
size that the prototxt says stands in for them. Python layers are set up, as they are when a net runs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from allconv_caffe import augment, markdown
from allconv_caffe.caffe_torch import glog
from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.compute.rng import ShapesOnly
from allconv_caffe.caffe_torch.compute.window import c_int
from allconv_caffe.caffe_torch.errors import CaffeError
from allconv_caffe.caffe_torch.geometry import Fields, Shape, Span
from allconv_caffe.caffe_torch.layer import Context, Layer
from allconv_caffe.caffe_torch.layers.batch_norm import BatchNormLayer
from allconv_caffe.caffe_torch.layers.convolution import ConvolutionLayer
from allconv_caffe.caffe_torch.layers.recurrent import RecurrentLayer
from allconv_caffe.caffe_torch.net import Net
from allconv_caffe.caffe_torch.net_filter import filter_net
from allconv_caffe.caffe_torch.upgrade import upgrade_net
from allconv_caffe.errors import FoundError
from allconv_caffe.proto import TEST, TRAIN, NetParameter, ParamSpec, fork_fields, read_net

PHASES = {"TRAIN": TRAIN, "TEST": TEST}


class SummaryError(FoundError, ValueError):
    """A net that cannot be summarised: file, layer, what was found, what was expected; the same facts are fields."""

    sentence = "found {found!r}, expected {expected}"


Field = tuple[Span, Span]
"""Receptive field along height and width."""


@dataclass(frozen=True, kw_only=True)
class LayerRow:
    """One layer."""

    name: str
    type: str
    tops: tuple[str, ...]
    shapes: tuple[Shape, ...]  # of the tops, with the batch
    blobs: tuple[Shape, ...]  # of the layer's parameters, shared ones too
    parameters: int  # values in the layer's blobs; shared ones count at their owner
    multiply_adds: int  # for one image (of a recurrent layer: for one step), of weights with inputs, forward
    receptive_field: Field | None  # of the first top; None: it sees no image, or no field can be told
    multipliers: tuple[tuple[float, float], ...]  # (lr_mult, decay_mult) of each blob


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A net: its layers in order and the totals."""

    file: str
    name: str
    phase: str
    layers: tuple[LayerRow, ...]
    notes: tuple[str, ...] = ()  # what had to be supposed about the input; whose fork the net is of

    @property
    def parameters(self) -> int:
        """Values in all parameter blobs."""
        return sum(row.parameters for row in self.layers)

    @property
    def multiply_adds(self) -> int:
        """Forward multiply-adds for one image."""
        return sum(row.multiply_adds for row in self.layers)


# ---------------------------------------------------------------------------------------------------------------------
# The net


def summarize(
    path: str | Path,
    phase: str = "TEST",
    *,
    input_shape: Sequence[int] | None = None,
    level: int = 0,
    stages: Sequence[str] = (),
) -> Summary:
    """Read a net's prototxt and say what each of its layers is.

    Args:
        phase: ``TRAIN`` or ``TEST``: which include and exclude rules hold.
        input_shape: (C, H, W) or (N, C, H, W) of the first top of the data layers, instead of what the file says.
    Raises:
        CaffeError: a net that Caffe refuses, in its words. SummaryError: data of unknown size, options that are none.
        ProtoError: not a net's prototxt.
    """
    if phase not in PHASES:
        raise SummaryError("option phase", phase, "a phase", PHASES)
    if input_shape is not None and (len(input_shape) not in (3, 4) or min(input_shape) < 1):
        raise SummaryError("option input-shape", tuple(input_shape), "C,H,W or N,C,H,W, each at least 1")
    shape = None if input_shape is None else tuple(input_shape)
    return summarize_net(read_net(path), str(path), phase, shape, level, stages)


def summarize_net(
    param: NetParameter,
    where: str = "net",
    phase: str = "TEST",
    input_shape: Shape | None = None,
    level: int = 0,
    stages: Sequence[str] = (),
) -> Summary:
    """``summarize`` of a net already read, which is not changed."""
    if not (param.layer or param.layers):
        raise SummaryError(where, "no layer", "a net with layers")
    full = NetParameter()
    full.CopyFrom(param)
    full.state.phase, full.state.level = PHASES[phase], level
    full.state.stage.extend(stages)
    notes: list[str] = []
    with glog.quiet():
        upgrade_net(full, where)
        try:
            own = filter_net(full)
        except CaffeError as error:
            raise error.within(where) from None
        foreign = fork_fields.sentence(own)
        notes += [foreign] if foreign else []
        types = [layer.type for layer in own.layer]
        for layer in own.layer:
            _stand_in(layer, where, input_shape, notes)
        net = Net(own, Context(phase=PHASES[phase], device=torch.device("meta"), rng=ShapesOnly()), where=where)
    return Summary(file=where, name=net.name, phase=phase, layers=tuple(_rows(net, own, types)), notes=tuple(notes))


def _rows(net: Net, own: NetParameter, types: Sequence[str]) -> list[LayerRow]:
    """A row for each layer of `own`, of the type that its file says; the Splits that Caffe inserts are left out."""
    owned = {place for place, owner in zip(net.param_layer_indices, net.param_owners, strict=True) if owner < 0}
    fields = Fields(Span)
    rows = []
    built = iter(enumerate(net.layers))
    for written, type_ in zip(own.layer, types, strict=True):
        index, layer = next((i, one) for i, one in built if (one.name, one.param.type) == (written.name, written.type))
        bottoms, tops = net.bottom_vecs[index], net.top_vecs[index]
        names = (*written.top, *["(automatic)"] * (len(tops) - len(written.top)))
        fields.add(written, [blob.shape for blob in bottoms], [blob.shape for blob in tops])
        for name, blob in zip(names, tops, strict=True):
            if not bottoms and type_ != "Parameter" and blob.num_axes == 4:
                fields.image(name, blob.shape)
        field = fields.of.get(names[0]) if names else None
        images = bottoms[0].shape[0] if bottoms and bottoms[0].shape else 1
        specs = [*layer.param.param, *[ParamSpec()] * len(layer.blobs)][: len(layer.blobs)]
        rows.append(
            LayerRow(
                name=written.name,
                type=type_,
                tops=names,
                shapes=tuple(blob.shape for blob in tops),
                blobs=tuple(blob.shape for blob in layer.blobs),
                parameters=sum(blob.count for i, blob in enumerate(layer.blobs) if (index, i) in owned),
                multiply_adds=_multiply_adds(layer, bottoms, tops) // max(images, 1),
                receptive_field=field if isinstance(field, tuple) else None,
                multipliers=tuple((spec.lr_mult, spec.decay_mult) for spec in specs),
            )
        )
    return rows


def _multiply_adds(layer: Layer, bottoms: Sequence[Blob], tops: Sequence[Blob]) -> int:
    """Of weights with inputs, forward, for the whole batch: each place of a window's output, or input, meets all weights."""
    param = layer.param
    if param.type == "Deconvolution":
        return sum(layer.blobs[0].count * bottom.count // layer.blobs[0].shape[0] for bottom in bottoms)
    if isinstance(layer, ConvolutionLayer):
        return sum(layer.blobs[0].count * top.count // layer.num_output for top in tops)
    if param.type == "InnerProduct":
        return layer.blobs[0].count * tops[0].count // param.inner_product_param.num_output
    if isinstance(layer, RecurrentLayer):  # the static input is transformed once, everything else at every step
        steps, streams = bottoms[0].shape[:2]
        static = layer.blobs[2].count if layer.static else 0
        matrices = sum(blob.count for blob in layer.blobs if blob.num_axes == 2)
        return streams * (steps * (matrices - static) + static)
    scales = isinstance(layer, BatchNormLayer) and layer.scale_bias
    return tops[0].count if param.type in ("Scale", "Axpy", "Normalize", "BN") or scales else 0


# ---------------------------------------------------------------------------------------------------------------------
# Data that are not there


def _stand_in(layer: Any, where: str, wanted: Shape | None, notes: list[str]) -> None:
    """Makes a data layer an Input: where a shape is wanted (without batch: the layer's own), or its source is not there."""
    place = f"{where}: layer '{layer.name}'"
    count = max(1, len(layer.top))
    if layer.type == "Input":
        if wanted is None:
            return
        listed = [tuple(shape.dim) for shape in layer.input_param.shape] or [()]
        shapes = listed * count if len(listed) == 1 else listed
        shapes[0] = wanted if len(wanted) == 4 else (*(shapes[0][:1] or (1,)), *wanted)
    else:
        found = _source(layer)
        if found is None:
            return
        source, batch_size = found
        if wanted is None and layer.type != "WindowData" and os.path.exists(source):
            return
        if batch_size < 1:
            raise SummaryError(f"{place}: batch_size", batch_size, "at least 1")
        data = wanted or _supposed(layer, place, where, source, notes)
        data = data if len(data) == 4 else (batch_size, *data)
        shapes = [data, *[(data[0],)] * (count - 1)]
    layer.type = "Input"
    del layer.input_param.shape[:]
    for shape in shapes:
        layer.input_param.shape.add().dim.extend(shape)


def _source(layer: Any) -> tuple[str, int] | None:
    """Source and batch_size of a layer that reads images from somewhere; None of any other."""
    names = {"Data": "data_param", "ImageData": "image_data_param", "HDF5Data": "hdf5_data_param"}
    if layer.type in names or layer.type == "WindowData":
        param = getattr(layer, names.get(layer.type, "window_data_param"))
        return param.source, c_int(param.batch_size)
    if layer.type == "Python" and layer.python_param.layer == "AugmentedData":
        try:
            settings = augment.parse(layer.python_param.param_str, train=False)
        except augment.AugmentError:
            return None  # the layer itself says what is wrong
        return settings.source, settings.batch_size
    return None


def _supposed(layer: Any, place: str, where: str, source: str, notes: list[str]) -> Shape:
    """(C, H, W) of a layer's images, from what the prototxt says without their source."""
    crop = layer.transform_param.crop_size
    if layer.type == "Data" and crop:
        channels = len(layer.transform_param.mean_value)
        if channels <= 1:
            notes.append(f"layer '{layer.name}': 3 channels supposed; its LMDB is not there to be asked")
        return channels if channels > 1 else 3, crop, crop
    if layer.type == "ImageData":
        param = layer.image_data_param
        height, width = crop or param.new_height, crop or param.new_width
        if not height or not width:
            raise SummaryError(f"{place}: image_data_param", "no size", "new_height and new_width, or --input-shape")
        return 3 if param.is_color else 1, height, width
    if layer.type in ("HDF5Data", "WindowData"):
        there = "a source that is there, or --input-shape" if layer.type == "HDF5Data" else "--input-shape"
        raise SummaryError(f"{place}: source", source, there)
    beside = _deploy_shape(where)
    if beside is None:
        crop_size = "crop_size, " if layer.type == "Data" else ""
        ways = f"an LMDB that is there, {crop_size}a deploy.prototxt beside it, or --input-shape"
        raise SummaryError(f"{place}: source", source, ways)
    if layer.type == "Python":
        size = augment.parse(layer.python_param.param_str, train=False).size
        beside = (beside[0], size, size)
    text = "x".join(map(str, beside))
    notes.append(f"layer '{layer.name}': {text} as deploy.prototxt beside it says; its LMDB is not there to be asked")
    return beside


def _deploy_shape(where: str) -> Shape | None:
    """(C, H, W) of the input of the deploy.prototxt in the same folder, if there is such a file with one image input."""
    path = Path(where).with_name("deploy.prototxt")
    if not path.is_file():
        return None
    deploy = upgrade_net(read_net(path), str(path))
    shapes = [tuple(shape.dim) for layer in deploy.layer if layer.type == "Input" for shape in layer.input_param.shape]
    return shapes[0][1:] if shapes and len(shapes[0]) == 4 else None


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


def _number(value: int | Fraction) -> str:
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
    rows = [*[_cells(row) for row in summary.layers], _total(summary)]
    lines = [f"### {summary.name or summary.file} ({summary.phase})", "", *markdown.table(COLUMNS, rows, _RIGHT)]
    lines += [f"\nNote: {note}" for note in summary.notes]
    return "\n".join(lines) + "\n"


def brief(summary: Summary) -> str:
    """The totals in a line."""
    name = summary.name or summary.file
    return f"{name} ({summary.phase}): {summary.parameters:,} parameters, {summary.multiply_adds:,} multiply-adds"


def to_json(summary: Summary) -> str:
    """`facts` as a text."""
    return json.dumps(facts(summary), indent=2) + "\n"


def facts(summary: Summary) -> dict[str, Any]:
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
    return {
        "file": summary.file,
        "name": summary.name,
        "phase": summary.phase,
        "layers": layers,
        "parameters": summary.parameters,
        "multiply_adds": summary.multiply_adds,
        "notes": list(summary.notes),
    }


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

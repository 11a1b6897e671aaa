"""Which pixels a unit sees: boxes for any net, from `geometry`'s rule for each layer type.

Nominal boxes are those of `geometry.Span`: of one size for all units of a convolution, padding counted as pixels beyond the image.
Supports are those of `geometry.Support`: what of the image itself can reach the unit.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TypeVar

from allconv_caffe.caffe_torch.geometry import Fields, Interval, NoReach, Shape, Span, Support, known_types
from allconv_caffe.visualize.nets.base import VizNet
from allconv_caffe.visualize.nets.errors import VizError
from allconv_caffe.visualize.unit import Unit

View = TypeVar("View", Span, Support)


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

    def as_list(self) -> list[int]:
        """[top, left, bottom, right], for JSON."""
        return [self.top, self.left, self.bottom, self.right]


@dataclass(frozen=True)
class ReceptiveField:
    """Of every unit of one blob; pairs are (vertical, horizontal), in pixels of the input."""

    net: VizNet
    blob: str
    spans: tuple[Span, Span]

    @property
    def size(self) -> tuple[int, int]:
        """What a unit sees, padding included; above a deconvolution, where units differ, what the largest sees."""
        high, wide = ((seen[1] - seen[0] + 1 if span.flat else span.size) for span, seen in self._firsts)
        return high, wide

    @property
    def jump(self) -> tuple[float, float]:
        """From one unit to the next; 0 where every unit sees everything."""
        high, wide = (0 if span.whole or span.flat else _number(span.jump) for span in self.spans)
        return high, wide

    @property
    def start(self) -> tuple[int, int]:
        """First row and column of unit (0, 0), negative by the padding."""
        high, wide = (seen[0] for _, seen in self._firsts)
        return high, wide

    @property
    def whole(self) -> bool:
        """Whether every unit sees everything: global pooling, fully connected. Units of a flattened map have no place."""
        return all(span.whole or span.flat for span in self.spans)

    def box(self, unit: Unit) -> Box:
        """The nominal box: of the same size for every unit of a convolution, also where it reaches beyond the image."""
        self._check(unit)
        rows, columns = (_seen(span, place) for span, place in zip(self.spans, (unit.y, unit.x), strict=True))
        return _box(unit, rows, columns)

    def support(self, unit: Unit) -> Box:
        """The pixels that can reach the unit: clipped to the image, and to what the layers between really read."""
        self._check(unit)
        rows, columns = (axis.fields[place] for axis, place in zip(self._supports, (unit.y, unit.x), strict=True))
        return _box(unit, rows, columns)

    @cached_property
    def _supports(self) -> tuple[Support, Support]:
        return _of(_fields(self.net, Support), self.blob)

    @property
    def _firsts(self) -> list[tuple[Span, Interval]]:
        """Each axis with what its first unit sees, or the first that sees anything."""
        places = ((span, (_seen(span, place) for place in range(len(span.phases)))) for span in self.spans)
        return [(span, next((seen for seen in found if seen), (0, -1))) for span, found in places]

    def _check(self, unit: Unit) -> None:
        if unit.blob != self.blob:
            raise VizError(f"unit {unit}", f"blob '{unit.blob}'", f"'{self.blob}'")


def receptive_field(net: VizNet, blob: str) -> ReceptiveField:
    """Size, jump and start of the receptive fields of `blob`'s units.

    Raises: VizError: unknown blob; a layer on the way whose receptive field is not known; no way down to the image.
    """
    if blob not in net.blob_names:
        raise VizError("blob", repr(blob), "a blob of the net", net.blob_names)
    return ReceptiveField(net, blob, _of(_fields(net, Span), blob))


def table(net: VizNet) -> list[ReceptiveField]:
    """The receptive fields of every blob that depends on the image, in the net's order."""
    fields = _fields(net, Span)
    names = [blob for blob in net.blob_names if blob != net.input and blob in fields.of]
    return [ReceptiveField(net, blob, _of(fields, blob)) for blob in names]


def _fields(net: VizNet, kind: type[View]) -> Fields[View]:
    """The fields of all blobs of the net."""
    fields = Fields(kind)
    for layer in net.param.layer:
        fields.add(layer, _shapes(net, layer.bottom), _shapes(net, layer.top))
        if not layer.bottom and net.input in layer.top:
            fields.image(net.input, (1, *net.input_shape))
    return fields


def _shapes(net: VizNet, blobs: Iterable[str]) -> list[Shape]:
    return [(1, *net.blob_shape(blob)) for blob in blobs]


def _of(fields: Fields[View], blob: str) -> tuple[View, View]:
    field = fields.of.get(blob)
    if field is None:
        raise VizError(f"blob '{blob}'", "no way down to the image", "a blob computed from the image")
    if isinstance(field, NoReach):
        what = "a layer whose receptive field is known"
        raise VizError(f"layer '{field.layer}'", field.found, what, known_types())
    return field


def _seen(span: Span, place: int) -> Interval | None:
    return span.together(range(span.count)) if span.flat else span.seen(place)


def _box(unit: Unit, rows: Interval | None, columns: Interval | None) -> Box:
    if rows is None or columns is None:
        raise VizError(f"unit {unit}", "no pixel that it sees", "a unit that sees a part of the image")
    return Box(rows[0], columns[0], rows[1] + 1, columns[1] + 1)


def _number(value: Fraction) -> float:
    return value.numerator if value.denominator == 1 else float(value)

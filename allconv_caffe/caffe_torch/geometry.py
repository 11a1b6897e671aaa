"""Receptive fields: what each place of a blob sees of the image, along height and width.

A `Reach` says which places of a bottom a place of a top sees, along one axis; `reach` knows it for every layer type that has
one. `Fields` follows the reaches from the image up, as `Span`s or as `Support`s. Everything is exact, or a `NoReach` names what
stands in the way. How many places a window has, `compute.window` says.

By convention a BatchNorm sees one place, whatever the phase.

Source: base_conv_layer.cpp, conv_layer.cpp, deconv_layer.cpp, pooling_layer.cpp; the ``Reshape`` of the other layers.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass
from fractions import Fraction
from typing import Any, Generic, Protocol, TypeVar

from allconv_caffe.caffe_torch.compute.window import read_pooling, read_window
from allconv_caffe.proto import LRNParameter, fork_fields

Shape = tuple[int, ...]
"""Any Caffe shape, the batch first; () is a scalar."""

Interval = tuple[int, int]
"""Pixels from the first to the last, both included."""


# ---------------------------------------------------------------------------------------------------------------------
# What a place of a top sees of a bottom, along one axis


class NoReach(Exception):
    """A layer whose places see no certain places of its bottoms: its name, and what of it cannot be said."""

    def __init__(self, layer: str, found: str) -> None:
        self.layer, self.found = layer, found
        super().__init__(f"layer '{layer}': {found}")


class Reach(Protocol):
    """`places`: which of the bottom's places the top's place `place` sees; they may lie beyond the edges.

    `rate`: how many places of the bottom the view moves for each of the top; None where it does not move evenly.
    """

    @property
    def rate(self) -> Fraction | None: ...

    def places(self, place: int) -> range: ...


@dataclass(frozen=True)
class Slide:
    """Place y sees y stride - pad + dilation j for every j in [0, kernel). Slide() sees the same place."""

    kernel: int = 1
    stride: int = 1
    pad: int = 0
    dilation: int = 1

    @property
    def rate(self) -> Fraction:
        return Fraction(self.stride)

    def places(self, place: int) -> range:
        first = place * self.stride - self.pad
        return range(first, first + self.dilation * (self.kernel - 1) + 1, self.dilation)


@dataclass(frozen=True)
class Transposed:
    """A deconvolution's: place y sees x where y = x stride - pad + dilation j for a j in [0, kernel)."""

    kernel: int
    stride: int
    pad: int
    dilation: int

    @property
    def rate(self) -> Fraction:
        return Fraction(1, self.stride)

    def places(self, place: int) -> range:
        common = math.gcd(self.dilation, self.stride)
        start, every, turns = place + self.pad, self.dilation // common, self.stride // common
        if start % common:
            return range(0)
        first = start // common * pow(every, -1, turns) % turns  # the least j; all others lie whole turns from it
        if first >= self.kernel:
            return range(0)
        last = first + (self.kernel - 1 - first) // turns * turns
        low, high = ((start - self.dilation * j) // self.stride for j in (last, first))
        return range(low, high + 1, every)


@dataclass(frozen=True)
class Everything:
    """Each place sees all `size` places."""

    size: int

    @property
    def rate(self) -> Fraction:
        return Fraction(0)

    def places(self, place: int) -> range:
        return range(self.size)


@dataclass(frozen=True)
class Whole(Everything):
    """One place, which sees all `size` places: a window as long as they are."""


@dataclass(frozen=True)
class Flat(Everything):
    """The places stand in a row, along another axis, where they have no number here: any of them may be seen."""


@dataclass(frozen=True)
class Part:
    """Places `start` to start + size - 1 are the bottom's; the others are not."""

    start: int
    size: int
    rate = None

    def places(self, place: int) -> range:
        own = place - self.start
        return range(own, own + (0 <= own < self.size))


@dataclass(frozen=True)
class Repeated:
    """The bottom's `size` places, again and again."""

    size: int
    rate = None

    def places(self, place: int) -> range:
        return range(place % self.size, place % self.size + 1)


Reaches = tuple[Reach, Reach]
"""Along height and width."""

SAME: Reaches = (Slide(), Slide())


@dataclass(frozen=True, kw_only=True)
class _Look:
    """One top and one bottom of a layer. shape: the bottom's."""

    layer: Any
    top: int
    bottom: int
    bottoms: Sequence[Shape]
    tops: Sequence[Shape]

    @property
    def shape(self) -> Shape:
        return self.bottoms[self.bottom]

    def unknown(self, found: str) -> NoReach:
        return NoReach(self.layer.name, found)

    def axis(self, value: int) -> int:
        return value % len(self.shape) if self.shape else 0

    def each(self, rule: Callable[[int, int], Reach]) -> Reaches:
        """rule(axis of the bottom, its size) for height and width; the same place where the bottom has none."""
        if len(self.shape) != 4:
            return SAME
        return rule(2, self.shape[2]), rule(3, self.shape[3])

    def all(self, kind: type[Everything]) -> Reaches:
        height, width = sizes(self.shape)
        return kind(height), kind(width)

    def mixing(self, axis: int) -> Reaches:
        """Each place sees all places along `axis`, and its own along the others."""
        return self.each(lambda own, size: Everything(size) if own == axis else Slide())


def sizes(shape: Shape) -> tuple[int, int]:
    """Height and width: (N, C, H, W) has them; anything else is one place."""
    return (shape[2], shape[3]) if len(shape) == 4 else (1, 1)


_Rule = Callable[[_Look], "Reaches | None"]
_RULES: dict[str, _Rule] = {}


def _rule(*types: str) -> Callable[[_Rule], _Rule]:
    def add(rule: _Rule) -> _Rule:
        for type_ in types:
            if type_ in _RULES:
                raise ValueError(f"layer type {type_} has a reach already")
            _RULES[type_] = rule
        return rule

    return add


def reach(layer: Any, top: int, bottom: int, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> Reaches | None:
    """What the places of top number `top` of a layer see of its bottom number `bottom`; None: nothing of it.

    Args:
        layer: a LayerParameter that Caffe takes.
        bottoms, tops: the shapes of all of them.
    Raises: NoReach: a type without a reach, or one that has none with these parameters.
    """
    if layer.type not in _RULES:
        raise NoReach(layer.name, f"type {layer.type}")
    return _RULES[layer.type](_Look(layer=layer, top=top, bottom=bottom, bottoms=bottoms, tops=tops))


def known_types() -> list[str]:
    """The layer types that `reach` knows."""
    return sorted(_RULES)


_EACH_VALUE = (
    *("AbsVal", "BNLL", "BatchNorm", "BatchReindex", "Clip", "Dropout", "ELU", "Exp", "Log", "PReLU", "Power", "ReLU"),
    *("Sigmoid", "Silence", "Split", "Swish", "TanH", "Threshold", "ReLU6", "BN"),
)
_TAKE_A_ROW = {*_EACH_VALUE, "Concat", "Eltwise", "Flatten", "InnerProduct", "Reduction", "Reshape", "Slice"}
"""Types that do the same to a flattened map, or see all of it."""


@_rule(*_EACH_VALUE, "ShuffleChannel")
def _same(look: _Look) -> Reaches | None:
    return SAME if look.bottom == 0 else None


@_rule("Eltwise")
def _each_bottom(look: _Look) -> Reaches | None:
    return SAME


@_rule("Filter")
def _its_own_bottom(look: _Look) -> Reaches | None:
    return SAME if look.bottom == look.top else None


@_rule("Convolution", "Deconvolution", "Im2col", "DepthwiseConvolution", "ConvolutionDepthwise")
def _convolution(look: _Look) -> Reaches | None:
    if look.bottom != look.top:
        return None
    param = look.layer.convolution_param
    first = look.axis(param.axis) + 1
    window = read_window(param, len(look.shape) - first)
    kind = Transposed if look.layer.type == "Deconvolution" else Slide

    def one(axis: int, size: int) -> Reach:
        i = axis - first
        if i < 0:
            return Everything(size) if i == -1 else Slide()
        return kind(window.kernel[i], window.stride[i], window.pad[i], window.dilation[i])

    return look.each(one)


@_rule("Pooling")
def _pooling(look: _Look) -> Reaches | None:
    param = look.layer.pooling_param
    if param.global_pooling:
        return look.all(Whole)
    window = read_pooling(param, sizes(look.shape))
    return look.each(lambda axis, size: Slide(window.kernel[axis - 2], window.stride[axis - 2], window.pad[axis - 2]))


@_rule("LRN")
def _lrn(look: _Look) -> Reaches | None:
    param = look.layer.lrn_param
    if param.norm_region != LRNParameter.WITHIN_CHANNEL:
        return SAME
    return look.each(lambda axis, size: Slide(param.local_size, 1, (param.local_size - 1) // 2))


@_rule("Softmax")
def _softmax(look: _Look) -> Reaches | None:
    return look.mixing(look.axis(look.layer.softmax_param.axis))


@_rule("SoftmaxWithLoss", "InfogainLoss")
def _softmax_loss(look: _Look) -> Reaches | None:
    if look.top == 0:
        raise look.unknown(f"type {look.layer.type}")
    param = look.layer.infogain_loss_param if look.layer.type == "InfogainLoss" else look.layer.softmax_param
    return look.mixing(look.axis(param.axis)) if look.bottom == 0 else None


@_rule("MVN")
def _mvn(look: _Look) -> Reaches | None:
    return look.all(Everything)


@_rule("Normalize")
def _normalize(look: _Look) -> Reaches | None:
    return look.all(Everything) if fork_fields.field(look.layer, "norm_param").across_spatial else SAME


@_rule("Permute")
def _permute(look: _Look) -> Reaches | None:
    order = list(fork_fields.field(look.layer, "permute_param").order)
    order += [axis for axis in range(len(look.shape)) if axis not in order]
    if len(look.shape) == 4 and order[2:] != [2, 3]:
        raise look.unknown(f"a Permute with the order {', '.join(map(str, order))}, which moves height or width")
    return SAME


@_rule("Axpy")
def _axpy(look: _Look) -> Reaches | None:
    return SAME if look.bottom else look.all(Everything)


@_rule("PriorBox")
def _prior_box(look: _Look) -> Reaches | None:
    return None


@_rule("InnerProduct")
def _inner_product(look: _Look) -> Reaches | None:
    axis = look.axis(look.layer.inner_product_param.axis)
    if axis < 2:
        return look.all(Whole)
    if len(look.shape) != 4:
        raise look.unknown(f"an InnerProduct of {_text(look.shape)} from axis {axis} on")
    return look.each(lambda own, size: Everything(size) if own >= axis else Slide())


@_rule("Reduction")
def _reduction(look: _Look) -> Reaches | None:
    axis = look.axis(look.layer.reduction_param.axis)
    if axis > 2 or (axis == 2 and len(look.shape) != 4):
        raise look.unknown(f"a Reduction of {_text(look.shape)} from axis {axis} on")
    return look.all(Whole)


@_rule("ArgMax")
def _arg_max(look: _Look) -> Reaches | None:
    param = look.layer.argmax_param
    return look.mixing(look.axis(param.axis)) if param.HasField("axis") else look.all(Whole)


@_rule("Scale", "Bias")
def _broadcast(look: _Look) -> Reaches | None:
    if look.bottom == 0:
        return SAME
    operand, shape = look.shape, look.bottoms[0]
    if len(operand) == len(shape) or len(shape) != 4:
        return SAME
    param = look.layer.scale_param if look.layer.type == "Scale" else look.layer.bias_param
    start = param.axis % len(shape)
    if operand and start + len(operand) > 2:
        raise look.unknown(f"a {look.layer.type} by a blob with {len(operand)} axes, from axis {start} on")
    return look.all(Everything)


@_rule("Concat")
def _concat(look: _Look) -> Reaches | None:
    param = look.layer.concat_param
    axis = look.axis(param.concat_dim if param.HasField("concat_dim") else param.axis)
    start = sum(shape[axis] for shape in look.bottoms[: look.bottom])
    return look.each(lambda own, size: Part(start, size) if own == axis else Slide())


@_rule("Slice")
def _slice(look: _Look) -> Reaches | None:
    param = look.layer.slice_param
    axis = look.axis(param.slice_dim if param.HasField("slice_dim") else param.axis)
    start = sum(shape[axis] for shape in look.tops[: look.top])
    return look.each(lambda own, size: Slide(pad=-start) if own == axis else Slide())


@_rule("Crop")
def _crop(look: _Look) -> Reaches | None:
    if look.bottom:
        return None
    axis, offsets = look.axis(look.layer.crop_param.axis), list(look.layer.crop_param.offset) or [0]

    def shifted(own: int, size: int) -> Reach:
        return Slide(pad=-offsets[own - axis if len(offsets) > 1 else 0]) if own >= axis else Slide()

    return look.each(shifted)


@_rule("Tile")
def _tile(look: _Look) -> Reaches | None:
    axis = look.axis(look.layer.tile_param.axis)
    return look.each(lambda own, size: Repeated(size) if own == axis else Slide())


@_rule("Flatten", "Reshape")
def _reshape(look: _Look) -> Reaches | None:
    top = look.tops[look.top]
    if sizes(top) == sizes(look.shape):
        return SAME
    if len(top) != 4:
        return look.all(Flat)
    if sizes(look.shape) == (1, 1):
        return look.all(Everything)
    raise look.unknown(f"a {look.layer.type} from {_text(look.shape)} to {_text(top)}")


KEEPING_PYTHON_LAYERS = ("GuidedReLU", "DeconvReLU")
"""Classes of ``allconv_caffe.python_layers``: the only Python layers of which is known what they see."""


@_rule("Python")
def _python(look: _Look) -> Reaches | None:
    param = look.layer.python_param
    if param.layer not in KEEPING_PYTHON_LAYERS:
        raise look.unknown(f"Python layer {param.module}.{param.layer}")
    return SAME


def _text(shape: Shape) -> str:
    return "x".join(map(str, shape))


# ---------------------------------------------------------------------------------------------------------------------
# Receptive fields

MOST_PHASES = 1024
"""After a deconvolution of stride s neighbouring places see fields of up to s kinds; with more kinds than this there is no Span."""


@dataclass(frozen=True)
class Span:
    """What all places of a blob see of the image along one axis, in pixels; padding counts as pixels beyond the edges.

    Attributes:
        phases: what places 0, 1, ... see, until it repeats; None: nothing.
        step: how many pixels on it repeats.
        count: places along the axis.
        whole: every place sees everything, wherever it is.
        flat: the places stand in a row along another axis (a flattened map).
    """

    phases: tuple[Interval | None, ...]
    step: int | Fraction
    count: int
    _: KW_ONLY
    whole: bool = False
    flat: bool = False

    @property
    def size(self) -> int:
        """Of the largest field."""
        return max((seen[1] - seen[0] + 1 for seen in self.phases if seen), default=0)

    @property
    def jump(self) -> Fraction:
        """From one place's field to the next one's."""
        return Fraction(self.step) / len(self.phases)

    @property
    def left(self) -> int:
        """First pixel of the first field; negative: it begins in the padding."""
        return next((seen[0] for seen in self.phases if seen), 0)

    def seen(self, place: int) -> Interval | None:
        """What a place sees; any integer: the rule goes on beyond the edges."""
        turns, phase = divmod(place, len(self.phases))
        seen = self.phases[phase]
        shift = 0 if self.whole else turns * int(self.step)
        return seen and (seen[0] + shift, seen[1] + shift)

    def together(self, places: range) -> Interval | None:
        """What all these places see together: those at either end see the farthest."""
        n = len(self.phases)
        return _hull(map(self.seen, places if len(places) <= 2 * n else (*places[:n], *places[-n:])))

    @classmethod
    def image(cls, size: int) -> Span:
        """Each pixel sees itself."""
        return cls(((0, 0),), 1, size)

    def through(self, reach: Reach, count: int) -> Span | None:
        """The span of a top with `count` places that sees this blob through `reach`; None: there is none."""
        if isinstance(reach, Flat):
            return dataclasses.replace(self, flat=self.flat or self.count > 1)
        if isinstance(reach, Whole):
            return Span((self.together(range(self.count)),), self.jump * self.count, 1, whole=True)
        if self.flat:
            return self if reach == Slide() else None
        if reach.rate is None:
            return None
        n = len(self.phases)  # after so many phases as follow, the view has moved on by whole turns of these
        phases = n * reach.rate.denominator // math.gcd(reach.rate.numerator, n * reach.rate.denominator)
        if phases > MOST_PHASES:
            return None
        seen = tuple(self.together(reach.places(place)) for place in range(phases))
        whole = self.whole or isinstance(reach, Everything)
        return Span(seen, phases * reach.rate * self.jump, count, whole=whole)

    @staticmethod
    def united(spans: Sequence[Span]) -> Span | None:
        """Of places that see what all of `spans` see; None where these move at different paces."""
        first, flat = spans[0], any(span.flat for span in spans)
        if len({span.jump for span in spans}) == 1:
            n = math.lcm(*(len(span.phases) for span in spans))
            if n > MOST_PHASES:
                return None
            phases = tuple(_hull(span.seen(place) for span in spans) for place in range(n))
            return Span(phases, first.jump * n, first.count, whole=any(span.whole for span in spans), flat=flat)
        if any(span.whole for span in spans):  # each place sees everything through one of them
            return Span(
                (_hull(span.together(range(span.count)) for span in spans),), 0, first.count, whole=True, flat=flat
            )
        return None


@dataclass(frozen=True)
class Support:
    """What each place of a blob sees of the image itself along one axis: what lies in padding is not there.

    Attributes:
        fields: of places 0, 1, ...; None: nothing.
    """

    fields: tuple[Interval | None, ...]
    flat = False

    @classmethod
    def image(cls, size: int) -> Support:
        return cls(tuple((pixel, pixel) for pixel in range(size)))

    def through(self, reach: Reach, count: int) -> Support:
        n = len(self.fields)
        runs = (reach.places(place) for place in range(count))
        return Support(tuple(_hull(self.fields[x] for x in run if 0 <= x < n) for run in runs))

    @staticmethod
    def united(supports: Sequence[Support]) -> Support:
        return Support(tuple(_hull(fields) for fields in zip(*(one.fields for one in supports), strict=True)))


def _hull(intervals: Iterable[Interval | None]) -> Interval | None:
    """From the lowest to the highest pixel of all."""
    found = [interval for interval in intervals if interval is not None]
    return (min(low for low, _ in found), max(high for _, high in found)) if found else None


View = TypeVar("View", Span, Support)


class Fields(Generic[View]):
    """The receptive fields of a net's blobs along height and width, layer by layer from the image on.

    Args:
        kind: Span, one rule for all places; or Support, place by place, the edges counted.
    Attributes:
        of: by blob: the field, or the NoReach that stands in its way. A blob that sees no image is not there.
    """

    def __init__(self, kind: type[View]) -> None:
        self.kind: Any = kind
        self.of: dict[str, tuple[View, View] | NoReach] = {}

    def image(self, blob: str, shape: Shape) -> None:
        """`blob` is an image, (N, C, H, W)."""
        height, width = sizes(shape)
        self.of[blob] = self.kind.image(height), self.kind.image(width)

    def add(self, layer: Any, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> None:
        """The next layer, with the shapes of all its bottoms and tops."""
        found = [self._top(layer, top, bottoms, tops) for top in range(len(layer.top))]
        for name, field in zip(layer.top, found, strict=True):
            self.of.pop(name, None)
            if field is not None:
                self.of[name] = field

    def _top(
        self, layer: Any, top: int, bottoms: Sequence[Shape], tops: Sequence[Shape]
    ) -> tuple[View, View] | NoReach | None:
        views: list[tuple[View, View]] = []
        try:
            for bottom, name in enumerate(layer.bottom):
                below = self.of.get(name)
                reaches = None if below is None else reach(layer, top, bottom, bottoms, tops)
                if below is None or reaches is None:
                    continue
                if isinstance(below, NoReach):
                    return below
                if any(view.flat for view in below) and layer.type not in _TAKE_A_ROW:
                    raise NoReach(layer.name, f"type {layer.type} over a flattened map")
                axes = zip(below, reaches, sizes(tops[top]), strict=True)
                height, width = (view.through(reach_, count) for view, reach_, count in axes)
                if height is None or width is None:
                    raise NoReach(layer.name, f"type {layer.type}, whose places see fields that do not move evenly")
                views.append((height, width))
            if not views:
                return None
            height, width = (self.kind.united(parts) for parts in zip(*views, strict=True))
            if height is None or width is None:
                raise NoReach(layer.name, f"type {layer.type}, which joins fields that move at different paces")
            return height, width
        except NoReach as error:
            return error

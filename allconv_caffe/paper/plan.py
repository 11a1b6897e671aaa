"""What an architecture resolves to under options: Caffe's layers with names, paddings, dropout, shapes and counts.

Source: net.cpp, conv_layer.cpp and pooling_layer.cpp for the shapes; section 3.2.1 and its footnote 4 for dropout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from allconv_caffe.paper.architectures import (
    CLASSES,
    Architecture,
    Conv,
    FullyConnected,
    GlobalPool,
    NormPool,
    Pool,
    Row,
    Weighted,
    describe,
    row_place,
)
from allconv_caffe.paper.errors import TableError
from allconv_caffe.paper.options import NetOptions
from allconv_caffe.paper.rules import Whole, check_fields, rules

GAUSSIAN_STD = 0.05
"""Of the gaussian filler where neither the table nor an option says it."""

TINY = 1e-37
"""Nearly the least number that float32 holds with all its digits: what is added where a power's gradient would be 0/0."""

Shape = tuple[int, int, int]
"""(C, H, W) of one blob, without the batch."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One Caffe layer, resolved."""

    name: str
    type: str  # Caffe's
    bottom: str  # the blob below
    top: str  # the blob that it makes; bottom again where it works in place
    shape: Shape  # of the top
    parameters: int = 0  # weights and biases
    num_output: int = 0  # of a Convolution: channels; of an InnerProduct: units
    group: int = 1  # of a Convolution
    fixed_weight: float = 0.0  # of a Convolution whose weights all have this value and never change; 0: learned ones
    pad: int = 0  # pixels
    kernel_size: int = 0  # pixels
    stride: int = 1  # pixels
    pool: str = ""  # of Pooling: MAX or AVE
    global_pooling: bool = False  # over the whole map
    negative_slope: float = 0.0  # of a ReLU
    dropout_ratio: float = 0.0  # of Dropout
    filler: str = ""  # of learned weights, as Caffe names it
    filler_std: float = 0.0  # of gaussian
    filler_bound: float = 0.0  # of uniform: from minus this to this
    second_bottom: str = ""  # of Scale: the factors
    train_only: bool = False  # stands in the TRAIN phase alone, and in no deploy net
    power: float = 1.0  # of Power
    shift: float = 0.0  # of Power


def build(base: Architecture, options: NetOptions | None = None, input_size: int | None = None) -> tuple[Layer, ...]:
    """Resolve names, paddings, dropout and shapes of a network.

    Args:
        input_size: height and width of the input in pixels, if other than the table's.
    Returns:
        The layers from the first above ``data`` to the one whose top are the class scores; the convolutions are
        conv1..convN.
    Raises:
        TableError: an entry of the table cannot be built; it names the row.
    """
    options = options or NetOptions()
    check_table(base)
    channels, height, width = base.input_shape
    if input_size is not None:
        height = width = input_size
    stack = _Stack(base, options, (channels, height, width))
    on_input, after = _ratios(base, options)
    stack.dropout(on_input)
    for index, row in enumerate(base.layers):
        if isinstance(row, Conv):
            stack.conv(row, index)
        elif isinstance(row, Pool):
            stack.pool(row, index)
        elif isinstance(row, NormPool):
            stack.norm_pool(row, index)
        elif isinstance(row, FullyConnected):
            stack.fully_connected(row, index)
        else:
            stack.global_pool()
        stack.dropout(after[index])
    return tuple(stack.layers)


class _Stack:
    """Layers laid one on another: what lies there, the name and shape of the blob on top, how many of each kind."""

    def __init__(self, base: Architecture, options: NetOptions, shape: Shape) -> None:
        self.base, self.options = base, options
        self.layers: list[Layer] = []
        self.top, self.shape = "data", shape
        self._weighted = self._pools = self._drops = 0
        self._last_weighted = max(index for index, row in enumerate(base.layers) if isinstance(row, Weighted))
        self._negative = True  # whether what lies on top may be below 0

    def _lay(self, name: str, type: str, **fields: Any) -> None:
        """A layer with a top of its own name."""
        self.layers.append(Layer(name=name, type=type, bottom=self.top, top=name, shape=self.shape, **fields))
        self.top = name

    def _lay_in_place(self, name: str, type: str, **fields: Any) -> None:
        self.layers.append(Layer(name=name, type=type, bottom=self.top, top=self.top, shape=self.shape, **fields))

    def conv(self, row: Conv, index: int) -> None:
        """A convolution, and its ReLU if it has one."""
        self._weighted += 1
        channels, height, width = self.shape
        num_output = self._num_output(row)
        window = {"kernel_size": row.kernel_size, "stride": row.stride, "pad": _pad(row, self.options)}
        place = row_place(self.base, index)
        height, width = (_map_size(place, size, **window, ceil=False) for size in (height, width))
        self.shape = (num_output, height, width)
        fan_in = channels * row.kernel_size**2
        filler = self._filler(row, index, fan_in)
        count = num_output * (fan_in + 1)
        name = f"conv{self._weighted}"
        self._lay(name, "Convolution", num_output=num_output, parameters=count, **window, **filler)
        self._relu(row, index)

    def fully_connected(self, row: FullyConnected, index: int) -> None:
        """An inner product with all that lies below, and its ReLU if it has one; numbered on from the convolutions."""
        self._weighted += 1
        num_output = self._num_output(row)
        fan_in = math.prod(self.shape)
        self.shape = (num_output, 1, 1)
        filler = self._filler(row, index, fan_in)
        count = num_output * (fan_in + 1)
        self._lay(f"fc{self._weighted}", "InnerProduct", num_output=num_output, parameters=count, **filler)
        self._relu(row, index)

    def _num_output(self, row: Weighted) -> int:
        return (self.options.num_output or self.base.classes) if row.num_output == CLASSES else int(row.num_output)

    def _filler(self, row: Weighted, index: int, fan_in: int) -> dict[str, Any]:
        """The weight filler's fields of a layer.

        "graham" is uniform between -s and s, s^2 = 6 / (fan_in + fan_out a), a = (kernel / stride / following pool's
        stride)^2, and 10,000 for the class layer. Source: NetworkInNetworkLayer of B. Graham's programs.
        """
        kind = self.options.filler or self.base.filler
        if kind == "gaussian":
            own = row.std if isinstance(row, Conv) else None
            return {"filler": kind, "filler_std": self.options.filler_std or own or GAUSSIAN_STD}
        if kind != "graham":
            return {"filler": kind}
        above = self.base.layers[index + 1] if index + 1 < len(self.base.layers) else None
        shrink = above.stride if isinstance(above, Pool | NormPool) else 1
        scale = (row.kernel_size / row.stride / shrink) ** 2 if isinstance(row, Conv) else 1.0
        if index == self._last_weighted:
            scale = 10_000.0
        return {"filler": "uniform", "filler_bound": math.sqrt(6 / (fan_in + self._num_output(row) * scale))}

    def _relu(self, row: Weighted, index: int) -> None:
        relu_last, slope = self.options.relu_last, self.options.negative_slope
        if slope is None:
            slope = self.base.negative_slope
        relu = row.relu if index != self._last_weighted or relu_last is None else relu_last
        self._negative = not relu or slope > 0
        if relu:
            self._lay_in_place(f"relu{self._weighted}", "ReLU", negative_slope=slope)

    def pool(self, row: Pool, index: int) -> None:
        """A pooling layer."""
        self._pools += 1
        channels, height, width = self.shape
        window = {"kernel_size": row.kernel_size, "stride": row.stride, "pad": row.pad}
        place = row_place(self.base, index)
        height, width = (_map_size(place, size, **window, ceil=True) for size in (height, width))
        self.shape = (channels, height, width)
        self._lay(f"pool{self._pools}", "Pooling", pool=row.method, **window)

    def norm_pool(self, row: NormPool, index: int) -> None:
        """(Sum over each window of |x|^p)^(1/p), from layers of stock Caffe; the last is poolN.

        The sum is a convolution of each channel by itself with weights that are all 1 (1 / kernel_size^2 for the mean),
        so that what lies beyond the border counts as 0, exactly; AVE pooling would divide by what is left of a window.
        Power's backward is power * top / (shift + bottom), 0/0 at 0 without a shift (power_layer.cpp): 1e-37, the least
        that float32 holds with all digits, leaves every other sum as it is and makes the gradient of a window of zeros 0.
        Its value is 1e-37^(1/p): 3e-19 at p = 2, 5e-13 at p = 3.
        """
        self._pools += 1
        name = f"pool{self._pools}"
        channels, height, width = self.shape
        pad = (row.kernel_size - 1) // 2 if row.pad == "same" else int(row.pad)
        window = {"kernel_size": row.kernel_size, "stride": row.stride, "pad": pad}
        if self._negative and row.p != 2:
            self._lay(f"{name}_abs", "AbsVal")
        if row.p != 1:
            self._lay(f"{name}_power", "Power", power=row.p, shift=0.0 if row.p == 2 else TINY)
        place = row_place(self.base, index)
        height, width = (_map_size(place, size, **window, ceil=False) for size in (height, width))
        self.shape = (channels, height, width)
        area = row.kernel_size**2
        self._lay(
            f"{name}_sum" if row.p != 1 else name,
            "Convolution",
            num_output=channels,
            group=channels,
            fixed_weight=1 / area if row.mean else 1.0,
            parameters=channels * area,
            **window,
        )
        if row.p != 1:
            self._lay(name, "Power", power=1 / row.p, shift=TINY)
        self._negative = False

    def global_pool(self) -> None:
        """The average over the map."""
        self.shape = (self.shape[0], 1, 1)
        self._lay("global_pool", "Pooling", pool="AVE", global_pooling=True)

    def dropout(self, ratio: float) -> None:
        """Dropout on what lies on top: drop0 on the image, then drop1 and so on; none where the ratio is 0.

        Batchwise: ones for each channel, dropout of them, and the blob times that; as in Caffe's Dropout what stays is
        scaled up in training, where Graham scales down in testing, and so TEST needs none of the three.
        """
        if not ratio:
            return
        on_image = not self.layers
        self._drops += not on_image
        name = f"drop{self._drops}"
        if on_image or not self.options.batchwise_dropout:
            self._lay_in_place(name, "Dropout", dropout_ratio=ratio)
            return
        ones, mask = f"{name}_ones", f"{name}_mask"
        shape = (self.shape[0], 1, 1)
        self.layers += [
            Layer(name=ones, type="DummyData", bottom="", top=ones, shape=shape, train_only=True),
            Layer(name=mask, type="Dropout", bottom=ones, top=mask, shape=shape, dropout_ratio=ratio, train_only=True),
        ]
        self._lay_in_place(name, "Scale", second_bottom=mask, train_only=True)


def check_table(base: Architecture) -> None:
    """Raise a ``TableError`` that names the first entry of the table that no network can be built from."""
    for entry in ("name", "source"):
        rules(Architecture)[entry].check(f"{base.name!r}: {entry}", getattr(base, entry))
    check_fields(base, f"{base.name}: ")
    if not isinstance(base.layers, tuple):
        raise TableError(f"{base.name}: layers", base.layers, "a tuple of layers")
    weighted = [row for row in base.layers if isinstance(row, Weighted)]
    if not weighted:
        raise TableError(f"{base.name}: layers", len(base.layers), "at least one convolution or fully connected layer")
    for index, row in enumerate(base.layers):
        _check_row(row, f"{base.name}: layer {index + 1}", base.layers[index + 1 :])
    if weighted[-1].num_output != CLASSES:
        kind = "convolution" if isinstance(weighted[-1], Conv) else "fully connected layer"
        raise TableError(f"{base.name}: last {kind}: num_output", weighted[-1].num_output, "'classes'")


LAYERS = ("conv", "max_pool", "average_pool", "norm_pool", "global_pool", "fc")
"""The constructors of rows."""


def _check_row(row: Row, place: str, above: tuple[Row, ...]) -> None:
    if not isinstance(row, Row):
        raise TableError(place, row, "a layer", LAYERS)
    if isinstance(row, GlobalPool | FullyConnected) and not all(isinstance(other, FullyConnected) for other in above):
        raise TableError(place, describe(row), "nothing but fully connected layers above it")
    check_fields(row, f"{place}: ")
    if isinstance(row, NormPool) and row.pad != "same" and row.pad >= row.kernel_size:
        raise TableError(f"{place}: pad", row.pad, "fewer pixels than kernel_size, or 'same'")
    if isinstance(row, Pool) and (Whole(0).fault(row.pad) or row.pad >= row.kernel_size):
        raise TableError(f"{place}: pad", row.pad, "a whole number of at least 0, smaller than kernel_size")


def _pad(row: Conv, options: NetOptions) -> int:
    if row.pad == "same":
        return (row.kernel_size - 1) // 2
    return options.conv7_pad if row.pad == "conv7" else int(row.pad)


def _map_size(place: str, size: int, kernel_size: int, stride: int, pad: int, ceil: bool) -> int:
    """Caffe's output size: convolution rounds down, pooling up (and drops a window that starts in the padding)."""
    if size + 2 * pad < kernel_size:
        raise TableError(place, f"a map of {size} pixels with padding {pad}", f"at least {kernel_size} pixels")
    span = size + 2 * pad - kernel_size
    out = (-(-span // stride) if ceil else span // stride) + 1
    if ceil and pad and (out - 1) * stride >= size + pad:
        out -= 1
    return out


def _ratios(base: Architecture, options: NetOptions) -> tuple[float, list[float]]:
    """Dropout rate on the input and after each row; 0 where there is none.

    Source: section 3.2.1, footnote 4; the rates of Tables 5 and 6 stand in their rows.
    """
    after = [0.0] * len(base.layers)
    if options.dropout == "none":
        return 0.0, after
    on_input = base.input_dropout if options.input_dropout is None else options.input_dropout
    rate = options.dropout_ratio if options.dropout_ratio is not None else base.pool_dropout
    extra = rate or 0.5
    classes = max(index for index, row in enumerate(base.layers) if isinstance(row, Weighted))
    ones = [i for i, row in enumerate(base.layers[:classes]) if isinstance(row, Conv) and row.kernel_size == 1]
    for index, row in enumerate(base.layers):
        if isinstance(row, Pool | NormPool) or (isinstance(row, Conv) and row.replaces_pool):
            after[index] = rate
        if isinstance(row, Conv) and row.dropout:
            after[index] = row.dropout if options.dropout_ratio is None else options.dropout_ratio
        if options.dropout == "all" and isinstance(row, Weighted) and index < classes and not after[index]:
            followed = index + 1 < len(base.layers) and isinstance(base.layers[index + 1], Pool | NormPool)
            after[index] = 0.0 if followed else extra
        if options.dropout == "1x1" and ones and index == ones[-1]:
            after[index] = after[index] or extra
        if isinstance(row, FullyConnected) and row.dropout_below:
            below = row.dropout_below if options.dropout_ratio is None else options.dropout_ratio
            if index:
                after[index - 1] = after[index - 1] or below
            else:
                on_input = on_input or below
    return on_input, after


def parameters(base: Architecture, options: NetOptions | None = None) -> int:
    """Number of weights and biases."""
    return sum(layer.parameters for layer in build(base, options))


def map_sizes(base: Architecture, options: NetOptions | None = None) -> list[int]:
    """Height in pixels of the top of each convolution and pool, in order, without the global average."""
    return [
        layer.shape[1]
        for layer in build(base, options)
        if layer.type in ("Convolution", "Pooling") and not layer.global_pooling
    ]

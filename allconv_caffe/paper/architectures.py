"""The paper's networks as tables, and the three transformations that make twelve networks of three.

``strided``, ``conv_pool`` and ``all_conv`` are pure functions from one ``Architecture`` to another; they use the
pool's own kernel and stride and work for any base. ``build`` resolves an architecture, under ``NetOptions``, into the
list of Caffe layers that the templates print. What the paper leaves open stands in ``ASSUMPTIONS``, each with its
reason, and nowhere else.

Source: Tables 1, 2, 5 and 6; section 3.1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

CLASSES: Literal["classes"] = "classes"
"""``num_output`` of the layer that has one channel per class: 10 or 100 in Tables 1 and 2."""

Shape = tuple[int, int, int]
"""(C, H, W) of one blob, without the batch."""


class TableError(ValueError):
    """A table, a layer of a table or an option is wrong.

    The text says where, what was found, what was expected and the choices; the same facts are fields.
    """

    def __init__(self, where: str, found: Any, expected: str, choices: Iterable[Any] = ()) -> None:
        self.where, self.found, self.expected = where, found, expected
        self.choices = tuple(choices)
        known = f" (choices: {', '.join(str(choice) for choice in self.choices)})" if self.choices else ""
        super().__init__(f"{where}: found {found!r}, expected {expected}{known}")


# ---------------------------------------------------------------------------------------------------------------------
# What a table is made of


@dataclass(frozen=True)
class Conv:
    """One row "k x k conv. n ReLU" of a table.

    num_output: channels, or ``CLASSES``. pad: pixels, ``"same"`` ((kernel_size - 1) // 2), or ``"conv7"``
    (``NetOptions.conv7_pad``). dropout: rate printed in the table for this row. replaces_pool: section 3.1 puts
    dropout after this layer.
    """

    num_output: int | Literal["classes"]
    kernel_size: int
    stride: int = 1
    pad: int | Literal["same", "conv7"] = "same"
    relu: bool = True
    dropout: float = 0.0
    replaces_pool: bool = False


@dataclass(frozen=True)
class Pool:
    """One row "k x k max-pooling stride s" of a table. Caffe rounds its map size up."""

    kernel_size: int
    stride: int
    pad: int = 0
    method: Literal["MAX", "AVE"] = "MAX"


@dataclass(frozen=True)
class GlobalPool:
    """The row "global averaging over ... spatial dimensions"."""


Row = Conv | Pool | GlobalPool


def conv(num_output: int | Literal["classes"], kernel_size: int, **entries: Any) -> Conv:
    """One convolution with its ReLU."""
    return Conv(num_output, kernel_size, **entries)


def max_pool(kernel_size: int, stride: int, pad: int = 0) -> Pool:
    """One max-pooling layer."""
    return Pool(kernel_size, stride, pad)


def average_pool(kernel_size: int, stride: int, pad: int = 0) -> Pool:
    """One average-pooling layer (no table of the paper has one; a user's own base may)."""
    return Pool(kernel_size, stride, pad, "AVE")


def global_pool() -> GlobalPool:
    """The average over all positions that remain."""
    return GlobalPool()


@dataclass(frozen=True)
class Architecture:
    """A network as its table prints it, one row per layer, nothing derived.

    input_shape: (C, H, W) in pixels. classes: the default for ``CLASSES``. negative_slope: of every ReLU (0: plain).
    input_dropout, pool_dropout: rates of section 3.1, on the input and after each pool or the layer replacing it.
    filler: default weight filler, assumed. family: which of the ``ASSUMPTIONS`` concern this table.
    """

    name: str
    source: str
    layers: tuple[Row, ...]
    input_shape: Shape = (3, 32, 32)
    classes: int = 10
    negative_slope: float = 0.0
    input_dropout: float = 0.0
    pool_dropout: float = 0.0
    filler: str = "xavier"
    family: str = "own"
    steps: tuple[str, ...] = field(default=())
    """The transformations applied so far, in order."""


# ---------------------------------------------------------------------------------------------------------------------
# Table 1

_TABLE_1_TOP: tuple[Row, ...] = (
    conv(192, kernel_size=3, pad="conv7"),
    conv(192, kernel_size=1),
    conv(CLASSES, kernel_size=1),
    global_pool(),
)


def _table_1(column: str, *rows: Row) -> Architecture:
    return Architecture(
        f"Model {column}",
        source=f"Table 1, column {column}",
        layers=rows + _TABLE_1_TOP,
        input_dropout=0.2,  # section 3.2.1: "20% for dropping out inputs and 50% otherwise"
        pool_dropout=0.5,
        family="cifar",
    )


MODEL_A = _table_1(
    "A",
    conv(96, kernel_size=5),
    max_pool(kernel_size=3, stride=2),
    conv(192, kernel_size=5),
    max_pool(kernel_size=3, stride=2),
)

MODEL_B = _table_1(
    "B",
    conv(96, kernel_size=5),
    conv(96, kernel_size=1),
    max_pool(kernel_size=3, stride=2),
    conv(192, kernel_size=5),
    conv(192, kernel_size=1),
    max_pool(kernel_size=3, stride=2),
)

MODEL_C = _table_1(
    "C",
    conv(96, kernel_size=3),
    conv(96, kernel_size=3),
    max_pool(kernel_size=3, stride=2),
    conv(192, kernel_size=3),
    conv(192, kernel_size=3),
    max_pool(kernel_size=3, stride=2),
)


# ---------------------------------------------------------------------------------------------------------------------
# Table 2: the transformations


def _derived(base: Architecture, word: str, step: str, layers: Sequence[Row]) -> Architecture:
    """The base with other layers, named as in Table 2 ("Model C" -> "Strided-CNN-C")."""
    if not any(isinstance(row, Pool) for row in base.layers):
        raise TableError(f"{base.name}: transform {step}", "no pool", "at least one pool to replace")
    stem = base.name.removeprefix("Model ")
    source = base.source
    if base.family == "cifar" and not base.steps:
        source = f"Table 2, {word}-{stem}" if stem == "C" else f"{base.source}; built like Table 2"
    return replace(base, name=f"{word}-{stem}", source=source, layers=tuple(layers), steps=(*base.steps, step))


def _where(base: Architecture, index: int) -> str:
    return f"{base.name}: layer {index + 1} ({describe(base.layers[index])})"


def describe(row: Row) -> str:
    """The row in the paper's words, e.g. ``3x3 conv. 96``."""
    if isinstance(row, GlobalPool):
        return "global averaging"
    size = f"{row.kernel_size}x{row.kernel_size}"
    if isinstance(row, Pool):
        return f"{size} {'max' if row.method == 'MAX' else 'average'}-pooling stride {row.stride}"
    return f"{size} conv. {row.num_output}" + (f" stride {row.stride}" if row.stride != 1 else "")


def _channels_before(base: Architecture, index: int) -> int | Literal["classes"]:
    for row in reversed(base.layers[:index]):
        if isinstance(row, Conv):
            return row.num_output
    return base.input_shape[0]


def strided(base: Architecture, stride_on: str = "1x1") -> Architecture:
    """Drop each pool; the convolution before it takes the pool's stride on top of its own (strides multiply).

    Args:
        stride_on: ``"1x1"``: the convolution directly before the pool, whatever its size (in Model B that is the 1x1);
            ``"5x5"``: the last one before the pool that is larger than 1x1. They differ where a 1x1 stands before a
            pool.
    Raises:
        TableError: no convolution stands before a pool to take its stride.
    Source: Table 2, Strided-CNN-C; section 3.1 ("the stride of the convolution layers preceding the max-pool layers").
    """
    if stride_on not in ("1x1", "5x5"):
        raise TableError("stride_on", stride_on, "the convolution that takes the pool's stride", ("1x1", "5x5"))
    layers: list[Row] = []
    for index, row in enumerate(base.layers):
        if not isinstance(row, Pool):
            layers.append(row)
            continue
        taker = len(layers) - 1
        if stride_on == "5x5":
            while taker >= 0 and isinstance(layers[taker], Conv) and _kernel(layers[taker]) == 1:
                taker -= 1
            if taker < 0 or not isinstance(layers[taker], Conv) or taker < _block_start(layers):
                taker = len(layers) - 1
        chosen = layers[taker] if taker >= 0 else None
        if not isinstance(chosen, Conv) or chosen.replaces_pool:
            raise TableError(_where(base, index), "no convolution directly before it", "one that can take its stride")
        layers[taker] = replace(chosen, stride=chosen.stride * row.stride, replaces_pool=True)
    return _derived(base, "Strided-CNN", "strided", layers)


def _kernel(row: Row) -> int:
    return row.kernel_size if isinstance(row, Conv | Pool) else 0


def _block_start(layers: Sequence[Row]) -> int:
    """Index of the first layer after the last one that already replaces a pool."""
    for index in range(len(layers) - 1, -1, -1):
        row = layers[index]
        if not isinstance(row, Conv) or row.replaces_pool:
            return index + 1
    return 0


def conv_pool(base: Architecture) -> Architecture:
    """Place one more convolution before each pool: the pool's kernel size, stride 1, the channels unchanged.

    Source: Table 2, ConvPool-CNN-C; section 3.1 ("the same kernel size as the respective pooling layer").
    """
    layers: list[Row] = []
    for index, row in enumerate(base.layers):
        if isinstance(row, Pool):
            layers.append(conv(_channels_before(base, index), kernel_size=row.kernel_size))
        layers.append(row)
    return _derived(base, "ConvPool-CNN", "conv_pool", layers)


def all_conv(base: Architecture) -> Architecture:
    """Replace each pool by a convolution with the pool's kernel size and stride, the channels unchanged.

    The new convolution keeps the pool's padding if it has one, else is padded "same", which gives the map size that
    Caffe's rounded-up pooling gave in the paper's tables.
    Source: Table 2, All-CNN-C; section 2 ("output channels equal to the number of input channels").
    """
    layers: list[Row] = []
    for index, row in enumerate(base.layers):
        if isinstance(row, Pool):
            layers.append(
                conv(
                    _channels_before(base, index),
                    kernel_size=row.kernel_size,
                    stride=row.stride,
                    pad=row.pad or "same",
                    replaces_pool=True,
                )
            )
        else:
            layers.append(row)
    return _derived(base, "All-CNN", "all_conv", layers)


TRANSFORMS: dict[str, Callable[[Architecture], Architecture]] = {
    "none": lambda base: base,
    "strided": strided,
    "conv_pool": conv_pool,
    "all_conv": all_conv,
}


def transform(base: Architecture, name: str, stride_on: str = "1x1") -> Architecture:
    """Apply the transformation of that name; ``stride_on`` concerns ``strided`` alone.

    Raises:
        TableError: no such transformation.
    """
    if name not in TRANSFORMS:
        raise TableError("transform", name, "the name of a transformation", TRANSFORMS)
    return strided(base, stride_on) if name == "strided" else TRANSFORMS[name](base)


# ---------------------------------------------------------------------------------------------------------------------
# Table 5

LARGE_ALL_CNN = Architecture(
    "Large-All-CNN",
    source="Table 5",
    input_shape=(3, 126, 126),
    negative_slope=0.333,  # assumed: the paper says "leaky" only
    layers=(
        conv(320, kernel_size=2, pad=0),
        conv(320, kernel_size=2, pad=0),
        conv(320, kernel_size=2, pad=0, stride=2),
        conv(640, kernel_size=2, pad=0, dropout=0.1),
        conv(640, kernel_size=2, pad=0, dropout=0.1),
        conv(640, kernel_size=2, pad=0, stride=2),
        conv(960, kernel_size=2, pad=0, dropout=0.2),
        conv(960, kernel_size=2, pad=0, dropout=0.2),
        conv(960, kernel_size=2, pad=0, stride=2),
        conv(1280, kernel_size=2, pad=0, dropout=0.3),
        conv(1280, kernel_size=2, pad=0, dropout=0.3),
        conv(1280, kernel_size=2, pad=0, stride=2),
        conv(1600, kernel_size=2, pad=0, dropout=0.4),
        conv(1600, kernel_size=2, pad=0, dropout=0.4),
        conv(1600, kernel_size=2, pad=0, stride=2),
        conv(1920, kernel_size=2, pad=0, dropout=0.5),
        conv(1920, kernel_size=1, dropout=0.5),
        conv(CLASSES, kernel_size=1, relu=False),  # assumed: Table 5 goes from conv17 to the softmax
    ),
    filler="msra",  # assumed
    family="large",
)


# ---------------------------------------------------------------------------------------------------------------------
# Table 6

IMAGENET = Architecture(
    "ImageNet All-CNN-B",
    source="Table 6",
    input_shape=(3, 224, 224),
    classes=1000,
    layers=(
        conv(96, kernel_size=11, stride=4, pad=0),  # this table's paddings are assumed: they give Table 6's 6x6
        conv(96, kernel_size=1),
        conv(96, kernel_size=3, stride=2, pad=1),
        conv(256, kernel_size=5, pad=2),
        conv(256, kernel_size=1),
        conv(256, kernel_size=3, stride=2, pad=0),
        conv(384, kernel_size=3, pad=1),
        conv(384, kernel_size=1),
        conv(384, kernel_size=3, stride=2, pad=0, dropout=0.5),
        conv(1024, kernel_size=3, pad=1),
        conv(1024, kernel_size=1),
        conv(CLASSES, kernel_size=1),
        global_pool(),
    ),
    family="imagenet",
)


# ---------------------------------------------------------------------------------------------------------------------
# The twelve networks of Table 3

BASES: dict[str, Architecture] = {"a": MODEL_A, "b": MODEL_B, "c": MODEL_C}

_VARIANTS = {"model": "none", "strided_cnn": "strided", "convpool_cnn": "conv_pool", "all_cnn": "all_conv"}

TABLE_3: dict[str, tuple[Architecture, str]] = {
    f"{variant}_{letter}": (base, step) for letter, base in BASES.items() for variant, step in _VARIANTS.items()
}
"""The twelve networks in the order of Table 3: name in code -> (base, transformation)."""

NAMES: tuple[str, ...] = (*TABLE_3, "large_all_cnn", "imagenet")


def architecture(name: str, stride_on: str = "1x1") -> Architecture:
    """The paper's network of that name in code, e.g. ``all_cnn_c``.

    Raises:
        TableError: no such network.
    """
    if name in TABLE_3:
        base, step = TABLE_3[name]
        return transform(base, step, stride_on)
    if name == "large_all_cnn":
        return LARGE_ALL_CNN
    if name == "imagenet":
        return IMAGENET
    raise TableError("architecture", name, "a network of the paper", NAMES)


# ---------------------------------------------------------------------------------------------------------------------
# Options

LARGEST_INT = 2**31 - 1  # int32 in caffe.proto; Caffe's own counts and shapes are int
SMALLEST_FLOAT, LARGEST_FLOAT = 1e-37, 3.4e38  # float in caffe.proto
LARGEST_RATE = 0.9999999  # float32 rounds what lies nearer to 1 to 1, and 1 / (1 - rate) is infinite


@dataclass(frozen=True, kw_only=True)
class NetOptions:
    """What may be varied about a network; the defaults are the faithful ones. None: as the table or the text says.

    relu_last: ReLU on the last convolution. filler, filler_std: weight filler; the std is that of ``gaussian``.
    bias_lr_mult, bias_decay_mult: multipliers of the bias. stride_on: see ``strided``. conv7_pad: padding in pixels
    of the 3x3 convolution above the last pool. dropout: where; input_dropout, dropout_ratio: rates. num_output:
    number of classes.
    """

    relu_last: bool | None = None
    negative_slope: float | None = None
    filler: str | None = None
    filler_std: float = 0.05
    bias_lr_mult: float = 1.0
    bias_decay_mult: float = 1.0
    stride_on: str = "1x1"
    conv7_pad: int = 0
    dropout: str = "paper"
    input_dropout: float | None = None
    dropout_ratio: float | None = None
    num_output: int | None = None

    def __post_init__(self) -> None:
        _one_of("filler", self.filler, (None, *FILLERS))
        _one_of("stride_on", self.stride_on, ("1x1", "5x5"))
        _one_of("dropout", self.dropout, DROPOUTS)
        _number("filler_std", self.filler_std, "a number above 0", lambda v: v > 0)
        _number("negative_slope", self.negative_slope, "a number of at least 0", lambda v: v >= 0)
        _number("bias_lr_mult", self.bias_lr_mult, "a number of at least 0", lambda v: v >= 0)
        _number("bias_decay_mult", self.bias_decay_mult, "a number of at least 0", lambda v: v >= 0)
        _number(
            "input_dropout", self.input_dropout, "a rate of at least 0 and below 1", lambda v: 0 <= v <= LARGEST_RATE
        )
        _number(
            "dropout_ratio", self.dropout_ratio, "a rate of at least 0 and below 1", lambda v: 0 <= v <= LARGEST_RATE
        )
        _whole("conv7_pad", self.conv7_pad, 0)
        _whole("num_output", self.num_output, 1)
        if self.relu_last not in (None, True, False):
            raise TableError("option relu_last", self.relu_last, "true or false", ("true", "false"))


FILLERS = ("xavier", "gaussian", "msra")
DROPOUTS = ("paper", "all", "1x1", "none")


def _one_of(name: str, value: Any, choices: Sequence[Any]) -> None:
    if value not in choices:
        shown = [choice for choice in choices if choice is not None]
        raise TableError(f"option {name}", value, "one of the choices", shown)


def _number(name: str, value: Any, expected: str, good: Callable[[float], bool]) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or not good(value):
        raise TableError(f"option {name}", value, expected)
    if not (value == 0 or SMALLEST_FLOAT <= abs(value) <= LARGEST_FLOAT):
        raise TableError(f"option {name}", value, f"{expected}, of a size that float32 holds")


def _whole(name: str, value: Any, least: int, most: int = LARGEST_INT) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise TableError(f"option {name}", value, f"a whole number of at least {least}")
    if value > most:
        raise TableError(f"option {name}", value, f"a whole number of at most {most}, the largest that Caffe holds")


# ---------------------------------------------------------------------------------------------------------------------
# Resolving


@dataclass(frozen=True)
class Layer:
    """One Caffe layer, resolved. shape: (C, H, W) of the top. parameters: weights and biases."""

    name: str
    type: str
    bottom: str
    top: str
    shape: Shape
    parameters: int = 0
    num_output: int = 0
    pad: int = 0
    kernel_size: int = 0
    stride: int = 1
    pool: str = ""
    global_pooling: bool = False
    negative_slope: float = 0.0
    dropout_ratio: float = 0.0


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
    classes = options.num_output or base.classes
    slope = base.negative_slope if options.negative_slope is None else options.negative_slope
    ratio = _ratios(base, options)
    channels, height, width = base.input_shape
    if input_size is not None:
        height = width = input_size
    last_conv = max(index for index, row in enumerate(base.layers) if isinstance(row, Conv))
    layers: list[Layer] = []
    bottom, convs, pools, drops = "data", 0, 0, 1

    if ratio["input"]:
        layers.append(
            Layer("drop0", "Dropout", "data", "data", (channels, height, width), dropout_ratio=ratio["input"])
        )
    for index, row in enumerate(base.layers):
        where = _where(base, index)
        if isinstance(row, Conv):
            convs += 1
            name = f"conv{convs}"
            num_output = classes if row.num_output == CLASSES else int(row.num_output)
            pad = _pad(row, options)
            height, width = (
                _map_size(where, size, row.kernel_size, row.stride, pad, ceil=False) for size in (height, width)
            )
            count = num_output * channels * row.kernel_size**2 + num_output
            channels = num_output
            shape = (channels, height, width)
            layers.append(
                Layer(
                    name,
                    "Convolution",
                    bottom,
                    name,
                    shape,
                    parameters=count,
                    num_output=num_output,
                    pad=pad,
                    kernel_size=row.kernel_size,
                    stride=row.stride,
                )
            )
            bottom = name
            relu = row.relu if index != last_conv or options.relu_last is None else options.relu_last
            if relu:
                layers.append(Layer(f"relu{convs}", "ReLU", name, name, shape, negative_slope=slope))
        elif isinstance(row, Pool):
            pools += 1
            name = f"pool{pools}"
            height, width = (
                _map_size(where, size, row.kernel_size, row.stride, row.pad, ceil=True) for size in (height, width)
            )
            shape = (channels, height, width)
            layers.append(
                Layer(
                    name,
                    "Pooling",
                    bottom,
                    name,
                    shape,
                    pool=row.method,
                    pad=row.pad,
                    kernel_size=row.kernel_size,
                    stride=row.stride,
                )
            )
            bottom = name
        else:
            height = width = 1
            shape = (channels, 1, 1)
            layers.append(
                Layer("global_pool", "Pooling", bottom, "global_pool", shape, pool="AVE", global_pooling=True)
            )
            bottom = "global_pool"
        if ratio[index]:
            layers.append(Layer(f"drop{drops}", "Dropout", bottom, bottom, shape, dropout_ratio=ratio[index]))
            drops += 1
    return tuple(layers)


def _is_count(value: Any) -> bool:
    """A whole number from 1 to what Caffe's int holds."""
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= LARGEST_INT


def check_table(base: Architecture) -> None:
    """Raise a ``TableError`` that names the first entry of the table that no network can be built from."""
    for entry in ("name", "source"):
        value = getattr(base, entry)
        if not isinstance(value, str) or not value.isprintable():
            raise TableError(f"{base.name!r}: {entry}", value, "one line of text")
    shape = base.input_shape
    if not isinstance(shape, tuple) or len(shape) != 3 or not all(map(_is_count, shape)):
        raise TableError(f"{base.name}: input_shape", shape, "(channels, height, width), each at least 1")
    if not _is_count(base.classes):
        raise TableError(f"{base.name}: classes", base.classes, f"a whole number from 1 to {LARGEST_INT}")
    if not isinstance(base.layers, tuple):
        raise TableError(f"{base.name}: layers", base.layers, "a tuple of layers")
    for entry, most in (
        ("negative_slope", LARGEST_FLOAT),
        ("input_dropout", LARGEST_RATE),
        ("pool_dropout", LARGEST_RATE),
    ):
        value = getattr(base, entry)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
            expected = "a number of at least 0" if most == LARGEST_FLOAT else "a rate of at least 0 and below 1"
            raise TableError(f"{base.name}: {entry}", value, expected)
    if base.filler not in FILLERS:
        raise TableError(f"{base.name}: filler", base.filler, "a weight filler", FILLERS)
    if not any(isinstance(row, Conv) for row in base.layers):
        raise TableError(f"{base.name}: layers", len(base.layers), "at least one convolution")
    for index, row in enumerate(base.layers):
        where = f"{base.name}: layer {index + 1}"
        if isinstance(row, GlobalPool):
            if index != len(base.layers) - 1:
                raise TableError(where, "global averaging", "it to be the last layer")
            continue
        if not isinstance(row, Conv | Pool):
            raise TableError(where, row, "a layer", ("conv", "max_pool", "average_pool", "global_pool"))
        for key in ("kernel_size", "stride"):
            value = getattr(row, key)
            if not _is_count(value):
                raise TableError(f"{where}: {key}", value, "a whole number of at least 1")
        if isinstance(row, Pool):
            if isinstance(row.pad, bool) or not isinstance(row.pad, int) or not 0 <= row.pad < row.kernel_size:
                raise TableError(f"{where}: pad", row.pad, "a whole number of at least 0, smaller than kernel_size")
            if row.method not in ("MAX", "AVE"):
                raise TableError(f"{where}: method", row.method, "a pooling method", ("MAX", "AVE"))
            continue
        if row.num_output != CLASSES and not _is_count(row.num_output):
            raise TableError(f"{where}: num_output", row.num_output, "a whole number of at least 1, or 'classes'")
        if row.pad not in ("same", "conv7") and not (_is_count(row.pad) or (row.pad == 0 and row.pad is not False)):
            raise TableError(f"{where}: pad", row.pad, "a whole number of at least 0, or 'same'")
        if not isinstance(row.relu, bool):
            raise TableError(f"{where}: relu", row.relu, "True or False")
        if (
            isinstance(row.dropout, bool)
            or not isinstance(row.dropout, int | float)
            or not 0 <= row.dropout <= LARGEST_RATE
        ):
            raise TableError(f"{where}: dropout", row.dropout, "a rate of at least 0 and below 1")
    last = [row for row in base.layers if isinstance(row, Conv)][-1]
    if last.num_output != CLASSES:
        raise TableError(f"{base.name}: last convolution: num_output", last.num_output, "'classes'")


def _pad(row: Conv, options: NetOptions) -> int:
    if row.pad == "same":
        return (row.kernel_size - 1) // 2
    return options.conv7_pad if row.pad == "conv7" else int(row.pad)


def _map_size(where: str, size: int, kernel_size: int, stride: int, pad: int, ceil: bool) -> int:
    """Caffe's output size: convolution rounds down, pooling up (and drops a window that starts in the padding)."""
    if size + 2 * pad < kernel_size:
        raise TableError(where, f"a map of {size} pixels with padding {pad}", f"at least {kernel_size} pixels")
    span = size + 2 * pad - kernel_size
    out = (-(-span // stride) if ceil else span // stride) + 1
    if ceil and pad and (out - 1) * stride >= size + pad:
        out -= 1
    return out


def _ratios(base: Architecture, options: NetOptions) -> dict[int | str, float]:
    """Dropout rate after each row, by index, and on the ``"input"``; 0 where there is none.

    Source: section 3.2.1, footnote 4; the rates of Tables 5 and 6 stand in their rows.
    """
    ratio: dict[int | str, float] = dict.fromkeys(range(len(base.layers)), 0.0)
    ratio["input"] = 0.0
    if options.dropout == "none":
        return ratio
    ratio["input"] = base.input_dropout if options.input_dropout is None else options.input_dropout
    rate = options.dropout_ratio if options.dropout_ratio is not None else base.pool_dropout
    extra = rate or 0.5
    classes = max(index for index, row in enumerate(base.layers) if isinstance(row, Conv))
    ones = [i for i, row in enumerate(base.layers[:classes]) if isinstance(row, Conv) and row.kernel_size == 1]
    for index, row in enumerate(base.layers):
        if isinstance(row, Pool) or (isinstance(row, Conv) and row.replaces_pool):
            ratio[index] = rate
        if isinstance(row, Conv) and row.dropout:
            ratio[index] = row.dropout if options.dropout_ratio is None else options.dropout_ratio
        if options.dropout == "all" and isinstance(row, Conv) and index < classes and not ratio[index]:
            followed = index + 1 < len(base.layers) and isinstance(base.layers[index + 1], Pool)
            ratio[index] = 0.0 if followed else extra
        if options.dropout == "1x1" and ones and index == ones[-1]:
            ratio[index] = ratio[index] or extra
    return ratio


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


# ---------------------------------------------------------------------------------------------------------------------
# What the paper leaves open


@dataclass(frozen=True)
class Assumption:
    """One point that the paper leaves open: what is taken, why, and what else may be chosen.

    families: the tables it concerns. option: the field of the options that changes it ("" if none does).
    """

    key: str
    value: str
    reason: str
    options: str
    families: tuple[str, ...] = ("cifar",)
    option: str = ""


_ALL = ("cifar", "large", "imagenet")

ASSUMPTIONS: tuple[Assumption, ...] = (
    Assumption(
        "batch_size",
        "128",
        "not stated for CIFAR; Network in Network and maxout, whose recipes the paper follows, use 128",
        "any; 256 repeats the only logged Caffe reproduction",
        option="batch_size",
    ),
    Assumption(
        "filler",
        "xavier",
        "not stated; Caffe's xavier had the only logged success in Caffe, and msra entered Caffe after the paper",
        "xavier, gaussian (std 0.05), msra",
        ("cifar", "imagenet"),
        "filler",
    ),
    Assumption("bias_filler", "constant 0", "not stated; Caffe's default", "none", _ALL),
    Assumption(
        "pad",
        "same: (kernel_size - 1) // 2",
        "not stated; forced by 32, 16, 8 and then 6x6 before the global average",
        "per layer, in a table of one's own",
    ),
    Assumption(
        "conv7_pad",
        "0",
        "Table 1 says 6x6; with no padding on the 3x3 convolution above the last pool all twelve networks give 6x6",
        "1 gives 8x8",
        option="conv7_pad",
    ),
    Assumption(
        "pool_pad",
        "0, map size rounded up",
        "not stated; Caffe's default gives 32, 16, 8; padding 1 would give 17",
        "per layer, in a table of one's own",
    ),
    Assumption(
        "stride_on",
        "1x1",
        '"the convolution layers preceding the max-pool layers": in Model B the 1x1 stands directly before the pool',
        "1x1, 5x5",
        option="stride_on",
    ),
    Assumption(
        "extra_conv",
        "3x3 with ReLU, last in its block",
        '"the same kernel size as the respective pooling layer"; the counts of Table 3 fit 3x3 and not 5x5',
        "none",
    ),
    Assumption(
        "relu_last",
        "true",
        'Tables 1 and 6 print "conv. 10 ReLU" and "conv. 1000 ReLU"',
        "true, false (false removes one way for a net to die)",
        ("cifar", "imagenet"),
        "relu_last",
    ),
    Assumption(
        "dropout",
        "paper",
        "input, and after each pool or the layer that replaces it; in the strided nets that is the strided convolution",
        "paper, all, 1x1 (footnote 4; the class layer has none, 1x1 is the one below it), none",
        option="dropout",
    ),
    Assumption(
        "bias_lr_mult",
        "1",
        "not stated; Caffe's default",
        "any; 2 is the habit of Caffe's examples",
        _ALL,
        "bias_lr_mult",
    ),
    Assumption(
        "bias_decay_mult",
        "1",
        '"all models were regularized with weight decay", "in all layers"',
        "any; 0 is the habit of Caffe's examples",
        _ALL,
        "bias_decay_mult",
    ),
    Assumption(
        "weight_decay_meaning",
        "gradient += lambda * weight",
        "the paper's experiments ran in Caffe, whose weight_decay means this",
        "none",
        _ALL,
    ),
    Assumption(
        "lr",
        "0.05; 0.01 for Model C and Strided-CNN-C",
        "the best of [0.25, 0.1, 0.05, 0.01] per network is not given; the logged reproductions of All-CNN-C use 0.05; "
        "with it Model C died here, and Strided-CNN-C ended worse than with 0.01",
        "any; the paper's set is 0.25, 0.1, 0.05, 0.01",
        option="lr",
    ),
    Assumption(
        "reported_iteration",
        "the last",
        "not stated; choosing a snapshot on test data would flatter the result",
        "none",
        _ALL,
    ),
    Assumption(
        "epoch_rounding",
        "iterations = epochs * images / batch, rounded to the nearest, halves up",
        "a schedule in epochs; 50,000 is no multiple of 128",
        "a batch size that divides the images",
    ),
    Assumption(
        "augmentation",
        "zero padding by 5 pixels after whitening, random 32x32 crop, flip with probability 1/2 in training",
        '"a maximum translation of 5 pixels", "horizontally flipped examples", order as in the maxout recipe',
        "crop_size and mirror",
    ),
    Assumption(
        "cifar100_augmentation",
        "none",
        'Table 4 compares with figures obtained without augmentation; "the same model, all hyperparameters fixed"',
        "train_lmdb, test_lmdb, crop_size and mirror",
    ),
    Assumption(
        "large_class_layer",
        "conv18, 1x1, 10-way, no ReLU",
        "Table 5 ends in conv17 with 1920 channels and a 10-way softmax",
        "relu_last",
        ("large",),
        "relu_last",
    ),
    Assumption(
        "large_negative_slope",
        "0.333",
        'the paper says "leaky"; the network it is derived from (Graham) uses very leaky units of slope 0.333',
        "any; 0.1 and 0.01 are usual",
        ("large",),
        "negative_slope",
    ),
    Assumption(
        "large_filler",
        "msra",
        "not stated; over 17 leaky layers xavier would shrink the signal to less than a hundredth",
        "xavier, gaussian, msra",
        ("large",),
        "filler",
    ),
    Assumption(
        "large_solver",
        "Nesterov, momentum 0.99, base_lr 0.00003, times exp(-0.01) each epoch, batch 50, 410 epochs, no weight decay",
        "not stated; Graham's schedule, his step lr * (1 - momentum) = 0.003 * 0.01 written as Caffe's base_lr",
        "lr, momentum, weight_decay, epochs, batch_size",
        ("large",),
    ),
    Assumption(
        "large_input",
        "32x32 centred in 126x126 of grey 128, (pixel - 128) / 128",
        '"the image is centered"; scale and background are Graham\'s; no whitening is mentioned for this network',
        "another LMDB",
        ("large",),
    ),
    Assumption(
        "imagenet_pad",
        "conv1 0, conv3 1, conv4 2, conv6 0, conv7 1, conv9 0, conv10 1",
        "not stated; gives maps of 54, 27, 13 and Table 6's 6x6 at 224",
        "per layer, in a table of one's own",
        ("imagenet",),
    ),
    Assumption(
        "imagenet_input",
        "images warped to 256x256, BGR mean (104, 117, 123), random 224 crop and mirror in training, centre in test",
        "only the centre 224x224 patch at test is stated; the rest is Caffe's reference recipe",
        "crop_size and mirror",
        ("imagenet",),
    ),
    Assumption(
        "imagenet_momentum",
        "0.9",
        "not stated for ImageNet; as in the CIFAR experiments",
        "any",
        ("imagenet",),
        "momentum",
    ),
)


def assumptions(base: Architecture, options: NetOptions | None = None) -> list[Assumption]:
    """The open points that concern a network, each with the value that these options give it.

    ``value`` is the chosen one where an option departs from the default. A table of a user's own gets the CIFAR points.
    """
    family = "cifar" if base.family == "own" else base.family
    result = []
    for assumption in ASSUMPTIONS:
        if family not in assumption.families:
            continue
        if assumption.key == "stride_on" and "strided" not in base.steps:
            continue
        if assumption.key == "extra_conv" and not {"conv_pool", "all_conv"} & set(base.steps):
            continue
        chosen = getattr(options, assumption.option, None) if assumption.option else None
        if chosen is not None:
            if isinstance(chosen, bool):
                chosen = str(chosen).lower()
            text = f"{chosen:g}" if isinstance(chosen, int | float) else str(chosen)
            assumption = replace(assumption, value=text)
        result.append(assumption)
    return result


def option_names() -> tuple[str, ...]:
    """The fields of ``NetOptions``."""
    return tuple(entry.name for entry in dataclasses.fields(NetOptions))

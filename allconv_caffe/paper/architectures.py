"""The paper's networks as tables, and the transformations that make twelve networks of three.

``strided``, ``conv_pool`` and ``all_conv`` are pure functions from one ``Architecture`` to another; they use the
pool's own kernel and stride and work for any base. What a table resolves to, under options, stands in ``plan``; what
the paper leaves open, in ``assumptions``.

Source: Tables 1, 2, 5 and 6; section 3.1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Annotated, Any, Literal

from allconv_caffe.paper.errors import TableError
from allconv_caffe.paper.rules import FLAG, LINE, NOT_NEGATIVE, RATE, SHAPE, SIZE, OneOf, Whole

CLASSES: Literal["classes"] = "classes"
"""``num_output`` of the layer that has one channel per class: 10 or 100 in Tables 1 and 2."""

FILLERS = ("xavier", "gaussian", "msra")
STRIDE_ON = ("1x1", "5x5")


# ---------------------------------------------------------------------------------------------------------------------
# What a table is made of


@dataclass(frozen=True, kw_only=True)
class Conv:
    """One row "k x k conv. n ReLU" of a table."""

    num_output: Annotated[int | Literal["classes"], Whole(1, words=(CLASSES,))]  # channels, or ``CLASSES``
    kernel_size: Annotated[int, SIZE]  # pixels
    stride: Annotated[int, SIZE] = 1  # pixels
    pad: Annotated[int | Literal["same", "conv7"], Whole(0, words=("same", "conv7"))] = "same"
    """Pixels; ``"same"``: (kernel_size - 1) // 2; ``"conv7"``: ``NetOptions.conv7_pad``."""
    relu: Annotated[bool, FLAG] = True  # whether a ReLU follows
    dropout: Annotated[float, RATE] = 0.0  # rate printed in the table for this row
    replaces_pool: bool = False  # section 3.1 puts dropout after this layer


@dataclass(frozen=True)
class Pool:
    """One row "k x k max-pooling stride s" of a table. Caffe rounds its map size up."""

    kernel_size: Annotated[int, SIZE]  # pixels
    stride: Annotated[int, SIZE]  # pixels
    pad: int = 0  # pixels, fewer than kernel_size
    method: Annotated[Literal["MAX", "AVE"], OneOf(("MAX", "AVE"), "a pooling method")] = "MAX"


@dataclass(frozen=True)
class GlobalPool:
    """The row "global averaging over ... spatial dimensions"."""


Row = Conv | Pool | GlobalPool


def conv(num_output: int | Literal["classes"], kernel_size: int, **entries: Any) -> Conv:
    """One convolution with its ReLU."""
    return Conv(num_output=num_output, kernel_size=kernel_size, **entries)


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
    """A network as its table prints it, one row per layer, nothing derived."""

    name: Annotated[str, LINE]  # the paper's, as in "All-CNN-C"
    source: Annotated[str, LINE]  # where the paper prints it
    layers: tuple[Row, ...]  # from the image to the class scores
    _: KW_ONLY
    input_shape: Annotated[tuple[int, int, int], SHAPE] = (3, 32, 32)  # (C, H, W) in pixels
    classes: Annotated[int, SIZE] = 10  # what ``CLASSES`` stands for
    negative_slope: Annotated[float, NOT_NEGATIVE] = 0.0  # of every ReLU; 0: plain
    input_dropout: Annotated[float, RATE] = 0.0  # rate of section 3.2.1 on the input
    pool_dropout: Annotated[float, RATE] = 0.0  # and after each pool, or the layer that replaces it
    filler: Annotated[str, OneOf(FILLERS, "a weight filler")] = "xavier"  # of the weights; assumed
    family: str = "own"  # which of the assumptions concern this table: cifar, large, imagenet
    steps: tuple[str, ...] = ()  # the transformations applied so far, in order


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


def row_place(base: Architecture, index: int) -> str:
    """How a message names a row: ``Model A: layer 2 (3x3 max-pooling stride 2)``."""
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
    if stride_on not in STRIDE_ON:
        raise TableError("stride_on", stride_on, "the convolution that takes the pool's stride", STRIDE_ON)
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
            raise TableError(
                row_place(base, index), "no convolution directly before it", "one that can take its stride"
            )
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

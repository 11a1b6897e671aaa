"""The paper's networks as tables, and the transformations that make twelve networks of three.

``strided``, ``conv_pool`` and ``all_conv`` are pure functions from one ``Architecture`` to another; they use the
pool's own kernel and stride and work for any base. So are the two controls that the paper writes of: ``pnorm_pool``
(Equation 1) and ``fully_connected`` (section 3.1). What a table resolves to, under options, stands in ``plan``; what
the paper leaves open, in ``assumptions``.

Source: Tables 1, 2, 5 and 6; Equation 1; section 3.1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Annotated, Any, Literal

from allconv_caffe.paper.errors import TableError
from allconv_caffe.paper.rules import FLAG, LINE, NOT_NEGATIVE, POSITIVE, RATE, SHAPE, SIZE, Number, OneOf, Whole

CLASSES: Literal["classes"] = "classes"
"""``num_output`` of the layer that has one channel per class: 10 or 100 in Tables 1 and 2."""

FILLERS = ("xavier", "gaussian", "msra", "graham")
STRIDE_ON = ("1x1", "5x5")
FC_HEADS = ("class_layer", "all_1x1", "average")
POWER = Number("a number from 1 to 64", least=1, most=64)
"""Of a p-norm: below 1 it is none; beyond 64 float32 holds the p-th power of nothing but what lies near 1."""


@dataclass(frozen=True, kw_only=True)
class Readings:
    """How the transformations read what the paper leaves open."""

    stride_on: Annotated[str, OneOf(STRIDE_ON), "where Strided-CNN-B has its stride: 1x1 or 5x5"] = "1x1"
    fc_head: Annotated[
        str, OneOf(FC_HEADS), "what becomes fully connected: class_layer (with the average), all_1x1 or average"
    ] = "class_layer"
    pnorm: Annotated[float, POWER, "p of the p-norm that pnorm_pool takes"] = 2.0
    pnorm_mean: Annotated[bool, FLAG, "p-norm of the mean over the window, not of the sum: true or false"] = False


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
    std: Annotated[float | None, POSITIVE] = None  # of a gaussian filler; None: NetOptions.filler_std; assumed
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


@dataclass(frozen=True)
class NormPool:
    """p-norm pooling: (sum over the window of abs(x)^p)^(1/p), or of the mean; made of layers that stock Caffe has.

    Windows lie as those of a convolution of that padding; beyond the border is 0. Source: Equation 1.
    """

    kernel_size: Annotated[int, SIZE]  # pixels
    stride: Annotated[int, SIZE]  # pixels
    p: Annotated[float, POWER]
    _: KW_ONLY
    pad: Annotated[int | Literal["same"], Whole(0, words=("same",))] = (
        "same"  # pixels; "same": Equation 1's centred windows
    )
    mean: Annotated[bool, FLAG] = False  # the mean's p-norm, which does not grow with the window


@dataclass(frozen=True, kw_only=True)
class FullyConnected:
    """A fully connected layer on everything below it."""

    num_output: Annotated[int | Literal["classes"], Whole(1, words=(CLASSES,))]  # units, or ``CLASSES``
    relu: Annotated[bool, FLAG] = False  # whether a ReLU follows
    dropout_below: Annotated[float, RATE] = 0.0  # rate on what it reads


Weighted = Conv | FullyConnected
Row = Conv | Pool | NormPool | GlobalPool | FullyConnected


def conv(num_output: int | Literal["classes"], kernel_size: int, **entries: Any) -> Conv:
    """One convolution with its ReLU."""
    return Conv(num_output=num_output, kernel_size=kernel_size, **entries)


def max_pool(kernel_size: int, stride: int, pad: int = 0) -> Pool:
    """One max-pooling layer."""
    return Pool(kernel_size, stride, pad)


def average_pool(kernel_size: int, stride: int, pad: int = 0) -> Pool:
    """One average-pooling layer (no table of the paper has one; a user's own base may)."""
    return Pool(kernel_size, stride, pad, "AVE")


def norm_pool(kernel_size: int, stride: int, p: float, **entries: Any) -> NormPool:
    """One p-norm pooling layer."""
    return NormPool(kernel_size, stride, p, **entries)


def fc(num_output: int | Literal["classes"], **entries: Any) -> FullyConnected:
    """One fully connected layer."""
    return FullyConnected(num_output=num_output, **entries)


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
    bias_lr_mult: Annotated[float, NOT_NEGATIVE] = 1.0  # assumed
    bias_decay_mult: Annotated[float, NOT_NEGATIVE] = 1.0  # assumed
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


def _derived(
    base: Architecture, word: str, step: str, layers: Sequence[Row], source: str | None = None
) -> Architecture:
    """The base with other layers, named as in Table 2 ("Model C" -> "Strided-CNN-C")."""
    if not any(isinstance(row, Pool) for row in base.layers):
        raise TableError(f"{base.name}: transform {step}", "no pool", "at least one pool to replace")
    stem = base.name.removeprefix("Model ")
    source = source or base.source
    if source == base.source and base.family == "cifar" and not base.steps:
        source = f"Table 2, {word}-{stem}" if stem == "C" else f"{base.source}; built like Table 2"
    return replace(base, name=f"{word}-{stem}", source=source, layers=tuple(layers), steps=(*base.steps, step))


def row_place(base: Architecture, index: int) -> str:
    """How a message names a row: ``Model A: layer 2 (3x3 max-pooling stride 2)``."""
    return f"{base.name}: layer {index + 1} ({describe(base.layers[index])})"


def describe(row: Row) -> str:
    """The row in the paper's words, e.g. ``3x3 conv. 96``."""
    if isinstance(row, GlobalPool):
        return "global averaging"
    if isinstance(row, FullyConnected):
        return f"fully connected {row.num_output}"
    size = f"{row.kernel_size}x{row.kernel_size}"
    if isinstance(row, Pool):
        return f"{size} {'max' if row.method == 'MAX' else 'average'}-pooling stride {row.stride}"
    if isinstance(row, NormPool):
        return f"{size} {row.p:g}-norm pooling stride {row.stride}"
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


# ---------------------------------------------------------------------------------------------------------------------
# The controls of section 2 and section 3.1


def pnorm_pool(base: Architecture, p: float = 2.0, mean: bool = False) -> Architecture:
    """Replace each pool by p-norm pooling: the window as ``all_conv`` lays it, the p-norm in place of learned weights.

    Args:
        p: from 1 to 64; the greater, the nearer to max-pooling.
        mean: of the mean over the window in place of the sum. By the sum an image of equal pixels grows by
            (kernel_size^2)^(1/p): 3 times at p = 2.
    Source: Equation 1; section 2 (pooling is "a feature-wise convolution in which the activation function is replaced
    by the p-norm").
    """
    POWER.check("p", p)
    layers = [
        NormPool(row.kernel_size, row.stride, p, pad=row.pad or "same", mean=mean) if isinstance(row, Pool) else row
        for row in base.layers
    ]
    return _derived(base, f"PNorm{p:g}-CNN", "pnorm_pool", layers, f"{base.source}; pooling by Equation 1")


def fully_connected(base: Architecture, head: str = "class_layer") -> Architecture:
    """Replace the 1x1 convolutions at the top by fully connected layers: section 3.1's control.

    Args:
        head: ``"class_layer"``: the class layer and the average become one fully connected layer, with dropout of one
            half below it; ``"all_1x1"``: so does every 1x1 convolution below the class layer, each with its own width
            and ReLU, and the dropout stands below the last; ``"average"``: the average alone, so that the class scores
            of all positions are weighed.
    Raises:
        TableError: the base does not end in a class layer.
    Source: section 3.1 ("fully connected layers instead of 1-by-1 convolutions"); Lin et al., 2014, Table 5.
    """
    if head not in FC_HEADS:
        raise TableError("fc_head", head, "what becomes fully connected", FC_HEADS)
    layers = list(base.layers)
    if layers and isinstance(layers[-1], GlobalPool):
        layers.pop()
    if not layers or not isinstance(layers[-1], Conv) or layers[-1].num_output != CLASSES:
        found = describe(base.layers[-1]) if base.layers else "no layers"
        expected = "a convolution with one output per class, and at most global averaging above it"
        raise TableError(f"{base.name}: transform fully_connected", found, expected)
    if head == "average":
        layers.append(fc(CLASSES))
    else:
        layers.pop()
        hidden: list[Row] = []
        for row in reversed(layers if head == "all_1x1" else []):
            if not isinstance(row, Conv) or row.kernel_size != 1 or row.stride != 1 or row.replaces_pool:
                break
            hidden.insert(0, fc(row.num_output, relu=row.relu))
        del layers[len(layers) - len(hidden) :]
        layers += [*hidden, fc(CLASSES, dropout_below=base.pool_dropout or 0.5)]
    return replace(
        base,
        name=f"{base.name}-FC",
        source=f"{base.source}; fully connected as in section 3.1",
        layers=tuple(layers),
        steps=(*base.steps, "fully_connected"),
    )


TRANSFORMS: dict[str, Callable[[Architecture, Readings], Architecture]] = {
    "none": lambda base, readings: base,
    "strided": lambda base, readings: strided(base, readings.stride_on),
    "conv_pool": lambda base, readings: conv_pool(base),
    "all_conv": lambda base, readings: all_conv(base),
    "pnorm_pool": lambda base, readings: pnorm_pool(base, readings.pnorm, readings.pnorm_mean),
    "fully_connected": lambda base, readings: fully_connected(base, readings.fc_head),
}


def transform(base: Architecture, names: str, readings: Readings | None = None) -> Architecture:
    """Apply the transformations of those names, with commas between, the first first: ``all_conv,fully_connected``.

    Raises:
        TableError: no such transformation.
    """
    for name in names.split(","):
        if name not in TRANSFORMS:
            raise TableError("transform", name, "the name of a transformation", TRANSFORMS)
        base = TRANSFORMS[name](base, readings or Readings())
    return base


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
        conv(96, kernel_size=11, stride=4, pad=0, std=0.01),  # paddings are assumed: they give Table 6's 6x6
        conv(96, kernel_size=1, std=0.05),  # each std is assumed
        conv(96, kernel_size=3, stride=2, pad=1, std=0.05),
        conv(256, kernel_size=5, pad=2, std=0.05),
        conv(256, kernel_size=1, std=0.05),
        conv(256, kernel_size=3, stride=2, pad=0, std=0.03),
        conv(384, kernel_size=3, pad=1, std=0.01),
        conv(384, kernel_size=1, std=0.05),
        conv(384, kernel_size=3, stride=2, pad=0, std=0.025, dropout=0.5),
        conv(1024, kernel_size=3, pad=1, std=0.05),
        conv(1024, kernel_size=1, std=0.05),
        conv(CLASSES, kernel_size=1, std=0.01),
        global_pool(),
    ),
    filler="gaussian",  # assumed
    bias_lr_mult=2,  # assumed
    bias_decay_mult=0,  # assumed
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

CONTROLS: dict[str, tuple[Architecture, str]] = {
    f"{name}_fc": (base, f"{step},fully_connected")
    for name, (base, step) in TABLE_3.items()
    if name.startswith("model_") or name == "all_cnn_c"
}
"""The base networks of Table 1, and All-CNN-C, with a fully connected head: section 3.1, not in Table 3."""

NAMES: tuple[str, ...] = (*TABLE_3, *CONTROLS, "large_all_cnn", "imagenet")


def architecture(name: str, readings: Readings | None = None) -> Architecture:
    """The paper's network of that name in code, e.g. ``all_cnn_c``.

    Raises:
        TableError: no such network.
    """
    if found := TABLE_3.get(name) or CONTROLS.get(name):
        return transform(*found, readings)
    if name == "large_all_cnn":
        return LARGE_ALL_CNN
    if name == "imagenet":
        return IMAGENET
    raise TableError("architecture", name, "a network of the paper", NAMES)

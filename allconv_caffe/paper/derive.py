"""New variants: from a user's own table (TOML or Python), or from a network of the paper with other widths, kernel
sizes, depth or transformation. The result is a folder ready for ``caffe train``.

A TOML table::

    name = "tiny"                # letters, digits, ".", "_", "-"
    transform = "all_conv"       # none | strided | conv_pool | all_conv
    input_shape = [3, 32, 32]    # channels, height, width; the default
    classes = 10                 # the default: the data set's
    input_dropout = 0.2          # the default: 0
    pool_dropout = 0.5           # after each pool, or the layer replacing it; the default: 0

    [[layer]]
    type = "conv"                # conv | max_pool | average_pool | global_pool
    num_output = 32              # or "classes"
    kernel_size = 3              # also: stride, pad (pixels or "same"), relu, dropout
    [[layer]]
    type = "max_pool"
    kernel_size = 3
    stride = 2
    [[layer]]
    type = "conv"
    num_output = "classes"
    kernel_size = 1
    [[layer]]
    type = "global_pool"

    [options]                    # any option of ``allconv render``
    train_lmdb = "data/mine/train_lmdb"
    test_lmdb = "data/mine/test_lmdb"
    n_train = 1500
    n_test = 500

Instead of ``[[layer]]`` a table may say ``base = "all_cnn_c"`` (a network of the paper), and either may add
``[change]`` with ``widths``, ``width_multiplier``, ``kernel_sizes`` and ``depth``. A Python table is a file that sets
``ARCHITECTURE`` to an ``Architecture``, and if wanted ``OPTIONS`` to a ``RenderOptions``; it is executed.
"""

from __future__ import annotations

import math
import re
import runpy
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from allconv_caffe.paper import architectures, experiments
from allconv_caffe.paper.architectures import (
    CLASSES,
    TRANSFORMS,
    Architecture,
    Conv,
    GlobalPool,
    Pool,
    Row,
    TableError,
    check_table,
    describe,
)
from allconv_caffe.paper.experiments import Experiment
from allconv_caffe.paper.render import RenderOptions, options_from, write

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class DeriveError(TableError):
    """A user's table is wrong: file, entry, what was found, what was expected."""


LAYER_TYPES: tuple[str, ...] = ("conv", "max_pool", "average_pool", "global_pool")
MOST_DEPTH = 1000  # a slip of the keyboard would otherwise fill memory and disk
_CONV_KEYS: tuple[str, ...] = ("num_output", "kernel_size", "stride", "pad", "relu", "dropout")
_POOL_KEYS: tuple[str, ...] = ("kernel_size", "stride", "pad")
_TABLE_KEYS: tuple[str, ...] = (
    "name",
    "source",
    "base",
    "transform",
    "input_shape",
    "classes",
    "input_dropout",
    "pool_dropout",
    "negative_slope",
    "filler",
    "layer",
    "change",
    "options",
)
_CHANGE_KEYS: tuple[str, ...] = ("widths", "width_multiplier", "kernel_sizes", "depth")


@dataclass(frozen=True)
class Derived:
    """What ``derive`` made. parameters: weights and biases."""

    architecture: Architecture
    experiment: Experiment
    files: tuple[Path, ...]
    parameters: int


# ---------------------------------------------------------------------------------------------------------------------
# Changing a base


def with_widths(base: Architecture, widths: Mapping[int, int] | Sequence[int]) -> Architecture:
    """Other channels.

    Args:
        widths: old -> new; or the new widths in the order in which distinct old ones first appear (96 and 192 in
        Table 1).
    Raises:
        TableError: a width that the base does not have, or a list of another length.
    """
    present: list[int] = []
    for row in base.layers:
        if isinstance(row, Conv) and row.num_output != CLASSES and row.num_output not in present:
            present.append(int(row.num_output))
    if not isinstance(widths, Mapping):
        if len(widths) != len(present):
            raise DeriveError(f"{base.name}: widths", list(widths), f"{len(present)} widths, in place of {present}")
        widths = dict(zip(present, widths, strict=True))
    for old, new in widths.items():
        if old not in present:
            raise DeriveError(f"{base.name}: widths", old, "a width of the base", present)
        _at_least_one(f"{base.name}: widths: {old}", new)
    table = dict(widths)
    return _each_conv(base, lambda row: replace(row, num_output=table.get(_width(row), row.num_output)))


def with_width_multiplier(base: Architecture, factor: float) -> Architecture:
    """All channels but the class layer's times ``factor``, rounded to the nearest, halves up, at least 1."""
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor < math.inf:
        raise DeriveError(f"{base.name}: width_multiplier", factor, "a number above 0")

    def scaled(row: Conv) -> Conv:
        if row.num_output == CLASSES:
            return row
        return replace(row, num_output=max(1, math.floor(int(row.num_output) * factor + 0.5)))

    return _each_conv(base, scaled)


def with_kernel_sizes(base: Architecture, sizes: Mapping[int, int] | int) -> Architecture:
    """Other kernel sizes of convolutions, old -> new; one number replaces every size but 1x1. Pools keep theirs."""
    present = sorted({row.kernel_size for row in base.layers if isinstance(row, Conv)})
    if not isinstance(sizes, Mapping):
        _at_least_one(f"{base.name}: kernel_sizes", sizes)
        sizes = {old: sizes for old in present if old != 1}
    for old, new in sizes.items():
        if old not in present:
            raise DeriveError(f"{base.name}: kernel_sizes", old, "a kernel size of the base", present)
        _at_least_one(f"{base.name}: kernel_sizes: {old}", new)
    table = dict(sizes)
    return _each_conv(base, lambda row: replace(row, kernel_size=table.get(row.kernel_size, row.kernel_size)))


def with_depth(base: Architecture, depth: int) -> Architecture:
    """``depth`` convolutions before each pool: the last one of the block is repeated, or the block is cut from its end.

    Raises:
        TableError: a pool has no convolution before it, or the base has no pool.
    """
    _at_least_one(f"{base.name}: depth", depth)
    if depth > MOST_DEPTH:
        raise DeriveError(f"{base.name}: depth", depth, f"at most {MOST_DEPTH} convolutions before each pool")
    layers: list[Row] = []
    block: list[Row] = []
    for index, row in enumerate(base.layers):
        if not isinstance(row, Pool):
            block.append(row)
            continue
        if not block:
            raise DeriveError(f"{base.name}: layer {index + 1} ({describe(row)})", "no convolution before it", "one")
        last = block[-1]
        repeated = replace(last, stride=1) if isinstance(last, Conv) else last
        block = block[:depth] + [repeated] * (depth - len(block))
        layers += [*block, row]
        block = []
    if not any(isinstance(row, Pool) for row in layers):
        raise DeriveError(f"{base.name}: depth", "no pool in the base", "blocks that end in a pool")
    return replace(base, layers=tuple(layers + block))


def _each_conv(base: Architecture, change: Any) -> Architecture:
    return replace(base, layers=tuple(change(row) if isinstance(row, Conv) else row for row in base.layers))


def _width(row: Conv) -> int:
    return 0 if row.num_output == CLASSES else int(row.num_output)


def _at_least_one(where: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise DeriveError(where, value, "a whole number of at least 1")


def _whole_keys(where: str, table: Any) -> Any:
    """TOML and command lines have text keys: {"96": 64} -> {96: 64}."""
    if not isinstance(table, Mapping):
        return table
    result: dict[int, Any] = {}
    for key, value in table.items():
        try:
            result[int(key)] = value
        except ValueError:
            raise DeriveError(where, key, "a whole number as key") from None
    return result


def apply_changes(base: Architecture, changes: Mapping[str, Any], where: str = "change") -> Architecture:
    """Depth, then kernel sizes, then widths: the keys of a ``[change]`` table.

    Raises:
        TableError: an unknown key, or a value that does not fit the base.
    """
    _known(where, changes, _CHANGE_KEYS)
    if "depth" in changes:
        base = with_depth(base, changes["depth"])
    if "kernel_sizes" in changes:
        sizes = changes["kernel_sizes"]
        if not isinstance(sizes, int | Mapping) or isinstance(sizes, bool):
            raise DeriveError(f"{where}: kernel_sizes", sizes, "one size, or a table old = new")
        base = with_kernel_sizes(base, _whole_keys(f"{where}: kernel_sizes", sizes))
    if "widths" in changes:
        widths = changes["widths"]
        if not isinstance(widths, list | tuple | Mapping):
            raise DeriveError(f"{where}: widths", widths, "a list of widths, or a table old = new")
        base = with_widths(base, _whole_keys(f"{where}: widths", widths))
    if "width_multiplier" in changes:
        base = with_width_multiplier(base, changes["width_multiplier"])
    return base


# ---------------------------------------------------------------------------------------------------------------------
# Reading tables


def _known(where: str, table: Any, keys: Sequence[str]) -> None:
    if not isinstance(table, Mapping):
        raise DeriveError(where, table, "a table")
    for key in table:
        if key not in keys:
            raise DeriveError(f"{where}: {key}", key, "a known key", keys)


def _needed(where: str, table: Mapping[str, Any], key: str, expected: str) -> Any:
    if key not in table:
        raise DeriveError(f"{where}: {key}", "nothing", expected)
    return table[key]


def read_row(entry: Any, where: str) -> Row:
    """One ``[[layer]]`` as a row.

    Raises:
        TableError: an unknown type or key, or a key that is missing; values are checked by ``check_table``.
    """
    if not isinstance(entry, Mapping):
        raise DeriveError(where, entry, "a table")
    kind = _needed(where, entry, "type", f"a type of layer: {', '.join(LAYER_TYPES)}")
    if kind not in LAYER_TYPES:
        raise DeriveError(f"{where}: type", kind, "a type of layer", LAYER_TYPES)
    keys = {"conv": _CONV_KEYS, "global_pool": ()}.get(kind, _POOL_KEYS)
    _known(where, entry, ("type", *keys))
    if kind == "global_pool":
        return GlobalPool()
    kernel_size = _needed(where, entry, "kernel_size", "a whole number of at least 1")
    if kind == "conv":
        width = _needed(where, entry, "num_output", "a whole number of at least 1, or 'classes'")
        rest = {key: entry[key] for key in ("stride", "pad", "relu", "dropout") if key in entry}
        if not isinstance(rest.get("relu", True), bool):
            raise DeriveError(f"{where}: relu", rest["relu"], "true or false", ("true", "false"))
        if rest.get("pad") == "conv7":
            raise DeriveError(f"{where}: pad", "conv7", "a whole number of at least 0, or 'same'")
        return Conv(width, kernel_size, **rest)
    stride = _needed(where, entry, "stride", "a whole number of at least 1")
    return Pool(kernel_size, stride, entry.get("pad", 0), "MAX" if kind == "max_pool" else "AVE")


def read_table(table: Mapping[str, Any], where: str) -> tuple[str, Architecture, str, RenderOptions]:
    """A TOML table, or a Python dictionary of the same form.

    Returns:
        Name, base with its ``[change]`` applied, transformation, options.
    Raises:
        TableError: naming file and entry.
    """
    _known(where, table, _TABLE_KEYS)
    given = table.get("base")
    if ("layer" in table) == (given is not None):
        found = "both" if given is not None else "neither"
        raise DeriveError(f"{where}: base, layer", found, "either a base of the paper or [[layer]] entries")
    step = table.get("transform")
    if step is not None and (not isinstance(step, str) or step not in TRANSFORMS):
        raise DeriveError(f"{where}: transform", step, "the name of a transformation", TRANSFORMS)
    if given is not None:
        name = table.get("name", given)
        base, own_step = paper_base(given, f"{where}: base")
        step = step or own_step
    else:
        name = _needed(where, table, "name", "a name for the network")
        entries = table["layer"]
        if not isinstance(entries, list):
            raise DeriveError(f"{where}: layer", entries, "a list of tables, each [[layer]]")
        rows = tuple(read_row(entry, f"{where}: layer {index + 1}") for index, entry in enumerate(entries))
        base = Architecture(name, source=table.get("source", Path(where).name), layers=rows)
        step = step or "none"
    checked_name(name, f"{where}: name")
    shape = table.get("input_shape", base.input_shape)
    if (
        not isinstance(shape, list | tuple)
        or len(shape) != 3
        or any(isinstance(size, bool) or not isinstance(size, int) or size < 1 for size in shape)
    ):
        raise DeriveError(f"{where}: input_shape", shape, "[channels, height, width], each at least 1")
    base = replace(base, input_shape=(shape[0], shape[1], shape[2]))
    if shape[1] != shape[2]:
        raise DeriveError(f"{where}: input_shape", list(shape), "height and width to be equal")
    if "classes" in table:
        _at_least_one(f"{where}: classes", table["classes"])
        base = replace(base, classes=table["classes"])
    for key, expected in (
        ("input_dropout", "a rate of at least 0 and below 1"),
        ("pool_dropout", "a rate of at least 0 and below 1"),
        ("negative_slope", "a number of at least 0"),
    ):
        if key in table:
            value = table[key]
            top = architectures.LARGEST_FLOAT if key == "negative_slope" else architectures.LARGEST_RATE
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= top:
                raise DeriveError(f"{where}: {key}", value, expected)
            changed: dict[str, Any] = {key: value}
            base = replace(base, **changed)
    if "filler" in table:
        if table["filler"] not in architectures.FILLERS:
            raise DeriveError(f"{where}: filler", table["filler"], "a weight filler", architectures.FILLERS)
        base = replace(base, filler=table["filler"])
    _checked(base, where)
    if "change" in table:
        base = _placed(where, lambda: apply_changes(base, table["change"]))
        _checked(base, where)
    options = table.get("options", {})
    _known(f"{where}: options", options, [entry.name for entry in fields(RenderOptions)])
    if "classes" in table:
        options = {"num_output": base.classes, **options}
    return str(name), base, str(step), options_from(options, f"{where}: options")


def paper_base(name: Any, where: str = "base") -> tuple[Architecture, str]:
    """A network of the paper as base and transformation: ``all_cnn_c`` is Model C and ``all_conv``."""
    key = str(name).replace("-", "_").replace("allcnn", "all_cnn")
    if key in architectures.TABLE_3:
        return architectures.TABLE_3[key]
    if key not in architectures.NAMES:
        raise DeriveError(where, name, "a network of the paper", architectures.NAMES)
    return architectures.architecture(key), "none"


def checked_name(name: Any, where: str) -> str:
    """A name that may stand in file names and prototxt."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise DeriveError(where, name, 'letters, digits, ".", "_" and "-", beginning with a letter or digit')
    return name


def _checked(base: Architecture, where: str) -> None:
    _placed(where, lambda: check_table(base))


def _placed(where: str, action: Any) -> Any:
    """Run ``action``; its errors get the file's name in front."""
    try:
        return action()
    except TableError as error:
        raise DeriveError(f"{where}: {error.where}", error.found, error.expected, error.choices) from None


def load(source: str | Path) -> tuple[str, Architecture, str, RenderOptions]:
    """Read a TOML or Python table, or the name of a network of the paper.

    Returns:
        Name, base, transformation, options.
    Raises:
        TableError: the file cannot be read or its table is wrong; it names the file and the entry.
    """
    where = str(source)
    path = Path(source)
    if path.suffix not in (".toml", ".py"):
        if path.exists():
            raise DeriveError(where, path.suffix or "no suffix", "a table", (".toml", ".py"))
        base, step = paper_base(where, "base")
        return where, base, step, RenderOptions()
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DeriveError(where, "no such file", "a table (.toml or .py)") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DeriveError(where, str(error), "a readable text file") from None
    if path.suffix == ".toml":
        try:
            return read_table(tomllib.loads(text), where)
        except tomllib.TOMLDecodeError as error:
            raise DeriveError(where, str(error), "TOML") from None
    try:
        names = runpy.run_path(where)
    except TableError as error:
        raise DeriveError(f"{where}: {error.where}", error.found, error.expected, error.choices) from None
    except (Exception, SystemExit) as error:
        raise DeriveError(
            where, f"{type(error).__name__}: {error}".rstrip(": "), "Python that runs and sets ARCHITECTURE"
        ) from None
    table = names.get("ARCHITECTURE")
    if isinstance(table, Mapping):
        return read_table(table, where)
    if not isinstance(table, Architecture):
        found = "nothing" if table is None else type(table).__name__
        raise DeriveError(f"{where}: ARCHITECTURE", found, "an Architecture, or a table of the TOML form")
    options = names.get("OPTIONS", RenderOptions())
    if not isinstance(options, RenderOptions):
        raise DeriveError(f"{where}: OPTIONS", type(options).__name__, "a RenderOptions")
    _checked(table, where)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", table.name).strip("-.") or "derived"
    if options.num_output is None:
        options = replace(options, num_output=table.classes)
    return name, table, "none", options


# ---------------------------------------------------------------------------------------------------------------------


def derive(
    source: str | Path,
    directory: str | Path,
    *,
    name: str | None = None,
    transform: str | None = None,
    widths: Mapping[int, int] | Sequence[int] | None = None,
    width_multiplier: float | None = None,
    kernel_sizes: Mapping[int, int] | int | None = None,
    depth: int | None = None,
    dataset: str | None = None,
    options: Mapping[str, Any] | None = None,
    root: str | Path = ".",
    command: str | None = None,
) -> Derived:
    """Write a new variant into ``directory``: solver, train_val, deploy and the snapshot folder.

    Args:
        source: a ``.toml`` or ``.py`` table, or a network of the paper (``model_c``, ``all_cnn_c``, ...).
        transform: in place of the source's own; the other changes act on the base before it.
        dataset: name in ``experiments.DATASETS``, whose paths and counts the solver uses where the options name no
            others. None: the data set of the source's table in the paper, else cifar10.
        options: options of ``allconv render``; they go before the table's own.
        root: the folder that ``caffe train`` will be started in; paths below it are written relative to it.
    Raises:
        TableError: naming file and entry.
    """
    own_name, base, step, table_options = load(source)
    if transform is not None:
        if transform not in TRANSFORMS:
            raise DeriveError("option transform", transform, "the name of a transformation", TRANSFORMS)
        step = transform
    changes = {
        "widths": widths,
        "width_multiplier": width_multiplier,
        "kernel_sizes": kernel_sizes,
        "depth": depth,
    }
    given = {key: value for key, value in changes.items() if value is not None}
    where = str(source)
    if given:
        base = _placed(where, lambda: apply_changes(base, given))
        _checked(base, where)
    if dataset is None:
        dataset = {"large": "cifar10-large", "imagenet": "imagenet"}.get(base.family, "cifar10")
    if dataset not in experiments.DATASETS:
        raise DeriveError("option dataset", dataset, "the name of a data set", experiments.DATASETS)
    asked = {key: value for key, value in (options or {}).items() if value is not None}
    overrides = options_from(asked)
    merged = replace(table_options, **{key: getattr(overrides, key) for key in asked})
    network = _placed(where, lambda: architectures.transform(base, step, merged.stride_on))
    title = checked_name(name if name is not None else own_name, "option name")
    network = replace(network, name=title, source=f"derived from {base.source}")
    data = experiments.DATASETS[dataset]
    if network.input_shape[1] != data.input_size and merged.image_size is None:
        merged = replace(merged, image_size=network.input_shape[1])
    if network.input_shape[0] != data.shape[0] and merged.channels is None:
        merged = replace(merged, channels=network.input_shape[0])
    schedule = {"large": experiments.LARGE_SCHEDULE, "imagenet": experiments.IMAGENET_SCHEDULE}.get(
        network.family, experiments.CIFAR_SCHEDULE
    )
    experiment = Experiment(title, title, network, data, schedule, network.source)
    if command is None:
        command = f"allconv derive {where} --output {directory}"
        command += "".join(f" --{key.replace('_', '-')} {_typed(value)}" for key, value in given.items())
        command += f" --transform {transform}" if transform is not None else ""
    files = _placed(where, lambda: write(experiment, directory, merged, root, command))
    return Derived(network, experiment, tuple(files), architectures.parameters(network, merged))


def _typed(value: Any) -> str:
    """A change as it is typed: 64,128 or 96=64,192=128."""
    if isinstance(value, Mapping):
        return ",".join(f"{old}={new}" for old, new in value.items())
    return ",".join(str(part) for part in value) if isinstance(value, list | tuple) else str(value)


def numbers_from_text(text: str, where: str) -> dict[int, int] | list[int]:
    """``64,128`` -> [64, 128]; ``96=64,192=128`` -> {96: 64, 192: 128}: widths and kernel sizes of a command line."""
    parts = [part.strip() for part in text.split(",")]
    try:
        if all("=" in part for part in parts):
            return {int(old): int(new) for old, new in (part.split("=", 1) for part in parts)}
        return [int(part) for part in parts]
    except ValueError:
        raise DeriveError(where, text, "whole numbers: 64,128 or 96=64,192=128") from None

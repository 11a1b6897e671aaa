"""Reading a user's own table, TOML or Python.

A TOML table::

    name = "tiny"                # letters, digits, ".", "_", "-"
    transform = "all_conv"       # none | strided | conv_pool | all_conv | pnorm_pool | fully_connected, or several
    input_shape = [3, 32, 32]    # channels, height, width; the default
    classes = 10                 # the default: the data set's
    input_dropout = 0.2          # the default: 0
    pool_dropout = 0.5           # after each pool, or the layer replacing it; the default: 0

    [[layer]]
    type = "conv"                # conv | max_pool | average_pool | norm_pool | global_pool | fc
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

import re
import runpy
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from allconv_caffe.errors import did_you_mean
from allconv_caffe.files import open_file
from allconv_caffe.paper import architectures
from allconv_caffe.paper.architectures import (
    TRANSFORMS,
    Architecture,
    Conv,
    FullyConnected,
    GlobalPool,
    NormPool,
    Pool,
    Row,
)
from allconv_caffe.paper.changes import apply_changes, known_keys
from allconv_caffe.paper.errors import DeriveError, TableError
from allconv_caffe.paper.options import RenderOptions, options_from
from allconv_caffe.paper.plan import check_table
from allconv_caffe.paper.rules import SHAPE, rules

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_ROWS: dict[str, tuple[type[Row], tuple[str, ...], tuple[str, ...]]] = {
    "conv": (Conv, ("num_output", "kernel_size"), ("stride", "pad", "relu", "dropout")),
    "max_pool": (Pool, ("kernel_size", "stride"), ("pad",)),
    "average_pool": (Pool, ("kernel_size", "stride"), ("pad",)),
    "norm_pool": (NormPool, ("kernel_size", "stride", "p"), ("pad", "mean")),
    "global_pool": (GlobalPool, (), ()),
    "fc": (FullyConnected, ("num_output",), ("relu", "dropout_below")),
}
"""By type of a ``[[layer]]``: its row, the keys that it must have, those that it may have."""

LAYER_TYPES: tuple[str, ...] = tuple(_ROWS)
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
_ENTRIES = ("classes", "input_dropout", "pool_dropout", "negative_slope", "filler")


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
    row, needed, other = _ROWS[kind]
    known_keys(where, entry, ("type", *needed, *other))
    values: dict[str, Any] = {key: _needed(where, entry, key, rules(row)[key].fault(None) or "") for key in needed}
    values |= {key: entry[key] for key in other if key in entry}
    if values.get("pad") == "conv7":
        raise DeriveError(f"{where}: pad", "conv7", "a whole number of at least 0, or 'same'")
    if kind == "average_pool":
        values["method"] = "AVE"
    return row(**values)


def read_table(table: Mapping[str, Any], where: str) -> tuple[str, Architecture, str, RenderOptions]:
    """A TOML table, or a Python dictionary of the same form.

    Returns:
        Name, base with its ``[change]`` applied, transformation, options.
    Raises:
        TableError: naming file and entry.
    """
    known_keys(where, table, _TABLE_KEYS)
    given = table.get("base")
    if ("layer" in table) == (given is not None):
        found = "both" if given is not None else "neither"
        raise DeriveError(f"{where}: base, layer", found, "either a base of the paper or [[layer]] entries")
    step = table.get("transform")
    if step is not None:
        step = transform_names(step, f"{where}: transform")
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
    base = _with_entries(base, table, where)
    checked(base, where)
    if "change" in table:
        base = placed(where, lambda: apply_changes(base, table["change"]))
        checked(base, where)
    options = table.get("options", {})
    known_keys(f"{where}: options", options, [entry.name for entry in fields(RenderOptions)])
    if "classes" in table:
        options = {"num_output": base.classes, **options}
    return str(name), base, str(step), options_from(options, f"{where}: options")


def _with_entries(base: Architecture, table: Mapping[str, Any], where: str) -> Architecture:
    """The base with the table's input_shape, classes, rates, slope and filler, each under its rule."""
    entries: dict[str, Any] = {key: table[key] for key in _ENTRIES if key in table}
    for key, value in entries.items():
        placed(where, partial(rules(Architecture)[key].check, key, value))
    shape = table.get("input_shape", base.input_shape)
    if not isinstance(shape, list | tuple) or SHAPE.fault(tuple(shape)):
        raise DeriveError(f"{where}: input_shape", shape, "[channels, height, width], each at least 1")
    if shape[1] != shape[2]:
        raise DeriveError(f"{where}: input_shape", list(shape), "height and width to be equal")
    return replace(base, input_shape=tuple(shape), **entries)


def transform_names(value: Any, where: str) -> str:
    """``all_conv,fully_connected``: the names of transformations, as text with commas or as a list.

    Raises:
        TableError: none, or one that is unknown.
    """
    names = value.split(",") if isinstance(value, str) else value
    wrong = next((name for name in names if name not in TRANSFORMS), None) if isinstance(names, list) else value
    if wrong is not None or not names:
        raise DeriveError(where, value if wrong is None else wrong, "the name of a transformation", TRANSFORMS)
    return ",".join(names)


def paper_base(name: Any, where: str = "base") -> tuple[Architecture, str]:
    """A network of the paper as base and transformation: ``all_cnn_c`` is Model C and ``all_conv``."""
    key = str(name).replace("-", "_").replace("allcnn", "all_cnn")
    if found := architectures.TABLE_3.get(key) or architectures.CONTROLS.get(key):
        return found
    if key not in architectures.NAMES:
        close = did_you_mean(key, architectures.NAMES)
        raise DeriveError(where, name, f"a network of the paper{close}", architectures.NAMES)
    return architectures.architecture(key), "none"


def checked_name(name: Any, where: str) -> str:
    """A name that may stand in file names and prototxt."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise DeriveError(where, name, 'letters, digits, ".", "_" and "-", beginning with a letter or digit')
    return name


def checked(base: Architecture, where: str) -> None:
    """Raise a ``TableError``, the file's name in front, where no network can be built from the table."""
    placed(where, lambda: check_table(base))


def placed(where: str, action: Callable[[], Any]) -> Any:
    """Run ``action``; its errors get the file's name in front."""
    try:
        return action()
    except TableError as error:
        raise DeriveError.of(error).within(where) from None


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
        with open_file(path) as file:
            text = file.read().decode("utf-8-sig").replace("\r\n", "\n")
    except FileNotFoundError:
        raise DeriveError(where, "no such file", "a table (.toml or .py)") from None
    except (OSError, ValueError) as error:
        raise DeriveError(where, getattr(error, "strerror", None) or str(error), "a readable text file") from None
    if path.suffix == ".toml":
        try:
            return read_table(tomllib.loads(text), where)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise DeriveError(where, str(error), "TOML") from None
    try:
        names = runpy.run_path(where)
    except TableError as error:
        raise DeriveError.of(error).within(where) from None
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
    checked(table, where)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", table.name).strip("-.") or "derived"
    if options.num_output is None:
        options = replace(options, num_output=table.classes)
    return name, table, "none", options

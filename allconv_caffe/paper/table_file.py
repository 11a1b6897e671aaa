"""Reading a user's own table, TOML or Python.

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

import re
import runpy
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from allconv_caffe.paper import architectures
from allconv_caffe.paper.architectures import TRANSFORMS, Architecture, Conv, GlobalPool, Pool, Row
from allconv_caffe.paper.changes import apply_changes, known_keys
from allconv_caffe.paper.errors import DeriveError, TableError
from allconv_caffe.paper.options import RenderOptions, options_from
from allconv_caffe.paper.plan import check_table
from allconv_caffe.paper.rules import SHAPE, rules

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LAYER_TYPES: tuple[str, ...] = ("conv", "max_pool", "average_pool", "global_pool")
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
    keys = {"conv": _CONV_KEYS, "global_pool": ()}.get(kind, _POOL_KEYS)
    known_keys(where, entry, ("type", *keys))
    if kind == "global_pool":
        return GlobalPool()
    kernel_size = _needed(where, entry, "kernel_size", "a whole number of at least 1")
    if kind == "conv":
        width = _needed(where, entry, "num_output", "a whole number of at least 1, or 'classes'")
        rest = {key: entry[key] for key in ("stride", "pad", "relu", "dropout") if key in entry}
        if rest.get("pad") == "conv7":
            raise DeriveError(f"{where}: pad", "conv7", "a whole number of at least 0, or 'same'")
        return Conv(num_output=width, kernel_size=kernel_size, **rest)
    stride = _needed(where, entry, "stride", "a whole number of at least 1")
    return Pool(kernel_size, stride, entry.get("pad", 0), "MAX" if kind == "max_pool" else "AVE")


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

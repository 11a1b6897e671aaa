"""A network with other widths, kernel sizes or depth: pure functions from one ``Architecture`` to another."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from allconv_caffe.paper.architectures import CLASSES, Architecture, Conv, Pool, Row, describe
from allconv_caffe.paper.errors import DeriveError
from allconv_caffe.paper.rules import SIZE

CHANGES: tuple[str, ...] = ("widths", "width_multiplier", "kernel_sizes", "depth")
"""The keys of a ``[change]`` table."""

MOST_DEPTH = 1000  # a slip of the keyboard would otherwise fill memory and disk


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
        SIZE.check(f"{base.name}: widths: {old}", new)
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
        SIZE.check(f"{base.name}: kernel_sizes", sizes)
        sizes = {old: sizes for old in present if old != 1}
    for old, new in sizes.items():
        if old not in present:
            raise DeriveError(f"{base.name}: kernel_sizes", old, "a kernel size of the base", present)
        SIZE.check(f"{base.name}: kernel_sizes: {old}", new)
    table = dict(sizes)
    return _each_conv(base, lambda row: replace(row, kernel_size=table.get(row.kernel_size, row.kernel_size)))


def with_depth(base: Architecture, depth: int) -> Architecture:
    """``depth`` convolutions before each pool: the last one of the block is repeated, or the block is cut from its end.

    Raises:
        TableError: a pool has no convolution before it, or the base has no pool.
    """
    SIZE.check(f"{base.name}: depth", depth)
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


def _each_conv(base: Architecture, change: Callable[[Conv], Conv]) -> Architecture:
    return replace(base, layers=tuple(change(row) if isinstance(row, Conv) else row for row in base.layers))


def _width(row: Conv) -> int:
    return 0 if row.num_output == CLASSES else int(row.num_output)


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


def apply_changes(base: Architecture, changes: Mapping[str, Any]) -> Architecture:
    """Depth, then kernel sizes, then widths: the keys of a ``[change]`` table.

    Raises:
        TableError: an unknown key, or a value that does not fit the base.
    """
    known_keys("change", changes, CHANGES)
    if "depth" in changes:
        base = with_depth(base, changes["depth"])
    if "kernel_sizes" in changes:
        sizes = changes["kernel_sizes"]
        if not isinstance(sizes, int | Mapping) or isinstance(sizes, bool):
            raise DeriveError("change: kernel_sizes", sizes, "one size, or a table old = new")
        base = with_kernel_sizes(base, _whole_keys("change: kernel_sizes", sizes))
    if "widths" in changes:
        widths = changes["widths"]
        if not isinstance(widths, list | tuple | Mapping):
            raise DeriveError("change: widths", widths, "a list of widths, or a table old = new")
        base = with_widths(base, _whole_keys("change: widths", widths))
    if "width_multiplier" in changes:
        base = with_width_multiplier(base, changes["width_multiplier"])
    return base


def known_keys(where: str, table: Any, keys: Iterable[str]) -> None:
    """Raise a ``TableError`` where ``table`` is none, or has a key that is not one of ``keys``."""
    if not isinstance(table, Mapping):
        raise DeriveError(where, table, "a table")
    for key in table:
        if key not in keys:
            raise DeriveError(f"{where}: {key}", key, "a known key", tuple(keys))

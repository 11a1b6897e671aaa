"""Layers as prototxt, a line each."""

from __future__ import annotations

from collections.abc import Sequence


def layer_of(name: str, type_: str, ends: str, fields: str = "") -> str:
    """``layer { name type ENDS FIELDS }``; `ends` are the bottoms and tops as prototxt has them."""
    return f'layer {{ name: "{name}" type: "{type_}" {ends} {fields} }}\n'


def layer(name: str, type_: str, bottoms: str = "", fields: str = "", tops: str | None = None) -> str:
    """A layer whose bottoms and tops are words with blanks between; its top is called as it is where none is given."""
    ends = [f'bottom: "{word}"' for word in bottoms.split()]
    ends += [f'top: "{word}"' for word in (name if tops is None else tops).split()]
    return layer_of(name, type_, " ".join(ends), fields)


def shape_of(dims: Sequence[int]) -> str:
    """``shape { dim: 1 dim: 3 }``."""
    return f"shape {{ {' '.join(f'dim: {dim}' for dim in dims)} }}"


def input_layer(name: str, *dims: int) -> str:
    """An Input layer of that shape."""
    return layer(name, "Input", "", f"input_param {{ {shape_of(dims)} }}")

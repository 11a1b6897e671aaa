"""Caffe's messages and enums as classes, built once from the tables in `schema`: the globals of this module."""

from __future__ import annotations

from typing import Any

from .build import build

NAMES, EXTENSIONS = build(__package__)
globals().update(NAMES)


def __getattr__(name: str) -> Any:
    """Only reached for names that exist nowhere; it also tells type checkers that the classes do."""
    raise AttributeError(f"module 'allconv_caffe.proto' has no attribute {name!r} (messages: see {__package__}.schema)")

"""Operators of our own, which a compiled graph calls as they are.

They are plain ones, without the wrappers for autograd of PyTorch's `custom_op`, which cost more than a small layer's work; they
take their arrays in whatever layout the compiler chose for them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_LIBRARY = torch.library.Library("allconv_caffe", "FRAGMENT")  # the operators live as long as this


def define(arguments: str, results: str, run: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """torch.ops.allconv_caffe.<name of `run`, without leading underscores>, for the CPU.

    Args:
        arguments, results: as in PyTorch's schemas.
        fake: makes empty results of the right shapes and layouts.
    """
    name = run.__name__.lstrip("_")
    tags = (torch.Tag.flexible_layout, torch.Tag.pt2_compliant_tag)
    _LIBRARY.define(f"{name}({arguments}) -> {results}", tags=tags)
    _LIBRARY.impl(name, run, "CPU")
    torch.library.register_fake(f"allconv_caffe::{name}", fake, lib=_LIBRARY)

"""bfloat16 where float32 multiplies it: products of factors rounded to bfloat16."""

from __future__ import annotations

import functools
import platform

import torch

__all__ = ["cpu_multiplies_bf16", "rounded", "widened"]


@functools.cache
def cpu_multiplies_bf16() -> bool:
    """This processor has instructions for products in bfloat16: AVX512-BF16 or AMX, on other architectures what oneDNN asks for.

    Without them PyTorch works one product at a time, tens of times slower than in float32.
    """
    if platform.machine().lower() in ("x86_64", "amd64"):
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def rounded(x: torch.Tensor) -> torch.Tensor:
    """float32 `x` with every number rounded to the nearest of bfloat16, ties to even; as ``x.bfloat16().float()``.

    On the bits, because a compiled graph takes a conversion there and back for nothing and leaves it out.
    """
    bits = x.view(torch.int32)
    near = (bits + 0x7FFF + ((bits >> 16) & 1)) & -0x10000
    return torch.where(torch.isnan(x), x, near.view(torch.float32))


def widened(x: torch.Tensor) -> torch.Tensor:
    """bfloat16 `x` in float32; as ``x.float()``, and likewise on the bits: what was rounded before stays so."""
    return (x.view(torch.int16).to(torch.int32) << 16).view(torch.float32) if x.dtype == torch.bfloat16 else x

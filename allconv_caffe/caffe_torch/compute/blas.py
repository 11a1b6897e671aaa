"""Products with a factor that is 0 or nan, as OpenBLAS 0.3.13 has them under Caffe: they differ from `*`.

`scal` (caffe_scal, caffe_cpu_scale, and what caffe_cpu_axpby does to its second array) fills with 0 where the factor is 0
or nan, whatever stands there; `axpy` (caffe_axpy, and the first array of caffe_cpu_axpby) adds nothing where the factor is
0, and nan where it is nan. Measured on the library of Debian 11, for 1 to 100 values.

The compiled executor, where a mask would cost time and a network that meets these is lost anyway, multiplies by tensors as
PyTorch does.

Source: math_functions.cpp, mkl_alternate.hpp.
"""

from __future__ import annotations

import torch

from allconv_caffe.caffe_torch.blob import Blob


def scal(x: torch.Tensor, alpha: float | torch.Tensor) -> torch.Tensor:
    """x * alpha, and 0 where alpha is 0 or nan.

    Args:
        x: any shape, float32.
        alpha: a number, or a tensor that broadcasts to x's shape.
    """
    if not isinstance(alpha, torch.Tensor):
        return x * alpha if abs(alpha) > 0 else torch.zeros_like(x)
    return _masked(x * alpha, ~(alpha.abs() > 0))


def axpy(x: torch.Tensor, alpha: float | torch.Tensor) -> torch.Tensor:
    """x * alpha, and 0 where alpha is 0: what is added to another array.

    Args:
        x: any shape, float32.
        alpha: a number, or a tensor that broadcasts to x's shape.
    """
    if not isinstance(alpha, torch.Tensor):
        return x * alpha if alpha != 0 else torch.zeros_like(x)
    return _masked(x * alpha, alpha == 0)


def _masked(product: torch.Tensor, nothing: torch.Tensor) -> torch.Tensor:
    if Blob.tracing or (nothing.device.type == "cpu" and not bool(nothing.any())):
        return product
    return product.masked_fill(nothing, 0)

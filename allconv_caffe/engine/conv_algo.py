"""Which algorithm convolves: one interface, forward and backward, over torch operations.

`forward(algo, ...)` returns the top and what backward may reuse; `backward(algo, ...)` returns the three gradients.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

Saved = object | None
Gradients = tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]


def choose(
    x_shape: Sequence[int],
    w_shape: Sequence[int],
    stride: Sequence[int],
    pad: Sequence[int],
    dilation: Sequence[int],
    group: int,
    device: torch.device,
    dtype: torch.dtype,
    *,
    compiled: bool,
    mode: str = "auto",
) -> str:
    """The algorithm's name. Only "direct" (PyTorch's own convolution) so far."""
    return "direct"


def forward(
    algo: str,
    x: torch.Tensor,
    w: torch.Tensor,
    b: torch.Tensor | None,
    stride: Sequence[int],
    pad: Sequence[int],
    dilation: Sequence[int],
    group: int,
) -> tuple[torch.Tensor, Saved]:
    """y = x * w + b, (N, C, spatial...) and (K, C / group, kernel...) to (N, K, spatial...)."""
    zero = [0] * len(stride)
    return torch.ops.aten.convolution(x, w, b, list(stride), list(pad), list(dilation), False, zero, group), None


def backward(
    algo: str,
    dy: torch.Tensor,
    x: torch.Tensor,
    w: torch.Tensor,
    saved: Saved,
    stride: Sequence[int],
    pad: Sequence[int],
    dilation: Sequence[int],
    group: int,
    need: tuple[bool, bool, bool],
) -> Gradients:
    """dx, dw, db; None where `need` says no."""
    zero = [0] * len(stride)
    dx, dw, db = torch.ops.aten.convolution_backward(
        dy, x, w, [w.shape[0]], list(stride), list(pad), list(dilation), False, zero, group, list(need)
    )
    return dx, dw, db

"""Which algorithm convolves: one interface, forward and backward, over torch operations.

`forward(algo, ...)` returns the top; `backward(algo, ...)` returns the three gradients. "direct" is PyTorch's own
convolution. "winograd2" and "winograd4" compute 3x3 convolutions with stride 1 on tiles of 2x2 and 4x4 outputs with
2.25 and 4 times fewer multiplications; see `conv_kernels`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from allconv_caffe.engine import conv_kernels

Gradients = tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]
WINOGRAD = {"winograd2": 2, "winograd4": 4}
ALGORITHMS = ("direct", *WINOGRAD)


def fits_winograd(
    w_shape: Sequence[int], stride: Sequence[int], pad: Sequence[int], dilation: Sequence[int], group: int
) -> bool:
    """3x3, stride 1, equal padding of at most 2, and channels in whole vectors both ways."""
    return (
        tuple(w_shape[2:]) == (3, 3)
        and tuple(stride) == (1, 1)
        and tuple(dilation) == (1, 1)
        and group == 1
        and pad[0] == pad[1] <= 2
        and w_shape[0] % conv_kernels.PANEL == 0
        and w_shape[1] % conv_kernels.PANEL == 0
    )


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
    """The algorithm's name.

    Args:
        mode: an algorithm, or "auto": Winograd where a compiled net runs float32 on the CPU and the kernels are there.

    Raises:
        ValueError: unknown mode, or an algorithm that cannot compute this convolution.
    """
    fits = fits_winograd(w_shape, stride, pad, dilation, group)
    if mode == "auto":
        possible = compiled and fits and device.type == "cpu" and dtype == torch.float32
        return "winograd4" if possible and conv_kernels.why_not() is None else "direct"
    if mode not in ALGORITHMS:
        raise ValueError(f"unknown convolution algorithm '{mode}' (known: auto, {', '.join(ALGORITHMS)})")
    return mode if fits else "direct"


def forward(
    algo: str,
    x: torch.Tensor,
    w: torch.Tensor,
    b: torch.Tensor | None,
    stride: Sequence[int],
    pad: Sequence[int],
    dilation: Sequence[int],
    group: int,
) -> torch.Tensor:
    """y = x * w + b, (N, C, spatial...) and (K, C / group, kernel...) to (N, K, spatial...)."""
    if algo in WINOGRAD:
        m = WINOGRAD[algo]
        return torch.ops.allconv_caffe.winograd(x, transformed(w, m), b, m, pad[0])
    zero = [0] * len(stride)
    return torch.ops.aten.convolution(x, w, b, list(stride), list(pad), list(dilation), False, zero, group)


def backward(
    algo: str,
    dy: torch.Tensor,
    x: torch.Tensor,
    w: torch.Tensor,
    stride: Sequence[int],
    pad: Sequence[int],
    dilation: Sequence[int],
    group: int,
    need: tuple[bool, bool, bool],
) -> Gradients:
    """dx, dw, db; None where `need` says no."""
    if algo in WINOGRAD:
        m, dx, dw = WINOGRAD[algo], None, None
        if need[0]:  # a convolution of dy with the filters turned by 180 degrees, inputs and outputs exchanged
            turned = w.flip(2, 3).transpose(0, 1)
            dx = torch.ops.allconv_caffe.winograd(dy, transformed(turned, m), None, m, 2 - pad[0])
        if need[1]:
            a = m + 2
            du = torch.ops.allconv_caffe.winograd_weight(x, dy, m, pad[0])
            g = filter_transform(m, w)
            dw = torch.einsum("ir,js,ijco->ocrs", g, g, du.reshape(a, a, x.shape[1], dy.shape[1]))
        return dx, dw, dy.sum((0, 2, 3)) if need[2] else None
    zero = [0] * len(stride)
    dx, dw, db = torch.ops.aten.convolution_backward(
        dy, x, w, [w.shape[0]], list(stride), list(pad), list(dilation), False, zero, group, list(need)
    )
    return dx, dw, db


def transformed(w: torch.Tensor, m: int) -> torch.Tensor:
    """G w G^T in the kernels' layout: (O, C, 3, 3) to ((m + 2)^2, O / 16, C, 16)."""
    o, c = w.shape[:2]
    a, panel = m + 2, conv_kernels.PANEL
    g = filter_transform(m, w)
    u = torch.einsum("ir,js,ocrs->ijoc", g, g, w)
    return u.reshape(a * a, o // panel, panel, c).transpose(2, 3).contiguous()


def filter_transform(m: int, like: torch.Tensor) -> torch.Tensor:
    """G, (m + 2, 3): rows (1, t, t^2) / prod over the other points s of (t - s), for t in 0, +-p, +-q; then (0, 0, 1).

    For m = 2 the first row's sign stands in the kernels' data transform.
    """
    points = [0.0] + [s * t for t in conv_kernels.POINTS[m] for s in (1.0, -1.0)]
    rows = []
    for t in points:
        scale = 1.0
        for s in points:
            if s != t:
                scale *= t - s
        rows.append([1 / scale, t / scale, t * t / scale])
    if m == 2:
        rows[0] = [1.0, 0.0, 0.0]
    return torch.tensor([*rows, [0.0, 0.0, 1.0]], dtype=like.dtype, device=like.device)

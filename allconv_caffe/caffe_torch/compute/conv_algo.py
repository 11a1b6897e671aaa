"""Which algorithm convolves: one interface, forward and backward, over torch operations.

`forward(algo, ...)` returns the top; `backward(algo, ...)` returns the three gradients. "direct" is PyTorch's own
convolution. "winograd2" and "winograd4" compute 3x3 convolutions with stride 1 on tiles of 2x2 and 4x4 outputs with
2.25 and 4 times fewer multiplications; see `winograd.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from allconv_caffe.caffe_torch.compute import winograd

Gradients = tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]
WINOGRAD = {"winograd2": 2, "winograd4": 4}
ALGORITHMS = ("direct", *WINOGRAD)
MAX_AXES = 3  # spatial axes of PyTorch's convolution


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
        and w_shape[0] % winograd.PANEL == 0
        and w_shape[1] % winograd.PANEL == 0
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
        return "winograd4" if possible and winograd.why_not() is None else "direct"
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
        return torch.ops.allconv_caffe.winograd(x, winograd.transformed(w, m), b, m, pad[0])
    if len(stride) > MAX_AXES:
        y = sum(
            forward(algo, part, w[:, :, k], None, stride[1:], pad[1:], dilation[1:], group)
            for k, part in enumerate(_slices(x, w, stride, pad, dilation))
        )
        assert isinstance(y, torch.Tensor)
        y = y.reshape(x.shape[0], -1, *y.shape[1:]).transpose(1, 2)
        return y if b is None else y + b.reshape(-1, *[1] * len(stride))
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
            dx = torch.ops.allconv_caffe.winograd(dy, winograd.transformed(turned, m), None, m, 2 - pad[0])
        if need[1]:
            a = m + 2
            du = torch.ops.allconv_caffe.winograd_weight(x, dy, m, pad[0])
            g = winograd.filter_transform(m, w)
            dw = torch.einsum("ir,js,ijco->ocrs", g, g, du.reshape(a, a, x.shape[1], dy.shape[1]))
        return dx, dw, dy.sum((0, 2, 3)) if need[2] else None
    if len(stride) > MAX_AXES:
        return _backward_deep(algo, dy, x, w, stride, pad, dilation, group, need)
    zero = [0] * len(stride)
    dx, dw, db = torch.ops.aten.convolution_backward(
        dy, x, w, [w.shape[0]], list(stride), list(pad), list(dilation), False, zero, group, list(need)
    )
    return dx, dw, db


def transposed(
    x: torch.Tensor,
    w: torch.Tensor,
    b: torch.Tensor | None,
    stride: Sequence[int],
    pad: Sequence[int],
    dilation: Sequence[int],
    group: int,
) -> torch.Tensor:
    """What a convolution with w (C, K / group, kernel...) sends back from x (N, C, spatial...), + b: (N, K, out...)."""
    if len(stride) <= MAX_AXES:
        zero = [0] * len(stride)
        return torch.ops.aten.convolution(x, w, b, list(stride), list(pad), list(dilation), True, zero, group)
    out = [
        s * (size - 1) + d * (k - 1) + 1 - 2 * p
        for size, k, s, p, d in zip(x.shape[2:], w.shape[2:], stride, pad, dilation, strict=True)
    ]
    below = x.new_zeros(x.shape[0], w.shape[1] * group, *out)
    y, _, _ = backward("direct", x, below, w, stride, pad, dilation, group, (True, False, False))
    assert y is not None
    return y if b is None else y + b.reshape(-1, *[1] * len(stride))


def transposed_backward(
    dy: torch.Tensor,
    x: torch.Tensor,
    w: torch.Tensor,
    stride: Sequence[int],
    pad: Sequence[int],
    dilation: Sequence[int],
    group: int,
    need: tuple[bool, bool, bool],
) -> Gradients:
    """dx, dw, db of `transposed`; None where `need` says no."""
    if len(stride) <= MAX_AXES:
        dx, dw, db = torch.ops.aten.convolution_backward(
            dy,
            x,
            w,
            [w.shape[1] * group],
            list(stride),
            list(pad),
            list(dilation),
            True,
            [0] * len(stride),
            group,
            list(need),
        )
        return dx, dw, db
    return (
        forward("direct", dy, w, None, stride, pad, dilation, group) if need[0] else None,
        backward("direct", x, dy, w, stride, pad, dilation, group, (False, True, False))[1] if need[1] else None,
        dy.sum([0, *range(2, dy.dim())]) if need[2] else None,
    )


# more axes than PyTorch convolves: for each place k of the kernel along the first, a convolution over the rest
def _places(x: torch.Tensor, w: torch.Tensor, stride: int, pad: int, dilation: int) -> list[slice]:
    """Along the padded first axis, what lies under each place of the kernel."""
    out = (x.shape[2] + 2 * pad - (dilation * (w.shape[2] - 1) + 1)) // stride + 1
    return [slice(k * dilation, k * dilation + (out - 1) * stride + 1, stride) for k in range(w.shape[2])]


def _padded(x: torch.Tensor, pad: int) -> torch.Tensor:
    return torch.constant_pad_nd(x, [0, 0] * (x.dim() - 3) + [pad, pad])


def _as_images(x: torch.Tensor) -> torch.Tensor:
    """(N, C, D, rest...) as (N * D, C, rest...)."""
    return x.transpose(1, 2).reshape(-1, x.shape[1], *x.shape[3:])


def _slices(
    x: torch.Tensor, w: torch.Tensor, stride: Sequence[int], pad: Sequence[int], dilation: Sequence[int]
) -> list[torch.Tensor]:
    padded = _padded(x, pad[0])
    return [_as_images(padded[:, :, place]) for place in _places(x, w, stride[0], pad[0], dilation[0])]


def _backward_deep(
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
    above, total, dws = _as_images(dy), torch.zeros_like(_padded(x, pad[0])), []
    places = _places(x, w, stride[0], pad[0], dilation[0])
    for k, (place, part) in enumerate(zip(places, _slices(x, w, stride, pad, dilation), strict=True)):
        dx, dw, _ = backward(
            algo, above, part, w[:, :, k], stride[1:], pad[1:], dilation[1:], group, (need[0], need[1], False)
        )
        if dx is not None and need[0]:
            total[:, :, place] += dx.reshape(x.shape[0], -1, *dx.shape[1:]).transpose(1, 2)
        dws.append(dw)
    return (
        total.narrow(2, pad[0], x.shape[2]) if need[0] else None,
        torch.stack([dw for dw in dws if dw is not None], 2) if need[1] else None,
        dy.sum([0, *range(2, dy.dim())]) if need[2] else None,
    )

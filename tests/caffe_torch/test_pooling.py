"""Pooling against Caffe's loops, number by number: PyTorch's operations, and the kernels of a compiled net."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch

from allconv_caffe.caffe_torch.compute import pooling
from allconv_caffe.caffe_torch.compute.window import Window
from allconv_caffe.caffe_torch.tracing import Tracing

LOWEST = np.finfo(np.float32).min
N, H, W = 2, 6, 5
WINDOWS = [
    Window(kernel=(k, min(k, 4)), stride=(s, s), pad=(p, min(p, 1)), dilation=(1, 1))
    for k, s, p in itertools.product((1, 2, 3, 5), (1, 2, 3), (0, 1, 2))
    if p < k
]


def under(window: Window, oh: int, ow: int) -> tuple[list[tuple[int, int]], int]:
    """The pixels under a window, and how many it counts with those of the padding."""
    h, w = oh * window.stride[0] - window.pad[0], ow * window.stride[1] - window.pad[1]
    h1, w1 = min(h + window.kernel[0], H + window.pad[0]), min(w + window.kernel[1], W + window.pad[1])
    size = (h1 - h) * (w1 - w)
    return [(y, x) for y in range(max(h, 0), min(h1, H)) for x in range(max(w, 0), min(w1, W))], size


def loops(
    x: np.ndarray, dy: np.ndarray, window: Window
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """pooling_layer.cpp: maxima, their places, their gradient; means, their gradient. Sums in float32, in row order."""
    n, c, height, width = dy.shape
    best, place = np.full(dy.shape, LOWEST), np.full(dy.shape, -1)
    mean, d_max, d_mean = np.zeros_like(dy), np.zeros_like(x), np.zeros_like(x)
    with np.errstate(all="ignore"):
        for i, j, oh, ow in itertools.product(range(n), range(c), range(height), range(width)):
            at, (pixels, size) = (i, j, oh, ow), under(window, oh, ow)
            for h, w in pixels:
                if x[i, j, h, w] > best[at]:
                    best[at], place[at] = x[i, j, h, w], h * W + w
                mean[at] += x[i, j, h, w]
                d_mean[i, j, h, w] += dy[at] / np.float32(size)
            mean[at] /= np.float32(size)
            if place[at] >= 0:
                d_max[i, j].reshape(-1)[place[at]] += dy[at]
    return best, place, d_max, mean, d_mean


def arrays(window: Window, channels: int, up: bool, odd: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """An image with ties, and `odd` with nan, -inf and -FLT_MAX; a gradient."""
    g = torch.Generator().manual_seed(channels)
    x = torch.randn(N, channels, H, W, generator=g).round(decimals=1)
    if odd:
        x[0, 0, :2], x[0, 0, 2], x[1, -1] = float("nan"), -float("inf"), float(LOWEST)
    return x, torch.randn(N, channels, *window.pooled_size((H, W), up), generator=g)


@pytest.mark.parametrize("channels", [1, 8, 19])
@pytest.mark.parametrize("traced", [False, True], ids=["plain", "compiled"])
def test_pooling_adds_up_as_caffes_loops_do(channels: int, traced: bool) -> None:
    """Every bit, of every window, with and without rounding up, on images of both layouts."""
    if traced and pooling.why_not() is not None:
        pytest.skip(str(pooling.why_not()))
    for window, (up, odd) in itertools.product(WINDOWS, ((True, True), (False, False))):
        x, dy = arrays(window, channels, up, odd)
        if dy.numel() == 0 or window.covers((H, W)):
            continue
        best, place, d_max, mean, d_mean = loops(x.numpy(), dy.numpy(), window)
        for layout in (torch.contiguous_format, torch.channels_last):
            image, above = x.contiguous(memory_format=layout), dy.contiguous(memory_format=layout)
            with Tracing() if traced else contextlib.nullcontext():
                y, index = pooling.maxima(image, window, dy.shape[2:])
                found = [y, index, pooling.maxima_backward(above, index, window, (H, W))]
                found += [
                    pooling.means(image, window, dy.shape[2:]),
                    pooling.means_backward(above, window, (H, W)),
                ]
            for a, b in zip(found, (best, place, d_max, mean, d_mean), strict=True):
                np.testing.assert_array_equal(a.numpy(), b, err_msg=f"{window} {up} {odd} {layout}")


def test_the_lowest_number_fits_bfloat16() -> None:
    """A window of nan alone gives bfloat16's lowest number where a net computes in it, and -FLT_MAX in float32."""
    window = Window(kernel=(2, 2), stride=(1, 1), pad=(0, 0), dilation=(1, 1))
    for dtype in (torch.bfloat16, torch.float32):
        values, index = pooling.maxima(torch.full((1, 1, 2, 2), float("nan"), dtype=dtype), window, (1, 1))
        assert values.item() == torch.finfo(dtype).min and index.item() == -1


def test_in_bfloat16_a_traced_net_pools_as_a_plain_one() -> None:
    """Whatever it pools with: the same maxima and places, nan and windows without a number among them; gradients but for rounding."""
    window = Window(kernel=(3, 3), stride=(2, 2), pad=(0, 0), dilation=(1, 1))
    x = torch.randn(2, 16, 9, 9, generator=torch.Generator().manual_seed(0)).bfloat16()
    x[0, 0, :3, :3], x[1, 3, 4, 4] = float("nan"), float("nan")
    dy = torch.randn(2, 16, 4, 4, generator=torch.Generator().manual_seed(1)).bfloat16()
    y, index = pooling.maxima(x, window, (4, 4))
    dx = pooling.maxima_backward(dy.float(), index, window, (9, 9))
    with Tracing():
        traced = pooling.maxima(x, window, (4, 4))
        traced_dx = pooling.maxima_backward(dy, traced[1], window, (9, 9))
    assert traced[0].dtype == traced_dx.dtype == torch.bfloat16
    assert torch.equal(traced[0], y) and torch.equal(traced[1].long(), index.long())
    torch.testing.assert_close(traced_dx.float(), dx, rtol=2.0**-6, atol=2.0**-6)


@pytest.mark.parametrize("operator", [pooling.maxima, pooling.means])
def test_only_a_compiled_net_in_float32_takes_the_kernels(
    operator: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plain executor never waits for a compiler; other types have no kernels."""

    def loaded() -> None:
        raise AssertionError("the kernels were asked for")

    monkeypatch.setattr(pooling, "why_not", loaded)
    window = Window(kernel=(2, 2), stride=(1, 1), pad=(0, 0), dilation=(1, 1))
    operator(torch.zeros(1, 1, 4, 4), window, (3, 3))
    with Tracing():
        operator(torch.zeros(1, 1, 4, 4, dtype=torch.float64), window, (3, 3))
        with pytest.raises(AssertionError, match="asked for"):
            operator(torch.zeros(1, 1, 4, 4), window, (3, 3))


def test_without_a_compiler_pooling_falls_back_on_pytorchs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A traced net then pools with PyTorch's operations, with the same result."""
    monkeypatch.setattr(pooling, "why_not", lambda: "no compiler")
    window = WINDOWS[5]
    x, dy = arrays(window, 3, True, False)
    with Tracing():
        y, index = pooling.maxima(x, window, dy.shape[2:])
    assert index.dtype == torch.int64
    assert torch.equal(y, pooling.maxima(x, window, dy.shape[2:])[0])

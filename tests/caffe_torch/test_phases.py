"""A strided convolution by phases."""

from __future__ import annotations

import pytest
import torch

from allconv_caffe.caffe_torch.compute import phases
from allconv_caffe.caffe_torch.compute.window import Window

WINDOWS = [
    (3, (11, 11), 4, (0, 0), (224, 224)),
    (3, (11, 11), 4, (0, 0), (227, 227)),
    (3, (7, 7), 2, (3, 3), (32, 33)),
    (1, (5, 3), 2, (1, 2), (19, 24)),
    (4, (2, 2), 3, (0, 0), (17, 16)),
    (2, (1, 1), 2, (0, 1), (9, 8)),
]


@pytest.mark.parametrize(("channels", "kernel", "stride", "pad", "size"), WINDOWS)
def test_phases_are_the_gradient(
    channels: int, kernel: tuple[int, int], stride: int, pad: tuple[int, int], size: tuple[int, int]
) -> None:
    """One convolution and a shuffle give what autograd gives, in float64 to rounding: every stride, padding and rest."""
    torch.manual_seed(0)
    x = torch.randn(2, channels, *size, dtype=torch.float64, requires_grad=True)
    w = torch.randn(5, channels, *kernel, dtype=torch.float64)
    y = torch.nn.functional.conv2d(x, w, None, stride, pad)
    dy = torch.randn_like(y)
    (expected,) = torch.autograd.grad(y, x, dy)
    window = Window(kernel=kernel, stride=(stride, stride), pad=pad, dilation=(1, 1))
    assert phases.fit(w, window)
    filters = phases.filters(w, window)
    found = phases.placed(torch.nn.functional.conv2d(dy, filters, padding=phases.around(filters).pad), window, size)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("channels", "kernel", "stride", "pad", "size"), WINDOWS)
def test_phases_are_convolved_without_stride(
    channels: int, kernel: tuple[int, int], stride: int, pad: tuple[int, int], size: tuple[int, int]
) -> None:
    """They give the convolution, and the gradient of its filters, in float64 to rounding."""
    torch.manual_seed(0)
    x = torch.randn(2, channels, *size, dtype=torch.float64)
    w = torch.randn(5, channels, *kernel, dtype=torch.float64, requires_grad=True)
    window = Window(kernel=kernel, stride=(stride, stride), pad=pad, dilation=(1, 1))
    parts, filters = phases.apart(x, window), phases.filters_apart(w.detach(), window).requires_grad_()
    y, found = torch.nn.functional.conv2d(x, w, None, stride, pad), torch.nn.functional.conv2d(parts, filters)
    torch.testing.assert_close(found, y, rtol=1e-12, atol=1e-12)
    dy = torch.randn_like(y)
    (expected,), (dw,) = torch.autograd.grad(y, w, dy), torch.autograd.grad(found, filters, dy)
    torch.testing.assert_close(phases.filters_together(dw, window), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("stride", "dilation", "group"),
    [((1, 1), (1, 1), 1), ((2, 3), (1, 1), 1), ((2, 2), (2, 1), 1), ((2, 2), (1, 1), 2)],
)
def test_what_has_no_phases(stride: tuple[int, int], dilation: tuple[int, int], group: int) -> None:
    window = Window(kernel=(3, 3), stride=stride, pad=(0, 0), dilation=dilation, group=group)
    assert phases.without_stride(window) is None

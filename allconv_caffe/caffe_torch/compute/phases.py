"""A strided convolution as one without stride: the s x s phases of the image, or of its gradient, as channels.

With stride s and the kernel filled up with zeros to q s, the convolution is one through q x q of an image whose channels are
the phases (a, b), the pixels (s i + a, s j + b) of the padded image. Through 3x3 it has Winograd's tiles then: 5x5 of stride 2,
11x11 of stride 4.

At an image of few channels the gradient, too, is sooner had so. Pixel (s i + a, s j + b) of the padded image gets

    sum over u, v < q:   dy[i - u, j - v] W[a + s u, b + s v]

so the s x s phases (a, b) are output channels of one convolution of dy with q x q kernels, put in their places by a pixel
shuffle. For conv1 of the ImageNet net (3 channels, 11x11, stride 4) this takes a fourth of the time of oneDNN's own backward
pass, which is more than a third of all that a reconstruction from conv9 computes backwards.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from allconv_caffe.caffe_torch.compute.window import Window

CHANNELS = 4  # with more, or without stride, oneDNN is as fast


def fit(w: torch.Tensor, window: Window) -> bool:
    """Whether dx of a convolution by w is sooner had so."""
    down, right = window.stride
    return w.shape[1] <= CHANNELS and down == right > 1 and window.dilation == (1, 1) and window.group == 1


def without_stride(window: Window) -> Window | None:
    """The window over the phases of the padded image; None where there are none: no stride, or not the same on both axes."""
    stride = window.stride[0]
    if window.num_axes != 2 or set(window.stride) != {stride} or stride == 1 or {*window.dilation, window.group} != {1}:
        return None
    kernel = tuple(-(-k // stride) for k in window.kernel)  # rounded up
    return Window(kernel=kernel, stride=(1, 1), pad=(0, 0), dilation=(1, 1))


def apart(x: torch.Tensor, window: Window) -> torch.Tensor:
    """The phases of images (N, C, H, W) that windows see, padded: (N, s s C, out height + q - 1, out width + r - 1)."""
    stride, within, size = window.stride[0], without_stride(window), x.shape[2:]
    assert within is not None
    height, width = (n + k - 1 for n, k in zip(window.output_size(size), within.kernel, strict=True))
    (top, left), (below, right) = window.pad, (stride * height - size[0], stride * width - size[1])
    padded = F.pad(x, (left, right - left, top, below - top))
    parts = padded.unflatten(3, (width, stride)).unflatten(2, (height, stride))  # N, C, i, a, j, b
    return parts.permute(0, 2, 4, 3, 5, 1).flatten(3).permute(0, 3, 1, 2)


def filters_apart(w: torch.Tensor, window: Window) -> torch.Tensor:
    """(K, s s C, q, r), by which the phases are convolved, of w (K, C, kernel height, kernel width)."""
    return _filled(w, window).permute(0, 3, 5, 1, 2, 4).flatten(1, 3)


def filters_together(dw: torch.Tensor, window: Window) -> torch.Tensor:
    """The gradient of w (K, C, kernel height, kernel width), of that of its phases."""
    stride, (height, width) = window.stride[0], window.kernel
    parts = dw.unflatten(1, (stride, stride, -1)).permute(0, 3, 4, 1, 5, 2)
    return parts.flatten(4, 5).flatten(2, 3)[:, :, :height, :width]


def _filled(w: torch.Tensor, window: Window) -> torch.Tensor:
    """(K, C, q, s, r, s): w with zeros behind it."""
    stride, (height, width) = window.stride[0], w.shape[2:]
    filled = F.pad(w, (0, -width % stride, 0, -height % stride))
    return filled.unflatten(3, (-1, stride)).unflatten(2, (-1, stride))


def filters(w: torch.Tensor, window: Window) -> torch.Tensor:
    """(C s s, K, q, r), by which dy is convolved through `around`, of w (K, C, kernel height, kernel width)."""
    return _filled(w, window).permute(1, 3, 5, 0, 2, 4).flip(4, 5).flatten(0, 2)


def around(w: torch.Tensor) -> Window:
    """The window of filters w through which every place is seen that sees anything of an image."""
    q, r = w.shape[2:]
    return Window(kernel=(q, r), stride=(1, 1), pad=(q - 1, r - 1), dilation=(1, 1))


def placed(y: torch.Tensor, window: Window, size: Sequence[int]) -> torch.Tensor:
    """dx (N, C, *size) of what dy convolved with `filters` gives."""
    x, pad = F.pixel_shuffle(y, window.stride[0]), window.pad
    below, right = size[0] + pad[0] - x.shape[2], size[1] + pad[1] - x.shape[3]
    return F.pad(x, (-pad[1], right, -pad[0], below))

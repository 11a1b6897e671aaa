"""The gradient of a strided convolution at an image of few channels, as one convolution without stride.

With stride s and the kernel filled up with zeros to q s, pixel (s i + a, s j + b) of the padded image gets

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


def filters(w: torch.Tensor, window: Window) -> torch.Tensor:
    """(C s s, K, q, r), by which dy is convolved through `around`, of w (K, C, kernel height, kernel width)."""
    (k, c, *kernel), stride = w.shape, window.stride[0]
    q, r = (-(-extent // stride) for extent in kernel)  # rounded up
    filled = F.pad(w, (0, r * stride - kernel[1], 0, q * stride - kernel[0]))
    phases = filled.reshape(k, c, q, stride, r, stride).permute(1, 3, 5, 0, 2, 4).flip(4, 5)
    return phases.reshape(c * stride * stride, k, q, r)


def around(w: torch.Tensor) -> Window:
    """The window of filters w through which every place is seen that sees anything of an image."""
    q, r = w.shape[2:]
    return Window(kernel=(q, r), stride=(1, 1), pad=(q - 1, r - 1), dilation=(1, 1))


def placed(y: torch.Tensor, window: Window, size: Sequence[int]) -> torch.Tensor:
    """dx (N, C, *size) of what dy convolved with `filters` gives."""
    x, pad = F.pixel_shuffle(y, window.stride[0]), window.pad
    below, right = size[0] + pad[0] - x.shape[2], size[1] + pad[1] - x.shape[3]
    return F.pad(x, (-pad[1], right, -pad[0], below))

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

from allconv_caffe.caffe_torch.layer import Layer
from allconv_caffe.caffe_torch.layers.convolution import ConvolutionLayer

CHANNELS = 4  # with more, or without stride, oneDNN is as fast


def fits(layer: Layer, device: torch.device) -> bool:
    """Whether `image_gradient` computes the layer's bottom diff, and faster."""
    if type(layer) is not ConvolutionLayer or device.type != "cpu" or layer.channels > CHANNELS:
        return False
    window = layer.window
    return (
        window.num_axes == 2
        and window.stride[0] == window.stride[1] > 1
        and window.dilation == (1, 1)
        and window.group == 1
    )


def image_gradient(
    dy: torch.Tensor, w: torch.Tensor, stride: int, pad: Sequence[int], size: Sequence[int]
) -> torch.Tensor:
    """dx of y = x * w.

    Args:
        dy: (N, K, h, w). w: (K, C, kernel height, kernel width). pad, size: of x, vertical and horizontal.

    Returns: (N, C, *size).
    """
    k, c, *kernel = w.shape
    q, r = (-(-extent // stride) for extent in kernel)  # rounded up
    filled = F.pad(w, (0, r * stride - kernel[1], 0, q * stride - kernel[0]))
    phases = filled.reshape(k, c, q, stride, r, stride).permute(1, 3, 5, 0, 2, 4).flip(4, 5)
    y = torch.conv2d(dy, phases.reshape(c * stride * stride, k, q, r), None, 1, (q - 1, r - 1))
    x = F.pixel_shuffle(y, stride)
    below, right = size[0] + pad[0] - x.shape[2], size[1] + pad[1] - x.shape[3]
    return F.pad(x, (-pad[1], right, -pad[0], below))

"""What a filter of a low layer would like to see, from its weights alone: figure 2.

In a net without max-pooling the deconvnet reads gradients only, never the image, so one pass from a one-hot seed is a
function of the weights:

    conv1   W1[c]
    conv2   sum over k of relu(W2[c, k]) W1[k]
    conv3   R2 = relu(W3[c]);  R1 = relu(W2^T R2);  W1^T R1, with conv1's stride

Biases never enter. Paper: section 4, figure 2.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from allconv_caffe.visualize.crops import crop
from allconv_caffe.visualize.nets.base import VizNet
from allconv_caffe.visualize.nets.errors import VizError
from allconv_caffe.visualize.receptive_field import Box, receptive_field
from allconv_caffe.visualize.reconstruct import reconstruct
from allconv_caffe.visualize.surgery import normalisations_below, switches_below
from allconv_caffe.visualize.unit import Unit, check_blob, check_unit


def interior_unit(net: VizNet, blob: str) -> tuple[int, int, Box]:
    """(y, x) of a unit in the middle of the map whose receptive field lies wholly in the image, and its box.

    Raises: VizError: no unit of the blob sees less than the padding.
    """
    field = receptive_field(net, blob)
    shape = check_blob(net, blob)
    _, h, w = shape if len(shape) == 3 else (0, 1, 1)
    y, x = h // 2, w // 2
    box = field.box(Unit(blob, 0, y, x))
    _, height, width = net.input_shape
    if field.whole or box.top < 0 or box.left < 0 or box.bottom > height or box.right > width:
        raise VizError(
            f"blob '{blob}'",
            f"receptive fields of {field.size[0]}x{field.size[1]}",
            f"a lower layer, whose units see less than the image of {height}x{width}",
        )
    return y, x, box


def image_decides(net: VizNet, blob: str) -> str | None:
    """Why the deconvnet's maps of `blob` depend on an image: max-pooling or LRN below; None where they do not."""
    pools = switches_below(net.param, blob)
    if pools:
        return f"max-pooling below ({', '.join(pools)})"
    found = [f"{layer.type} below ('{layer.name}')" for layer in normalisations_below(net.param, blob)]
    return found[-1] if found else None


def patterns(
    net: VizNet, blob: str, channels: Sequence[int] | None = None, *, batch_size: int = 32, progress: bool = False
) -> np.ndarray:
    """One pattern per filter: the deconvnet from an interior unit, cut to its receptive field.

    Args:
        channels: which filters; None: all.

    Returns: (filters, C, height, width) float32, in the space and channel order of the input blob.

    Raises: VizError: a layer with max-pooling or LRN below (its patterns depend on an image), a layer too high.
    """
    shape = check_blob(net, blob)
    reason = image_decides(net, blob)
    if reason:
        raise VizError(f"blob '{blob}'", reason, "a path without: there the image decides")
    wanted = list(range(shape[0])) if channels is None else list(channels)
    for channel in wanted:
        check_unit(net, Unit(blob, channel))
    y, x, box = interior_unit(net, blob)
    blank = np.zeros((1, *net.input_shape), np.float32)
    found = reconstruct(
        net,
        blank,
        [(0, Unit(blob, channel, y, x)) for channel in wanted],
        "deconvnet",
        batch_size=batch_size,
        progress=progress,
    )
    return crop(found.maps, box)

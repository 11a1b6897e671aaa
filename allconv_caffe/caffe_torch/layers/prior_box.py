"""PriorBox, a layer of SSD's fork."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.errors import check
from allconv_caffe.caffe_torch.layer import Layer, register
from allconv_caffe.proto import fork_fields

_SAME = 1e-6  # aspect ratios that differ by less are one


@register("PriorBox")
class PriorBoxLayer(Layer):
    """The boxes that a detector's places begin with, as parts of the image, and the variances of their coordinates.

    bottom[0]: (N, C, H, W), whose places the boxes lie at; bottom[1]: (N, C, image height, image width), unless `img_size`,
    or `img_h` and `img_w`, tell it. Of both only the shape counts. top[0]: (1, 2, H * W * boxes * 4), first the coordinates
    x and y of the upper left and of the lower right corner, then `variance` (four, or one for all; default 0.1).

    The centre of place (h, w) is ((w + offset) * step, (h + offset) * step), `step` (or `step_h` and `step_w`) by default what
    one place has of the image. Its boxes, for each `min_size` s and the `max_size` t of the same number: the square of side s;
    if there is a t, that of side sqrt(s t); for each aspect ratio r that is not 1, and with `flip` (default true) for 1 / r,
    s sqrt(r) by s / sqrt(r). `clip` cuts them to the image.
    Sizes lose what is behind their point: the fork keeps them in ints, so 35.84 is 35 (OpenCV takes 35.84).
    Source: prior_box_layer.cpp of weiliu89/caffe, branch ssd; SSD (Liu et al. 2016), section 2.2.
    """

    num_bottom = 2
    num_top = 1

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        param = fork_fields.field(self.param, "prior_box_param")
        check(len(param.min_size) > 0, "must provide min_size.")
        check(all(size > 0 for size in param.min_size), "min_size must be positive.")
        sizes, most = len(param.min_size), len(param.max_size)
        check(most in (0, sizes), f"Check failed: min_size_size() == max_size_size() ({sizes} vs. {most})")
        pairs = zip(param.max_size, param.min_size, strict=False)
        check(all(large > small for large, small in pairs), "max_size must be greater than min_size.")
        self.variance = list(param.variance) or [0.1]
        check(len(self.variance) in (1, 4), f"Check failed: variance_size() == 4 ({len(self.variance)} vs. 4)")
        for variance in self.variance:
            check(variance > 0, f"Check failed: variance > 0 ({variance:g} vs. 0)")
        self.image = _pair(param, "img", "img_size")
        self.step = _pair(param, "step", "step")
        self.shapes = self.boxes(param)

    def boxes(self, param: Any) -> np.ndarray:
        """Width and height in pixels of a place's boxes: (boxes, 2) float32."""
        ratios = [1.0]
        for ratio in map(float, param.aspect_ratio):
            check(ratio > 0, f"aspect_ratio must be positive, found {ratio:g}")  # the fork takes a root of it
            if all(abs(ratio - known) >= _SAME for known in ratios):
                ratios += [ratio, float(np.float32(1 / ratio))] if param.flip else [ratio]
        found: list[tuple[float, float]] = []
        for i, small in enumerate(map(int, param.min_size)):
            found.append((small, small))
            if param.max_size:
                middle = math.sqrt(small * int(param.max_size[i]))
                found.append((middle, middle))
            roots = [math.sqrt(ratio) for ratio in ratios if abs(ratio - 1) >= _SAME]
            found += [(small * root, small / root) for root in roots]
        return np.array(found, np.float32)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        count = bottom[0].legacy_shape(2) * bottom[0].legacy_shape(3) * len(self.shapes) * 4
        check(count > 0, f"Check failed: top_shape[2] > 0 ({count} vs. 0)")
        top[0].reshape(1, 2, count)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        places, whole = ([blob.legacy_shape(axis) for axis in (2, 3)] for blob in bottom)
        top[0].data = torch.from_numpy(self.table(places, self.image or whole)).to(top[0].device)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        """No value of a bottom counts: their gradient is 0."""
        for blob, wanted in zip(bottom, propagate_down, strict=True):
            if wanted:
                blob.diff = torch.zeros_like(blob.data)

    def table(self, places: Sequence[int], image: Sequence[float]) -> np.ndarray:
        """The top for this many places and an image of this size, each height and width: (1, 2, count) float32."""
        param = fork_fields.field(self.param, "prior_box_param")
        centres = []
        for axis in (0, 1):
            step = np.float32(self.step[axis]) if self.step else np.float32(image[axis]) / np.float32(places[axis])
            centres.append((np.arange(places[axis], dtype=np.float32) + np.float32(param.offset)) * step)
        y, x = np.meshgrid(*centres, indexing="ij")  # (H, W)
        half = self.shapes.astype(np.float64) / 2
        corners = np.empty((*places, len(half), 4), np.float64)
        for axis, (centre, extent) in enumerate(((x, image[1]), (y, image[0]))):
            corners[..., axis] = (centre[..., None] - half[:, axis]) / extent
            corners[..., axis + 2] = (centre[..., None] + half[:, axis]) / extent
        if param.clip:
            corners = corners.clip(0, 1)
        variance = np.broadcast_to(np.array(self.variance, np.float32), corners.shape)
        return np.stack([corners.reshape(-1).astype(np.float32), variance.reshape(-1)])[None]


def _pair(param: Any, word: str, one: str) -> tuple[float, float] | None:
    """`<word>_h` and `<word>_w`, or `one` for both; None: neither. Raises CaffeError for both, and for what is not positive."""
    names = (f"{word}_h", f"{word}_w")
    if any(map(param.HasField, names)):
        check(not param.HasField(one), f"Either {one} or {names[0]}/{names[1]} should be specified; not both.")
    elif param.HasField(one):
        names = (one, one)
    else:
        return None
    for name in names:
        check(getattr(param, name) > 0, f"{name} should be larger than 0.")
    return getattr(param, names[0]), getattr(param, names[1])

"""What several layer types have in common: neuron layers, loss layers, first filling of parameters.

Source: neuron_layer.hpp, loss_layer.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from allconv_caffe.caffe_torch import glog
from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.errors import CaffeError, check
from allconv_caffe.caffe_torch.fillers import fill
from allconv_caffe.caffe_torch.layer import Layer
from allconv_caffe.caffe_torch.tracing import is_tracing

LOSS_WEIGHT_COUNT = "loss_weight must be unspecified or specified once per top blob."
LABEL_COUNT = (
    "Number of labels must match number of predictions; e.g., if {0} axis == 1 and prediction shape is (N, C, H, W), "
    "label count (number of labels) must be N*H*W, with integer values in {{0, 1, ..., C-1}}."
)
NEUTRAL = ("scal", 1.0), ("add", 0.0), ("powx", 1.0)
"""Formulas, with their numbers, that change nothing."""


class NeuronLayer(Layer):
    """One bottom, one top of the same shape. Source: neuron_layer.cpp."""

    num_bottom = num_top = 1

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        top[0].reshape_like(bottom[0])

    def apply(self, steps: Sequence[tuple[str, float]], bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """top = bottom after one formula (see `math.each`), with its number, after the other; those of `NEUTRAL` are left out."""
        y = bottom[0].data
        for formula, a in [step for step in steps if step not in NEUTRAL] or NEUTRAL[:1]:
            y = self.ctx.math.each(formula, y, a, room=top[0].room())
        top[0].data = y


class LossLayer(Layer):
    """Predictions and labels in, one scalar (0 axes) out, weight 1 unless stated. Source: loss_layer.cpp."""

    num_bottom: ClassVar[int | None] = 2
    num_top: ClassVar[int | None] = 1
    is_loss = True

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        if not self.param.loss_weight:
            self.param.loss_weight.append(1)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        check(leading(bottom[0]) == leading(bottom[1]), "The data and label should have the same first dimension.")
        top[0].reshape()

    def refuse_label_gradient(self, propagate_down: Sequence[bool]) -> None:
        if propagate_down[1]:
            raise CaffeError(f"{self.type} Layer cannot backpropagate to label inputs.")


def leading(blob: Blob) -> int:
    """shape(0), the number of examples. Raises CaffeError on a blob of 0 axes."""
    blob.canonical_axis(0)
    return blob.shape[0]


def computes(top: Blob) -> bool:
    """Whether there is anything to compute: no places of a window in an image that is smaller than it make no top.

    Raises: CaffeError: as in Caffe, where the top never held a value.
    """
    check(top.has_data, "Check failed: data_")
    return top.count > 0


def add_filled(layer: Layer, shape: Sequence[int], filler_param: Any) -> Blob:
    """Appends a parameter of `shape`, filled on the CPU stream, to the layer's blobs."""
    blob = layer.new_blob()
    blob.reshape(*shape)  # also to 0 axes
    blob.adopt_data(fill(shape, filler_param, layer.ctx.rng).to(blob.device))
    layer.blobs.append(blob)
    return blob


def kept(x: torch.Tensor, blob: Blob) -> torch.Tensor:
    """What forward has kept of `blob`, one number for each of its. Raises CaffeError where it has kept nothing."""
    check(
        x.numel() == blob.count,
        "forward has kept nothing for backward, since no loss lies above (force_backward: true asks for it)",
    )
    return x


def float32(x: torch.Tensor) -> torch.Tensor:
    """`x` in float32, where sums and exponentials need it."""
    return x.to(torch.float32)


def refuse_in_place(layer: Layer, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
    for blob in top:
        check(blob is not bottom[0], f"{layer.type} Layer does not allow in-place computation.")


def skipping(source: str) -> None:
    """Says that the parameters stand in the prototxt, so that nothing is filled (and nothing drawn)."""
    glog.info(source, "Skipping parameter initialization")


def creating_inner(layer: Layer) -> None:
    """The line of the layer that Caffe makes inside this one (a Softmax, a Bias), which has its name."""
    glog.info("layer_factory.hpp:77", f"Creating layer {layer.name}")


def refuse_gradient(propagate_down: Sequence[bool]) -> None:
    """What layers without a backward say when one is wanted."""
    if any(propagate_down):
        raise CaffeError("Not Implemented Yet")


def legacy(blob: Blob) -> tuple[int, int, int, int]:
    """num, channels, height, width; missing axes count 1. Raises CaffeError above 4 axes."""
    n, c, h, w = (blob.legacy_shape(i) for i in range(4))
    return n, c, h, w


def sum_to(x: torch.Tensor, axis: int, shape: Sequence[int]) -> torch.Tensor:
    """Sums `x` in float32 over all axes but `axis` to `axis` + len(shape) - 1: the reverse of `along`'s broadcast."""
    kept = range(axis, axis + len(shape))
    dims = [i for i in range(x.dim()) if i not in kept]
    return (x.sum(dims, dtype=torch.float32) if dims else float32(x)).reshape(tuple(shape))


def check_labels(label: torch.Tensor, classes: int, ignored: torch.Tensor | None) -> None:
    """Every label that counts lies in [0, classes).

    Looks at values, so only outside of tracing. Differs: a release build of Caffe reads other memory here.
    """
    if is_tracing() or label.numel() == 0:
        return
    bad = (label < 0) | (label >= classes)
    if ignored is not None:
        bad = bad & ~ignored
    if bool(bad.any()):
        found = int(label[bad].reshape(-1)[0])
        check(found >= 0, f"Check failed: label_value >= 0 ({found} vs. 0): labels are 0 to {classes - 1}")
        check(False, f"Check failed: label_value < classes ({found} vs. {classes}): labels are 0 to {classes - 1}")

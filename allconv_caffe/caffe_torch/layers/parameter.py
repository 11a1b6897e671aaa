"""Parameter: something learned, as a blob."""

from __future__ import annotations

from collections.abc import Sequence

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.layer import Layer, register
from allconv_caffe.caffe_torch.layers.base import skipping


@register("Parameter")
class ParameterLayer(Layer):
    """top = blobs[0], the same memory, data and diff; zeros at first (there is no filler).

    top[0], blobs[0]: `shape`. A reader assigns the diff, so gradients do not add up over iter_size, as in Caffe.
    Source: parameter_layer.hpp.
    """

    num_bottom = 0
    num_top = 1

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        shape = self.param.parameter_param.shape.dim
        if self.blobs:
            skipping("parameter_layer.hpp:18")
        else:
            self.blobs.append(self.new_blob())
            self.blobs[0].reshape(*shape)
        top[0].reshape(*shape)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """The shape is fixed."""

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        top[0].share_data(self.blobs[0])
        top[0].share_diff(self.blobs[0])

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        """Nothing moves: the top's diff is the parameter's."""

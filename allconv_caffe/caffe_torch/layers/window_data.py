"""WindowData: named, not computed."""

from __future__ import annotations

from collections.abc import Sequence

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.errors import CaffeError
from allconv_caffe.caffe_torch.layer import Layer, register


@register("WindowData")
class WindowDataLayer(Layer):
    """The windows of R-CNN's fine-tuning, from images and a list of boxes: refused at set-up, with what to use instead.

    No network of the paper reads windows, and Caffe's draws of them come from a second generator seeded inside its prefetch
    thread, so a copy could not be compared number by number. Source: window_data_layer.cpp.
    Differs: Caffe has the layer.
    """

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        raise CaffeError(
            "WindowData is the one layer type of Caffe that this engine does not compute; cut the windows out beforehand "
            "and read them with ImageData, Data, HDF5Data or MemoryData, or run this net in BVLC Caffe"
        )

"""DepthwiseConvolution and ConvolutionDepthwise, layers of MobileNet's and ShuffleNet's forks."""

from __future__ import annotations

import dataclasses

from allconv_caffe.caffe_torch.compute.window import Window
from allconv_caffe.caffe_torch.errors import check
from allconv_caffe.caffe_torch.layer import register
from allconv_caffe.caffe_torch.layers.convolution import ConvolutionLayer


@register("DepthwiseConvolution")
class DepthwiseConvolutionLayer(ConvolutionLayer):
    """A Convolution, whose `group` says that each channel has a window of its own.

    Source: depthwise_conv_layer.cpp of yonghenglh6/DepthwiseConvolution.
    """


@register("ConvolutionDepthwise")
class ConvolutionDepthwiseLayer(ConvolutionLayer):
    """A Convolution in which each channel has a window of its own, whatever `group` says.

    blobs[0]: W (C, 1, kernel...); blobs[1]: b (C), unless `bias_term: false`.
    Source: conv_dw_layer.cpp of the ConvolutionDepthwise that farmingyard/ShuffleNet names.
    """

    def read_window(self, axes: int) -> Window:
        param = self.param.convolution_param
        check(
            not param.HasField("num_output") or param.num_output == self.channels,
            f"Check failed: num_output == channels ({param.num_output} vs. {self.channels})",
        )
        return dataclasses.replace(super().read_window(axes), group=self.channels)

    def outputs(self) -> int:
        return self.channels

"""MemoryData: arrays that the caller hands over.

Source: memory_data_layer.cpp.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from allconv_caffe.caffe_torch import glog
from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.compute.window import c_int
from allconv_caffe.caffe_torch.errors import CaffeError, check
from allconv_caffe.caffe_torch.layer import register
from allconv_caffe.caffe_torch.layers.data import SourceLayer
from allconv_caffe.caffe_torch.source.transformer import Transformer


@register("MemoryData")
class MemoryDataLayer(SourceLayer):
    """top[0] (N, C, H, W), top[1] (N, 1, 1, 1) = the next batch_size rows of the arrays given to `reset`, going round.

    Source: memory_data_layer.cpp.
    """

    num_top = 2

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        Transformer(self.param.transform_param, self.phase, self.ctx.rng).init_rand()  # takes a word, as Caffe does
        param = self.param.memory_data_param
        self.batch_size = c_int(param.batch_size)
        self.shape = (c_int(param.channels), c_int(param.height), c_int(param.width))
        check(
            c_int(self.batch_size * math.prod(self.shape)) > 0,
            "batch_size, channels, height, and width must be specified and positive in memory_data_param",
        )
        top[0].reshape(self.batch_size, *self.shape)
        top[1].reshape(self.batch_size)
        self._data: torch.Tensor | None = None
        self._labels = torch.empty(0)
        self._position = 0

    def reset(self, data: np.ndarray, labels: np.ndarray) -> None:
        """Serves `data` and `labels` from now on; they are not copied, so later changes are seen.

        Args:
            data: (n, C, H, W) float32, C-contiguous, n a multiple of batch_size.
            labels: n values, float32, C-contiguous.
        Raises: CaffeError.
        """
        for word, array in (("data", data), ("labels", labels)):
            check(
                array.dtype == np.float32 and array.flags.c_contiguous,
                f"{word} array must be float32 and C contiguous",
            )
        n = len(data)
        check(data.shape[1:] == self.shape, f"data array has wrong shape: {data.shape}, expected (n, *{self.shape})")
        check(labels.size == n, f"data and labels must have the same first dimension ({n} vs. {labels.size})")
        check(n > 0 and n % self.batch_size == 0, "n must be a multiple of batch size")
        if self.param.HasField("transform_param"):
            glog.warning("memory_data_layer.cpp:90", "MemoryData does not transform array data on Reset()")
        self._data, self._labels = torch.from_numpy(data), torch.from_numpy(labels.reshape(n, 1, 1, 1))
        self._position = 0

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        if self._data is None:
            raise CaffeError("MemoryDataLayer needs to be initialized by calling Reset")
        end = self._position + self.batch_size
        top[0].reshape(self.batch_size, *self.shape)
        top[1].reshape(self.batch_size, 1, 1, 1)
        top[0].data = self._data[self._position : end].to(top[0].device)
        top[1].data = self._labels[self._position : end].to(top[1].device)
        self._position = end % len(self._data)

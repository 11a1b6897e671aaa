"""Input and DummyData: tops without a data set.

Source: input_layer.cpp, dummy_data_layer.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from allconv_caffe.caffe_torch import fillers
from allconv_caffe.caffe_torch.blob import MAX_AXES, Blob
from allconv_caffe.caffe_torch.compute.window import c_int
from allconv_caffe.caffe_torch.errors import check
from allconv_caffe.caffe_torch.layer import register
from allconv_caffe.caffe_torch.layers.data import SourceLayer
from allconv_caffe.proto import BlobShape, FillerParameter


def dims(shape: BlobShape) -> Sequence[int]:
    check(
        len(shape.dim) <= MAX_AXES, f"Check failed: shape.dim_size() <= kMaxBlobAxes ({len(shape.dim)} vs. {MAX_AXES})"
    )
    return tuple(shape.dim)


@register("Input")
class InputLayer(SourceLayer):
    """Gives its tops a shape; whoever runs the net writes the data.

    Source: input_layer.cpp.
    """

    min_top = 1
    calls_kernels = True

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        shapes = self.param.input_param.shape
        check(
            len(shapes) in (0, 1, len(top)),
            f"Must specify 'shape' once, once per top blob, or not at all: {len(top)} tops vs. {len(shapes)} shapes.",
        )
        for i, blob in enumerate(top if shapes else []):
            blob.reshape(*dims(shapes[0 if len(shapes) == 1 else i]))

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """The tops hold what was written there."""


@register("DummyData")
class DummyDataLayer(SourceLayer):
    """top[i] = what data_filler[i] draws: constants once, at set-up; everything else anew at each forward, not before.

    Source: dummy_data_layer.cpp.
    """

    min_top = 1

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        param, n = self.param.dummy_data_param, len(top)
        given = len(param.data_filler)
        check(
            given in (0, 1, n),
            f"Number of data fillers must be 0, 1 or equal to the number of tops: {n}; you specified {given} "
            "data fillers.",
        )
        legacy = ("num", "channels", "height", "width")
        if any(getattr(param, word) for word in legacy):
            check(not param.shape, "Both shape and legacy fields were specified")
            fields = [(word, getattr(param, word)) for word in legacy]
        else:
            fields = [("shape", param.shape)]
        for word, values in fields:
            check(
                len(values) in (1, n),
                f"Must specify '{word}' once, or once per top blob ({n}); specified {len(values)}.",
            )
        own = list(param.data_filler) or [FillerParameter(type="constant", value=0)]
        self.fillers = own * n if len(own) == 1 else own
        for i, blob in enumerate(top):
            shape = [values[0 if len(values) == 1 else i] for _, values in fields]
            blob.reshape(*(map(c_int, shape) if len(fields) > 1 else dims(shape[0])))
            if self.fillers[i].type == "constant" or self.fillers[i].type not in fillers.FILLERS:
                blob.data = self._draw(i, blob)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        for i, blob in enumerate(top):
            if self.fillers[i].type != "constant":
                blob.data = self._draw(i, blob)

    def _draw(self, i: int, blob: Blob) -> torch.Tensor:
        return fillers.fill(blob.shape, self.fillers[i], self.ctx.rng).to(blob.device)

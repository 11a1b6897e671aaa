"""Sources without files: Input and DummyData."""

from __future__ import annotations

from collections.abc import Sequence

from allconv_caffe.engine.blob import Blob
from allconv_caffe.engine.errors import check
from allconv_caffe.engine.fillers import fill
from allconv_caffe.engine.layer import register
from allconv_caffe.engine.layers.data import SourceLayer
from allconv_caffe.proto import FillerParameter


@register("Input")
class InputLayer(SourceLayer):
    """Tops of stated shapes, filled by the caller. Source: input_layer.cpp."""

    min_top = 1

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        shapes = list(self.param.input_param.shape)
        check(
            len(shapes) in (0, 1, len(top)),
            f"Must specify 'shape' once, once per top blob, or not at all: {len(top)} tops vs. {len(shapes)} shapes.",
        )
        for i, blob in enumerate(top if shapes else []):
            blob.reshape(*shapes[0 if len(shapes) == 1 else i].dim)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """The caller has filled the tops."""


@register("DummyData")
class DummyDataLayer(SourceLayer):
    """Tops from fillers: constants once at set-up, all others anew at each forward. Source: dummy_data_layer.cpp."""

    min_top = 1

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        param, n = self.param.dummy_data_param, len(top)
        fillers = list(param.data_filler)
        check(
            len(fillers) in (0, 1, n),
            f"Number of data fillers must be 0, 1 or equal to the number of tops: {n}; you specified "
            f"{len(fillers)} data fillers.",
        )
        if param.shape:
            check(len(param.shape) in (1, n), f"Must specify 'shape' once or once per top blob ({n})")
            shapes = [tuple(param.shape[0 if len(param.shape) == 1 else i].dim) for i in range(n)]
        else:
            columns = []
            for word in ("num", "channels", "height", "width"):
                column = list(getattr(param, word))
                check(
                    len(column) in (1, n),
                    f"Must specify '{word}' once, or once per top blob ({n}); specified {len(column)}.",
                )
                columns.append(column)
            shapes = [tuple(c[0 if len(c) == 1 else i] for c in columns) for i in range(n)]
        self.fillers = [fillers[0 if len(fillers) == 1 else i] if fillers else FillerParameter() for i in range(n)]
        for blob, shape, filler in zip(top, shapes, self.fillers, strict=True):
            blob.reshape(*shape)
            if filler.type == "constant":
                blob.data = fill(shape, filler, self.ctx.rng).to(blob.device)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        for blob, filler in zip(top, self.fillers, strict=True):
            if filler.type != "constant":
                blob.data = fill(blob.shape, filler, self.ctx.rng).to(blob.device)

"""Where data comes in: Data (LMDB), Input, DummyData."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from allconv_caffe.engine import glog
from allconv_caffe.engine.blob import Blob
from allconv_caffe.engine.data import Source
from allconv_caffe.engine.errors import CaffeError, check
from allconv_caffe.engine.fillers import fill
from allconv_caffe.engine.layer import Layer, register
from allconv_caffe.engine.transformer import Transformer
from allconv_caffe.proto import DataParameter, FillerParameter


class SourceLayer(Layer):
    """A layer without bottoms, run outside of compiled graphs."""

    traceable = False
    num_bottom = 0
    min_top = 1

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        """Nothing lies below."""


@register("Data")
class DataLayer(SourceLayer):
    """Records of an LMDB in key order, wrapping at the end, never shuffled; transform_param applied.

    top[0]: (N, C, H, W) float32; top[1], optional: labels (N,) as floats. Source: data_layer.cpp.
    Differs: LEVELDB, Caffe's default backend, is not read.
    """

    max_top = 2

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        param, transform = self.param.data_param, self.param.transform_param
        if param.backend != DataParameter.LMDB:
            raise CaffeError(
                f"backend LEVELDB of {param.source} cannot be read; expected backend: LMDB "
                "(convert with Caffe's convert_imageset -backend lmdb, or allconv prep)"
            )
        check(param.batch_size > 0, f"Check failed: batch_size > 0 ({param.batch_size} vs. 0)")
        color = 1 if transform.force_color else 0 if transform.force_gray else -1
        self.source = Source(param.source, param.batch_size, param.prefetch, color, self.ctx.device)
        glog.info("db_lmdb.cpp:35", f"Opened lmdb {param.source}")
        self.transformer = Transformer(transform, self.phase, self.source.shape, self.ctx.rng, self.ctx.device)
        shape = (param.batch_size, *self.transformer.out_shape)
        glog.info("data_layer.cpp:41", f"output data size: {','.join(map(str, shape))}")
        self.ctx.rng.word()  # Caffe seeds its prefetch thread from the main stream

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        n = self.source.batch_size
        top[0].reshape(n, *self.transformer.out_shape)
        self.labels = len(top) > 1
        if self.labels:
            top[1].reshape(n)

    def next_batch(self) -> list[torch.Tensor]:
        """The next batch as tensors on the context's device: images, and labels where there is a top for them."""
        batch = self.source.next_batch()
        images = self.transformer(batch.images)
        return [images, batch.labels] if self.labels else [images]

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        for blob, value in zip(top, self.next_batch(), strict=True):
            blob.data = value


@register("Input")
class InputLayer(SourceLayer):
    """Tops of stated shapes, filled by the caller. Source: input_layer.cpp."""

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        shapes = list(self.param.input_param.shape)
        check(
            len(shapes) in (0, 1, len(top)), "Must specify 'shape' once, once per top blob, or not at all: "
            f"{len(top)} tops vs. {len(shapes)} shapes."
        )
        if shapes:
            for i, blob in enumerate(top):
                blob.reshape(*shapes[0 if len(shapes) == 1 else i].dim)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """The caller decides."""

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """The caller has filled the tops."""


@register("DummyData")
class DummyDataLayer(SourceLayer):
    """Tops from fillers: constants once at set-up, all others anew at each forward. Source: dummy_data_layer.cpp."""

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        param, n = self.param.dummy_data_param, len(top)
        fillers = list(param.data_filler)
        check(
            len(fillers) in (0, 1, n),
            f"Number of data fillers must be 0, 1 or equal to the number of tops: {n}; you specified "
            f"{len(fillers)} data fillers.",
        )
        if param.shape:
            check(
                len(param.shape) in (1, n), f"Must specify 'shape' once or once per top blob ({n})"
            )
            shapes = [tuple(param.shape[0 if len(param.shape) == 1 else i].dim) for i in range(n)]
        else:
            words = ("num", "channels", "height", "width")
            for word in words:
                check(
                    len(getattr(param, word)) in (1, n),
                    f"Must specify '{word}' once, or once per top blob ({n}); specified {len(getattr(param, word))}.",
                )
            columns = [list(getattr(param, word)) for word in words]
            shapes = [tuple(col[0 if len(col) == 1 else i] for col in columns) for i in range(n)]
        self.fillers = [fillers[0 if len(fillers) == 1 else i] if fillers else FillerParameter() for i in range(n)]
        for blob, shape, filler in zip(top, shapes, self.fillers, strict=True):
            blob.reshape(*shape)
            if filler.type == "constant":
                blob.data = fill(shape, filler, self.ctx.rng).to(blob.device)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Shapes are fixed at set-up."""

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        for blob, filler in zip(top, self.fillers, strict=True):
            if filler.type != "constant":
                blob.data = fill(blob.shape, filler, self.ctx.rng).to(blob.device)

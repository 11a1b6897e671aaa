"""Layers that bring data into a net, and the Data layer.

Source: base_data_layer.cpp, data_layer.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from allconv_caffe.caffe_torch import glog
from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.errors import CaffeError, check
from allconv_caffe.caffe_torch.layer import Context, Layer, register
from allconv_caffe.caffe_torch.source.database import Reader, open_source
from allconv_caffe.caffe_torch.source.feed import Feed, MemoryFeed, StreamFeed
from allconv_caffe.caffe_torch.source.loaded import load
from allconv_caffe.caffe_torch.source.share import ALONE
from allconv_caffe.caffe_torch.source.transformer import Transformer
from allconv_caffe.proto import TRAIN, LayerParameter


class SourceLayer(Layer):
    """A layer without bottoms: its tops are given, there is no gradient to pass on."""

    traceable = False
    num_bottom = 0

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """The tops keep the shape of the last batch."""

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        """Nothing lies below."""


class FedLayer(SourceLayer):
    """tops = the next batch of a feed, which is opened when the first is asked for; subclasses give `open_feed`."""

    def __init__(self, param: LayerParameter, context: Context) -> None:
        super().__init__(param, context)
        self._feed: Feed | None = None
        self._position = 0

    def open_feed(self, position: int) -> Feed:
        """Batches from the record at `position` on."""
        raise CaffeError(f"layer type {self.type} lacks open_feed")

    def close(self) -> None:
        """Ends the feed and its threads; a new one goes on with the next batch."""
        if self._feed is not None:
            self._position = self._feed.position
            self._feed.close()
            self._feed = None

    def next_batch(self) -> list[torch.Tensor]:
        """Data (N, C, H, W) and, with two tops, labels (N,): float32 on the device; may be views: do not write."""
        return self._next(self._opened())

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        feed = self._opened()
        for blob, value in zip(top, self._next(feed), strict=True):
            if blob.shape != tuple(value.shape):
                blob.reshape(*value.shape)
            if feed.fresh:
                blob.take_data(value)
            else:
                blob.data = value

    def _opened(self) -> Feed:
        if self._feed is None:
            self._feed = self.open_feed(self._position)
        return self._feed

    def _next(self, feed: Feed) -> list[torch.Tensor]:
        images, labels = feed.next()
        return [images, labels][: len(self.param.top)]


class PlacedLayer(FedLayer):
    """A fed layer that knows where in its records it is, and goes on anywhere."""

    @property
    def data_position(self) -> int:
        """The record that the next batch begins with, the root's where there are several; assigning continues there."""
        return self._position if self._feed is None else self._feed.position

    @data_position.setter
    def data_position(self, position: int) -> None:
        self.check_position(position)
        self.close()
        self._position = position

    def check_position(self, position: int) -> None:
        """Raises CaffeError for a record that there is not."""
        raise CaffeError(f"layer type {self.type} lacks check_position")


class BatchLayer(FedLayer):
    """A layer that transforms batches of images; subclasses give `setup_data` and `open_feed`.

    Words taken from the main stream at set-up, as Caffe takes them: where anything is random, one that is thrown away
    and, after `setup_data`, the seed of the transformer's generator; then always one for the prefetch thread.
    """

    def __init__(self, param: LayerParameter, context: Context) -> None:
        super().__init__(param, context)
        self.transformer: Transformer

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.transformer = Transformer(self.param.transform_param, self.phase, self.ctx.rng)
        self.transformer.init_rand()
        self.setup_data(top)
        self.transformer.init_rand()
        self.ctx.rng.word()

    def setup_data(self, top: Sequence[Blob]) -> None:
        raise CaffeError(f"layer type {self.type} lacks setup_data")


@register("Data")
class DataLayer(PlacedLayer, BatchLayer):
    """top = the next batch_size records of an LMDB, in key order, transformed; it goes round for ever.

    top[0]: (N, C, H, W), of the shape of the batch's first record; top[1], if there: labels (N,).
    The position runs on over epochs and tests. `rand_skip` is ignored, as in Caffe 1.0. Of N solvers that train together,
    number r takes records r, r + N, r + 2N, ...; only the root tests.
    A data set that fits (see `source.loaded`) is kept on the device and shared by all layers that read it; a
    larger one is read by a thread, `prefetch` batches ahead.
    Source: data_layer.cpp.
    """

    min_top, max_top = 1, 2

    def __init__(self, param: LayerParameter, context: Context) -> None:
        super().__init__(param, context)
        options = param.data_param
        self.source = open_source(options.source, options.backend)
        transform = param.transform_param
        self.reader = Reader(self.source, transform.force_color, transform.force_gray)
        self._share = context.share if context.phase == TRAIN else ALONE

    def setup_data(self, top: Sequence[Blob]) -> None:
        batch_size = self.param.data_param.batch_size
        try:
            first = self.reader.first().shape
            self.transformer.word = "img" if self.reader.decodes else "datum"
            shape = self.transformer.shape(*first)
            check(batch_size > 0, f"Check failed: data_ (batch_size {batch_size}, expected at least 1)")
            self.transformer.check_mean(*first)
        except CaffeError as error:
            raise error.within("" if error.where else self.source.path) from None
        top[0].reshape(batch_size, *shape)
        glog.info("data_layer.cpp:45", f"output data size: {','.join(str(d) for d in top[0].shape)}")
        if len(top) > 1:
            top[1].reshape(batch_size)

    def check_position(self, position: int) -> None:
        count = len(self.source)
        check(0 <= position < count, f"{self.source.path}: record {position} (expected 0 to {count - 1})")

    def open_feed(self, position: int) -> Feed:
        options = self.param.data_param
        loaded = load(self.reader, self.ctx.device)
        if loaded is not None:
            return MemoryFeed(loaded, self.transformer, options.batch_size, position, _wrapped, self._share)
        return StreamFeed(
            self.reader,
            self.transformer,
            options.batch_size,
            position,
            _wrapped,
            self.ctx.device,
            options.prefetch,
            self._share,
        )


def _wrapped() -> None:
    glog.info("data_layer.cpp:73", "Restarting data prefetching from start.")

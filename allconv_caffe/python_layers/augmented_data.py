"""AugmentedData: byte records of an LMDB, set into larger fields and distorted while a net trains.

    layer {
      name: "data"
      type: "Python"
      top: "data"
      top: "label"
      include { phase: TRAIN }
      python_param {
        module: "allconv_caffe.python_layers"
        layer: "AugmentedData"
        param_str: '{"source": "data/cifar10/train_lmdb", "batch_size": 50, "size": 126, "background": 128, "stretch": 0.2,
                     "flip": 0.5, "shear": 0.2, "rotation": 0.2, "jiggle": 16, "colour": [0.2, 0.3, 0.6, 0.6], "seed": 1}'
      }
    }

(a `param_str` is one line; for the TEST phase `{"source": "data/cifar10/test_lmdb", "batch_size": 100, "size": 126,
"background": 128}` is all: there images are plain and in the records' order). `allconv_caffe.augment` says what every key
means, `augment.CHECKS` which there are.

It runs in stock pycaffe (Python 3.9, numpy 1.19 is the oldest tried; PYTHONPATH must reach this package) and needs
nothing but numpy and protobuf. The whole data set is read when the net is set up: as many bytes as its pixels. In this
project's engine the same text gives a form of its own (caffe_torch/layers/augmented_data.py), which works ahead of the
training or on the GPU; ask for ``module: "allconv_caffe.python_layers.augmented_data"`` to have this one there too.

With several solvers, solver r of N takes samples r, r + N, r + 2N, ... in the TRAIN phase, as Caffe's Data layer does; then
`seed` must be given, so that all of them mean the same order.

Caffe tells a layer nothing about the iteration: like its Data layer, this one begins anew when a run is taken up again.
`start` names the sample to go on with.

Source: data_layer.cpp (dealing out, batches that wrap). Paper: section 3.2.3, Table 5.
"""

from __future__ import annotations

from typing import Any

import caffe
import numpy as np

from allconv_caffe import augment
from allconv_caffe.proto import ProtoError, datum
from allconv_caffe.proto.lmdb_file import LmdbError, LmdbFile


def read_records(source: str) -> tuple[np.ndarray, np.ndarray]:
    """All images (N, C, H, W) uint8 and labels (N,) float32 of an LMDB, in the order of the keys.

    Raises: augment.AugmentError: not there, damaged, empty, or a record that is no array of bytes of the first one's shape.
    """
    try:
        file = LmdbFile(source)
        count = len(file)
        if not count:
            raise augment.AugmentError(source, "no records", "at least one")
        labels = np.empty(count, np.float32)
        images = np.empty(0, np.uint8)
        for i, (key, value) in enumerate(file.items()):
            image, labels[i] = _read(value, f"{source}: record {i} (key '{key.decode('ascii', 'replace')}')")
            if i == 0:
                images = np.empty((count, *image.shape), np.uint8)
            if image.shape != images.shape[1:]:
                found, expected = (" x ".join(map(str, shape)) for shape in (image.shape, images.shape[1:]))
                raise augment.AugmentError(f"{source}: record {i}", found, f"{expected}, as in record 0")
            images[i] = image
    except LmdbError as error:
        raise augment.AugmentError.of(error).within(source) from None
    return images, labels


def _read(value: Any, where: str) -> tuple[np.ndarray, int]:
    try:
        image, label = datum.decode(value)
    except ProtoError:
        image, label = np.empty(0), 0
    if image.dtype != np.uint8:
        raise augment.AugmentError(where, "no whole, unencoded Datum of bytes", "one, as this layer takes")
    return image, label


class AugmentedData(caffe.Layer):
    """top[0]: (batch_size, C, size, size), distorted in TRAIN, plain in TEST; top[1], if there: labels (batch_size,)."""

    def setup(self, bottom: Any, top: Any) -> None:
        if len(bottom) != 0 or len(top) not in (1, 2):
            raise ValueError(
                f"AugmentedData: found {len(bottom)} bottoms and {len(top)} tops, expected no bottom and one top or two"
            )
        train = self.phase == 0
        settings = self.settings = augment.parse(self.param_str, train)
        self.solvers = int(caffe.solver_count()) if train else 1
        self.rank = int(caffe.solver_rank()) if train else 0
        if self.solvers > 1 and settings.seed is None:
            raise augment.AugmentError("param_str", "no seed", f"one: {self.solvers} solvers share the records")
        seed = int(np.random.randint(0, 2**31)) if settings.seed is None else settings.seed
        self.images, self.labels = read_records(settings.source)
        self.order = augment.Order(len(self.images), seed, settings.shuffle)
        self.position = settings.start  # the sample that rank 0's next batch begins with
        top[0].reshape(settings.batch_size, self.images.shape[1], settings.size, settings.size)
        if len(top) > 1:
            top[1].reshape(settings.batch_size)

    def reshape(self, bottom: Any, top: Any) -> None:
        """The tops keep their shapes."""

    def forward(self, bottom: Any, top: Any) -> None:
        settings = self.settings
        samples = self.position + self.rank + self.solvers * np.arange(settings.batch_size, dtype=np.int64)
        self.position += settings.batch_size * self.solvers
        records = self.order.records(samples)
        pixels = self.images[records]
        if settings.distort:
            drawing = augment.draw(settings, self.order.seed, samples, pixels.shape[1:])
            top[0].data[...] = augment.distorted(settings, pixels, drawing)
        else:
            top[0].data[...] = augment.plain(settings, pixels)
        if len(top) > 1:
            top[1].data[...] = self.labels[records]

    def backward(self, top: Any, propagate_down: Any, bottom: Any) -> None:
        """Nothing lies below."""

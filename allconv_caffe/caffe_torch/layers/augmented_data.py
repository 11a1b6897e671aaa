"""This engine's form of the Python layer ``allconv_caffe.python_layers.AugmentedData``.

Source: data_layer.cpp. Paper: section 3.2.3, Table 5.
"""

from __future__ import annotations

from collections.abc import Sequence

from allconv_caffe import augment
from allconv_caffe.caffe_torch import glog
from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.errors import CaffeError, check
from allconv_caffe.caffe_torch.layer import register_native
from allconv_caffe.caffe_torch.layers.data import PlacedLayer
from allconv_caffe.caffe_torch.source.augmented import AugmentedFeed
from allconv_caffe.caffe_torch.source.database import Reader, open_source
from allconv_caffe.caffe_torch.source.loaded import load
from allconv_caffe.caffe_torch.source.share import ALONE
from allconv_caffe.proto import TRAIN, DataParameter


@register_native("allconv_caffe.python_layers", "AugmentedData")
class AugmentedDataLayer(PlacedLayer):
    """top[0] = the next batch_size records of an LMDB of bytes, set into fields; distorted in TRAIN, plain in TEST.

    top[0]: (N, C, size, size); top[1], if there: labels (N,). The data set lies on the device, shared by all layers that
    read it; fields are made ahead by threads, or on the GPU. Of N solvers number r takes samples r, r + N, r + 2N, ...
    What a `param_str` says, and what is drawn for which sample: `allconv_caffe.augment`. Nothing is taken from the net's
    random stream; without `seed`, the solver's is the seed.
    Differs from the Python layer: less than a grey level in a pixel; the values come from PyTorch.
    """

    type = "Python"
    min_top, max_top = 1, 2

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        try:
            self.settings = augment.parse(self.param.python_param.param_str, self.phase == TRAIN)
        except augment.AugmentError as error:
            raise CaffeError(str(error)) from None
        settings = self.settings
        self._share = self.ctx.share if self.phase == TRAIN else ALONE
        seed = self.ctx.rng.seed if self._share.count == 1 else self._share.seed
        if settings.seed is not None:
            seed = settings.seed
        if seed is None:
            raise CaffeError(f"param_str: found no seed, expected one: {self._share.count} solvers share the records")
        self._seed = seed
        self._position = settings.start
        self.reader = Reader(open_source(settings.source, DataParameter.LMDB))
        try:
            first = self.reader.first()
            check(
                first.dtype.kind == "u" and not self.reader.decodes,
                "found records that are no arrays of bytes, which AugmentedData expects (unencoded, not whitened)",
            )
        except CaffeError as error:
            raise error.within("" if error.where else settings.source) from None
        top[0].reshape(settings.batch_size, len(first), settings.size, settings.size)
        if len(top) > 1:
            top[1].reshape(settings.batch_size)
        glog.info("augmented_data.py:1", f"output data size: {','.join(str(d) for d in top[0].shape)}")

    def check_position(self, position: int) -> None:
        """`position` is that of a sample, counted from the start of training."""
        check(position >= 0, f"{self.settings.source}: sample {position} (expected 0 or more)")

    def open_feed(self, position: int) -> AugmentedFeed:
        settings = self.settings
        loaded = load(self.reader, self.ctx.device)
        if loaded is None:
            raise CaffeError(
                "found records of several shapes, or more than memory holds (ALLCONV_DATA_MEMORY_MB); AugmentedData keeps "
                "the whole data set in memory",
                settings.source,
            )
        return AugmentedFeed(settings, loaded, self._seed, self._share, position)

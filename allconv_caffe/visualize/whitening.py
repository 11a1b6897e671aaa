"""From pixels to the input blob and back: mean, scale, channel order, GCN and ZCA.

The CIFAR networks see whitened data: there a map is a gradient in whitened space, and `data_prep.whitening.Whitening` takes
it to pixels. Pictures of images are un-whitened, so patches look as the eye knows them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from allconv_caffe.proto import BlobProto, ProtoError, read_binary
from allconv_caffe.visualize.nets.base import PathLike
from allconv_caffe.visualize.nets.errors import VizError
from data_prep.errors import PrepError
from data_prep.whitening import Whitening


def check_space(text: str) -> None:
    """Raises: VizError: neither "input" nor "pixel"."""
    if text not in ("input", "pixel"):
        raise VizError("space", repr(text), "input or pixel")


@dataclass(kw_only=True)
class InputSpace:
    """How an input blob was made from pixels.

    Attributes:
        order: of the blob's channels, "RGB" (data_prep) or "BGR" (Caffe's own tools, ImageNet).
        mean: what was subtracted from pixels of 0..255, in `order`: (C, 1, 1) or (C, H, W); None: nothing.
        scale: what the difference was multiplied by.
        whitening: the transform of a prepared data set, in place of mean and scale; None: pixels.
        source: the file it came from, for the JSON beside a picture.
        data_whitening: what has whitened the records of a prepared set, where that is another transform; None: the same.
    """

    order: str = "BGR"
    mean: np.ndarray | None = None
    scale: float = 1.0
    whitening: Whitening | None = None
    source: str = ""
    data_whitening: Whitening | None = None

    def __post_init__(self) -> None:
        if self.order not in ("RGB", "BGR"):
            raise VizError("order", repr(self.order), "RGB or BGR")
        if self.mean is not None:
            mean = np.asarray(self.mean, np.float32)
            self.mean = mean.reshape(-1, 1, 1) if mean.ndim == 1 else mean

    @property
    def whitened(self) -> bool:
        """Whether data are GCN'd, with ZCA or without."""
        return self.whitening is not None and self.whitening.method != "raw"

    def rgb(self, arrays: np.ndarray) -> np.ndarray:
        """(..., C, H, W) of the input blob with planes R, G, B; nothing else is changed. One channel stays one."""
        return arrays[..., ::-1, :, :] if self.order == "BGR" and arrays.shape[-3] == 3 else arrays

    def pictures(self, images: np.ndarray) -> np.ndarray:
        """What the eye sees: (N, C, H, W) of the input blob to (N, H, W, 3) uint8, R G B.

        Whitened images come back exactly but for the brightness and contrast that GCN took from each: those are
        the training set's averages. An input larger than the whitened image shows it in its middle, grey around.
        """
        x = np.asarray(images, np.float32)
        if self.whitening is not None:
            x = self._inner(x, self.whitening.unwhiten, 127.5)
        else:
            x = x / np.float32(self.scale)
            if self.mean is not None:
                x = x + self.mean_for(x.shape)
        x = np.clip(np.rint(self.rgb(x)), 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
        return np.repeat(x, 3, axis=3) if x.shape[3] == 1 else x

    def pixel_maps(self, maps: np.ndarray) -> np.ndarray:
        """Maps (gradients at the input blob) as gradients at the pixels: (N, C, H, W) float32, planes R, G, B.

        ZCA: P^T g. Otherwise the scale alone.
        """
        g = np.asarray(maps, np.float32)
        if self.whitening is None:
            return self.rgb(g * np.float32(self.scale))
        return self.rgb(self._inner(g, self.whitening.pixel_gradient, 0.0))

    def maps(self, maps: np.ndarray, space: str = "input") -> np.ndarray:
        """Maps with planes R, G, B: in the space of the input blob ("input", whitened) or of pixels ("pixel")."""
        check_space(space)
        return self.pixel_maps(maps) if space == "pixel" else self.rgb(np.asarray(maps, np.float32))

    def blob(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels (N, C, H, W), 0..255, planes in `order`, to what the input blob takes."""
        x = np.asarray(pixels, np.float32)
        if self.whitening is not None:
            return self._inner(x, self.whitening.whiten, 0.0)
        if self.mean is not None:
            x = x - self.mean_for(x.shape)
        return x * np.float32(self.scale)

    def describe(self) -> dict[str, Any]:
        """For the JSON beside a picture."""
        return {
            "channel_order": self.order,
            "mean": None if self.mean is None else [float(v) for v in self.mean.mean(axis=(1, 2))],
            "scale": self.scale,
            "whitening": None if self.whitening is None else self.whitening.method,
            "source": self.source,
        }

    def for_data(self, data: InputSpace) -> InputSpace:
        """This space for the records of a set that `data`'s transform has whitened: they are taken from its to this one's.

        Raises: VizError: images of another kind, see `Whitening.check_kind`.
        """
        one, other = self.whitening, data.whitening
        assert one is not None and other is not None
        try:
            one.check_kind(other, data.source, self.source)
        except PrepError as error:
            raise VizError(error.where, error.found, error.expected) from None
        return self if one.same_as(other) else replace(self, data_whitening=other)

    def of_records(self, records: np.ndarray) -> np.ndarray:
        """Whitened records (N, C, H, W) as the net takes them."""
        if self.data_whitening is None:
            return records
        own, other = self.whitening, self.data_whitening
        assert own is not None
        return self._inner(records, lambda x: own.rewhiten(x, other), 0.0)

    def mean_for(self, shape: Sequence[int]) -> np.ndarray:
        """The mean, its middle where the image is a crop of it."""
        assert self.mean is not None
        if len(self.mean) not in (1, shape[-3]):
            raise VizError("mean", f"{len(self.mean)} channels", f"{shape[-3]}, as the net's input, or 1")
        h, w = shape[-2:]
        mh, mw = self.mean.shape[1:]
        if (mh, mw) == (1, 1) or (mh, mw) == (h, w):
            return self.mean
        if mh < h or mw < w:
            raise VizError("mean image", f"{mh}x{mw}", f"at least {h}x{w}")
        top, left = (mh - h) // 2, (mw - w) // 2
        return self.mean[:, top : top + h, left : left + w]

    def _inner(self, x: np.ndarray, function: Any, around: float) -> np.ndarray:
        """Applies `function` to what has the fitted shape, the middle of larger images; `around` fills the rest."""
        assert self.whitening is not None
        c, h, w = self.whitening.shape
        if x.shape[1] != c or x.shape[2] < h or x.shape[3] < w:
            raise VizError(
                self.source or "whitening", f"fitted to images of {c}x{h}x{w}", "x".join(str(n) for n in x.shape[1:])
            )
        top, left = (x.shape[2] - h) // 2, (x.shape[3] - w) // 2
        out = np.full(x.shape, around, np.float32)
        middle = np.ascontiguousarray(x[:, :, top : top + h, left : left + w])
        out[:, :, top : top + h, left : left + w] = function(middle)
        return out


def load_whitening(path: PathLike) -> InputSpace:
    """The input space of a data set that data_prep made, from its whitening.npz (planes R, G, B).

    Raises: VizError: no such file, or another.
    """
    where = os.fspath(path)
    try:
        return InputSpace(order="RGB", whitening=Whitening.load(where), source=where)
    except PrepError as error:
        raise VizError(error.where, error.found, error.expected) from None


def load_mean(path: PathLike, order: str = "BGR", scale: float = 1.0) -> InputSpace:
    """The input space of a net whose data layer names this mean.binaryproto.

    Raises: VizError: missing, or no BlobProto.
    """
    where = os.fspath(path)
    try:
        blob = read_binary(where, BlobProto)
    except ProtoError as error:
        raise VizError(error.place or where, error.reason.replace(f": {where}", ""), "a mean.binaryproto") from None
    shape = tuple(blob.shape.dim) or (blob.num, blob.channels, blob.height, blob.width)
    values = np.array(blob.data, np.float32)
    if len(shape) not in (3, 4) or min(shape) < 1 or not values.size == math.prod(shape[-3:]) == math.prod(shape):
        raise VizError(where, f"{values.size} values of shape {shape}", "a mean image (1, C, H, W)")
    return InputSpace(order=order, mean=values.reshape(shape[-3:]), scale=scale, source=where)

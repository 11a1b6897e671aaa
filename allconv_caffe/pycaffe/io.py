"""Images, datums and blob protos to NumPy arrays and back; the transformer of inputs.

Source: python/caffe/io.py. Images are (H, W, K), RGB, float32 in [0, 1]; blobs are (N, K, H, W).
Differs: resizing needs neither scikit-image nor SciPy, but gives what they give in Debian 11 (0.18 and 1.6), to 1e-6;
`load_image` works (there, it asks scikit-image for an option that it has lost). Interpolation of order 2, 4 and 5 at an edge of
the image follows the last bits of a LAPACK.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from allconv_caffe.files import open_file
from allconv_caffe.proto import image_file
from allconv_caffe.pycaffe import scikit
from allconv_caffe.pycaffe.proto import caffe_pb2
from allconv_caffe.pycaffe.resampling import apply, skimage_resize, spline_matrix
from allconv_caffe.pycaffe.scikit import resize, zoom

Shape = Sequence[int] | np.ndarray


# blob protos and datums
def blobproto_to_array(blob: Any, return_diff: bool = False) -> np.ndarray:
    """The data (or diff) of a BlobProto, float64, in its shape or in its legacy num, channels, height, width.

    Raises: ValueError where the shape does not hold as many values.
    """
    name = "diff" if return_diff else "data"
    data = np.array(getattr(blob, name) or getattr(blob, f"double_{name}"), dtype=np.float64)
    if any(blob.HasField(field) for field in ("num", "channels", "height", "width")):
        return data.reshape(blob.num, blob.channels, blob.height, blob.width)
    return data.reshape(tuple(blob.shape.dim))


def array_to_blobproto(arr: np.ndarray, diff: np.ndarray | None = None) -> Any:
    """A BlobProto with the shape and values of `arr`, and with `diff`, which has the same shape."""
    blob = caffe_pb2.BlobProto()
    blob.shape.dim.extend(arr.shape)
    blob.data.extend(np.asarray(arr, dtype=np.float64).ravel())
    if diff is not None:
        blob.diff.extend(np.asarray(diff, dtype=np.float64).ravel())
    return blob


def arraylist_to_blobprotovector_str(arraylist: Iterable[np.ndarray]) -> bytes:
    """The arrays as a serialised BlobProtoVector."""
    vector = caffe_pb2.BlobProtoVector()
    vector.blobs.extend(array_to_blobproto(array) for array in arraylist)
    return bytes(vector.SerializeToString())


def blobprotovector_str_to_arraylist(str: bytes) -> list[np.ndarray]:
    """The arrays of a serialised BlobProtoVector."""
    vector = caffe_pb2.BlobProtoVector()
    vector.ParseFromString(str)
    return [blobproto_to_array(blob) for blob in vector.blobs]


def array_to_datum(arr: np.ndarray, label: int | None = None) -> Any:
    """A Datum of a (K, H, W) array: uint8 becomes bytes, everything else float_data. Raises: ValueError."""
    if arr.ndim != 3:
        raise ValueError("Incorrect array shape.")
    datum = caffe_pb2.Datum()
    datum.channels, datum.height, datum.width = arr.shape
    if arr.dtype == np.uint8:
        datum.data = arr.tobytes()
    else:
        datum.float_data.extend(np.asarray(arr, dtype=np.float64).ravel())
    if label is not None:
        datum.label = label
    return datum


def datum_to_array(datum: Any) -> np.ndarray:
    """The (K, H, W) array of a Datum: uint8 where it has bytes, else float64. The label is `datum.label`."""
    shape = (datum.channels, datum.height, datum.width)
    if len(datum.data):
        return np.frombuffer(datum.data, dtype=np.uint8).reshape(shape).copy()
    return np.array(datum.float_data, dtype=np.float64).reshape(shape)


# inputs
class Transformer:
    """Brings images into the form of a net's inputs, and back.

    Args:
        inputs: name of an input -> its shape (N, K, H, W).

    Attributes: transpose, channel_swap, raw_scale, mean, input_scale: what was set, by input.
    """

    def __init__(self, inputs: Mapping[str, Shape]) -> None:
        self.inputs = inputs
        self.transpose: dict[str, Sequence[int]] = {}
        self.channel_swap: dict[str, Sequence[int]] = {}
        self.raw_scale: dict[str, float] = {}
        self.mean: dict[str, np.ndarray] = {}
        self.input_scale: dict[str, float] = {}

    def __check_input(self, in_: str) -> None:
        if in_ not in self.inputs:
            raise Exception(f"{in_} is not one of the net inputs: {self.inputs}")

    def preprocess(self, in_: str, data: np.ndarray) -> np.ndarray:
        """Resize, transpose, swap channels, times raw_scale, minus mean, times input_scale; as far as they were set.

        Args:
            in_: name of the input.
            data: (H', W', K).
        Returns: (K, H, W), float32. As in pycaffe, a float32 array of the input's size is scaled and shifted where it lies, and
            what comes back is a view of it, unless channels are swapped: give a copy of what is needed again.
        """
        self.__check_input(in_)
        caffe_in = data.astype(np.float32, copy=False)
        in_dims = tuple(self.inputs[in_][2:])
        if caffe_in.shape[:2] != in_dims:
            caffe_in = resize_image(caffe_in, in_dims)
        if in_ in self.transpose:
            caffe_in = caffe_in.transpose(self.transpose[in_])
        if in_ in self.channel_swap:
            caffe_in = caffe_in[list(self.channel_swap[in_]), :, :]
        if in_ in self.raw_scale:
            caffe_in *= self.raw_scale[in_]
        if in_ in self.mean:
            caffe_in -= self.mean[in_]
        if in_ in self.input_scale:
            caffe_in *= self.input_scale[in_]
        return caffe_in

    def deprocess(self, in_: str, data: np.ndarray) -> np.ndarray:
        """Undoes `preprocess`, but for the size: (K, H, W) or (1, K, H, W) -> (H, W, K)."""
        self.__check_input(in_)
        decaf_in = data.copy().squeeze()
        if in_ in self.input_scale:
            decaf_in /= self.input_scale[in_]
        if in_ in self.mean:
            decaf_in += self.mean[in_]
        if in_ in self.raw_scale:
            decaf_in /= self.raw_scale[in_]
        if in_ in self.channel_swap:
            decaf_in = decaf_in[np.argsort(self.channel_swap[in_]), :, :]
        if in_ in self.transpose:
            decaf_in = decaf_in.transpose(np.argsort(self.transpose[in_]))
        return decaf_in

    def set_transpose(self, in_: str, order: Sequence[int]) -> None:
        """(2, 0, 1) turns (H, W, K) into (K, H, W)."""
        self.__check_input(in_)
        if len(order) != len(self.inputs[in_]) - 1:
            raise Exception("Transpose order needs to have the same number of dimensions as the input.")
        self.transpose[in_] = order

    def set_channel_swap(self, in_: str, order: Sequence[int]) -> None:
        """(2, 1, 0) turns RGB into BGR; after the transposition."""
        self.__check_input(in_)
        if len(order) != self.inputs[in_][1]:
            raise Exception("Channel swap needs to have the same number of dimensions as the input channels.")
        self.channel_swap[in_] = order

    def set_raw_scale(self, in_: str, scale: float) -> None:
        """A factor before the mean is subtracted: 255 for nets that were trained on [0, 255]."""
        self.__check_input(in_)
        self.raw_scale[in_] = scale

    def set_mean(self, in_: str, mean: np.ndarray) -> None:
        """(K,), (H', W') or (K, H', W'); another size than the input's is resized. Raises: ValueError."""
        self.__check_input(in_)
        in_shape = tuple(self.inputs[in_][1:])
        ms = tuple(mean.shape)
        if mean.ndim == 1:
            if ms[0] != in_shape[0]:
                raise ValueError("Mean channels incompatible with input.")
            mean = mean[:, np.newaxis, np.newaxis]
        else:
            if len(ms) == 2:
                ms = (1, *ms)
            if len(ms) != 3:
                raise ValueError("Mean shape invalid")
            if ms != in_shape:
                low, high = mean.min(), mean.max()
                normal_mean = (mean - low) / (high - low)
                resized = resize_image(normal_mean.transpose((1, 2, 0)), in_shape[1:])
                mean = resized.transpose((2, 0, 1)) * (high - low) + low
        self.mean[in_] = mean

    def set_input_scale(self, in_: str, scale: float) -> None:
        """A factor after everything else."""
        self.__check_input(in_)
        self.input_scale[in_] = scale


# images
def __getattr__(name: str) -> Any:
    if name == "skimage":  # imported when it is asked for: it takes a second
        return scikit.skimage()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), "skimage"])


def load_image(filename: str | os.PathLike[str], color: bool = True) -> np.ndarray:
    """An image file as float32 in [0, 1]: (H, W, 3) RGB, or (H, W, 1) luminance where `color` is False.

    An alpha channel is dropped, grey becomes RGB where colour is asked for.
    Raises: FileNotFoundError; ValueError for a file that OpenCV cannot decode.
    """
    path = os.fspath(filename)
    if not os.path.exists(path):
        raise FileNotFoundError(f"No such file: '{path}'")
    try:
        with open_file(path) as file:
            image = image_file.decode(file.read())
    except image_file.ImageError:
        raise ValueError(f"{path}: found no image that OpenCV can decode") from None
    scale = np.iinfo(image.dtype.name).max if np.issubdtype(image.dtype, np.integer) else 1
    values = np.asarray(image, dtype=np.float64) / scale
    if values.ndim == 2:
        values = values[:, :, np.newaxis]
    if values.shape[2] >= 3:
        values = values[:, :, 2::-1]
        if not color:
            values = (values @ np.array([0.2125, 0.7154, 0.0721]))[:, :, np.newaxis]
    elif color:
        values = np.tile(values[:, :, :1], (1, 1, 3))
    return np.ascontiguousarray(values, dtype=np.float32)


def resize_image(im: np.ndarray, new_dims: Shape, interp_order: int = 1) -> np.ndarray:
    """An image in another size.

    Args:
        im: (H, W, K).
        new_dims: (height, width).
        interp_order: 0 nearest, 1 linear, up to 5.
    Returns: (height, width, K), float32.

    One and three channels go scikit-image's way: pixels are areas, smoothed by a Gaussian before they are made fewer,
    and what lies outside is the image's minimum. Other counts go SciPy's: the corners' centres stay where they are.
    """
    if interp_order not in range(6):
        raise ValueError(f"interp_order: found {interp_order}, expected 0 to 5")
    height, width = (int(dim) for dim in new_dims)
    if im.shape[-1] in (1, 3):
        low, high = im.min(), im.max()
        if not high > low:
            return np.full((height, width, im.shape[-1]), low, dtype=np.float32)
        resized = skimage_resize((im - low) / (high - low), (height, width), interp_order) * (high - low) + low
    else:
        rows, columns = (
            spline_matrix(n, np.arange(m) * ((n - 1) / (m - 1) if m > 1 else 1.0), interp_order)
            for n, m in zip(im.shape, (height, width), strict=False)
        )
        resized = apply(rows, columns, im)
        if np.issubdtype(im.dtype, np.integer):
            resized = np.clip(np.floor(resized + 0.5), np.iinfo(im.dtype).min, np.iinfo(im.dtype).max)
    return resized.astype(np.float32)


def oversample(images: Sequence[np.ndarray] | np.ndarray, crop_dims: Shape) -> np.ndarray:
    """The four corners and the centre of each image, then their mirror images.

    Args:
        images: n of (H, W, K), all of one shape.
        crop_dims: (height, width) of a crop.
    Returns: (10 n, height, width, K), float32.
    """
    height, width, channels = images[0].shape
    crop_h, crop_w = (int(dim) for dim in crop_dims)
    corners = [(y, x) for y in (0, height - crop_h) for x in (0, width - crop_w)]
    places = [*corners, (int(height / 2.0 - crop_h / 2.0), int(width / 2.0 - crop_w / 2.0))]
    crops = np.empty((10 * len(images), crop_h, crop_w, channels), dtype=np.float32)
    for i, image in enumerate(images):
        for k, (y, x) in enumerate(places):
            crops[10 * i + k] = image[y : y + crop_h, x : x + crop_w]
        crops[10 * i + 5 : 10 * i + 10] = crops[10 * i : 10 * i + 5, :, ::-1]
    return crops


__all__ = [
    "Transformer",
    "array_to_blobproto",
    "array_to_datum",
    "arraylist_to_blobprotovector_str",
    "blobproto_to_array",
    "blobprotovector_str_to_arraylist",
    "datum_to_array",
    "load_image",
    "oversample",
    "resize",
    "resize_image",
    "zoom",
]

"""Images, datums and blob protos to NumPy arrays and back; the transformer of inputs.

Source: python/caffe/io.py. Images are (H, W, K), RGB, float32 in [0, 1]; blobs are (N, K, H, W).
Differs: resizing needs neither scikit-image nor SciPy, but gives what they give in Debian 11 (0.18 and 1.6), to 1e-6;
`load_image` works (there, it asks scikit-image for an option that it has lost). Interpolation of order 2, 4 and 5 at an edge of
the image follows the last bits of a LAPACK.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from allconv_caffe.files import open_file
from allconv_caffe.proto import image_file
from allconv_caffe.pycaffe.proto import caffe_pb2

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

    def _check_input(self, in_: str) -> None:
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
        self._check_input(in_)
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
        self._check_input(in_)
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
        self._check_input(in_)
        if len(order) != len(self.inputs[in_]) - 1:
            raise Exception("Transpose order needs to have the same number of dimensions as the input.")
        self.transpose[in_] = order

    def set_channel_swap(self, in_: str, order: Sequence[int]) -> None:
        """(2, 1, 0) turns RGB into BGR; after the transposition."""
        self._check_input(in_)
        if len(order) != self.inputs[in_][1]:
            raise Exception("Channel swap needs to have the same number of dimensions as the input channels.")
        self.channel_swap[in_] = order

    def set_raw_scale(self, in_: str, scale: float) -> None:
        """A factor before the mean is subtracted: 255 for nets that were trained on [0, 255]."""
        self._check_input(in_)
        self.raw_scale[in_] = scale

    def set_mean(self, in_: str, mean: np.ndarray) -> None:
        """(K,), (H', W') or (K, H', W'); another size than the input's is resized. Raises: ValueError."""
        self._check_input(in_)
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
        self._check_input(in_)
        self.input_scale[in_] = scale


# images
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
        resized = _skimage_resize((im - low) / (high - low), (height, width), interp_order) * (high - low) + low
    else:
        rows, columns = (
            _spline_matrix(n, np.arange(m) * ((n - 1) / (m - 1) if m > 1 else 1.0), interp_order)
            for n, m in zip(im.shape, (height, width), strict=False)
        )
        resized = _apply(rows, columns, im)
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


# resizing is linear and separable: one (m, n) matrix for the rows, one for the columns
def _apply(rows: np.ndarray, columns: np.ndarray, image: np.ndarray) -> np.ndarray:
    return np.einsum("ih,hwk,jw->ijk", rows, np.asarray(image, dtype=np.float64), columns, optimize=True)


def _skimage_resize(image: np.ndarray, dims: tuple[int, int], order: int) -> np.ndarray:
    """skimage.transform.resize(image, dims, order, mode="constant") as of 0.18; `image` lies in [0, 1]."""
    sizes = list(zip(image.shape, dims, strict=False))
    smoothing = [_gaussian_matrix(n, max(0.0, (n / m - 1) / 2)) for n, m in sizes]
    smooth = _apply(smoothing[0], smoothing[1], image)
    positions = _warp_positions(sizes, image.dtype if order in (0, 1, 3) else np.dtype(np.float64), order)
    weights = [
        _pixel_matrix(n, x, order) if order in (0, 1, 3) else _spline_matrix(n, x, order, 0.0)
        for (n, _), x in zip(sizes, positions, strict=True)
    ]
    out = _apply(weights[0], weights[1], smooth)
    if order:
        low, high = smooth.min(), smooth.max()
        outside = (out == 0) & (low > 0)  # what lies outside stays 0 though no pixel is
        out = np.where(outside, out, np.clip(out, low, high))
    return out


def _warp_positions(sizes: list[tuple[int, int]], dtype: np.dtype, order: int) -> list[np.ndarray]:
    """Where the rows and the columns of the output lie in the input, with scikit-image's roundings: they decide ties.

    It does not scale pixel centres but estimates an affine map from three corners, as the smallest singular vector of
    centred, normalised equations; the map then has the image's dtype where scikit-image interpolates itself.
    """
    (in_rows, rows), (in_columns, columns) = sizes
    if rows == columns == 1:
        return [np.array([in_rows / 2.0 - 0.5], dtype), np.array([in_columns / 2.0 - 0.5], dtype)]
    corners = np.array([[0, 0], [0, rows - 1], [columns - 1, rows - 1]])
    targets = np.array([in_columns / columns, in_rows / rows]) * (corners + 0.5) - 0.5
    try:
        (to_source, source), (to_target, target) = _normalized(corners), _normalized(targets)
    except ZeroDivisionError:
        return [n / m * (np.arange(m) + 0.5) - 0.5 for n, m in sizes]
    equations = np.zeros((6, 7))
    equations[:3, :2] = equations[3:, 3:5] = source
    equations[:3, 2] = equations[3:, 5] = 1
    equations[:, 6] = target.T.ravel()
    least = np.linalg.svd(equations)[2][-1]
    affine = np.eye(3)
    with np.errstate(all="ignore"):
        affine[:2] = (-least[:6] / least[6]).reshape(2, 3)
    affine = np.linalg.inv(to_target) @ affine @ to_source
    affine[2], affine[0, 1], affine[1, 0] = (0, 0, 1), 0, 0
    if order in (0, 1, 3):
        affine = affine.astype(dtype)
        return [affine[i, i] * np.arange(m, dtype=dtype) + affine[i, 2] for i, m in ((1, rows), (0, columns))]
    grid = np.indices((columns, rows)).reshape(2, -1)
    x, y = (np.vstack((grid, np.ones(grid.shape[1]))).T @ affine.T).T[:2].reshape(2, columns, rows)
    return [y[0], x[:, 0]]


def _normalized(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A map that moves points' centre to 0 and their mean distance to the root of 2, and the points so moved."""
    centre = np.mean(points, axis=0)
    factor = math.sqrt(2) / math.sqrt(np.sum((points - centre) ** 2) / len(points))
    move = np.array([[factor, 0, -factor * centre[0]], [0, factor, -factor * centre[1]], [0, 0, 1]])
    return move, (move @ np.vstack([points.T, np.ones(len(points))])).T[:, :2]


def _gaussian_matrix(n: int, sigma: float) -> np.ndarray:
    """Smoothing as scipy.ndimage.gaussian_filter does it with zeros outside; the identity for sigma 0."""
    if sigma <= 1e-15:
        return np.eye(n)
    radius = int(4.0 * sigma + 0.5)
    x = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 / (sigma * sigma) * x**2)
    padded = np.concatenate([np.zeros(n), kernel / kernel.sum(), np.zeros(n)])
    start = n + radius  # of distance 0
    return padded[np.clip(np.subtract.outer(np.arange(n), np.arange(n)), -radius - 1, radius + 1) + start]


def _pixel_matrix(n: int, positions: np.ndarray, order: int) -> np.ndarray:
    """Nearest, linear or cubic (Catmull-Rom) interpolation at `positions`, with zeros outside."""
    matrix = np.zeros((len(positions), n))
    for i, x in enumerate(positions):
        base = math.floor(x)
        t = x - base
        if order == 0:
            taps = {int(math.copysign(math.floor(abs(x) + 0.5), x)): 1.0}
        elif order == 1:
            taps = {base: 1 - t, base + 1: t}
        else:
            taps = {
                base - 1: 0.5 * (-t + 2 * t**2 - t**3),
                base: 1 + 0.5 * (-5 * t**2 + 3 * t**3),
                base + 1: 0.5 * (t + 4 * t**2 - 3 * t**3),
                base + 2: 0.5 * (t**3 - t**2),
            }
        for j, weight in taps.items():
            if 0 <= j < n:
                matrix[i, j] += weight
    return matrix


def _spline_matrix(n: int, positions: np.ndarray, order: int, slack: float = 1e-9) -> np.ndarray:
    """Interpolation by B-splines as scipy.ndimage does it: mirrored at the edges, zero beyond them by `slack` pixels for each."""
    if order == 0:
        taps = np.zeros((len(positions), n))
        inside = (positions > -0.5) & (positions < n - 0.5)
        taps[np.flatnonzero(inside), np.floor(positions[inside] + 0.5).astype(int)] = 1
        return taps
    edge = n - 1 + slack * n
    taps = np.where(((positions >= 0) & (positions <= edge))[:, np.newaxis], _splines(n, positions, order), 0)
    return taps @ np.linalg.inv(_splines(n, np.arange(n), order)) if order > 1 else taps


def _splines(n: int, positions: np.ndarray, order: int) -> np.ndarray:
    """(len(positions), n): the values at `positions` of the B-splines around 0 to n - 1, those beyond mirrored in."""
    period = max(2 * (n - 1), 1)
    matrix = np.zeros((len(positions), n))
    for i, x in enumerate(positions):
        for m in range(math.floor(x) - order, math.floor(x) + order + 2):
            j = m % period
            matrix[i, min(j, period - j) if n > 1 else 0] += _spline(x - m, order)
    return matrix


def _spline(x: float, order: int) -> float:
    """The cardinal B-spline of `order` at `x`."""
    total = 0.0
    for j in range(order + 2):
        reach = x + (order + 1) / 2 - j
        if reach > 0:
            total += (-1) ** j * math.comb(order + 1, j) * reach**order
    return total / math.factorial(order)

"""Global contrast normalisation and ZCA whitening, as pylearn2 did it for the networks the paper compares with.

    x   <- pixels - mean of the image's 3,072 values          (pixels 0..255, RGB planes, channel-major)
    x   <- x / (||x||_2 / 55)                                  so ||x|| = 55 and the standard deviation is 0.992
    C    = (X - m)^T (X - m) / N + 0.1 I                       N training images, m their mean; N, not N - 1
    P    = V diag(1 / sqrt(l)) V^T      with  C = V diag(l) V^T
    out  = (x - m) P

Source: pylearn2 (af81e5c) expr/preprocessing.py:16-94 and datasets/preprocessing.py:1171-1511, called by
scripts/datasets/make_cifar10_gcn_whitened.py. Paper: section 3.1 ("whitening and contrast normalization following
Goodfellow et al.").
Differs: pixels are float32 and C is summed in float64 over chunks multiplied in float32; eigenvectors are float64.
Against float64 throughout, a whitened value moves by less than 1e-3.
"""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from allconv_caffe import files, npz
from data_prep.errors import PrepError, PrepWarning, writing
from data_prep.imageset import FloatArray, UInt8Array, check_name

METHODS = ("gcn-zca", "gcn", "raw")
GCN_SCALE = 55.0  # pylearn2 make_cifar10_gcn_whitened.py:19: the NORM of an image, not its standard deviation
GCN_MIN_DIVISOR = 1e-8  # pylearn2 expr/preprocessing.py: an image without contrast is divided by 1
ZCA_BIAS = 0.1  # pylearn2 datasets/preprocessing.py:1218, added to C before the decomposition
MAX_ZCA_VALUES = 3 * 64 * 64  # C of 12,288 values takes 1.2 GB; beyond it ZCA is not a sensible step
ARRAYS = {
    "method": ("U", 0),
    "shape": ("int64", 1),
    "mean": ("float32", 1),
    "class_names": ("U", 1),
    **dict.fromkeys(("gcn_scale", "gcn_min_divisor", "zca_bias", "typical_mean", "typical_norm"), ("iuf", 0)),
    "eigenvalues": ("iuf", 1),
    "zca": ("float32", 2),
    "zca_inverse": ("float32", 2),
    "zca_triangle": ("float32", 1),
}
"""What lies in a whitening.npz, by name: type and number of axes."""
MOST_SIDE = 1 << 16  # pixels
_CHUNK = 2000  # images: 24 MB of float32 each


def gcn(images: UInt8Array, scale: float = GCN_SCALE, min_divisor: float = GCN_MIN_DIVISOR) -> FloatArray:
    """Subtract each image's mean over all its values, then scale it to the Euclidean norm `scale`.

    Args:
        images: (N, ...) uint8 (or any number type), 0..255.
        scale: Norm of every result row.
        min_divisor: An image whose norm / scale is below it (one colour) is divided by 1 and so stays zero.

    Returns:
        (N, D) float32, row norms = scale.
    """
    return _gcn(images, scale, min_divisor)[0]


def _gcn(images: UInt8Array, scale: float, min_divisor: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """`gcn`, with the two numbers it takes from each image: its mean and the norm of what remains, (N,) float32."""
    x = images.reshape(len(images), -1).astype(np.float32)
    means = x.mean(axis=1, dtype=np.float64).astype(np.float32)
    x -= means[:, None]
    norms = np.sqrt(np.einsum("ij,ij->i", x, x))
    divisor = norms / np.float32(scale)
    divisor[divisor < min_divisor] = 1
    x /= divisor[:, None]
    return x, means, norms


@dataclass(frozen=True, kw_only=True)
class Whitening:
    """A fitted transform: whitens any image of the fitted shape, and takes it back. D = 3 H W.

    Attributes:
        method: of METHODS.
        shape: (3, H, W).
        mean: (D,) float32, of GCN'd images; for "raw" of pixels.
        class_names: by label.
        gcn_scale: norm of an image after GCN.
        gcn_min_divisor: an image whose norm / gcn_scale is below it is divided by 1.
        zca_bias: what was added to the covariance's diagonal.
        zca: (D, D) float32, symmetric; only for "gcn-zca".
        zca_inverse: its inverse; a compact file leaves it out (see `inverse`).
        eigenvalues: (D,) float64, ascending, of the covariance with its bias.
        typical_mean, typical_norm: averages over the training images of what GCN takes from each, so that `unwhiten` can
            return to grey levels.
    """

    method: str
    shape: tuple[int, int, int]
    mean: FloatArray
    class_names: tuple[str, ...] = ()
    gcn_scale: float = GCN_SCALE
    gcn_min_divisor: float = GCN_MIN_DIVISOR
    zca_bias: float = ZCA_BIAS
    zca: FloatArray | None = None
    zca_inverse: FloatArray | None = None
    eigenvalues: npt.NDArray[np.float64] | None = None
    typical_mean: float = 0.0
    typical_norm: float = 0.0

    @cached_property
    def inverse(self) -> FloatArray | None:
        """The inverse of `zca`, computed (seconds for 32x32) when a compact file is first taken back to pixels."""
        if self.zca is None or self.zca_inverse is not None:
            return self.zca_inverse
        return np.linalg.inv(self.zca.astype(np.float64)).astype(np.float32)

    def _flat(self, images: npt.NDArray[np.generic], kind: str) -> npt.NDArray[np.generic]:
        if images.shape[1:] != self.shape:
            raise PrepError(kind, f"shape {images.shape}", f"(N, {', '.join(map(str, self.shape))})")
        return images.reshape(len(images), -1)

    def whiten(self, images: UInt8Array | FloatArray) -> FloatArray:
        """What the network's data blob holds for these pixels.

        Args:
            images: (N, 3, H, W) uint8 or float32, 0..255, RGB planes.

        Returns:
            (N, 3, H, W) float32: GCN and ZCA, GCN alone, or (raw) pixels minus the mean image.

        Raises:
            PrepError: another shape than the fitted one.
        """
        flat = self._flat(images, "images to whiten")
        out = np.empty(flat.shape, np.float32)
        for start in range(0, len(flat), _CHUNK):
            rows = slice(start, start + _CHUNK)
            if self.method == "raw":
                np.subtract(flat[rows], self.mean, out=out[rows], casting="unsafe")
                continue
            x = gcn(flat[rows], self.gcn_scale, self.gcn_min_divisor)  # type: ignore[arg-type]
            if self.zca is None:
                out[rows] = x
            else:
                x -= self.mean
                np.matmul(x, self.zca, out=out[rows])
        return out.reshape(images.shape)

    def unwhiten(self, x: FloatArray) -> FloatArray:
        """Back to pixel-like values: exact up to the brightness and contrast that GCN took from each image, for which
        the averages over the training images stand in.

        Args:
            x: (N, 3, H, W) float32, whitened images.

        Returns:
            (N, 3, H, W) float32, mostly in 0..255, not clipped.

        Raises:
            PrepError: another shape than the fitted one.
        """
        flat = np.asarray(self._flat(x, "images to un-whiten"), np.float32)
        if self.method == "raw":
            return (flat + self.mean).reshape(x.shape)
        if self.inverse is not None:
            flat = flat @ self.inverse + self.mean
        return (flat * np.float32(self.typical_norm / self.gcn_scale) + np.float32(self.typical_mean)).reshape(x.shape)

    def check_kind(self, other: Whitening, where: str, source: str) -> None:
        """Images whitened by `other` can be taken to what this transform makes of the same pixels, see `rewhiten`.

        Args:
            where: the other transform's file. source: this one's.

        Raises:
            PrepError: another shape, other classes, or pixels where GCN has taken brightness and contrast.
        """
        if other.shape != self.shape:
            raise PrepError(where, f"images of shape {other.shape}", f"{self.shape}, as in {source}")
        if self.class_names and other.class_names and other.class_names != self.class_names:
            found, expected = (", ".join(names[:3]) for names in (other.class_names, self.class_names))
            raise PrepError(where, f"the classes {found}, ...", f"those of {source}: {expected}, ...")
        if self.method == "raw" and other.method != "raw":
            raise PrepError(
                where, f"method {other.method}", f"raw, as in {source}: prepare the images with --preprocessing raw"
            )

    def same_as(self, other: Whitening) -> bool:
        """Both give the same numbers for an image, to rounding."""
        if (self.method, self.shape, self.gcn_scale) != (other.method, other.shape, other.gcn_scale):
            return False
        pairs = [(self.mean, other.mean)] + (
            [(self.zca, other.zca)] if self.zca is not None and other.zca is not None else []
        )
        return all(np.allclose(one, its, rtol=1e-5, atol=1e-6) for one, its in pairs)

    def rewhiten(self, x: FloatArray, other: Whitening) -> FloatArray:
        """What this transform makes of the images that `other` has whitened: exact, GCN'd images lie between the two.

        Args:
            x: (N, 3, H, W) float32, images whitened by `other`, which `check_kind` has let pass.

        Returns:
            (N, 3, H, W) float32, as `whiten` gives for their pixels.
        """
        flat = np.asarray(self._flat(x, "images to whiten again"), np.float32)
        if other.method == "raw":
            return self.whiten((flat + other.mean).reshape(x.shape))
        if other.inverse is not None:
            flat = flat @ other.inverse + other.mean
        flat = flat * np.float32(self.gcn_scale / other.gcn_scale)
        if self.zca is not None:
            flat = (flat - self.mean) @ self.zca
        return np.asarray(flat, np.float32).reshape(x.shape)

    def pixel_gradient(self, gradient: FloatArray) -> FloatArray:
        """A gradient at the whitened image as one at the pixels: P^T times it, as out = (x - m) P.

        GCN's factor, one positive number for each image, is left out: to first order it only scales.

        Args:
            gradient: (N, 3, H, W) float32.

        Returns:
            (N, 3, H, W) float32.

        Raises:
            PrepError: another shape than the fitted one.
        """
        flat = np.asarray(self._flat(gradient, "gradients"), np.float32)
        return (flat if self.zca is None else flat @ self.zca.T).reshape(gradient.shape)

    def save(self, path: str | Path, *, compact: bool = False) -> None:
        """Write everything as an uncompressed .npz (76 MB for 32x32; equal transforms give equal bytes).

        Args:
            compact: only one triangle of `zca`, compressed (17 MB); `load` mirrors it.

        Raises:
            PrepError: the file cannot be written.
        """
        arrays = {
            "method": np.array(self.method),
            "shape": np.array(self.shape, np.int64),
            "mean": self.mean,
            "class_names": np.array(self.class_names, dtype=np.str_),
            "gcn_scale": np.array(self.gcn_scale),
            "gcn_min_divisor": np.array(self.gcn_min_divisor),
            "zca_bias": np.array(self.zca_bias),
            "typical_mean": np.array(self.typical_mean),
            "typical_norm": np.array(self.typical_norm),
        }
        if self.eigenvalues is not None:
            arrays["eigenvalues"] = self.eigenvalues
        if self.zca is not None and compact:
            arrays["zca_triangle"] = self.zca[np.triu_indices(len(self.zca))]
        elif self.zca is not None and self.inverse is not None:
            arrays |= {"zca": self.zca, "zca_inverse": self.inverse}
        with writing(path), files.writing(path) as file:
            (np.savez_compressed if compact else np.savez)(file, **arrays)  # type: ignore[arg-type]

    @staticmethod
    def load(path: str | Path) -> Whitening:
        """Read what `save` wrote.

        Raises:
            PrepError: no such file, or not one of ours.
        """
        arrays = npz.read(path, "the whitening.npz of a prepared data set", ARRAYS, PrepError)
        if (triangle := arrays.pop("zca_triangle", None)) is not None:
            arrays["zca"] = _unfolded(path, triangle)
        try:
            transform = Whitening(
                method=str(arrays["method"]),
                shape=tuple(int(n) for n in arrays["shape"]),  # type: ignore[arg-type]
                mean=arrays["mean"],
                class_names=tuple(str(name) for name in arrays["class_names"]),
                gcn_scale=float(arrays["gcn_scale"]),
                gcn_min_divisor=float(arrays["gcn_min_divisor"]),
                zca_bias=float(arrays["zca_bias"]),
                zca=arrays.get("zca"),
                zca_inverse=arrays.get("zca_inverse"),
                eigenvalues=arrays.get("eigenvalues"),
                typical_mean=float(arrays["typical_mean"]),
                typical_norm=float(arrays["typical_norm"]),
            )
        except KeyError as error:
            raise PrepError(path, f"no array {error}", "the whitening.npz of a prepared data set") from error
        transform._check(path)
        return transform

    def _check(self, path: str | Path) -> None:
        """Raises PrepError where the arrays do not fit each other."""
        if self.method not in METHODS:
            raise PrepError(path, f"method {self.method[:20]!r}", " or ".join(METHODS))
        if len(self.shape) != 3 or min(self.shape) < 1 or max(self.shape) > MOST_SIDE:
            raise PrepError(path, f"shape {self.shape}", "(3, height, width)")
        size = math.prod(self.shape)
        matrices = ["zca"] if self.method == "gcn-zca" else []
        if self.zca_inverse is not None:
            matrices.append("zca_inverse")
        for name, shape in {"mean": (size,), **dict.fromkeys(matrices, (size, size))}.items():
            array = getattr(self, name)
            if array is None or array.dtype != np.float32 or array.shape != shape:
                found = "no array" if array is None else f"{array.dtype} {array.shape}"
                raise PrepError(path, f"{found} for {name}", f"float32 {shape}")
            if not np.isfinite(array).all():
                raise PrepError(path, f"values in {name} that are not finite", "numbers")
        if self.eigenvalues is not None and self.eigenvalues.shape != (size,):
            raise PrepError(path, f"{len(self.eigenvalues)} eigenvalues", str(size))
        for name in self.class_names:
            check_name(path, "a class", name)
        numbers = (self.gcn_scale, self.gcn_min_divisor, self.zca_bias, self.typical_mean, self.typical_norm)
        if not (all(map(math.isfinite, numbers)) and self.gcn_scale > 0):
            raise PrepError(path, f"constants {numbers}", "numbers, a gcn_scale above 0")


def _unfolded(path: str | Path, triangle: FloatArray) -> FloatArray:
    """The symmetric matrix of an upper triangle, row by row: (D, D) float32."""
    size = (math.isqrt(8 * triangle.size + 1) - 1) // 2
    if size < 1 or size * (size + 1) // 2 != triangle.size:
        raise PrepError(path, f"a triangle of {triangle.size} values", "that of a square matrix")
    zca = np.empty((size, size), np.float32)
    zca[np.triu_indices(size)] = triangle
    lower = np.tril_indices(size, -1)
    zca[lower] = zca.T[lower]
    return zca


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Mean and covariance of images after GCN."""

    count: int
    """Images."""
    mean: npt.NDArray[np.float64]
    """(D,)."""
    covariance: npt.NDArray[np.float64]
    """(D, D), divided by the count, without bias."""
    typical_mean: float
    """The average of the images' own means, which GCN takes away."""
    typical_norm: float
    """The average of their norms after that."""


def moments(train: UInt8Array, scale: float, min_divisor: float, *, progress: bool = False) -> Moments:
    """Mean and covariance (divided by N) of the GCN'd training images, in one pass.

    Chunks are centred on a provisional mean (of up to 2,000 images spread over the set), multiplied in float32 and
    summed in float64; the remaining offset is taken out exactly at the end, so no digits are lost to it.
    """
    count, size = len(train), int(np.prod(train.shape[1:]))
    spread = np.linspace(0, count - 1, min(count, _CHUNK)).astype(np.int64)
    centre = gcn(train[spread], scale, min_divisor).mean(axis=0, dtype=np.float64).astype(np.float32)
    first = np.zeros(size)
    second = np.zeros((size, size))
    product = np.empty((size, size), np.float32)
    means = norms = 0.0
    for start in tqdm(_starts(count), desc="covariance", unit="chunk", disable=None if progress else True, leave=False):
        x, mean, norm = _gcn(train[start : start + _CHUNK], scale, min_divisor)
        means += float(mean.sum(dtype=np.float64))
        norms += float(norm.sum(dtype=np.float64))
        x -= centre
        first += x.sum(axis=0, dtype=np.float64)
        np.matmul(x.T, x, out=product)
        second += product
    first /= count
    second /= count
    second -= np.outer(first, first)
    return Moments(
        count=count, mean=first + centre, covariance=second, typical_mean=means / count, typical_norm=norms / count
    )


def _starts(count: int) -> list[int]:
    return list(range(0, count, _CHUNK))


def decompose(
    covariance: npt.NDArray[np.float64], bias: float
) -> tuple[npt.NDArray[np.float64], FloatArray, FloatArray]:
    """Eigenvalues of covariance + bias I, and the whitening matrix P and its inverse.

    Args:
        covariance: (D, D) float64, symmetric; overwritten.
        bias: Added to the diagonal; > 0, or 0 for a covariance of full rank.

    Returns:
        eigenvalues (D,) float64 ascending; P and P^-1, (D, D) float32.

    Raises:
        PrepError: an eigenvalue is not positive, so that there is no P.
    """
    covariance.flat[:: len(covariance) + 1] += bias
    eigenvalues, vectors = np.linalg.eigh(covariance)
    if not eigenvalues[0] > 0:
        raise PrepError(
            "zca_bias", f"{bias:g}, with which the smallest eigenvalue is {eigenvalues[0]:.3g}", "a larger bias"
        )
    matrices = []
    for power in (-0.25, 0.25):
        half = vectors * eigenvalues**power  # P = half half^T: a symmetric product costs half of V diag V^T
        matrices.append((half @ half.T).astype(np.float32))
        del half
    return eigenvalues, matrices[0], matrices[1]


@contextmanager
def _ticking(words: str, progress: bool) -> Iterator[None]:
    """Shows on a terminal how long one call takes that cannot say how far it is."""
    with tqdm(desc=words, bar_format="{desc}: {elapsed}", disable=None if progress else True, leave=False) as bar:
        done = threading.Event()

        def tick() -> None:
            while not done.wait(1):
                bar.refresh()

        clock = threading.Thread(target=tick, daemon=True, name="ticking")
        clock.start()
        try:
            yield
        finally:
            done.set()
            clock.join()


def _few_images(count: int, size: int, bias: float) -> str:
    return (
        f"ZCA of {count:,} training images of {size:,} values each: they span at most {max(count - 1, 0):,} of {size:,} "
        f"directions, along the others only zca_bias {bias:g} decides and noise is blown up; take more images, or "
        "preprocessing gcn"
    )


def check_constants(gcn_scale: float, zca_bias: float) -> None:
    """Raises:
    PrepError: a constant with which float32 does not reach from one end of the computation to the other.
    """
    if not (np.isfinite(gcn_scale) and gcn_scale > 0):
        raise PrepError("gcn_scale", f"{gcn_scale:g}", "a number above 0")
    if not 1e-6 <= gcn_scale <= 1e6:
        raise PrepError("gcn_scale", f"{gcn_scale:g}", "a number from 1e-06 to 1e+06")
    if not (np.isfinite(zca_bias) and zca_bias >= 0):
        raise PrepError("zca_bias", f"{zca_bias:g}", "a number not below 0")
    if zca_bias > 1e12:
        raise PrepError("zca_bias", f"{zca_bias:g}", "a number up to 1e+12")


def fit(
    train: UInt8Array,
    method: str = "gcn-zca",
    *,
    gcn_scale: float = GCN_SCALE,
    gcn_min_divisor: float = GCN_MIN_DIVISOR,
    zca_bias: float = ZCA_BIAS,
    class_names: tuple[str, ...] = (),
    progress: bool = False,
    clock: Callable[[str], AbstractContextManager[object]] = nullcontext,
) -> Whitening:
    """Fit the transform on the training images alone.

    Args:
        train: (N, 3, H, W) uint8, RGB planes.
        method: "gcn-zca", "gcn" (nothing is fitted but the averages), or "raw" (the mean image).
        gcn_scale: Norm of an image after GCN; > 0.
        zca_bias: Added to the covariance's diagonal; >= 0.
        clock: Called with the name of each stage ("covariance", "eigh"), gives a context to run it in.

    Returns:
        The transform.

    Raises:
        PrepError: unknown method, a constant out of range, or images too large for ZCA.
    """
    if method not in METHODS:
        raise PrepError("preprocessing", repr(method), " or ".join(METHODS))
    check_constants(gcn_scale, zca_bias)
    shape = train.shape[1:]
    size = int(np.prod(shape))
    if method == "raw":
        total = np.zeros(size, np.int64)
        for start in _starts(len(train)):
            total += train[start : start + _CHUNK].reshape(-1, size).sum(axis=0, dtype=np.int64)
        mean = (total / len(train)).astype(np.float32)
        return Whitening(method="raw", shape=shape, mean=mean, class_names=class_names)
    if method == "gcn":
        means = norms = 0.0
        for start in _starts(len(train)):
            _, mean, norm = _gcn(train[start : start + _CHUNK], gcn_scale, gcn_min_divisor)
            means += float(mean.sum(dtype=np.float64))
            norms += float(norm.sum(dtype=np.float64))
        return Whitening(
            method="gcn",
            shape=shape,
            mean=np.zeros(size, np.float32),
            class_names=class_names,
            gcn_scale=gcn_scale,
            gcn_min_divisor=gcn_min_divisor,
            typical_mean=means / len(train),
            typical_norm=norms / len(train),
        )
    if size > MAX_ZCA_VALUES:
        raise PrepError(
            "preprocessing", f"gcn-zca for images of {size} values", f"at most {MAX_ZCA_VALUES}, or 'gcn' or 'raw'"
        )
    if len(train) < size:
        warnings.warn(_few_images(len(train), size, zca_bias), PrepWarning, stacklevel=2)
    with clock("covariance"):
        stats = moments(train, gcn_scale, gcn_min_divisor, progress=progress)
    with clock("eigh"), _ticking(f"eigenvalues of a {size}x{size} covariance", progress):
        eigenvalues, zca, inverse = decompose(stats.covariance, zca_bias)
    return Whitening(
        method="gcn-zca",
        shape=shape,
        mean=stats.mean.astype(np.float32),
        class_names=class_names,
        gcn_scale=gcn_scale,
        gcn_min_divisor=gcn_min_divisor,
        zca_bias=zca_bias,
        zca=zca,
        zca_inverse=inverse,
        eigenvalues=eigenvalues,
        typical_mean=stats.typical_mean,
        typical_norm=stats.typical_norm,
    )

"""Resizing as scikit-image and SciPy do it: linear and separable, one (m, n) matrix for the rows, one for the columns.

Interpolation of order 2, 4 and 5 at an edge of the image follows the last bits of a LAPACK.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def apply(rows: np.ndarray, columns: np.ndarray, image: np.ndarray) -> np.ndarray:
    """(H, W, K) times a matrix along each side."""
    return np.einsum("ih,hwk,jw->ijk", rows, np.asarray(image, dtype=np.float64), columns, optimize=True)


def skimage_resize(
    image: np.ndarray, dims: tuple[int, int], order: int, reflect: bool = False, clip: bool = True, smooth: bool = True
) -> np.ndarray:
    """skimage.transform.resize of (H, W, K) floats as of 0.18: what lies outside the image is 0, or its mirror image.

    Args:
        smooth: by a Gaussian before; False for what has been.
    """
    sizes = list(zip(image.shape, dims, strict=False))
    if smooth:
        smoothing = [_gaussian_matrix(n, sigma, reflect) for (n, _), sigma in zip(sizes, sigmas(sizes), strict=True)]
        image_ = apply(smoothing[0], smoothing[1], image)
    else:
        image_ = np.asarray(image, np.float64)
    positions = _warp_positions(sizes, image.dtype if order in (0, 1, 3) else np.dtype(np.float64), order)
    weights = [
        _pixel_matrix(n, x, order, reflect) if order in (0, 1, 3) else spline_matrix(n, x, order, 0.0)
        for (n, _), x in zip(sizes, positions, strict=True)
    ]
    out = apply(weights[0], weights[1], image_)
    if order and clip:
        low, high = image_.min(), image_.max()
        outside = (out == 0) & (low > 0) & (not reflect)  # what lies outside stays 0 though no pixel is
        out = np.where(outside, out, np.clip(out, low, high))
    return out


def sigmas(sizes: Sequence[tuple[int, int]]) -> list[float]:
    """How much each side is smoothed before it is made m of n pixels."""
    return [max(0.0, (n / m - 1) / 2) for n, m in sizes]


def smoothed_integers(image: np.ndarray, dims: tuple[int, int], reflect: bool) -> np.ndarray:
    """(H, W, K) integers smoothed for `dims`, cut to integers after each side, summed in SciPy's order: last bits decide."""
    for axis, sigma in enumerate(sigmas(list(zip(image.shape, dims, strict=False)))):
        if sigma <= 1e-15:
            continue
        x, kernel = _gaussian_kernel(sigma)
        n, radius = image.shape[axis], len(x) // 2
        lines = np.moveaxis(image, axis, 0).astype(np.float64)
        places = np.arange(-radius, n + radius)
        inside = (places >= 0) & (places < n)
        padded = lines[[mirrored(int(j), n) for j in places]]
        if not reflect:
            padded[~inside] = 0
        total = padded[radius : radius + n] * kernel[radius]
        for j in range(-radius, 0):
            total += (padded[radius + j : radius + j + n] + padded[radius - j : radius - j + n]) * kernel[radius + j]
        image = np.moveaxis(total.astype(image.dtype), 0, axis)
    return image


def _gaussian_kernel(sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """Distances and weights of SciPy's Gaussian, cut at four sigma."""
    radius = int(4.0 * sigma + 0.5)
    x = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 / (sigma * sigma) * x**2)
    return x, kernel / kernel.sum()


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


def mirrored(j: int, n: int) -> int:
    """The place in 0 to n - 1 that stands for `j`, where the image is mirrored at the centres of its outer pixels."""
    period = max(2 * (n - 1), 1)
    j %= period
    return min(j, period - j) if n > 1 else 0


def _gaussian_matrix(n: int, sigma: float, reflect: bool = False) -> np.ndarray:
    """Smoothing as scipy.ndimage.gaussian_filter does it with zeros, or the mirror image, outside; the identity for sigma 0."""
    if sigma <= 1e-15:
        return np.eye(n)
    x, kernel = _gaussian_kernel(sigma)
    radius = len(x) // 2
    if reflect:
        matrix = np.zeros((n, n))
        for i in range(n):
            for tap, weight in zip(x.tolist(), kernel, strict=True):
                matrix[i, mirrored(i + tap, n)] += weight
        return matrix
    padded = np.concatenate([np.zeros(n), kernel, np.zeros(n)])
    start = n + radius  # of distance 0
    return padded[np.clip(np.subtract.outer(np.arange(n), np.arange(n)), -radius - 1, radius + 1) + start]


def _pixel_matrix(n: int, positions: np.ndarray, order: int, reflect: bool = False) -> np.ndarray:
    """Nearest, linear or cubic (Catmull-Rom) interpolation at `positions`, with zeros or the mirror image outside."""
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
            if reflect or 0 <= j < n:
                matrix[i, mirrored(j, n)] += weight
    return matrix


def spline_matrix(n: int, positions: np.ndarray, order: int, slack: float = 1e-9) -> np.ndarray:
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
    matrix = np.zeros((len(positions), n))
    for i, x in enumerate(positions):
        for m in range(math.floor(x) - order, math.floor(x) + order + 2):
            matrix[i, mirrored(m, n)] += _spline(x - m, order)
    return matrix


def _spline(x: float, order: int) -> float:
    """The cardinal B-spline of `order` at `x`."""
    total = 0.0
    for j in range(order + 2):
        reach = x + (order + 1) / 2 - j
        if reach > 0:
            total += (-1) ** j * math.comb(order + 1, j) * reach**order
    return total / math.factorial(order)

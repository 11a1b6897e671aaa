"""How alike two maps are, and a map and the edges of an image.

    cosine     of the signed maps. 1: the same but for scale
    spearman   rank correlation of the pixels' strengths, the sum over channels of absolute values
    ssim       structural similarity of the strengths, each map scaled to 0..1 (Wang et al. 2004, windows of 7x7)

Spearman's alone misleads where maps share zeros: all agree on them. So maps are compared where their unit can see.
"""

from __future__ import annotations

import numpy as np

from allconv_caffe.visualize.nets.errors import VizError

MEASURES = ("cosine", "spearman", "ssim")
WINDOW = 7


def strength(maps: np.ndarray) -> np.ndarray:
    """(K, C, H, W) signed to (K, H, W): the sum of absolute values over channels."""
    return np.abs(maps).sum(axis=1)


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    """Of two arrays of one shape, as vectors; 0 where one of them is zero."""
    a, b = one.ravel().astype(np.float64), other.ravel().astype(np.float64)
    size = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / size) if size else 0.0


def spearman(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson's correlation of ranks, equal values sharing the mean of theirs; 0 where one array is constant."""
    a, b = (_ranks(x.ravel()) for x in (one, other))
    return cosine(a - a.mean(), b - b.mean())


def _ranks(values: np.ndarray) -> np.ndarray:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2.0)[place.ravel()]


def ssim(one: np.ndarray, other: np.ndarray, window: int = WINDOW) -> float:
    """Mean structural similarity of two (H, W) images of 0..1 over all windows that lie inside; constants 0.01 and 0.03.

    Raises: VizError: images smaller than the window.
    """
    if min(one.shape) < window:
        raise VizError("ssim", f"maps of {one.shape[0]}x{one.shape[1]}", f"{window}x{window} or larger")
    x, y = one.astype(np.float64), other.astype(np.float64)
    mx, my, xx, yy, xy = (_box_mean(values, window) for values in (x, y, x * x, y * y, x * y))
    vx, vy, cov = xx - mx * mx, yy - my * my, xy - mx * my
    c1, c2 = 0.01**2, 0.03**2
    return float(np.mean((2 * mx * my + c1) * (2 * cov + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))))


def _box_mean(values: np.ndarray, n: int) -> np.ndarray:
    total = np.pad(values, ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    return (total[n:, n:] - total[:-n, n:] - total[n:, :-n] + total[:-n, :-n]) / (n * n)


def similarity(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(3,) float64: the MEASURES of two signed maps (C, H, W); windows are smaller where the maps are."""
    a, b = strength(np.stack([one, other])).astype(np.float64)
    a, b = a / max(a.max(), 1e-30), b / max(b.max(), 1e-30)
    return np.array([cosine(one, other), spearman(a, b), ssim(a, b, min(WINDOW, *a.shape))])


def edges(image: np.ndarray) -> np.ndarray:
    """Strength of Sobel's edges of an image (C, H, W): (H, W), the outermost pixels repeated beyond the border."""
    x = np.pad(image.astype(np.float64), ((0, 0), (1, 1), (1, 1)), mode="edge")
    rows = x[:, :-2] + 2 * x[:, 1:-1] + x[:, 2:]
    columns = x[:, :, :-2] + 2 * x[:, :, 1:-1] + x[:, :, 2:]
    across, down = rows[:, :, 2:] - rows[:, :, :-2], columns[:, 2:] - columns[:, :-2]
    return np.sqrt(across**2 + down**2).sum(axis=0)

"""Ten kinds of small signs, drawn by seed: a data set for machines without a network.

Every picture shows one bright sign of random place, size, tilt and colour on a darker, unevenly lit ground, with noise.
No single pixel tells the class, so a linear classifier stays far behind a network that composes edges into shapes.

Only NumPy is used, so that a seed gives the same pictures wherever NumPy's generators do.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

__all__ = ["CLASSES", "SIDE", "draw", "generate"]

SIDE = 32
"""Height and width of a picture in pixels, as in CIFAR."""

_OVERSAMPLING = 3  # each pixel is the mean of 3x3 points, so edges are smooth

Array = np.ndarray

# Each sign says of points (u, v) whether they belong to it; it lies within -1 to 1.


def _disc(u: Array, v: Array) -> Array:
    return np.hypot(u, v) < 0.9


def _ring(u: Array, v: Array) -> Array:
    return np.abs(np.hypot(u, v) - 0.72) < 0.22


def _plus(u: Array, v: Array) -> Array:
    return (np.minimum(np.abs(u), np.abs(v)) < 0.24) & (np.maximum(np.abs(u), np.abs(v)) < 1.0)


def _times(u: Array, v: Array) -> Array:
    return _plus((u + v) / np.sqrt(2), (u - v) / np.sqrt(2))


def _rows(u: Array, v: Array) -> Array:
    return (np.maximum(np.abs(u), np.abs(v)) < 0.95) & (np.cos(v * 9.9) > 0)


def _columns(u: Array, v: Array) -> Array:
    return _rows(v, u)


def _rising(u: Array, v: Array) -> Array:
    return (np.hypot(u, v) < 1.0) & (np.cos((u + v) * 7.4) > 0)


def _falling(u: Array, v: Array) -> Array:
    return _rising(-u, v)


def _checks(u: Array, v: Array) -> Array:
    return (np.maximum(np.abs(u), np.abs(v)) < 0.95) & (np.sin(u * 6.6) * np.sin(v * 6.6) > 0)


def _dots(u: Array, v: Array) -> Array:
    return (np.maximum(np.abs(u), np.abs(v)) < 1.0) & (np.cos(u * 9.4) + np.cos(v * 9.4) > 0.6)


_KINDS: dict[str, Callable[[Array, Array], Array]] = {
    "disc": _disc,
    "ring": _ring,
    "plus": _plus,
    "times": _times,
    "rows": _rows,
    "columns": _columns,
    "rising": _rising,
    "falling": _falling,
    "checks": _checks,
    "dots": _dots,
}

CLASSES: tuple[str, ...] = tuple(_KINDS)
"""Names of the ten classes; a label is an index into it."""


def draw(label: int, rng: np.random.Generator) -> Array:
    """One picture of class `label`.

    Args:
        label: index into `CLASSES`.
        rng: where place, size, tilt, colours and noise come from.

    Returns:
        (SIDE, SIDE, 3) uint8, RGB.
    """
    fine = SIDE * _OVERSAMPLING
    axis = (np.arange(fine, dtype=np.float64) + 0.5) / _OVERSAMPLING
    x, y = np.meshgrid(axis, axis)
    radius = rng.uniform(9.5, 12.5)
    centre_x, centre_y = SIDE / 2 + rng.uniform(-4.0, 4.0, 2)
    tilt = np.deg2rad(rng.uniform(-8.0, 8.0))
    dx, dy = (x - centre_x) / radius, (y - centre_y) / radius
    u = np.cos(tilt) * dx + np.sin(tilt) * dy
    v = np.cos(tilt) * dy - np.sin(tilt) * dx
    mask = _KINDS[CLASSES[label]](u, v).astype(np.float64)

    ground = rng.uniform(20.0, 90.0) + rng.uniform(-20.0, 20.0, 3)
    sign = rng.uniform(160.0, 230.0) + rng.uniform(-25.0, 25.0, 3)
    light = rng.uniform(-25.0, 25.0, (2, 3))  # its slope, left to right and top to bottom
    picture = ground + mask[..., None] * (sign - ground)
    picture += (x / SIDE - 0.5)[..., None] * light[0] + (y / SIDE - 0.5)[..., None] * light[1]
    picture = picture.reshape(SIDE, _OVERSAMPLING, SIDE, _OVERSAMPLING, 3).mean(axis=(1, 3))
    picture += rng.normal(0.0, 3.0, picture.shape)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def generate(count: int, seed: int) -> tuple[Array, Array]:
    """`count` pictures, all classes equally often, in random order.

    Args:
        count: a positive multiple of the number of classes.
        seed: equal seeds give equal pictures.

    Returns:
        images (count, 3, SIDE, SIDE) uint8, RGB, channel-major as in CIFAR; labels (count,) uint8 in [0, 10).

    Raises:
        ValueError: `count` is not a positive multiple of the number of classes.
    """
    if count < 1 or count % len(CLASSES):
        raise ValueError(f"quickstart data: count {count}: expected a positive multiple of {len(CLASSES)}")
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % len(CLASSES)).astype(np.uint8)
    images = np.stack([draw(int(label), rng) for label in labels])
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)), labels

"""Ten kinds of small pictures, drawn by seed: a data set for machines without a network.

Every picture shows one bright object of random place, size, tilt and colours on a darker shaded ground, with noise.
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
_CONTRAST = 90.0  # smallest distance of object and background in RGB, grey levels

Array = np.ndarray


def _circle(u: Array, v: Array) -> Array:
    return u * u + v * v < 0.81


def _ring(u: Array, v: Array) -> Array:
    return np.abs(np.hypot(u, v) - 0.75) < 0.2


def _square(u: Array, v: Array) -> Array:
    return np.maximum(np.abs(u), np.abs(v)) < 0.8


def _frame(u: Array, v: Array) -> Array:
    return np.abs(np.maximum(np.abs(u), np.abs(v)) - 0.7) < 0.18


def _triangle(u: Array, v: Array) -> Array:
    return (v < 0.65) & (v > 1.75 * np.abs(u) - 0.95)


def _cross(u: Array, v: Array) -> Array:
    return (np.minimum(np.abs(u), np.abs(v)) < 0.22) & (np.maximum(np.abs(u), np.abs(v)) < 0.95)


def _bars(u: Array, v: Array) -> Array:
    """Upright bars."""
    return (np.maximum(np.abs(u), np.abs(v)) < 0.95) & (np.cos(u * 9.9) > 0)


def _steps(u: Array, v: Array) -> Array:
    """Lying bars."""
    return _bars(v, u)


def _checker(u: Array, v: Array) -> Array:
    return (np.maximum(np.abs(u), np.abs(v)) < 0.95) & (np.sin(u * 6.6) * np.sin(v * 6.6) > 0)


def _dots(u: Array, v: Array) -> Array:
    return (np.maximum(np.abs(u), np.abs(v)) < 1.0) & (np.cos(u * 9.4) + np.cos(v * 9.4) > 0.75)


_KINDS: dict[str, Callable[[Array, Array], Array]] = {
    "circle": _circle,
    "ring": _ring,
    "square": _square,
    "frame": _frame,
    "triangle": _triangle,
    "cross": _cross,
    "bars": _bars,
    "steps": _steps,
    "checker": _checker,
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
    radius = rng.uniform(9.0, 12.0)
    centre_x, centre_y = SIDE / 2 + rng.uniform(-4.0, 4.0, 2)
    tilt = np.deg2rad(rng.uniform(-15.0, 15.0))
    dx, dy = (x - centre_x) / radius, (y - centre_y) / radius
    u = np.cos(tilt) * dx + np.sin(tilt) * dy
    v = np.cos(tilt) * dy - np.sin(tilt) * dx
    mask = _KINDS[CLASSES[label]](u, v).astype(np.float64)

    behind, front = rng.uniform(20.0, 100.0, 3), rng.uniform(150.0, 240.0, 3)
    shade = rng.uniform(-25.0, 25.0, (2, 3))  # the background's slope, left to right and top to bottom
    ground = behind + (x / SIDE - 0.5)[..., None] * shade[0] + (y / SIDE - 0.5)[..., None] * shade[1]
    picture = ground + mask[..., None] * (front - ground)
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

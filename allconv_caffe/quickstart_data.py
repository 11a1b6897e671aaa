"""Ten kinds of woven patterns, drawn by seed: a data set for machines without a network.

Every picture is a piece of cloth: one pattern in two random colours, at a random place, size and tilt, with uneven
light and noise. Each pixel is as often of the one colour as of the other, so a linear classifier learns little, while a
network that composes edges into textures learns them all.

Only NumPy is used, so that a seed gives the same pictures wherever NumPy's generators do.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

__all__ = ["CLASSES", "SIDE", "draw", "generate"]

SIDE = 32
"""Height and width of a picture in pixels, as in CIFAR."""

_OVERSAMPLING = 3  # each pixel is the mean of 3x3 points, so edges are smooth
_CONTRAST = 100.0  # smallest distance of the two colours in RGB, grey levels
_TURN = 2 * np.pi

Array = np.ndarray

# Each pattern says of points (u, v), in units of its own period, whether they have the first colour.


def _rows(u: Array, v: Array) -> Array:
    return np.cos(_TURN * v) > 0


def _columns(u: Array, v: Array) -> Array:
    return np.cos(_TURN * u) > 0


def _rising(u: Array, v: Array) -> Array:
    return np.cos(_TURN * (u + v) / np.sqrt(2)) > 0


def _falling(u: Array, v: Array) -> Array:
    return np.cos(_TURN * (u - v) / np.sqrt(2)) > 0


def _checks(u: Array, v: Array) -> Array:
    return np.sin(_TURN * u / 1.5) * np.sin(_TURN * v / 1.5) > 0


def _diamonds(u: Array, v: Array) -> Array:
    return _checks((u + v) / np.sqrt(2), (u - v) / np.sqrt(2))


def _dots(u: Array, v: Array) -> Array:
    return np.cos(_TURN * u / 1.2) + np.cos(_TURN * v / 1.2) > 0.6


def _grid(u: Array, v: Array) -> Array:
    return np.maximum(np.cos(_TURN * u / 1.5), np.cos(_TURN * v / 1.5)) > 0.7


def _zigzag(u: Array, v: Array) -> Array:
    return np.cos(_TURN * (v + 0.9 * np.abs((u / 2) % 1 - 0.5))) > 0


def _rings(u: Array, v: Array) -> Array:
    return np.cos(_TURN * np.hypot(u, v)) > 0


_KINDS: dict[str, Callable[[Array, Array], Array]] = {
    "rows": _rows,
    "columns": _columns,
    "rising": _rising,
    "falling": _falling,
    "checks": _checks,
    "diamonds": _diamonds,
    "dots": _dots,
    "grid": _grid,
    "zigzag": _zigzag,
    "rings": _rings,
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
    period = rng.uniform(5.0, 7.5)  # pixels
    centre_x, centre_y = SIDE / 2 + rng.uniform(-8.0, 8.0, 2)
    tilt = np.deg2rad(rng.uniform(-8.0, 8.0))
    dx, dy = (x - centre_x) / period, (y - centre_y) / period
    u = np.cos(tilt) * dx + np.sin(tilt) * dy
    v = np.cos(tilt) * dy - np.sin(tilt) * dx
    mask = _KINDS[CLASSES[label]](u, v).astype(np.float64)

    first, second = rng.uniform(30.0, 225.0, (2, 3))
    while np.linalg.norm(first - second) < _CONTRAST:
        first, second = rng.uniform(30.0, 225.0, (2, 3))
    light = rng.uniform(-25.0, 25.0, (2, 3))  # its slope, left to right and top to bottom
    picture = second + mask[..., None] * (first - second)
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

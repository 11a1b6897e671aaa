"""Ten kinds of striped cloth, drawn by seed: a data set for machines without a network.

Each picture is a piece of cloth: stripes of one of five widths, lying or standing, in two random colours, hung a little
askew, unevenly lit, with the grain of the thread. Where the stripes begin and which colour comes first is random, so no
pixel tells the class and a linear classifier stays near guessing; a network that composes edges into stripes does not.

Only NumPy is used, so that a seed gives the same pictures wherever NumPy's generators do.
"""

from __future__ import annotations

import numpy as np

__all__ = ["CLASSES", "PERIODS", "SIDE", "draw", "generate"]

SIDE = 32
"""Height and width of a picture in pixels, as in CIFAR."""

PERIODS: tuple[float, ...] = (3.0, 4.5, 7.0, 11.0, 18.0)
"""Pixels from one stripe to the next of its colour; each piece of cloth departs from it by at most a tenth."""

_WEAVES = ("pinstripe", "ticking", "stripe", "awning", "banner")
CLASSES: tuple[str, ...] = tuple(f"{way} {weave}" for weave in _WEAVES for way in ("lying", "standing"))
"""Names of the ten classes; a label is an index into it."""

_OVERSAMPLING = 2  # each pixel is the mean of 2x2 points, so edges are smooth
_TILT_DEGREES = 8.0
_GRAIN = 3.0  # standard deviation in grey levels

Array = np.ndarray


def draw(label: int, rng: np.random.Generator) -> Array:
    """One picture of class `label`.

    Args:
        label: index into `CLASSES`.
        rng: where period, place, tilt, colours, light and grain come from.

    Returns:
        (SIDE, SIDE, 3) uint8, RGB.
    """
    axis = (np.arange(SIDE * _OVERSAMPLING) + 0.5) / _OVERSAMPLING
    x, y = np.meshgrid(axis, axis)
    period = PERIODS[label // 2] * rng.uniform(0.9, 1.1)
    turn = np.deg2rad(rng.uniform(-_TILT_DEGREES, _TILT_DEGREES) + (0.0 if label % 2 else 90.0))
    across = (np.cos(turn) * x + np.sin(turn) * y) / period + rng.random()
    stripe = (across - np.floor(across) < 0.5).astype(np.float64)

    contrast = rng.uniform(80.0, 140.0) * rng.choice((-1.0, 1.0)) + rng.uniform(-40.0, 40.0, 3)
    ground = rng.uniform(70.0, 185.0, 3) - contrast / 2
    light = rng.uniform(-20.0, 20.0, (2, 3))  # its slope, left to right and top to bottom
    picture = ground + stripe[..., None] * contrast
    picture += (x / SIDE - 0.5)[..., None] * light[0] + (y / SIDE - 0.5)[..., None] * light[1]
    picture = picture.reshape(SIDE, _OVERSAMPLING, SIDE, _OVERSAMPLING, 3).mean(axis=(1, 3))
    picture += rng.normal(0.0, _GRAIN, picture.shape)
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

"""The distortions of Large-All-CNN's training images: their settings, what is drawn for each image, and the images, in numpy.

A record of C x H x W bytes becomes a field of C x S x S floats (p - background) / divisor, with the record's pixels about its
middle and 0, the background, around them. In training they are stretched, flipped, sheared or rotated, moved about and
changed in colour; in testing they lie plainly in the middle.

Two layers stand on this file: the Python layer that runs in any pycaffe (`python_layers.augmented_data`) and its twin in
the runtime (`caffe_torch.layers.augmented_data`). Both take the same `Settings`, `Order` and `Drawing`, so one seed gives
the same images in both; they differ by less than a grey level.

**The affine part.** C = I; c00 *= 1 + U(-stretch, stretch); c11 likewise; c00 *= -1 with probability `flip`; then one of three,
with a third of the chance each: C [[1,0],[a,1]] or C [[1,a],[0,1]], a ~ U(-shear, shear), or C [[cos a,-sin a],[sin a,cos a]],
a ~ U(-rotation, rotation). A point goes to x' = x c00 + y c10, y' = x c01 + y c11. Sampling is bilinear.

**Jiggle.** Whole pixels, uniform in -jiggle..jiggle, for x and for y.

**Colour**, for each image and channel, with d_i ~ N(0, colour[i]) and v = (p - background) / divisor:

    "cosine"   v += d1 + d2 cos(pi v / 2) + d3 (x / S - .5) + d4 (y / S - .5)     x, y in the field
    "linear"   p += d1 + d2 (p - background) + d3 x + d4 y                          x, y from the image's middle

**graham: true** repeats what Graham's program does where that is hardly meant: corners are taken at (0, 0), (W, 0), (0, H),
so that a flip loses one column of the image and gains one of background; the image is centred to whole pixels only; pixels
within .02 of the background (2 grey levels for "linear") in every channel count as background; and the sigmas of "linear"
are cut to whole numbers, so that its contrast term is 0. Otherwise a point of the middle stays in the middle, and at the
border, where a pixel is part image and part background, colour changes the image's part.

**Which image gets which numbers.** Sample n, counted from the start of training, is record n mod count of epoch n div count
in that epoch's order, and its numbers are words n k to n k + k - 1 of one Philox stream of the seed. They depend on
nothing else: not on the batch size, nor on how many processes share the work, nor on where a run was taken up again.

Source: B. Graham, "Spatially-sparse convolutional neural networks", arXiv:1409.6070, and the programs beside it: the
"cosine" form is the first release's, the "linear" form the later one's. Paper: section 3.2.3, Table 5.
Differs: in the first release the distorted image was rounded to bytes and grew to the right and down instead of about its
middle; OpenCV rounds coordinates to 1/32 of a pixel; none of it is kept.
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from allconv_caffe.errors import FoundError

COSINE, LINEAR = "cosine", "linear"
COLOUR = {COSINE: (0.2, 0.3, 0.6, 0.6), LINEAR: (25.5, 0.15, 2.4, 2.4)}
"""Graham's sigmas in each form."""

MOST_SEEDS = 2**64
LARGEST_SIZE = 4096
_NEAR_GREY = {COSINE: 0.02, LINEAR: 2 / 128}  # in v at background 128: what `graham` takes for background


class AugmentError(FoundError, ValueError):
    """A setting, or the records, cannot be used: what was found, what was expected."""


@dataclass(frozen=True)
class Settings:
    """What a `param_str` says. Every range is the recipe's unless it is named.

    source: the LMDB's folder, relative to the working directory.
    batch_size: images in a batch; with several solvers, of each.
    size: S, the field's side in pixels.
    background: the grey level around the image; it becomes 0.
    distort: whether images are distorted. Absent: in the TRAIN phase only.
    shuffle: whether each epoch has an order of its own. Absent: in the TRAIN phase only.
    stretch, flip, shear, rotation, jiggle, colour, colour_form, graham: see above; rotation in radians.
    seed: of everything drawn. Absent: the solver's random_seed in this project's engine, one from numpy in other ones.
    start: the number of the first sample: a run that is taken up after i iterations goes on at i * batch_size (times the
        number of solvers).
    """

    # dataclass(kw_only=True) needs Python 3.10; pycaffe's may be 3.9
    source: str
    batch_size: int
    size: int = 126
    background: int = 128
    distort: bool = True
    shuffle: bool = True
    stretch: float = 0.2
    flip: float = 0.5
    shear: float = 0.2
    rotation: float = 0.2
    jiggle: int = 16
    colour: tuple[float, float, float, float] = COLOUR[COSINE]
    colour_form: str = COSINE
    graham: bool = False
    seed: int | None = None
    start: int = 0

    @property
    def divisor(self) -> int:
        """What one unit of the field is in grey levels: 128 at background 128."""
        return max(255 - self.background, self.background)

    @property
    def near_grey(self) -> float:
        """Up to which |v| a pixel is background; below 0: none is."""
        return _NEAR_GREY[self.colour_form] if self.graham else -1.0

    @property
    def sigmas(self) -> tuple[float, ...]:
        cut = self.graham and self.colour_form == LINEAR
        return tuple(float(int(sigma)) if cut else float(sigma) for sigma in self.colour)

    def patch(self, height: int, width: int) -> int:
        """The side of a square that holds any distorted image of `height` x `width`, at most the field's."""
        h, w = (height + 1) / 2, (width + 1) / 2  # to where bilinear sampling sees the image
        turned = math.sin(min(self.rotation, math.pi / 2))
        reach = (1 + self.stretch) * max(a + max(self.shear, turned) * b for a, b in ((h, w), (w, h)))
        return min(self.size, 2 * math.ceil(reach) + 3)

    def corner(self, side: int) -> int:
        """Where in the field a plain image of `side` pixels begins."""
        return self.size // 2 - side // 2


def _whole(least: int, below: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and least <= value < below


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _sigmas(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 4 and all(_number(v) and 0 <= v <= 1e6 for v in value)


_Check = tuple[Callable[[Any], bool], str]
_TRUTH: _Check = (lambda value: isinstance(value, bool), "true or false")
CHECKS: dict[str, _Check] = {
    "source": (lambda value: isinstance(value, str) and value != "", "the folder of an LMDB"),
    "batch_size": (_whole(1, 2**31), "a whole number of at least 1"),
    "size": (_whole(1, LARGEST_SIZE + 1), f"a whole number from 1 to {LARGEST_SIZE}"),
    "background": (_whole(0, 256), "a whole number from 0 to 255"),
    "distort": _TRUTH,
    "shuffle": _TRUTH,
    "stretch": (lambda value: _number(value) and 0 <= value < 1, "a number of at least 0 and below 1"),
    "flip": (lambda value: _number(value) and 0 <= value <= 1, "a number from 0 to 1"),
    "shear": (lambda value: _number(value) and 0 <= value <= 10, "a number from 0 to 10"),
    "rotation": (lambda value: _number(value) and 0 <= value <= math.pi, "radians, a number from 0 to pi"),
    "jiggle": (_whole(0, LARGEST_SIZE), f"a whole number from 0 to {LARGEST_SIZE - 1}"),
    "colour": (_sigmas, "a list of four numbers of at least 0"),
    "colour_form": (lambda value: value in COLOUR, f"one of {', '.join(COLOUR)}"),
    "graham": _TRUTH,
    "seed": (_whole(0, MOST_SEEDS), f"a whole number from 0 to {MOST_SEEDS - 1}"),
    "start": (_whole(0, 2**53), "a whole number of at least 0"),
}
"""Every key of a `param_str`: whether a value will do, and what will."""


def parse(text: str, train: bool) -> Settings:
    """The settings that a `param_str` describes: a dict in JSON's or in Python's words.

    Args:
        train: the phase: whether images are distorted and shuffled where the text does not say so.
    Raises: AugmentError: no dict, a key that is unknown or missing, a value that will not do.
    """
    try:
        found = json.loads(text)
    except ValueError:
        try:
            found = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            found = None
    if not isinstance(found, dict):
        raise AugmentError("param_str", _short(text), f"a dict with the keys {', '.join(CHECKS)}")
    for key in found:
        if key not in CHECKS:
            raise AugmentError("param_str", f"the key {_short(key)}", f"one of {', '.join(CHECKS)}")
    for key in ("source", "batch_size"):
        if key not in found:
            raise AugmentError("param_str", f"no {key}", CHECKS[key][1])
    for key, value in found.items():
        fits, expected = CHECKS[key]
        if not fits(value):
            raise AugmentError("param_str", f"{key} {_short(value)}", expected)
    found.setdefault("distort", train)
    found.setdefault("shuffle", train)
    found["colour"] = tuple(found.get("colour", COLOUR[found.get("colour_form", COSINE)]))
    return Settings(**found)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


assert set(CHECKS) == {field.name for field in fields(Settings)}


class Order:
    """Which record each sample is.

    Args:
        count: records in the data set.
        seed: of the orders.
        shuffle: whether each epoch has an order of its own; otherwise it is the records'.
    """

    def __init__(self, count: int, seed: int, shuffle: bool) -> None:
        self.count, self.seed, self.shuffle = count, seed, shuffle
        self._epochs: dict[int, np.ndarray] = {}

    def records(self, samples: np.ndarray) -> np.ndarray:
        """(N,) int64 records of (N,) int64 sample numbers."""
        index = samples % self.count
        if not self.shuffle:
            return index
        epochs = samples // self.count
        out = np.empty_like(index)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            out[here] = self.epoch(int(epoch))[index[here]]
        return out

    def epoch(self, epoch: int) -> np.ndarray:
        """The order of an epoch: (count,) int64, a permutation."""
        order = self._epochs.get(epoch)
        if order is None:
            words = np.random.Philox(counter=epoch << 128, key=self.seed + MOST_SEEDS).random_raw(self.count)
            order = np.argsort(words, kind="stable")
            self._epochs = {old: kept for old, kept in self._epochs.items() if abs(old - epoch) <= 1}
            self._epochs[epoch] = order
        return order


@dataclass(frozen=True)
class Drawing:
    """What was drawn for N images of C channels.

    affine: (N, 2, 3) float32: image pixel (x, y) of field pixel (X, Y) is affine @ (X, Y, 1).
    window: (N, 4) float32: left, top, right, bottom of the field's part that shows the image; right and bottom excluded.
    centre: (N, 2) float32: the image's middle in the field.
    colour: (N, 4, C) float32: a, b, g, h of v += a + b f(v) + g X + h Y; f is cos(pi v / 2) or v.
    """

    affine: np.ndarray
    window: np.ndarray
    centre: np.ndarray
    colour: np.ndarray

    def __len__(self) -> int:
        return len(self.affine)


def draw(settings: Settings, seed: int, samples: np.ndarray, shape: tuple[int, int, int]) -> Drawing:
    """The distortions of (N,) int64 sample numbers, for images of `shape` (C, H, W)."""
    channels = shape[0]
    u = _uniforms(seed, samples, 7 + 4 * channels)
    c = _matrices(settings, u)
    jiggle = np.floor(u[:, 5:7] * (2 * settings.jiggle + 1)) - settings.jiggle
    normals = _normals(u[:, 7 : 7 + 4 * channels]).reshape(-1, 4, channels)
    d = normals * np.array(settings.sigmas)[:, None]
    return place(settings, c, jiggle, d, shape)


def place(settings: Settings, c: np.ndarray, jiggle: np.ndarray, d: np.ndarray, shape: tuple[int, int, int]) -> Drawing:
    """The drawing of matrices C, moves and colour shifts.

    Args:
        c: (N, 2, 2): x' = x c00 + y c10, y' = x c01 + y c11.
        jiggle: (N, 2): x, y.
        d: (N, 4, C).
        shape: (C, H, W) of the images.
    """
    _, height, width = shape
    size, count = settings.size, len(c)
    inverse = np.linalg.inv(c).transpose(0, 2, 1)  # acts on columns
    sides = np.array([width, height], np.float64)
    if settings.graham:
        corners = np.array([[0, 0], [width, 0], [0, height], [width, height]]) @ c  # (N, 4, 2)
        least = corners.min(1)
        extent = np.ceil((corners - least[:, None]).max(1))
        begin = size // 2 - extent // 2 + jiggle
        window = np.concatenate([begin, begin + extent], axis=1)
        centre = begin + extent // 2
        offset = np.einsum("nij,nj->ni", inverse, least - begin)
    else:
        plain = np.array([settings.corner(width), settings.corner(height)])
        centre = plain + (sides - 1) / 2 + jiggle
        window = np.tile([-1.0, -1.0, size + 1.0, size + 1.0], (count, 1))
        offset = (sides - 1) / 2 - np.einsum("nij,nj->ni", inverse, centre)
    a, b, g, h = (d[:, i] for i in range(4))
    if settings.colour_form == COSINE:
        g, h = g / size, h / size
        a = a - (d[:, 2] + d[:, 3]) / 2
    else:
        a, g, h = a / settings.divisor, g / settings.divisor, h / settings.divisor
        a = a - g * centre[:, :1] - h * centre[:, 1:]
    return Drawing(
        affine=np.concatenate([inverse, offset[:, :, None]], axis=2).astype(np.float32),
        window=window.astype(np.float32),
        centre=centre.astype(np.float32),
        colour=np.stack([a, b, g, h], axis=1).astype(np.float32),
    )


def _uniforms(seed: int, samples: np.ndarray, numbers: int) -> np.ndarray:
    """(N, numbers) in [0, 1): sample n's are the same in whatever company it is asked for."""
    blocks = -(-numbers // 4)  # a step of Philox's counter gives four words
    first, last = int(samples.min()), int(samples.max())
    words = np.random.Philox(counter=first * blocks, key=seed).random_raw((last - first + 1) * blocks * 4)
    chosen = words.reshape(-1, blocks * 4)[samples - first, :numbers]
    return (chosen >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _normals(u: np.ndarray) -> np.ndarray:
    """Box and Muller's: two standard normal numbers of two uniform ones, the pairs side by side."""
    radius, angle = np.sqrt(-2 * np.log1p(-u[:, 0::2])), 2 * np.pi * u[:, 1::2]
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=2).reshape(u.shape)


def _matrices(settings: Settings, u: np.ndarray) -> np.ndarray:
    """(N, 2, 2) float64 matrices C from the first five numbers of each image."""
    c = np.zeros((len(u), 2, 2))
    c[:, 0, 0] = (1 + settings.stretch * (2 * u[:, 0] - 1)) * np.where(u[:, 2] < settings.flip, -1, 1)
    c[:, 1, 1] = 1 + settings.stretch * (2 * u[:, 1] - 1)
    kind, amount = np.floor(3 * u[:, 3]), 2 * u[:, 4] - 1
    a = np.where(kind == 2, settings.rotation, settings.shear) * amount
    turn = np.zeros_like(c)
    turn[:, 0, 0] = turn[:, 1, 1] = np.where(kind == 2, np.cos(a), 1)
    turn[:, 1, 0] = np.select([kind == 0, kind == 2], [a, np.sin(a)])
    turn[:, 0, 1] = np.select([kind == 1, kind == 2], [a, -np.sin(a)])
    return c @ turn


def origins(drawing: Drawing, size: int, patch: int) -> np.ndarray:
    """(N, 2) int64: the left and upper edge of the square of side `patch`, within the field, that holds each image."""
    return np.clip(np.floor(drawing.centre - (patch - 1) / 2), 0, size - patch).astype(np.int64)


def plain(settings: Settings, pixels: np.ndarray) -> np.ndarray:
    """(N, C, S, S) float32: (N, C, H, W) bytes in the middle of their fields; what is larger than the field is cut."""
    count, channels, height, width = pixels.shape
    size = settings.size
    out = np.zeros((count, channels, size, size), np.float32)
    top, left = settings.corner(height), settings.corner(width)
    inner = pixels[:, :, max(0, -top) : size - top, max(0, -left) : size - left]
    values = _values(settings, inner)
    if settings.graham:
        values *= (np.abs(values) > np.float32(settings.near_grey)).any(1, keepdims=True)
    top, left = max(0, top), max(0, left)
    out[:, :, top : top + inner.shape[2], left : left + inner.shape[3]] = values
    return out


def _values(settings: Settings, pixels: np.ndarray) -> np.ndarray:
    return (pixels.astype(np.float32) - np.float32(settings.background)) / np.float32(settings.divisor)


def distorted(settings: Settings, pixels: np.ndarray, drawing: Drawing) -> np.ndarray:
    """(N, C, S, S) float32: (N, C, H, W) bytes, distorted as drawn. Pixels outside the square of `origins` stay background."""
    count, channels, height, width = pixels.shape
    size, side = settings.size, settings.patch(height, width)
    origin = origins(drawing, size, side)
    across = (origin[:, 0, None] + np.arange(side)).astype(np.float32)[:, None, :]  # (N, 1, P): the field's X
    down = (origin[:, 1, None] + np.arange(side)).astype(np.float32)[:, :, None]  # (N, P, 1): its Y
    m = drawing.affine[:, :, :, None, None]
    x = m[:, 0, 0] * across + m[:, 0, 1] * down + m[:, 0, 2]
    y = m[:, 1, 0] * across + m[:, 1, 1] * down + m[:, 1, 2]
    v = _bilinear(_values(settings, pixels), x, y)
    left, top, right, bottom = (drawing.window[:, i, None, None] for i in range(4))
    if settings.graham:
        v *= ((across >= left) & (across < right) & (down >= top) & (down < bottom))[:, None]
        share = (np.abs(v) > np.float32(settings.near_grey)).any(1, keepdims=True).astype(np.float32)
        v *= share
    else:  # how much of the pixel is image
        share = (_share(x, width) * _share(y, height))[:, None]
    a, b, g, h = (drawing.colour[:, i, :, None, None] for i in range(4))
    f = v if settings.colour_form == LINEAR else np.cos(v * np.float32(np.pi / 2))
    v += share * (a + b * f + g * across[:, None] + h * down[:, None])
    if settings.graham and settings.colour_form == LINEAR:
        v *= (np.abs(v) > np.float32(settings.near_grey)).any(1, keepdims=True)
    out = np.zeros((count, channels, size, size), np.float32)
    for i, (begin_x, begin_y) in enumerate(origin.tolist()):
        out[i, :, begin_y : begin_y + side, begin_x : begin_x + side] = v[i]
    return out


def _bilinear(values: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(N, C, P, P): `values` (N, C, H, W) at image pixels x, y (N, P, P); 0 outside."""
    count, channels, height, width = values.shape
    framed = np.zeros((count, height + 3, width + 3, channels), np.float32)
    framed[:, 1 : height + 1, 1 : width + 1] = values.transpose(0, 2, 3, 1)
    flat = framed.reshape(-1, channels)
    x, y = np.clip(x, -1, width), np.clip(y, -1, height)
    left, top = np.floor(x), np.floor(y)
    across, down = (x - left)[..., None], (y - top)[..., None]
    row = np.arange(count)[:, None, None] * (height + 3) + top.astype(np.int64) + 1
    at = row * (width + 3) + left.astype(np.int64) + 1
    upper = flat[at] * (1 - across) + flat[at + 1] * across
    at += width + 3
    lower = flat[at] * (1 - across) + flat[at + 1] * across
    mixed: np.ndarray = upper * (1 - down) + lower * down
    return np.ascontiguousarray(mixed.transpose(0, 3, 1, 2))


def _share(at: np.ndarray, side: int) -> np.ndarray:
    """How much of a bilinear sample at `at` comes from pixels 0 to side - 1, along one axis."""
    share: np.ndarray = np.clip(np.minimum(at + 1, side - at), 0, 1)
    return share

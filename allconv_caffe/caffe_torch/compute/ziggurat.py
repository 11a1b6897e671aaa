"""The unit normal numbers that boost 1.74 makes of 32-bit words: a ziggurat of 128 layers, bit for bit.

A try takes one word: bit 0 is the sign, bits 1 to 7 the layer, bits 8 to 31 the place in it. Most tries are accepted at
once; one that falls into a layer's wedge takes a second word; one beyond the lowest layer, the tail, goes on with
exponential numbers, made by a ziggurat of 256 layers. All arithmetic is float32, operation by operation, but for the
first comparison of a normal try, which is double.

Source: boost/random/normal_distribution.hpp, exponential_distribution.hpp, uniform_01.hpp (boost 1.74, which Debian 11's
Caffe is built with). Boosts before 1.57 used the method of Box and Muller: a Caffe built with one of those draws other
numbers.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, localcontext

import numpy as np

F = np.float32
UNIT = F(2.0**-24)  # of the 24 bits that give the place in a layer
WORD = F(2.0**-32)
NORMAL_LAYERS, EXPONENTIAL_LAYERS = 128, 256
# Where the tail begins, and the area of a layer: with these two, and no others, the topmost layer ends at density 1.
NORMAL_TAIL, NORMAL_AREA = (
    "3.44261985589665212142432049146733970433759738585087778251",
    "0.00991256303533646107909568530581016219737970128288788428",
)
EXPONENTIAL_TAIL, EXPONENTIAL_AREA = (
    "7.69711747013104971404462804801521549911396864005534161741",
    "0.00394965982258155721997757195681486109191281237130948819",
)

Words = Callable[[], int]  # the next 32-bit word


@dataclass(frozen=True, kw_only=True)
class Table:
    """Layer i reaches from 0 to x[i] and from density y[i] to y[i + 1]."""

    x: np.ndarray  # (layers + 1,) float64, falling to 0
    y: np.ndarray  # (layers + 1,) float64, rising to 1
    x32: np.ndarray  # x rounded to float32
    y32: np.ndarray  # y rounded to float32
    dx: np.ndarray  # (layers,) float32: x[i] - x[i + 1], subtracted in double and rounded
    dy: np.ndarray  # (layers,) float32: y[i + 1] - y[i], likewise


def _table(
    layers: int, tail: str, area: str, density: Callable[[Decimal], Decimal], inverse: Callable[[Decimal], Decimal]
) -> Table:
    with localcontext() as context:
        context.prec = 50
        v, xs = Decimal(area), [Decimal(tail)]
        xs.insert(0, v / density(xs[0]))
        while len(xs) < layers:
            xs.append(inverse(density(xs[-1]) + v / xs[-1]))
        x = np.array([float(value) for value in xs] + [0.0])
        y = np.array([0.0] + [float(density(value)) for value in xs[1:]] + [1.0])
    dx, dy = (x[:-1] - x[1:]).astype(F), (y[1:] - y[:-1]).astype(F)
    return Table(x=x, y=y, x32=x.astype(F), y32=y.astype(F), dx=dx, dy=dy)


@functools.cache
def normal_table() -> Table:
    """128 layers under exp(-x^2 / 2)."""
    return _table(NORMAL_LAYERS, NORMAL_TAIL, NORMAL_AREA, lambda x: (-x * x / 2).exp(), lambda y: (-2 * y.ln()).sqrt())


@functools.cache
def exponential_table() -> Table:
    """256 layers under exp(-x)."""
    return _table(EXPONENTIAL_LAYERS, EXPONENTIAL_TAIL, EXPONENTIAL_AREA, lambda x: (-x).exp(), lambda y: -y.ln())


def uniform_01(words: Words) -> np.float32:
    """boost::uniform_01<float>: a word that rounds up to 1 is thrown away."""
    while True:
        value = F(words()) * WORD
        if value < 1:
            return value


def unit_exponential(words: Words) -> np.float32:
    """One number of density exp(-x)."""
    t, shift = exponential_table(), F(0)
    while True:
        word = words()
        i = word & 255
        x = F(word >> 8) * UNIT * t.x32[i]
        if x < t.x32[i + 1]:
            return shift + x
        if i == 0:
            shift += t.x32[1]
            continue
        y01 = uniform_01(words)
        y = t.y32[i] + y01 * t.dy[i]
        chord = t.dx[i] * y01 - (t.x32[i] - x)
        tangent = y - (t.y32[i + 1] + (t.x32[i + 1] - x) * t.y32[i + 1])
        if chord < 0 and (tangent < 0 or y < F(math.exp(-float(x)))):
            return shift + x


def normal_tail(words: Words) -> np.float32:
    """One number of density exp(-x^2 / 2) beyond the lowest layer."""
    start = normal_table().x32[1]
    while True:
        x = unit_exponential(words) / start
        y = unit_exponential(words)
        if F(2) * y > x * x:
            return x + start


# one outcome of a try
ACCEPTED, REJECTED, HARD = 0, 1, 2


def tries(words: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a try would give that began at each word but the last, all at once.

    Args:
        words: (n + 1,) uint32.

    Returns:
        values: (n,) float32, signed.
        slow: positions, ascending, of the tries that take more than their own word.
        outcome: for each of `slow`: ACCEPTED or REJECTED with the next word used up; HARD where yet more words are
            needed (the tail, or a second word that uniform_01 throws away): the value is not known yet.
    """
    t = normal_table()
    first = words[:-1]
    low = first & 255
    i = (low >> 1).astype(np.intp)
    sign = (low & 1).astype(F) * F(2) - F(1)
    x = (first >> 8).astype(F) * UNIT * t.x32[i]
    slow = np.flatnonzero(x.astype(np.float64) >= t.x[i + 1])

    i, at = i[slow], x[slow]
    y01 = words[slow + 1].astype(F) * WORD
    hard = (i == 0) | (y01 >= 1)
    y = t.y32[i] + y01 * t.dy[i]
    chord = t.dx[i] * y01 - (t.x32[i] - at)
    tangent = y - (t.y32[i] + (t.x32[i] - at) * t.y32[i] * t.x32[i])
    convex = t.x[i] >= 1  # the chord lies above the density, the tangent below; elsewhere the other way round
    above, below = np.where(convex, chord, tangent), np.where(convex, tangent, chord)
    density = np.exp(-(at * at / F(2)).astype(np.float64)).astype(F)
    good = (above < 0) & ((below < 0) | (y < density))
    outcome = np.where(hard, HARD, np.where(good, ACCEPTED, REJECTED))
    return x * sign, slow, outcome


def one_normal(words: Words) -> np.float32:
    """One number, try after try; what `tries` leaves open."""
    t = normal_table()
    while True:
        word = words()
        sign = F((word & 1) * 2 - 1)
        i = (word & 255) >> 1
        x = F(word >> 8) * UNIT * t.x32[i]
        if float(x) < t.x[i + 1]:
            return x * sign
        if i == 0:
            return normal_tail(words) * sign
        y01 = uniform_01(words)
        y = t.y32[i] + y01 * t.dy[i]
        chord = t.dx[i] * y01 - (t.x32[i] - x)
        tangent = y - (t.y32[i] + (t.x32[i] - x) * t.y32[i] * t.x32[i])
        above, below = (chord, tangent) if t.x[i] >= 1 else (tangent, chord)
        if above < 0 and (below < 0 or y < F(math.exp(-float(x * x / F(2))))):
            return x * sign

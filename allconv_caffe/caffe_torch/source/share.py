"""Which part of the training's records a solver takes, where several train together. Source: data_layer.cpp, Skip."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Share:
    """Of `count` solvers, number `rank` takes every count-th record, from record `rank` on.

    seed: one that they all know, for what must be drawn alike; None: they know none.
    """

    count: int = 1
    rank: int = 0
    seed: int | None = None


ALONE = Share()

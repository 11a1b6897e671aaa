"""How pixels become a net's input, as a value that can be written into a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from data_prep.whitening import Whitening


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """From pixels (N, C, H, W), 0..255, planes R, G, B, to the input blob: channels in order, then the mean and the
    scale, or the transform of a prepared data set."""

    # of the input blob's channels: "RGB" or "BGR"
    order: str
    # what is subtracted from pixels, (C or 1, H or 1, W or 1) in `order`; None: nothing
    mean: np.ndarray | None
    # what the difference is multiplied by
    scale: float
    # in place of mean and scale; it takes the middle of images larger than its own, around it the blob is 0
    whitening: Whitening | None
    # the same in NumPy, from pixels in `order`: what a written file is checked against
    blob: Callable[[np.ndarray], np.ndarray]
    # class names by label, for the file's own description; empty where nobody knows them
    class_names: tuple[str, ...] = ()

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """(N, C, H, W) float32, as the input blob takes these `pixels`, planes R, G, B."""
        return self.blob(pixels[:, ::-1] if self.swaps(pixels.shape[1]) else pixels)

    def swaps(self, channels: int) -> bool:
        """Whether red and blue change places: one channel stays one."""
        return self.order == "BGR" and channels == 3

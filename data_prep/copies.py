"""Copies of training images that are stored beside them: augmentation for a Caffe that can neither crop nor flip floats.

``("flipped",)``: every image, and its mirror image. ``("flipped", "translated")``: each of these as it is, and once moved
by up to `TRANSLATION` pixels in either direction, with zeros where nothing was. They are made after the whitening, as
Caffe's own crops and flips are; the test set has none.

Record r of n images is copy r // n of image r % n; copy 0 is the image itself, copy 1 the first word's, copy 2 the
second's, copy 3 both.

Source: section 3.2.1 of the paper ("adding horizontally flipped examples of all images as well as randomly translated
versions (with a maximum translation of 5 pixels in each dimension)").
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data_prep.errors import PrepError
from data_prep.imageset import FloatArray, IntArray, UInt8Array

WORDS = ("flipped", "translated")
TRANSLATION = 5
"""Pixels, at most, in each direction."""

_STREAM = 0x636F7079  # apart from the stream that decides the order of records


class Copies:
    """What becomes of each record of a split.

    Args:
        words: Some of `WORDS`, each at most once.
        images: How many the split has.
        seed: Of the translations.

    Raises:
        PrepError: another word, or one twice.
    """

    def __init__(self, words: Sequence[str], images: int, seed: int) -> None:
        if len(set(words)) != len(words) or not set(words) <= set(WORDS):
            raise PrepError("copies", repr(",".join(words)), f"some of {', '.join(WORDS)}, each once")
        self.words, self.images = tuple(words), images
        if "translated" in self.words:
            random = np.random.Generator(np.random.Philox(key=[seed, _STREAM]))
            self._moves = random.integers(-TRANSLATION, TRANSLATION + 1, (len(self), 2))

    def __len__(self) -> int:
        """How many records there are in all."""
        return self.images << len(self.words)

    def image(self, records: IntArray) -> IntArray:
        """The image that each record is a copy of."""
        return records % self.images

    def make(self, values: FloatArray | UInt8Array, records: IntArray) -> FloatArray | UInt8Array:
        """(N, C, H, W) images become the (N,) records that they are copied to."""
        made = values
        for bit, word in enumerate(self.words):
            chosen = np.flatnonzero((records // self.images) >> bit & 1)
            if not chosen.size:
                continue
            made = made.copy()
            if word == "flipped":
                made[chosen] = made[chosen][..., ::-1]
            else:
                for place in chosen:
                    made[place] = _moved(made[place], *self._moves[records[place]])
        return made


def _moved(image: np.ndarray, down: int, right: int) -> np.ndarray:
    """The (C, H, W) image lower by `down` pixels and further right by `right`, zeros where nothing was."""
    _, height, width = image.shape
    framed = np.pad(image, ((0, 0), (TRANSLATION, TRANSLATION), (TRANSLATION, TRANSLATION)))
    top, left = TRANSLATION - down, TRANSLATION - right
    return framed[:, top : top + height, left : left + width]

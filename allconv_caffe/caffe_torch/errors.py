"""One exception for every mistake that stops Caffe: where, and Caffe's own sentence."""

from __future__ import annotations

from allconv_caffe.errors import PlacedError


class CaffeError(PlacedError):
    """A check of Caffe that failed; outer callers prepend their own place with `within`.

    Args:
        reason: Caffe's sentence, without file and line.
        where: the place in the user's own words, e.g. ``train_val.prototxt: layer 'pool1'``; empty when unknown.
    """

    details: str = ""  # what a command line prints before the sentence, ending in a newline

    def __init__(self, reason: str, where: str = "") -> None:
        super().__init__(where, reason)


def check(condition: bool, message: str) -> None:
    """Raises CaffeError(message) unless `condition` holds (Caffe's CHECK)."""
    if not condition:
        raise CaffeError(message)

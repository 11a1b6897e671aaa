"""One exception for every mistake that stops Caffe: where, and Caffe's own sentence."""

from __future__ import annotations


class CaffeError(Exception):
    """A check of Caffe that failed.

    Args:
        message: Caffe's sentence, without file and line.
        where: the place in the user's own words, e.g. ``train_val.prototxt: layer 'pool1'``; empty when unknown.

    The text is ``where: message``. Outer callers prepend their own place with `within`.
    """

    details: str = ""  # what a command line prints before the message, ending in a newline

    def __init__(self, message: str, where: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.where = where

    def within(self, place: str) -> CaffeError:
        """Prepends `place` to where the error happened, and returns the same exception."""
        if place:
            self.where = f"{place}: {self.where}" if self.where else place
        return self

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message


def check(condition: bool, message: str) -> None:
    """Raises CaffeError(message) unless `condition` holds (Caffe's CHECK)."""
    if not condition:
        raise CaffeError(message)

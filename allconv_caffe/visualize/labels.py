"""The names of a net's classes, and which of them a file's name gives away."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath

from allconv_caffe.files import open_file
from allconv_caffe.visualize.nets.base import PathLike
from allconv_caffe.visualize.nets.errors import VizError


@dataclass(frozen=True)
class Labels:
    """Classes in the order of their labels.

    Attributes:
        names: as they are shown.
        ids: what stands for a class in the name of a file or folder: a WordNet id (n01440764), else its name.
        where: the file they came from, for errors.
    """

    names: Sequence[str]
    ids: Sequence[str]
    where: str = "labels"

    @staticmethod
    def read(path: PathLike) -> Labels:
        """A text file with a class on each line; in Caffe's synset_words.txt, after its WordNet id, several words of it.

        Raises: VizError: no such file, one that is no text, an empty line before the last.
        """
        where = os.fspath(path)
        try:
            with open_file(where, pipes=True) as file:
                lines = file.read().decode().replace("\r\n", "\n").rstrip("\n").split("\n")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise VizError(where, reason, "a text file with the name of a class on each line") from None
        for number, line in enumerate(lines, 1):
            if not line.strip():
                raise VizError(f"{where}: line {number}", "nothing", "the name of a class")
        names, ids = [], []
        for line in map(str.strip, lines):
            synset = re.match(r"(n\d{8})\s+(.+)", line)
            names.append(synset[2].split(",")[0] if synset else line)
            ids.append(synset[1] if synset else line)
        return Labels(names, ids, where)

    def check_count(self, scores: int, blob: str) -> None:
        """Raises: VizError: another number of classes than `blob` has scores."""
        if len(self.names) != scores:
            raise VizError(self.where, f"{len(self.names)} classes", f"{scores}, as '{blob}' has scores")

    def of(self, key: str) -> int | None:
        """The class that a folder on the way to an image names, or else the beginning of its name up to "_"."""
        path = PurePosixPath(key)
        words = [*reversed(path.parts[:-1]), path.stem, path.stem.partition("_")[0]]
        return next((self._by_id[word] for word in words if word in self._by_id), None)

    @cached_property
    def _by_id(self) -> dict[str, int]:
        return {word: label for label, word in enumerate(self.ids)}

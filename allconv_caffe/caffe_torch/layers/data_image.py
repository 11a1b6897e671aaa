"""ImageData: images named in a text file.

Source: image_data_layer.cpp, io.cpp, rng.hpp.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from allconv_caffe.caffe_torch import glog
from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.compute.window import c_int
from allconv_caffe.caffe_torch.errors import CaffeError, check
from allconv_caffe.caffe_torch.layer import register
from allconv_caffe.caffe_torch.layers.data import BatchLayer
from allconv_caffe.caffe_torch.source.datum import channels_first
from allconv_caffe.caffe_torch.source.feed import StreamFeed
from allconv_caffe.caffe_torch.source.images import Images, gathered
from allconv_caffe.caffe_torch.source.transformer import Words
from allconv_caffe.files import open_file
from allconv_caffe.proto import TRAIN, ProtoError, image_file


def read_list(path: str) -> list[tuple[str, int]]:
    """(image path, label) for each line ``path label``: the label follows the last space; what is no number is 0."""
    try:
        with open_file(path, pipes=True) as file:
            lines = file.read().decode("utf-8", "surrogateescape").split("\n")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        detail = getattr(error, "strerror", None) or error
        raise CaffeError(f"File is empty (cannot be read: {detail})", path) from None
    if not lines[-1]:
        lines.pop()
    found = []
    for line in lines:
        name, space, text = line.rpartition(" ")
        found.append((name if space else line, c_integer(text)))
    if not found:
        raise CaffeError("File is empty", path)
    return found


def c_integer(text: str) -> int:
    """What atoi makes of a text: the number that it begins with, else 0; 64 bits at most, of which the low 32 count."""
    number = re.match(r"[ \t\n\v\f\r]*([-+]?)0*([0-9]{1,30})", text)
    value = max(-(2**63), min(2**63 - 1, int(number[1] + number[2]))) if number else 0
    return c_int(value)


def shuffle(items: list[Any], words: Words) -> None:
    """Caffe's shuffle: from the last item down, each swaps with one at or below it (boost::uniform_int)."""
    for i in range(len(items) - 1, 0, -1):
        bucket = 2**32 // (i + 1)
        j = i + 1
        while j > i:
            j = int(words.draw(1)[0]) // bucket
        items[i], items[j] = items[j], items[i]


class ImageReader:
    """Decoded images in the order of a list that may be shuffled anew at each wrap."""

    def __init__(self, lines: list[tuple[str, int]], param: Any, words: Words | None) -> None:
        self.lines, self.param, self.words = lines, param, words

    def __len__(self) -> int:
        return len(self.lines)

    def runs(self, start: int = 0, every: int = 1) -> Iterator[list[tuple[str, int]]]:
        yield self.lines[start::every]

    def restart(self) -> Iterator[list[tuple[str, int]]]:
        if self.words is not None:
            shuffle(self.lines, self.words)
        return self.runs()

    def load(self, run: list[tuple[str, int]]) -> Iterator[Images]:
        return gathered((self.read(name), label) for name, label in run)

    def read(self, name: str) -> np.ndarray:
        """C x H x W uint8, channels B, G, R. Raises CaffeError."""
        import cv2

        param = self.param
        path = (param.root_folder + name).partition("\0")[0]  # where C's text ends
        try:  # not imread, which prints lines of its own
            with open_file(path) as file:
                image = image_file.decode(file.read(), param.is_color, mend=True)
        except (OSError, ValueError, ProtoError):  # no such file, or a huge image
            glog.error("io.cpp:83", f"Could not open or find file {path}")
            raise CaffeError(f"Could not load {name}") from None
        if param.new_height:
            try:
                image = cv2.resize(image, (param.new_width, param.new_height))
            except cv2.error as error:  # more pixels than there is memory for
                raise CaffeError(
                    f"Could not load {name} as {param.new_height} x {param.new_width} ({error.err})"
                ) from None
        return channels_first(image)


@register("ImageData")
class ImageDataLayer(BatchLayer):
    """The next batch_size images of a list, transformed.

    top[0]: (N, C, H, W), channels B, G, R, 0 to 255 before the transformation; top[1]: labels (N,).
    Of several solvers that train together each reads them all, as in Caffe.
    `shuffle` shuffles the list at set-up and again at each wrap; `rand_skip` begins that many images later, at most.
    Source: image_data_layer.cpp.
    """

    num_top = 2

    def setup_data(self, top: Sequence[Blob]) -> None:
        param = self.param.image_data_param
        sizes = [c_int(size) for size in (param.new_height, param.new_width)]
        check(
            sizes == [0, 0] or min(sizes) > 0,
            "Current implementation requires new_height and new_width to be set at the same time.",
        )
        glog.info("image_data_layer.cpp:38", f"Opening file {param.source}")
        lines = read_list(param.source)
        words = None
        if param.shuffle:
            glog.info("image_data_layer.cpp:53", "Shuffling data")
            words = Words(self.ctx.rng.word())
            shuffle(lines, words)
        glog.info("image_data_layer.cpp:63", f"A total of {len(lines)} images.")
        if self.phase == TRAIN and self.ctx.share.rank and not param.shuffle and not param.rand_skip:
            glog.warning("image_data_layer.cpp:60", "Shuffling or skipping recommended for multi-GPU")
        if param.rand_skip:
            self._position = self.ctx.rng.word() % param.rand_skip
            glog.info("image_data_layer.cpp:70", f"Skipping first {self._position} data points.")
            check(len(lines) > self._position, "Not enough points to skip")
        self.reader = ImageReader(lines, param, words)
        self.transformer.word = "img"
        first = self.reader.read(lines[self._position][0]).shape
        shape = self.transformer.shape(*first)
        check(param.batch_size > 0, "Positive batch size required")
        self.transformer.check_mean(*first)
        top[0].reshape(param.batch_size, *shape)
        glog.info("image_data_layer.cpp:90", f"output data size: {','.join(str(d) for d in top[0].shape)}")
        top[1].reshape(param.batch_size)

    def open_feed(self, position: int) -> StreamFeed:
        return StreamFeed(
            self.reader,
            self.transformer,
            self.param.image_data_param.batch_size,
            position,
            lambda: None,
            self.ctx.device,
            self.param.data_param.prefetch,
        )

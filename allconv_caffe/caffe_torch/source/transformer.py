"""What happens to an image between data set and net: mirror, crop, mean, scale.

Source: data_transformer.cpp.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from allconv_caffe.caffe_torch import glog
from allconv_caffe.caffe_torch.compute.data_kernel import NO_MEAN, Mean
from allconv_caffe.caffe_torch.compute.rng import Generator
from allconv_caffe.caffe_torch.errors import CaffeError, check
from allconv_caffe.caffe_torch.source.images import Images
from allconv_caffe.proto import TRAIN, BlobProto, ProtoError, read_binary
from allconv_caffe.proto.caffemodel import blob_shape

THREADED = 1 << 19  # values of a batch from which on a second thread is worth its start
Draws = np.ndarray  # (N, 3) int64: mirror (0 or 1), first row, first column


class Words:
    """Raw 32-bit words of a Mersenne twister seeded as boost::mt19937 is: the sequence Caffe's transformers draw."""

    def __init__(self, seed: int) -> None:
        self._bits: Any = np.random.RandomState(seed & 0xFFFFFFFF)._bit_generator  # legacy seeding, not MT19937(seed)

    def draw(self, n: int) -> np.ndarray:
        """The next n words, (n,) int64."""
        return np.asarray(self._bits.random_raw(n), np.int64)


class Transformer:
    """(image - mean) * scale of an image cropped and mirrored as a TransformationParameter says.

    mirror is random in both phases; crop takes a random place in TRAIN, the middle (rounded down) in TEST. The order
    of the draws, for each record: mirror, row offset, column offset, each `word % choices`, from a generator of the
    transformer's own that `init_rand` seeds with one word of the main stream.

    Args:
        param: TransformationParameter.
        phase: TRAIN or TEST.
        rng: the main stream.
    Raises: CaffeError: both mean_file and mean_value, or a mean file that cannot be read.
    """

    def __init__(self, param: Any, phase: int, rng: Generator) -> None:
        self.param = param
        self.phase = phase
        self.crop_size: int = param.crop_size
        self.word = "datum"  # what Caffe's sentences call an image; "img" for what is decoded
        self.scale = float(np.float32(param.scale))
        self.random_crop = bool(self.crop_size) and phase == TRAIN
        self._rng = rng
        self._words: Words | None = None
        self._mean_file: torch.Tensor | None = None  # (1, C, H, W)
        self._mean_on: dict[torch.device, torch.Tensor] = {}
        self._means: dict[int, Mean] = {}
        self._fitting: tuple[tuple[int, ...], tuple[int, ...]] = (), ()  # the last top and image that fitted
        if param.HasField("mean_file"):
            check(not param.mean_value, "Cannot specify mean_file and mean_value at the same time")
            glog.info("data_transformer.cpp:25", f"Loading mean file from: {param.mean_file}")
            self._mean_file = read_mean(param.mean_file)

    @property
    def needs_rand(self) -> bool:
        return bool(self.param.mirror) or self.random_crop

    def init_rand(self) -> None:
        """Takes one word of the main stream where anything is random, and seeds the transformer's generator with it."""
        self._words = Words(self._rng.word()) if self.needs_rand else None

    def shape(self, channels: int, height: int, width: int) -> tuple[int, int, int]:
        """C, H, W after cropping. Raises CaffeError where the crop does not fit."""
        crop, kind = self.crop_size, self.word
        check(channels > 0, f"Check failed: {kind}_channels > 0 ({channels} vs. 0)")
        check(height >= crop, f"Check failed: {kind}_height >= crop_size ({height} vs. {crop})")
        check(width >= crop, f"Check failed: {kind}_width >= crop_size ({width} vs. {crop})")
        return channels, crop or height, crop or width

    def check_mean(self, channels: int, height: int, width: int) -> None:
        """Raises CaffeError where the mean is not one of such images."""
        kind = self.word
        if self._mean_file is not None:
            for word, own, mean in zip(
                ("channels", "height", "width"), (channels, height, width), self._mean_file.shape[1:], strict=True
            ):
                if own != mean:
                    raise CaffeError(
                        f"Check failed: {kind}_{word} == data_mean_.{word}() ({own} vs. {mean})", self.param.mean_file
                    )
        values = len(self.param.mean_value)
        check(values in (0, 1, channels), f"Specify either 1 mean_value or as many as channels: {channels}")

    def fit(self, top: tuple[int, int, int], channels: int, height: int, width: int) -> None:
        """Raises CaffeError for an image that does not become a top of C, H, W `top`, that of the first of its batch."""
        kind = self.word
        check(top[0] == channels, f"Check failed: channels == {kind}_channels ({top[0]} vs. {channels})")
        for word, given, own in (("height", top[1], height), ("width", top[2], width)):
            check(given <= own, f"Check failed: {word} <= {kind}_{word} ({given} vs. {own})")
        for word, given, own in (("height", top[1], height), ("width", top[2], width)):
            check(bool(self.crop_size) or own == given, f"Check failed: {kind}_{word} == {word} ({own} vs. {given})")

    def words(self, n: int) -> np.ndarray | None:
        """The random words for n images, (n, k) int64; None where nothing is random."""
        if not self.needs_rand:
            return None
        if self._words is None:
            self.init_rand()
        assert self._words is not None
        choices = int(self.param.mirror) + 2 * self.random_crop
        return self._words.draw(n * choices).reshape(n, choices)

    def choose(self, words: np.ndarray | None, shapes: np.ndarray) -> Draws:
        """What the words say for images of these shapes, (n, 3): whether to mirror, where to crop; the middle where nothing does."""
        if words is not None and self.param.mirror and self.random_crop:
            return words % (np.array((2, 1, 1)) + (shapes - self.crop_size) * (0, 1, 1))
        draws = np.zeros((len(shapes), 3), np.int64)
        if self.crop_size:
            room = shapes[:, 1:] - self.crop_size
            if self.random_crop:
                assert words is not None
                draws[:, 1:] = words[:, -2:] % (room + 1)
            else:
                draws[:, 1:] = room // 2
        if self.param.mirror:
            assert words is not None
            draws[:, 0] = words[:, 0] % 2
        return draws

    def draw(self, n: int, height: int, width: int) -> Draws | None:
        """The random choices for n images of height x width, (n, 3); None where nothing is random."""
        words = self.words(n)
        return None if words is None else self.choose(words, np.broadcast_to(np.array((0, height, width)), (n, 3)))

    def put(self, images: Images, words: np.ndarray | None, out: np.ndarray) -> None:
        """Crops, mirrors, subtracts the mean, scales, into `out`: (n, C, h, w) float32, of the shape of the batch's first image.

        Raises: CaffeError: one of another size, with which that cannot be done.
        """
        top, first = out.shape[1:], images.shape
        if (top, first) != self._fitting or not images.are(first, images.floats):
            for shape in images.shapes.tolist():
                self.fit((top[0], top[1], top[2]), *shape)
                self.check_mean(*shape)
            self._fitting = top, first
        images.put(out, self.choose(words, images.shapes), self._subtrahend(top[0]), self.scale)

    def _subtrahend(self, channels: int) -> Mean:
        if channels not in self._means:
            if self._mean_file is not None:
                self._means[channels] = Mean(np.ascontiguousarray(self._mean_file[0].numpy()))
            elif self.param.mean_value:
                values = np.array(self.param.mean_value, np.float32)
                self._means[channels] = Mean(np.ascontiguousarray(np.broadcast_to(values, channels)))
            else:
                self._means[channels] = NO_MEAN
        return self._means[channels]

    def apply(self, images: torch.Tensor, draws: Draws | None, index: torch.Tensor | None = None) -> torch.Tensor:
        """Crops, mirrors, subtracts the mean, scales.

        Args:
            images: (N, C, H, W) float32 or uint8, contiguous on a CPU.
            draws: what `draw` gave, or None where nothing is random.
            index: (B,) int64, which of `images` to take, on their device; None: all, B = N.

        Returns: (B, C, h, w) float32 on the device of `images`; `images` itself where there is nothing to do.
        """
        shape = self.shape(*images.shape[1:])
        self.check_mean(*images.shape[1:])
        if images.device.type == "cpu":
            return self._apply_on_cpu(images, shape, draws, index)
        height, width = shape[1:]
        mean = self._mean(images.device)
        if draws is None:
            if index is not None:
                images = images.index_select(0, index)
            if self.crop_size:
                top, left = (images.shape[2] - height) // 2, (images.shape[3] - width) // 2
                images = images[:, :, top : top + height, left : left + width]
                if self._mean_file is not None and mean is not None:
                    mean = mean[:, :, top : top + height, left : left + width]
        else:
            place = torch.from_numpy(draws).pin_memory().to(images.device, non_blocking=True)
            steps = torch.arange(width, device=images.device)
            rows = place[:, 1, None] + torch.arange(height, device=images.device)
            columns = place[:, 2, None] + torch.where(place[:, :1] == 1, width - 1 - steps, steps)
            which = torch.arange(len(images), device=images.device) if index is None else index
            if self._mean_file is not None and mean is not None:
                mean = _gather(mean, torch.zeros_like(which), rows, columns)
            images = _gather(images, which, rows, columns)
        out = images.to(torch.float32)
        if mean is not None:
            out = out - mean
        if self.scale != 1:
            out = out * self.scale
        return out

    def _apply_on_cpu(
        self, images: torch.Tensor, shape: tuple[int, int, int], draws: Draws | None, index: torch.Tensor | None
    ) -> torch.Tensor:
        mean = self._subtrahend(images.shape[1])
        if draws is None and not self.crop_size and mean.values is None and self.scale == 1:
            return (images if index is None else images.index_select(0, index)).to(torch.float32)
        rows = Images.rows(images.numpy(), np.arange(len(images)) if index is None else index.numpy())
        out = torch.empty((len(rows), *shape))
        if draws is None:
            draws = self.choose(None, rows.shapes)
        threads = torch.get_num_threads() if out.numel() > THREADED else 1
        rows.put(out.numpy(), draws, mean, self.scale, threads)
        return out

    def _mean(self, device: torch.device) -> torch.Tensor | None:
        if self._mean_file is None and not self.param.mean_value:
            return None
        if device not in self._mean_on:
            if self._mean_file is not None:
                mean = self._mean_file
            else:
                mean = torch.tensor(list(self.param.mean_value), dtype=torch.float32).reshape(1, -1, 1, 1)
            self._mean_on[device] = mean.to(device)
        return self._mean_on[device]


def _gather(images: torch.Tensor, which: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """out[b, c, i, j] = images[which[b], c, rows[b, i], columns[b, j]]."""
    channels = torch.arange(images.shape[1], device=images.device)
    return images[
        which[:, None, None, None], channels[None, :, None, None], rows[:, None, :, None], columns[:, None, None, :]
    ]


def read_mean(path: str) -> torch.Tensor:
    """The mean image of a binary BlobProto as (1, C, H, W) float32. Raises CaffeError."""
    try:
        proto = read_binary(path, BlobProto, allow_unknown=True)
    except ProtoError as error:
        raise CaffeError(str(error)) from None
    shape = blob_shape(proto)
    check(len(shape) <= 4, f"{path}: Cannot use legacy accessors on Blobs with > 4 axes.")
    shape = (tuple(shape) + (1,) * 4)[:4]
    for dim in shape:
        check(dim >= 0, f"{path}: Check failed: shape[i] >= 0 ({dim} vs. 0)")
    values = np.array(proto.double_data or proto.data, np.float32)
    size = math.prod(shape)
    if values.size != size:
        raise CaffeError(f"Check failed: count_ == proto.data_size() ({size} vs. {values.size})", path)
    return torch.from_numpy(values.reshape(shape))[:1]

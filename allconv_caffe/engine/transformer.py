"""transform_param: crop, mirror, mean and scale, over whole batches on their device.

Source: data_transformer.cpp.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from allconv_caffe.engine.blob import blob_proto_shape
from allconv_caffe.engine.errors import CaffeError, check
from allconv_caffe.engine.rng import Generator, TorchGenerator
from allconv_caffe.proto import TRAIN, BlobProto, ProtoError, read_binary


class Transformer:
    """x -> (x - mean) * scale on a crop, mirrored at random.

    TRAIN crops at random, TEST in the centre; `mirror` acts in both phases. Draws, per record: mirror (if set), then
    the crop's row, then its column, each ``word % n`` from a generator seeded by one word of the main stream.

    Args:
        param: TransformationParameter.
        phase: TRAIN or TEST.
        shape: (C, H, W) of the records.
        rng: the main stream; nothing is drawn from it unless crop or mirror need it.

    Raises:
        CaffeError: crop larger than the image, mean_file and mean_value together, wrong mean size.
    """

    def __init__(self, param: Any, phase: int, shape: tuple[int, int, int], rng: Generator, device: torch.device) -> None:
        self.crop: int = param.crop_size
        self.mirror: bool = param.mirror
        self.scale: float = param.scale
        self.phase, self.shape, self.device = phase, shape, device
        c, h, w = shape
        if self.crop:
            check(h >= self.crop, f"Check failed: datum_height >= crop_size ({h} vs. {self.crop})")
            check(w >= self.crop, f"Check failed: datum_width >= crop_size ({w} vs. {self.crop})")
        self.mean = self._mean(param)
        self.random = self.mirror or (self.phase == TRAIN and self.crop > 0)
        self._words: Any = None
        if self.random:
            seed = rng.word()
            self._words = np.random.Generator(np.random.MT19937(seed)) if isinstance(rng, TorchGenerator) else seed

    def _mean(self, param: Any) -> torch.Tensor | None:
        c, h, w = self.shape
        if param.HasField("mean_file"):
            check(not param.mean_value, "Cannot specify mean_file and mean_value at the same time")
            try:
                proto = read_binary(param.mean_file, BlobProto)
            except ProtoError as error:
                raise CaffeError(str(error)) from None
            found = blob_proto_shape(proto)[-3:]
            if tuple(found) != self.shape:
                raise CaffeError(f"mean has shape {tuple(found)}, the data {self.shape}", param.mean_file)
            return torch.tensor(np.array(proto.data, np.float32).reshape(self.shape), device=self.device)
        if param.mean_value:
            n = len(param.mean_value)
            check(n in (1, c), "Specify either 1 mean_value or as many as channels: " + str(c))
            return torch.tensor(list(param.mean_value), device=self.device).view(-1, 1, 1).expand(c, h, w)
        return None

    @property
    def out_shape(self) -> tuple[int, int, int]:
        c, h, w = self.shape
        return (c, self.crop, self.crop) if self.crop else self.shape

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) uint8 or float32 -> (N, C, crop, crop) float32; the input itself where nothing is to do."""
        x = images if images.dtype == torch.float32 else images.to(torch.float32)
        if self.mean is not None:
            x = x - self.mean
        if self.scale != 1:
            x = x * self.scale
        n, (_, h, w), crop = x.shape[0], self.shape, self.crop
        if not self.random:
            if crop:
                top, left = (h - crop) // 2, (w - crop) // 2
                x = x[:, :, top : top + crop, left : left + crop]
            return x
        size_h, size_w = (crop, crop) if crop else (h, w)
        flips, rows, columns = self._draw(n, h - size_h + 1, w - size_w + 1)
        row = rows[:, None] + torch.arange(size_h)
        column = torch.arange(size_w).expand(n, -1)
        column = torch.where(flips[:, None], size_w - 1 - column, column) + columns[:, None]
        flat = (row[:, :, None] * w + column[:, None, :]).reshape(n, 1, -1)
        if self.device.type == "cuda":
            flat = flat.pin_memory().to(self.device, non_blocking=True)
        c = x.shape[1]
        return x.reshape(n, c, h * w).gather(2, flat.expand(n, c, -1)).reshape(n, c, size_h, size_w)

    def _draw(self, n: int, rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        crops = self.crop > 0 and self.phase == TRAIN
        each = int(self.mirror) + 2 * int(crops)
        words = self._words.integers(0, 2**32, (n, each), dtype=np.int64)
        flips = words[:, 0] % 2 == 1 if self.mirror else np.zeros(n, bool)
        if crops:
            row, column = words[:, -2] % rows, words[:, -1] % columns
        else:
            row, column = np.full(n, (rows - 1) // 2), np.full(n, (columns - 1) // 2)
        return torch.from_numpy(flips), torch.from_numpy(row), torch.from_numpy(column)

"""The fields of `allconv_caffe.augment`, made by PyTorch: a batch at a time, on the CPU or where the data set lies on a GPU.

For the same drawing they equal `augment.distorted` and `augment.plain` within a grey level.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from weakref import finalize

import numpy as np
import torch
import torch.nn.functional as F

from allconv_caffe import augment
from allconv_caffe.augment import Drawing, Order, Settings
from allconv_caffe.caffe_torch.source.loaded import Loaded
from allconv_caffe.caffe_torch.source.share import Share

AHEAD = 4  # batches made, or being made, before they are asked for
WORKERS = 2  # threads that make them

Batch = tuple[torch.Tensor, torch.Tensor]


def plain(settings: Settings, pixels: torch.Tensor) -> torch.Tensor:
    """`augment.plain` of a (N, C, H, W) uint8 tensor."""
    height, width = pixels.shape[2:]
    size, top, left = settings.size, settings.corner(height), settings.corner(width)
    inner = pixels[:, :, max(0, -top) : size - top, max(0, -left) : size - left]
    v = _values(settings, inner)
    if settings.graham:
        v *= (v.abs() > settings.near_grey).any(1, keepdim=True)
    top, left = max(0, top), max(0, left)
    right, bottom = size - left - inner.shape[3], size - top - inner.shape[2]
    return F.pad(v, (left, right, top, bottom))


def _values(settings: Settings, pixels: torch.Tensor) -> torch.Tensor:
    return (pixels.to(torch.float32) - settings.background) / settings.divisor


def distorted(settings: Settings, pixels: torch.Tensor, drawing: Drawing) -> torch.Tensor:
    """`augment.distorted` of a (N, C, H, W) uint8 tensor, on its device.

    On a CPU only the square that holds the image is worked on; a GPU works on the whole field, and is not waited for.
    """
    count, channels, height, width = pixels.shape
    on_cpu = pixels.device.type == "cpu"
    size = settings.size
    side = settings.patch(height, width) if on_cpu else size
    origin = augment.origins(drawing, size, side)
    parts = (drawing.affine, drawing.window, drawing.colour, origin.astype(np.float32))
    numbers = torch.from_numpy(np.concatenate([part.reshape(count, -1) for part in parts], axis=1))
    if not on_cpu:
        numbers = numbers.pin_memory().to(pixels.device, non_blocking=True)
    affine, window, colour, begin = numbers.split([6, 4, 4 * channels, 2], 1)
    steps = torch.arange(side, device=pixels.device, dtype=torch.float32)
    across, down = begin[:, :1] + steps, begin[:, 1:] + steps  # (N, P): the field's X and Y
    v = _bilinear(settings, pixels, affine.reshape(count, 2, 3), across, down)
    v, share = v[:, :channels], v[:, channels:]
    if settings.graham:
        left, top, right, bottom = window[:, :, None].unbind(1)
        within_x, within_y = (across >= left) & (across < right), (down >= top) & (down < bottom)
        share = within_y[:, None, :, None] & within_x[:, None, None, :]
        share = (share & (v.abs() > settings.near_grey).any(1, keepdim=True)).to(torch.float32)
        v = v * share
    a, b, g, h = colour.reshape(count, 4, channels, 1).unbind(1)
    slope = (g * across[:, None] + a)[:, :, None, :] + (h * down[:, None])[:, :, :, None]
    f = v if settings.colour_form == augment.LINEAR else (v * (math.pi / 2)).cos_()
    v = torch.addcmul(v, slope.addcmul_(f, b[..., None]), share)
    if settings.graham and settings.colour_form == augment.LINEAR:
        v *= (v.abs() > settings.near_grey).any(1, keepdim=True)
    if side == size:
        return v
    out = torch.zeros(count, channels, size, size)
    for i, (begin_x, begin_y) in enumerate(origin.tolist()):
        out[i, :, begin_y : begin_y + side, begin_x : begin_x + side] = v[i]
    return out


def _bilinear(
    settings: Settings, pixels: torch.Tensor, affine: torch.Tensor, across: torch.Tensor, down: torch.Tensor
) -> torch.Tensor:
    """(N, C + 1, P, P): (p - background) / divisor where the affine map leads, 0 outside; last, how much of it is image."""
    count, channels, height, width = pixels.shape
    values = pixels.new_ones((count, channels + 1, height, width), dtype=torch.float32)
    values[:, :channels] = _values(settings, pixels)
    grid = across.new_empty((count, down.shape[1], across.shape[1], 2))
    for axis, side in enumerate((width, height)):
        # grid_sample's -1 and 1 are the outer edges of the first and the last pixel
        to_x, to_y, offset = (affine[:, axis] * (2 / side)).unsqueeze(2).unbind(1)
        row, column = across * to_x + (offset + (1 / side - 1)), down * to_y
        torch.add(row[:, None, :], column[:, :, None], out=grid[..., axis])
    return F.grid_sample(values, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


class AugmentedFeed:
    """Endless batches of a data set in memory: `distorted` or `plain` fields and labels, on the data set's device.

    On a CPU, threads make AHEAD batches in advance; a GPU makes each when it is asked for, behind the work it has.

    Args:
        settings: of the layer.
        loaded: the data set, uint8.
        seed: of what is drawn; the settings' own may be absent.
        share: which of the samples are this solver's.
        position: the sample that rank 0's next batch begins with.
    """

    fresh = True

    def __init__(self, settings: Settings, loaded: Loaded, seed: int, share: Share, position: int) -> None:
        self.position = position
        self.settings, self._loaded = settings, loaded
        self._order = Order(len(loaded.labels), seed, settings.shuffle)
        self._deals = np.arange(settings.batch_size, dtype=np.int64) * share.count + share.rank
        self._step = settings.batch_size * share.count
        self._ready: deque[Future[Batch]] = deque()
        self._pool: ThreadPoolExecutor | None = None
        self._close: Callable[[], object] = lambda: None
        if loaded.images.device.type == "cpu":
            self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="augment")
            self._close = finalize(self, self._pool.shutdown, wait=False, cancel_futures=True)

    def next(self) -> Batch:
        if self._pool is None:
            batch = self._make(self.position)
        else:
            while len(self._ready) < AHEAD:
                self._ready.append(self._pool.submit(self._make, self.position + len(self._ready) * self._step))
            batch = self._ready.popleft().result()
        self.position += self._step
        return batch

    def _make(self, position: int) -> Batch:
        settings, images = self.settings, self._loaded.images
        samples = position + self._deals
        records = torch.from_numpy(self._order.records(samples))
        if images.device.type != "cpu":
            records = records.pin_memory().to(images.device, non_blocking=True)
        pixels, labels = images[records], self._loaded.labels[records]
        if not settings.distort:
            return plain(settings, pixels), labels
        shape = (images.shape[1], images.shape[2], images.shape[3])
        return distorted(settings, pixels, augment.draw(settings, self._order.seed, samples, shape)), labels

    def close(self) -> None:
        """Ends the threads; what they were making is thrown away."""
        self._close()
        self._ready.clear()

"""Batches: views of a data set in memory, or read from a large one by a thread of its own.

Source: base_data_layer.cpp (prefetching), data_layer.cpp (load_batch).
"""

from __future__ import annotations

import contextlib
import copy
import queue
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from allconv_caffe.caffe_torch.source.loaded import Loaded
from allconv_caffe.caffe_torch.source.share import ALONE, Share
from allconv_caffe.caffe_torch.source.transformer import Draws, Transformer


class Feed(Protocol):
    """Endless batches in record order, wrapping inside a batch where the data set ends.

    Of several solvers each takes its share: their batches, laid together, are one batch of all.
    """

    @property
    def position(self) -> int:
        """The record that the next batch of all solvers begins with."""
        ...

    def next(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Transformed images (N, C, h, w) float32 and labels (N,) float32 on the device."""
        ...

    def close(self) -> None: ...


class MemoryFeed:
    """Batches of a loaded data set: views of it, where nothing is to be done."""

    def __init__(
        self,
        loaded: Loaded,
        transformer: Transformer,
        batch_size: int,
        position: int,
        wrapped: Callable[[], None],
        share: Share = ALONE,
    ) -> None:
        self.position = position
        self._loaded, self._transformer, self._size, self._wrapped = loaded, transformer, batch_size, wrapped
        self._share = share

    def next(self) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = self._loaded.images, self._loaded.labels
        share = self._share
        count, begin, end = len(labels), self.position, self.position + self._size * share.count
        draws = self._transformer.draw(self._size, images.shape[2], images.shape[3])
        if share.count > 1:
            index = torch.arange(begin + share.rank, end, share.count, device=images.device) % count
            batch = self._transformer.apply(images, draws, index)
            self._pass(end)
            return batch, labels[index]
        if draws is None or end <= count:
            batch = self._transformer.apply(_cyclic(images, begin, end), draws)
        else:
            index = torch.arange(begin, end, device=images.device) % count
            batch = self._transformer.apply(images, draws, index)
        self._pass(end)
        return batch, _cyclic(labels, begin, end)

    def _pass(self, end: int) -> None:
        count = len(self._loaded.labels)
        for _ in range(end // count):
            self._wrapped()
        self.position = end % count

    def close(self) -> None:
        pass


def _cyclic(values: torch.Tensor, begin: int, end: int) -> torch.Tensor:
    """values[begin:end] as if `values` went on from its start for ever."""
    count = len(values)
    if end <= count:
        return values[begin:end]
    parts = [values[begin:]]
    end -= count
    while end > 0:
        parts.append(values[: min(end, count)])
        end -= count
    return torch.cat(parts)


@dataclass(kw_only=True)
class _Batch:
    """What the thread hands over."""

    images: torch.Tensor
    labels: torch.Tensor
    # whether `images` are transformed already, or `draws` are still to be applied, on the device
    transformed: bool
    draws: Draws | None = None
    # the record that the next batch begins with
    position: int
    # how often the end of the data set was passed
    wraps: int


class Records(Protocol):
    """Decoded records, again and again."""

    def __len__(self) -> int: ...

    def records(self, start: int = 0, every: int = 1) -> Iterator[tuple[np.ndarray, int]]: ...

    def restart(self) -> Iterator[tuple[np.ndarray, int]]: ...


class StreamFeed:
    """Batches read, and on a CPU transformed, by a thread that keeps `depth` of them ready."""

    def __init__(
        self,
        reader: Records,
        transformer: Transformer,
        batch_size: int,
        position: int,
        wrapped: Callable[[], None],
        device: torch.device,
        depth: int,
        share: Share = ALONE,
    ) -> None:
        self.position = position
        self._transformer, self._wrapped, self._device = transformer, wrapped, device
        self._ready: queue.Queue[_Batch | BaseException] = queue.Queue(max(1, depth))
        self._stop = threading.Event()
        self._failed: BaseException | None = None
        self._thread = threading.Thread(
            target=_prefetch,
            args=(reader, transformer, batch_size, position, share, device, self._ready, self._stop),
            name="data prefetch",
            daemon=True,
        )
        self._thread.start()
        weakref.finalize(self, _end, self._thread, self._stop, self._ready)

    def next(self) -> tuple[torch.Tensor, torch.Tensor]:
        if self._failed is not None:
            raise copy.copy(self._failed)  # whoever catches it adds where it was
        batch = self._ready.get()
        if isinstance(batch, BaseException):
            self._failed = batch
            raise copy.copy(batch)
        for _ in range(batch.wraps):
            self._wrapped()
        self.position = batch.position
        images = batch.images.to(self._device, non_blocking=True)
        labels = batch.labels.to(self._device, non_blocking=True)
        if not batch.transformed:
            images = self._transformer.apply(images, batch.draws)
        return images, labels

    def close(self) -> None:
        _end(self._thread, self._stop, self._ready)


def _end(thread: threading.Thread, stop: threading.Event, ready: queue.Queue[_Batch | BaseException]) -> None:
    """Waits for the thread: one that is inside PyTorch when the interpreter ends would abort the process."""
    stop.set()
    while thread.is_alive() and thread is not threading.current_thread():
        with contextlib.suppress(queue.Empty):
            ready.get_nowait()
        thread.join(0.01)


def _prefetch(
    reader: Records,
    transformer: Transformer,
    batch_size: int,
    position: int,
    share: Share,
    device: torch.device,
    ready: queue.Queue[_Batch | BaseException],
    stop: threading.Event,
) -> None:
    def put(item: _Batch | BaseException) -> None:
        while not stop.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue
        return None

    try:
        count = len(reader)
        records = _dealt(reader, position, share)
        while not stop.is_set():
            images: list[np.ndarray] = []
            labels = np.empty(batch_size, np.float32)
            for i in range(batch_size):
                image, labels[i] = next(records)
                images.append(image.copy())
            wraps, position = divmod(position + batch_size * share.count, count)
            put(_assemble(images, labels, transformer, device, position, wraps))
    except BaseException as error:  # whatever it is, it belongs to whoever waits for the batch
        put(error)


def _dealt(reader: Records, position: int, share: Share) -> Iterator[tuple[np.ndarray, int]]:
    """The share of the records from the `position`-th on, for ever."""
    if share.count == 1:
        yield from reader.records(position)
        while True:
            yield from reader.restart()
    position += share.rank
    while True:
        begin = position % len(reader)
        yield from reader.records(begin, share.count)
        position = begin - len(reader) + share.count * -(-(len(reader) - begin) // share.count)


def _assemble(
    images: list[np.ndarray],
    labels: np.ndarray,
    transformer: Transformer,
    device: torch.device,
    position: int,
    wraps: int,
) -> _Batch:
    first = images[0]
    label = torch.from_numpy(labels)
    if all(image.shape == first.shape and image.dtype == first.dtype for image in images):
        draws = transformer.draw(len(images), first.shape[1], first.shape[2])
        batch = torch.from_numpy(np.stack(images))
        if device.type == "cpu":
            return _Batch(
                images=transformer.apply(batch, draws), labels=label, transformed=True, position=position, wraps=wraps
            )
        return _Batch(
            images=batch.pin_memory(),
            labels=label.pin_memory(),
            transformed=False,
            draws=draws,
            position=position,
            wraps=wraps,
        )
    top = transformer.shape(*first.shape)  # the batch takes the shape of its first record
    parts = []
    for image in images:
        transformer.fit(top, *image.shape)
        parts.append(transformer.apply(torch.from_numpy(image)[None], transformer.draw(1, *image.shape[1:])))
    return _Batch(images=torch.cat(parts), labels=label, transformed=True, position=position, wraps=wraps)

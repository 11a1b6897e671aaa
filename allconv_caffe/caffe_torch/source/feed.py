"""Batches: views of a data set in memory, or read from a large one by a thread of its own.

Source: base_data_layer.cpp (prefetching), data_layer.cpp (load_batch).
"""

from __future__ import annotations

import contextlib
import copy
import math
import os
import queue
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from allconv_caffe.caffe_torch.errors import check
from allconv_caffe.caffe_torch.source.images import Images, Shape
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

    @property
    def fresh(self) -> bool:
        """Whether the last batch belongs to whoever asked for it; else it may be views of the data set."""
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
        self.fresh = False
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
            self.fresh = True
            self._pass(end)
            return batch, labels[index]
        if draws is None or end <= count:
            batch = self._transformer.apply(_cyclic(images, begin, end), draws)
        else:
            index = torch.arange(begin, end, device=images.device) % count
            batch = self._transformer.apply(images, draws, index)
        self.fresh = batch.untyped_storage().data_ptr() != images.untyped_storage().data_ptr()
        self._pass(end)
        return batch, _cyclic(labels, begin, end).clone()

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


class Records(Protocol):
    """Records, again and again: runs of them in order, which any thread may load."""

    def __len__(self) -> int: ...

    def runs(self, start: int = 0, every: int = 1) -> Iterator[Any]:
        """Sequences of whatever `load` understands: the `start`-th record and each `every`-th after it."""
        ...

    def restart(self) -> Iterator[Any]:
        """What comes after the last record."""
        ...

    def load(self, run: Any) -> Iterator[Images]:
        """The images of a run or a part of one, some at once, valid until the next."""
        ...


Piece = tuple[Any, slice]  # a run, or a part of one, and the rows of the batch that it fills
POOL = "data"  # the threads that decode are named after it
AT_ONCE = 1 << 20  # values in batches that are made together


def _cut(pieces: list[Piece], rows: slice) -> list[Piece]:
    """What of the pieces fills `rows`, whose first becomes row 0."""
    found: list[Piece] = []
    for run, at in pieces:
        begin, end = max(at.start, rows.start), min(at.stop, rows.stop)
        if begin < end:
            found.append((run[begin - at.start : end - at.start], slice(begin - rows.start, end - rows.start)))
    return found


@dataclass(frozen=True)
class _Plan:
    """What a batch is made as: transformed images of `shape`, or those of the data set, all of this shape and type."""

    shape: Shape
    floats: bool
    transformed: bool


class _OtherShape(Exception):
    """The batch cannot be made as planned."""


@dataclass(kw_only=True)
class _Batch:
    """What the thread hands over: being made, or made."""

    plan: _Plan
    images: torch.Tensor
    labels: torch.Tensor
    # the random words of its images, None where nothing is random
    words: np.ndarray | None
    # where its records are: runs, and the rows of the batch that they fill
    pieces: list[Piece]
    # the record that the next batch begins with
    position: int = 0
    # how often the end of the data set was passed
    wraps: int = 0
    # the work on it that threads of the pool do, in the order of its records
    jobs: list[Future[None]] = field(default_factory=list)


class _Maker:
    """Makes batches: reads, decodes, transforms on a CPU or leaves that to the device; with a pool, its threads do.

    A batch has the shape of its first image. It is made as the one before, and once more if that proves wrong.
    """

    def __init__(
        self, records: Records, transformer: Transformer, size: int, device: torch.device, threads: int
    ) -> None:
        self.records, self.transformer, self.size, self.device, self.threads = (
            records,
            transformer,
            size,
            device,
            threads,
        )
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix=POOL) if threads > 1 else None
        self._plan: _Plan | None = None

    def several(self) -> int:
        """How many batches to begin at once: of small images a few, so that they share what a beginning costs."""
        if self.pool is not None or self._plan is None or not self._plan.transformed:
            return 1
        return max(1, min(8, AT_ONCE // (self.size * math.prod(self._plan.shape))))

    def begin(self, pieces: list[Piece], count: int = 1) -> Iterator[_Batch]:
        """`count` batches, of so many records as they hold together."""
        words = self.transformer.words(count * self.size)
        if self._plan is None:
            self._plan = self._own_plan(pieces)
        if self.pool is not None:
            batch = self._empty(self._plan, words, pieces)
            for job in self._jobs(pieces):
                batch.jobs.append(self.pool.submit(self._fill, batch, job))
            yield batch
        elif count == 1:
            yield self._made(self._empty(self._plan, words, pieces))
        else:
            yield from self._made_together(self._empty(self._plan, words, pieces, count), count)

    def _made_together(self, whole: _Batch, count: int) -> Iterator[_Batch]:
        try:
            self._fill(whole, whole.pieces)
            failed = False
        except Exception:  # a record among them is odd: its batch will say so, the others are made
            failed = True
        for i in range(count):
            rows = slice(i * self.size, (i + 1) * self.size)
            words = None if whole.words is None else whole.words[rows]
            if failed:
                yield self._made(self._empty(whole.plan, words, _cut(whole.pieces, rows)))
            else:
                images, labels = (
                    whole.images[rows],
                    whole.labels[rows].clone(),
                )  # aligned: a blob takes them as they are
                yield _Batch(plan=whole.plan, images=images, labels=labels, words=words, pieces=[])

    def finish(self, batch: _Batch) -> _Batch:
        """Waits for the pool's threads. Raises what the first of the records that cannot be had raises."""
        if not batch.jobs:
            return batch
        try:
            for job in batch.jobs:
                job.result()
        except _OtherShape:
            return self._again(batch)
        batch.jobs.clear()
        return batch

    def _made(self, batch: _Batch) -> _Batch:
        try:
            self._fill(batch, batch.pieces)
        except _OtherShape:
            return self._again(batch)
        return batch

    def _again(self, batch: _Batch) -> _Batch:
        plan = self._own_plan(batch.pieces)
        if plan == batch.plan:  # only on a device: the others differ from the first
            plan = _Plan(self.transformer.shape(*plan.shape), plan.floats, True)
        else:
            self._plan = plan
        made = self._made(self._empty(plan, batch.words, batch.pieces))
        made.position, made.wraps = batch.position, batch.wraps
        return made

    def _own_plan(self, pieces: list[Piece]) -> _Plan:
        first = next(self.records.load(pieces[0][0][:1]))
        if self.device.type == "cpu":
            return _Plan(self.transformer.shape(*first.shape), False, True)
        return _Plan(first.shape, first.floats, False)

    def _empty(self, plan: _Plan, words: np.ndarray | None, pieces: list[Piece], count: int = 1) -> _Batch:
        pinned = self.device.type == "cuda"
        kind = torch.float32 if plan.transformed or plan.floats else torch.uint8
        images = torch.empty((count * self.size, *plan.shape), dtype=kind, pin_memory=pinned)
        labels = torch.empty(count * self.size, pin_memory=pinned)
        return _Batch(plan=plan, images=images, labels=labels, words=words, pieces=pieces)

    def _jobs(self, pieces: list[Piece]) -> Iterator[list[Piece]]:
        """The pieces in parts for the threads, a few for each, since some are sooner done than others."""
        most = max(1, -(-self.size // (2 * self.threads)))
        job: list[Piece] = []
        left = most
        for run, rows in pieces:
            begin = 0
            while begin < len(run):
                end = min(len(run), begin + left)
                job.append((run[begin:end], slice(rows.start + begin, rows.start + end)))
                left -= end - begin
                begin = end
                if not left:
                    yield job
                    job, left = [], most
        if job:
            yield job

    def _fill(self, batch: _Batch, pieces: list[Piece]) -> None:
        out, labels, plan = batch.images.numpy(), batch.labels.numpy(), batch.plan
        for run, rows in pieces:
            begin = rows.start
            for images in self.records.load(run):
                end = begin + len(images)
                if plan.transformed:
                    if begin == 0 and self.transformer.shape(*images.shape) != plan.shape:
                        raise _OtherShape
                    words = None if batch.words is None else batch.words[begin:end]
                    self.transformer.put(images, words, out[begin:end])
                elif images.are(plan.shape, plan.floats):
                    images.put(out[begin:end])
                else:
                    raise _OtherShape
                labels[begin:end] = images.labels
                begin = end


def data_threads(device: torch.device, share: Share = ALONE) -> int:
    """How many threads decode and transform: ALLCONV_DATA_THREADS, else PyTorch's on a CPU, on a GPU its share of the cores."""
    text = os.environ.get("ALLCONV_DATA_THREADS", "")
    if text:
        check(
            text.isdecimal() and 0 < int(text) <= 1024,
            f"ALLCONV_DATA_THREADS={text}: expected a number of threads, 1 to 1024",
        )
        return int(text)
    if device.type == "cpu":
        return torch.get_num_threads()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // share.count)


#: What the thread hands over: batches made together, or what went wrong with those behind them.
Ready = queue.Queue[list[_Batch] | BaseException]


class StreamFeed:
    """Batches read, and on a CPU transformed, ahead of time: a thread keeps `depth` of them ready or in work.

    As many threads as `data_threads` says decode and transform; with one, it is the same that reads.
    """

    fresh = True

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
        self._ready: Ready = queue.Queue(max(1, depth))
        self._made: deque[_Batch] = deque()
        self._stop = threading.Event()
        self._failed: BaseException | None = None
        self._maker = _Maker(reader, transformer, batch_size, device, data_threads(device, share))
        self._thread = threading.Thread(
            target=_prefetch,
            args=(self._maker, position, share, self._ready, self._stop),
            name="data prefetch",
            daemon=True,
        )
        self._thread.start()
        weakref.finalize(self, _end, self._thread, self._stop, self._ready, self._maker.pool)

    def next(self) -> tuple[torch.Tensor, torch.Tensor]:
        if self._failed is not None:
            raise copy.copy(self._failed)  # whoever catches it adds where it was
        try:
            if not self._made:
                made = self._ready.get()
                if isinstance(made, BaseException):
                    raise made
                self._made.extend(made)
            batch = self._maker.finish(self._made.popleft())
        except BaseException as error:
            self._failed = error
            self._stop.set()
            raise copy.copy(error) from None
        for _ in range(batch.wraps):
            self._wrapped()
        self.position = batch.position
        images, labels = batch.images, batch.labels
        if self._device.type != "cpu":
            images, labels = (part.to(self._device, non_blocking=True) for part in (images, labels))
        if not batch.plan.transformed:
            images = self._transformer.apply(images, self._draws(batch))
        return images, labels

    def _draws(self, batch: _Batch) -> Draws | None:
        if batch.words is None:
            return None
        return self._transformer.choose(batch.words, np.broadcast_to(batch.plan.shape, (len(batch.words), 3)))

    def close(self) -> None:
        _end(self._thread, self._stop, self._ready, self._maker.pool)


def _end(
    thread: threading.Thread,
    stop: threading.Event,
    ready: Ready,
    pool: ThreadPoolExecutor | None,
) -> None:
    """Waits for the threads: one that is inside PyTorch when the interpreter ends would abort the process.

    One of these very threads, when it happens to collect the feed, waits for nobody.
    """
    stop.set()
    while thread.is_alive() and thread is not threading.current_thread():
        with contextlib.suppress(queue.Empty):
            ready.get_nowait()
        thread.join(0.01)
    if pool is not None:
        own = threading.current_thread().name.startswith(f"{POOL}_")
        pool.shutdown(wait=not own, cancel_futures=True)


def _prefetch(maker: _Maker, position: int, share: Share, ready: Ready, stop: threading.Event) -> None:
    def put(item: list[_Batch] | BaseException) -> None:
        while not stop.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue
        return None

    try:
        count = len(maker.records)
        runs = _dealt(maker.records, position, share)
        rest: Any = ()
        while not stop.is_set():
            pieces: list[Piece] = []
            filled = 0
            several = maker.several()
            while filled < several * maker.size:
                run = rest if len(rest) else next(runs)
                if not len(run):
                    continue
                part, rest = run[: several * maker.size - filled], run[several * maker.size - filled :]
                pieces.append((part, slice(filled, filled + len(part))))
                filled += len(part)
            made: list[_Batch] = []
            try:
                for batch in maker.begin(pieces, several):
                    batch.wraps, batch.position = divmod(position + maker.size * share.count, count)
                    position = batch.position
                    made.append(batch)
            finally:
                if made:
                    put(made)
    except BaseException as error:  # whatever it is, it belongs to whoever waits for the batch
        put(error)


def _dealt(records: Records, position: int, share: Share) -> Iterator[Any]:
    """The share of the records from the `position`-th on, for ever."""
    if share.count == 1:
        yield from records.runs(position)
        while True:
            yield from records.restart()
    position += share.rank
    while True:
        begin = position % len(records)
        yield from records.runs(begin, share.count)
        position = begin - len(records) + share.count * -(-(len(records) - begin) // share.count)

"""Data sets of `Datum` records: reading them, keeping small ones in memory, streaming large ones.

A record is a C x H x W array (float32, or uint8 for byte records and decoded images) and an integer label. Records come
in the byte order of their keys, as Caffe's cursor gives them.

Source: db_lmdb.cpp, data_layer.cpp, io.cpp.
Differs: a truncated or odd-sized Datum is an error; Caffe trains on whatever lies in memory there.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import importlib
import os
import queue
import stat
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from google.protobuf.message import DecodeError

from allconv_caffe.caffe_torch import glog
from allconv_caffe.caffe_torch.errors import CaffeError, check
from allconv_caffe.caffe_torch.source import lmdb_file
from allconv_caffe.caffe_torch.source.transformer import Draws, Transformer
from allconv_caffe.proto import DataParameter, Datum

FLOAT_RUN = np.dtype([("tag", "u1"), ("value", "<f4")])  # one element of unpacked float_data
CHUNK_BYTES = 64 << 20  # read at once on the way to a GPU


# records
@dataclass(slots=True)
class Record:
    """One Datum as it lies in the file: `image` is the C x H x W array, or None where `encoded` holds a whole file."""

    image: np.ndarray | None
    encoded: bytes
    label: int


def parse_datum(value: Any) -> Record:
    """Reads a serialised Datum from a bytes-like object; arrays are views into it where they can be.

    Bytes win over float_data, and count as unsigned. Raises: CaffeError for anything that is no whole Datum.
    """
    found = _scan(value)
    if found is None:
        found = _parse_slowly(value)
    channels, height, width, data, floats, label, encoded = found
    if encoded:
        return Record(None, bytes(data), label)
    size = channels * height * width
    array: np.ndarray = np.frombuffer(data, np.uint8) if len(data) else floats
    check(channels > 0, f"Check failed: datum_channels > 0 ({channels} vs. 0)")
    check(height >= 0, f"Check failed: datum_height >= crop_size ({height} vs. 0)")
    check(width >= 0, f"Check failed: datum_width >= crop_size ({width} vs. 0)")
    check(
        array.size == size and size > 0,
        f"a Datum of {channels} x {height} x {width} holds {array.size} values, expected {size}",
    )
    return Record(array.reshape(channels, height, width), b"", label)


NO_FLOATS = np.empty(0, np.float32)
Fields = tuple[int, int, int, Any, np.ndarray, int, bool]


def _scan(value: Any) -> Fields | None:
    """The fields of an ordinary Datum straight from the wire format; None where protobuf must look."""
    numbers = {0x08: 0, 0x10: 0, 0x18: 0, 0x28: 0, 0x38: 0}  # channels, height, width, label, encoded
    data: Any = b""
    floats = NO_FLOATS
    pos, end = 0, len(value)
    try:
        while pos < end:
            tag = value[pos]
            if tag == 0x35:  # float_data, unpacked: 5 bytes each
                if floats.size:
                    return None
                run = np.frombuffer(value, FLOAT_RUN, (end - pos) // 5, pos)
                other = np.flatnonzero(run["tag"] != 0x35)
                floats = run["value"][: other[0] if other.size else None]
                pos += 5 * floats.size
                if not floats.size:
                    return None
                continue
            pos += 1
            number = value[pos]
            pos += 1
            if number >= 0x80:
                shift, number = 7, number & 0x7F
                while True:
                    part = value[pos]
                    pos += 1
                    number |= (part & 0x7F) << shift
                    shift += 7
                    if part < 0x80:
                        break
                    if shift > 63:
                        return None
            if tag in numbers:
                numbers[tag] = number
            elif tag == 0x22:  # data
                data = value[pos : pos + number]
                pos += number
            elif tag == 0x32:  # float_data, packed
                if floats.size or number % 4:
                    return None
                floats = np.frombuffer(value, "<f4", number // 4, pos)
                pos += number
            else:
                return None
    except (IndexError, ValueError):
        return None
    if pos != end:
        return None
    channels, height, width, label, encoded = numbers.values()
    label &= 0xFFFFFFFF
    if max(channels, height, width) > 0x7FFFFFFF:
        return None
    return channels, height, width, data, floats, label - (label >> 31 << 32), bool(encoded)


def _parse_slowly(value: Any) -> Fields:
    datum = Datum()
    try:
        datum.MergeFromString(bytes(value))
    except (DecodeError, RuntimeError):
        raise CaffeError(f"{len(value)} bytes that are no whole Datum (truncated or corrupt)") from None
    floats = np.array(datum.float_data, np.float32)
    return datum.channels, datum.height, datum.width, datum.data, floats, datum.label, datum.encoded


def decode_image(encoded: bytes, force_color: bool = False, force_gray: bool = False) -> np.ndarray:
    """C x H x W uint8 of an image file's bytes; B, G, R as OpenCV has them. Raises CaffeError."""
    import cv2

    check(not (force_color and force_gray), "cannot set both force_color and force_gray")
    flag = cv2.IMREAD_COLOR if force_color else cv2.IMREAD_GRAYSCALE if force_gray else cv2.IMREAD_UNCHANGED
    try:
        image = decode_file(encoded, flag)
    except cv2.error as error:  # larger than OpenCV allows
        raise CaffeError(f"Could not decode datum ({error.err})") from None
    if image is None:
        raise CaffeError("Could not decode datum ")
    check(image.dtype == np.uint8, "Image data type must be unsigned byte")
    return image[None] if image.ndim == 2 else np.ascontiguousarray(image.transpose(2, 0, 1))


def decode_file(encoded: bytes, flag: int) -> np.ndarray | None:
    """What OpenCV makes of an image file's bytes. A JPEG that is cut ends in grey, as with Caffe's OpenCV; today's refuses it."""
    import cv2

    image: np.ndarray | None = cv2.imdecode(np.frombuffer(encoded, np.uint8), flag) if encoded else None
    if image is None and encoded.startswith(b"\xff\xd8"):
        image = cv2.imdecode(np.frombuffer(encoded + b"\xff\xd9", np.uint8), flag)
    return image


# sources
class Source(Protocol):
    """Serialised records in key order."""

    path: str

    def __len__(self) -> int: ...

    def items(self, start: int = 0) -> Iterator[tuple[bytes, Any]]:
        """(key, value) pairs from the `start`-th on; a value is valid until the next one is asked for."""
        ...

    def version(self) -> tuple[Any, ...]:
        """Differs once the data set on disk is another one."""
        ...


class LmdbSource:
    """An LMDB environment, opened for reading. Raises CaffeError with Caffe's sentence and the path."""

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            if not os.path.isdir(path):
                code = errno.ENOTDIR if os.path.exists(path) else errno.ENOENT
                raise lmdb_file.status(code, os.strerror(code))
            _check_lock(os.path.join(path, "lock.mdb"))
            self._file = lmdb_file.LmdbFile(path)
        except CaffeError as error:
            raise error.within(path) from None
        self.opened_version = self.version()

    def __len__(self) -> int:
        return len(self._file)

    def items(self, start: int = 0) -> Iterator[tuple[bytes, Any]]:
        try:
            yield from self._file.items(start)
        except CaffeError as error:
            raise error.within(self.path) from None

    def version(self) -> tuple[Any, ...]:
        found = os.stat(os.path.join(self.path, "data.mdb"))
        return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


def _check_lock(path: str) -> None:
    """Raises CaffeError where LMDB could not use its lock file. One that is missing is not missed, nor made."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        code = error.errno or errno.EIO
    else:
        code = errno.EISDIR if stat.S_ISDIR(mode) else 0 if stat.S_ISREG(mode) else errno.ESPIPE
    if code:
        raise lmdb_file.status(code, os.strerror(code), "lock.mdb")


class LevelDbSource:
    """A LevelDB folder, read through `plyvel` where that is installed."""

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            plyvel = importlib.import_module("plyvel")
        except ImportError:
            raise CaffeError(
                "backend LEVELDB cannot be read without the package plyvel; install it, or convert the data set to "
                "LMDB and say backend: LMDB in data_param (LEVELDB is what a data_param without backend means)",
                path,
            ) from None
        try:
            self._db = plyvel.DB(path, create_if_missing=False)
        except (plyvel.Error, OSError) as error:
            raise CaffeError(f"Failed to open leveldb {path}\n{error}".replace("\n", ": "), path) from None
        self._count = sum(1 for _ in self._db.iterator(include_value=False))
        self.opened_version = self.version()

    def __len__(self) -> int:
        return self._count

    def items(self, start: int = 0) -> Iterator[tuple[bytes, Any]]:
        for i, (key, value) in enumerate(self._db.iterator()):
            if i >= start:
                yield key, value

    def version(self) -> tuple[Any, ...]:
        return (os.stat(os.path.join(self.path, "CURRENT")).st_mtime_ns,)


_sources: weakref.WeakValueDictionary[tuple[Any, ...], Any] = weakref.WeakValueDictionary()
_sources_lock = threading.Lock()


def open_source(path: str, backend: int) -> Source:
    """Opens a data set, or hands out the one already open.

    Raises: CaffeError: missing, not a data set, or of a backend that cannot be read here.
    """
    if "\0" in path:
        raise lmdb_file.status(errno.ENOENT, os.strerror(errno.ENOENT), "a NUL in the name").within(repr(path))
    key = (os.path.realpath(path), backend)
    with _sources_lock:
        source = _sources.get(key)
        if source is None or not _unchanged(source):
            _sources.pop(key, None)
            source = None  # closes the outdated one, if nobody reads it
            source = LmdbSource(path) if backend == DataParameter.LMDB else LevelDbSource(path)
            _sources[key] = source
    if backend == DataParameter.LMDB:
        glog.info("db_lmdb.cpp:35", f"Opened lmdb {path}")
    else:
        glog.info("db_leveldb.cpp:18", f"Opened leveldb {path}")
    return source


def _unchanged(source: Any) -> bool:
    try:
        return bool(source.version() == source.opened_version)
    except OSError:
        return False


class Reader:
    """Parsed, decoded records of a source.

    Args:
        force_color, force_gray: for encoded records.
    """

    def __init__(self, source: Source, force_color: bool = False, force_gray: bool = False) -> None:
        self.source = source
        self.force_color, self.force_gray = force_color, force_gray
        self._told = False
        self.decodes = False  # whether the last record was an encoded image

    def __len__(self) -> int:
        return len(self.source)

    def records(self, start: int = 0) -> Iterator[tuple[np.ndarray, int]]:
        """(image, label) from the `start`-th on; an image may be a view that is valid until the next one."""
        position = start
        for key, value in self.source.items(start):
            try:
                record = parse_datum(value)
                image = record.image
                self.decodes = image is None
                if image is None:
                    image = decode_image(record.encoded, self.force_color, self.force_gray)
                elif (self.force_color or self.force_gray) and not self._told:
                    self._told = True
                    glog.error("data_transformer.cpp:151", "force_color and force_gray only for encoded datum")
            except CaffeError as error:
                name = key.decode("ascii", "backslashreplace")
                raise error.within(f"{self.source.path}: record {position} (key '{name}')") from None
            yield image, record.label
            position += 1

    def restart(self) -> Iterator[tuple[np.ndarray, int]]:
        """What comes after the last record: the first again."""
        return self.records()

    def first(self) -> np.ndarray:
        """The first record's image. Raises CaffeError for an empty data set."""
        for image, _ in self.records():
            return image.copy()
        raise CaffeError("Check failed: datum_channels > 0 (0 vs. 0): the data set has no records", self.source.path)


# a small data set in memory
@dataclass(frozen=True)
class Loaded:
    """A whole data set: images (N, C, H, W) float32 or uint8, labels (N,) float32, on one device."""

    images: torch.Tensor
    labels: torch.Tensor


class Irregular(Exception):
    """Records differ in shape: only streaming can serve them."""


_loaded: dict[tuple[Any, ...], Loaded] = {}
_loaded_lock = threading.Lock()


def forget_loaded() -> None:
    """Drops the data sets kept in memory; layers that use one keep it as long as they live."""
    with _loaded_lock:
        _loaded.clear()


def load(reader: Reader, device: torch.device, limit: int | None = None) -> Loaded | None:
    """The whole data set on `device`, read once per process; None where it is too large or irregular.

    Args:
        limit: bytes; None: ALLCONV_DATA_MEMORY_MB, else half of what is free on the device.
    """
    source = reader.source
    key = (os.path.realpath(source.path), source.version(), str(device), reader.force_color, reader.force_gray)
    with _loaded_lock:
        if key in _loaded:
            return _loaded[key]
        needed = len(reader) * (reader.first().nbytes + 4)
        if needed > (memory_limit(device) if limit is None else limit):
            _loaded.clear()  # the others may be in the way
            if needed > (memory_limit(device) if limit is None else limit):
                return None
        try:
            _loaded[key] = _load(reader, device)
        except Irregular:
            return None
        return _loaded[key]


def _load(reader: Reader, device: torch.device) -> Loaded:
    count, first = len(reader), reader.first()
    dtype = torch.uint8 if first.dtype == np.uint8 else torch.float32
    images = torch.empty((count, *first.shape), dtype=dtype, device=device)
    labels = np.empty(count, np.float32)
    step = count if device.type == "cpu" else max(1, min(count, CHUNK_BYTES // first.nbytes))
    chunk = images if device.type == "cpu" else torch.empty((step, *first.shape), dtype=dtype)
    host, i = chunk.numpy(), 0
    for i, (image, label) in enumerate(reader.records()):
        if image.shape != first.shape or image.dtype != first.dtype:
            raise Irregular
        host[i % step] = image
        labels[i] = label
        if chunk is not images and ((i + 1) % step == 0 or i + 1 == count):
            begin = i - i % step
            images[begin : i + 1].copy_(chunk[: i + 1 - begin])
    check(i + 1 == count, f"{reader.source.path}: found {i + 1} records, expected {count}")
    return Loaded(images, torch.from_numpy(labels).to(device))


def memory_limit(device: torch.device) -> int:
    """Bytes that one data set may take on `device`: ALLCONV_DATA_MEMORY_MB, else half of what is free there."""
    text = os.environ.get("ALLCONV_DATA_MEMORY_MB", "")
    if text:
        try:
            limit = float(text)
        except ValueError:
            limit = -1.0
        check(0 <= limit < 2**40, f"ALLCONV_DATA_MEMORY_MB={text}: expected megabytes, a number from 0 (always stream)")
        return int(limit * 2**20)
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] // 2)
    return _free_host_memory() // 2


def _free_host_memory() -> int:
    free = 2**62
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    free = int(line.split()[1]) * 1024
    except OSError:  # not Linux
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    try:  # a container's own limit
        most = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        if most != "max":
            used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
            free = min(free, max(0, int(most) - used))
    except (OSError, ValueError):
        pass
    return free


# batches
class Feed(Protocol):
    """Endless batches in record order, wrapping inside a batch where the data set ends."""

    @property
    def position(self) -> int:
        """The record that the next batch begins with."""
        ...

    def next(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Transformed images (N, C, h, w) float32 and labels (N,) float32 on the device."""
        ...

    def close(self) -> None: ...


class MemoryFeed:
    """Batches of a loaded data set: views of it, where nothing is to be done."""

    def __init__(
        self, loaded: Loaded, transformer: Transformer, batch_size: int, position: int, wrapped: Callable[[], None]
    ) -> None:
        self.position = position
        self._loaded, self._transformer, self._size, self._wrapped = loaded, transformer, batch_size, wrapped

    def next(self) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = self._loaded.images, self._loaded.labels
        count, begin, end = len(labels), self.position, self.position + self._size
        draws = self._transformer.draw(self._size, images.shape[2], images.shape[3])
        if draws is None or end <= count:
            batch = self._transformer.apply(_cyclic(images, begin, end), draws)
        else:
            index = torch.arange(begin, end, device=images.device) % count
            batch = self._transformer.apply(images, draws, index)
        for _ in range(end // count):
            self._wrapped()
        self.position = end % count
        return batch, _cyclic(labels, begin, end)

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


@dataclass
class _Batch:
    images: torch.Tensor
    labels: torch.Tensor
    draws: Draws | None  # still to be applied, on the device
    transformed: bool
    position: int
    wraps: int


class Records(Protocol):
    """Decoded records, again and again."""

    def __len__(self) -> int: ...

    def records(self, start: int = 0) -> Iterator[tuple[np.ndarray, int]]: ...

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
    ) -> None:
        self.position = position
        self._transformer, self._wrapped, self._device = transformer, wrapped, device
        self._ready: queue.Queue[_Batch | BaseException] = queue.Queue(max(1, depth))
        self._stop = threading.Event()
        self._failed: BaseException | None = None
        self._thread = threading.Thread(
            target=_prefetch,
            args=(reader, transformer, batch_size, position, device, self._ready, self._stop),
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
        records = reader.records(position)
        while not stop.is_set():
            images: list[np.ndarray] = []
            labels = np.empty(batch_size, np.float32)
            wraps = 0
            for i in range(batch_size):
                image, labels[i] = next(records)
                images.append(image.copy())
                position += 1
                if position == len(reader):
                    records, position, wraps = reader.restart(), 0, wraps + 1
            put(_assemble(images, labels, transformer, device, position, wraps))
    except BaseException as error:  # whatever it is, it belongs to whoever waits for the batch
        put(error)


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
            return _Batch(transformer.apply(batch, draws), label, None, True, position, wraps)
        return _Batch(batch.pin_memory(), label.pin_memory(), draws, False, position, wraps)
    top = transformer.shape(*first.shape)  # the batch takes the shape of its first record
    parts = []
    for image in images:
        transformer.fit(top, *image.shape)
        parts.append(transformer.apply(torch.from_numpy(image)[None], transformer.draw(1, *image.shape[1:])))
    return _Batch(torch.cat(parts), label, None, True, position, wraps)

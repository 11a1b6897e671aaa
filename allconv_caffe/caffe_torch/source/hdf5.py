"""HDF5 files: opened and written, and what a data set may hold: floats and integers, of any width.

Who has none does not wait for h5py: it is imported where a file is.

Source: hdf5.cpp.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from allconv_caffe.caffe_torch import glog
from allconv_caffe.caffe_torch.blob import Blob, shape_string
from allconv_caffe.caffe_torch.errors import CaffeError
from allconv_caffe.files import NotAFile, check_file, replacing

if TYPE_CHECKING:
    import h5py

_NAMES = ("FLOAT", "INTEGER", "TIME", "STRING", "BITFIELD", "OPAQUE", "COMPOUND", "REFERENCE", "ENUM", "VLEN", "ARRAY")
DAMAGE = (
    OSError,
    RuntimeError,
    KeyError,
    ValueError,
    TypeError,
    AttributeError,
    MemoryError,
)  # h5py's, at whatever it reads
MOST_CHUNK_BYTES = 1 << 26
LINES = {"H5T_FLOAT": 33, "H5T_INTEGER": 36}  # of the log line in hdf5.cpp


def check_class(dataset: h5py.Dataset, where: str = "") -> None:
    """Says, the first time in a process, that a data set of this class is read.

    Raises: CaffeError: it holds no numbers, or so few in chunks so large that kilobytes would unpack to gigabytes.
    """
    import h5py

    class_: Any = dataset.id.get_type().get_class()
    names = {getattr(h5py.h5t, name): f"H5T_{name}" for name in _NAMES}
    name = names.get(class_, f"unknown ({class_})")
    if name not in LINES:
        raise CaffeError(f"Unsupported datatype class: {name}", where)
    chunk = math.prod(dataset.chunks or ()) * dataset.dtype.itemsize
    if chunk > max(MOST_CHUNK_BYTES, 2 * dataset.nbytes):
        raise CaffeError(f"found chunks of {chunk} bytes for {dataset.nbytes} bytes of values", where)
    glog.info_first(f"hdf5.cpp:{LINES[name]}", f"Datatype class: {name}")


class Elsewhere(OSError):
    """Values that lie in another file, where only this one was asked for."""


def open_hdf5(path: str | os.PathLike[str], alone: bool = False) -> h5py.File:
    """The file, opened for reading.

    Args:
        alone: refuse links to other files, and data sets whose bytes lie in one, which may be any (external storage, virtual
            data sets), or be stored so in a file that a link leads to.
    Raises: OSError: where HDF5 cannot, or would wait for ever; Elsewhere.
    """
    import h5py

    check_file(path)
    file = h5py.File(path, "r")
    try:
        for name in _external_files(file):
            if alone:
                raise Elsewhere(
                    errno.EINVAL, f"Found values that lie in another file, {name}, expected them in this one"
                )
            for folder in ("", os.path.dirname(os.path.abspath(path))):
                check_file(os.path.join(folder, name))
    except (NotAFile, Elsewhere):
        file.close()
        raise
    except DAMAGE:
        pass  # who reads what is damaged says so
    return file


class Sink:
    """The file that HDF5 writes to. What fails is not told to it, but kept for `check`: the library, told of a full disk, ends
    the process with SIGSEGV when it closes the file."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = open(path, "w+b", buffering=0)  # noqa: SIM115 (close)
        self._error: OSError | None = None

    def check(self) -> None:
        """Raises OSError: the first that there was."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        self._file.close()

    # what h5py asks of a file
    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size) or b""

    def readinto(self, buffer: memoryview) -> int:
        found = self._file.readinto(buffer) or 0
        buffer[found:] = bytes(len(buffer) - found)
        return len(buffer)

    def write(self, data: memoryview) -> int:
        done = 0
        try:
            while self._error is None and done < len(data):
                done += self._file.write(data[done:]) or 0
        except OSError as error:
            self._error = error
        return len(data)

    def truncate(self, size: int) -> int:
        try:
            if self._error is None:
                self._file.truncate(size)
        except OSError as error:
            self._error = error
        return size

    def flush(self) -> None:
        """Nothing is kept back."""


def _external_files(file: h5py.File) -> Iterator[str]:
    """The files that links of any group lead to, and those that data sets are stored in. A group may lie in itself."""
    import h5py

    seen: set[int] = set()
    waiting: list[h5py.Group] = [file]
    while waiting:
        group = waiting.pop()
        place = h5py.h5o.get_info(group.id).addr
        if place in seen:
            continue
        seen.add(place)
        for name in group:
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                yield link.filename
            elif isinstance(link, h5py.HardLink):
                kind = group.get(name, getclass=True)
                if kind is h5py.Group:
                    waiting.append(group[name])
                elif kind is h5py.Dataset:
                    yield from _stored_in(group[name])


def _stored_in(dataset: h5py.Dataset) -> list[str]:
    """The other files that a data set's values lie in."""
    names = [os.fsdecode(name) for name, _, _ in dataset.external or ()]
    if dataset.is_virtual:
        names += [source.file_name for source in dataset.virtual_sources() if source.file_name != "."]
    return names


def reason(error: Exception) -> str:
    """What HDF5, h5py or the system says was wrong, in one line."""
    if isinstance(error, OSError) and error.strerror:
        return " ".join(error.strerror.split())
    known = error.args and isinstance(error.args[0], str) and not isinstance(error, UnicodeError)
    return " ".join(str(error.args[0] if known else error).split()) or type(error).__name__


# whole files
@contextlib.contextmanager
def reading(path: str | os.PathLike[str], sentence: str) -> Iterator[h5py.File]:
    """An HDF5 file opened for reading. What HDF5 says of a damaged one becomes a CaffeError with the path, and, where
    it cannot even be opened, Caffe's `sentence`."""
    opened = False
    try:
        with open_hdf5(path, alone=True) as file:
            opened = True
            yield file
    except DAMAGE as error:
        detail = reason(error)
        raise CaffeError(
            f"{path}: damaged HDF5 file: {detail}" if opened else f"{sentence} {path} ({detail})"
        ) from None


def write(path: Path, fill: Callable[[h5py.File], None], what: str) -> None:
    """The file `path` as `fill` makes it, whole or not at all. Raises CaffeError: "Couldn't open ... to save `what`"."""
    import h5py

    try:
        with replacing(path) as temporary, contextlib.closing(Sink(temporary)) as sink:
            with h5py.File(sink, "w") as file:
                fill(file)
            sink.check()
    except (OSError, RuntimeError, ValueError) as error:
        raise CaffeError(f"Couldn't open {path} to save {what}. ({reason(error)})") from None


# what lies in them
def member(group: h5py.Group, name: str, kind: type[Any], sentence: str) -> Any:
    """group[name], if it is of that kind. Raises CaffeError with Caffe's `sentence`."""
    try:
        found = group.get(name) if name in group else None
    except DAMAGE as error:
        raise CaffeError(f"{sentence} ({reason(error)})") from None
    if not isinstance(found, kind):
        said = "nothing" if found is None else type(found).__name__.lower()
        raise CaffeError(f"{sentence}: found {said} called '{name}', expected a {kind.__name__.lower()}")
    return found


def load_nd_dataset(group: h5py.Group, name: str, blob: Blob, where: str) -> None:
    """blob's data = the data set of that name and of the blob's shape. Raises CaffeError."""
    import h5py

    if name not in group:
        raise CaffeError(f"Failed to find HDF5 dataset {name}", where)
    dataset = group[name]
    if not isinstance(dataset, h5py.Dataset):
        raise CaffeError(f"Failed to get dataset ndims for {name}", where)
    check_class(dataset, f"{where} blob {name}")
    if tuple(dataset.shape) != blob.shape:
        raise CaffeError(
            f"Cannot load blob from hdf5; shape mismatch. Source shape is {shape_string(dataset.shape)} "
            f"target shape is {blob.shape_string}",
            f"{where} blob {name}",
        )
    tensor = blob.data
    if tensor.device.type == "cpu" and blob.count:
        dataset.read_direct(tensor.detach().numpy())
    else:
        blob.data = torch.from_numpy(np.asarray(dataset, dtype=np.float32)).to(blob.device)


def save_nd_dataset(group: h5py.Group, name: str, values: torch.Tensor) -> None:
    group.create_dataset(name, data=values.detach().cpu().numpy())


def load_string(dataset: h5py.Dataset) -> str:
    found: Any = dataset[(0,) * dataset.ndim] if dataset.size else b""
    return found.decode("utf-8", "backslashreplace") if isinstance(found, bytes) else str(found)


def save_string(file: h5py.File, name: str, text: str) -> None:
    """A string that ends with a NUL: Caffe reads on until it meets one."""
    import h5py

    data = os.fsencode(text) + b"\0"
    kind = h5py.h5t.C_S1.copy()
    kind.set_size(len(data))
    kind.set_strpad(h5py.h5t.STR_NULLTERM)
    dataset = h5py.h5d.create(file.id, name.encode(), kind, h5py.h5s.create(h5py.h5s.SCALAR))
    dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, np.array(data, f"S{len(data)}"), kind)


def load_int(file: h5py.File, name: str, path: str) -> int:
    """As HDF5 converts to an int: to the nearest one there is."""
    sentence = f"{path}: Failed to load int dataset with name {name}"
    import h5py

    dataset = member(file, name, h5py.Dataset, sentence)
    if dataset.dtype.kind not in "fiub" or not dataset.size:  # what HDF5 calls H5T_FLOAT, H5T_INTEGER, H5T_ENUM
        raise CaffeError(f"{sentence} (found {dataset.dtype}, {dataset.size} of them)")
    number = np.asarray(dataset[(0,) * dataset.ndim]).item()
    return 0 if number != number else int(max(-(2**31), min(2**31 - 1, number)))


def save_int(file: h5py.File, name: str, number: int) -> None:
    file.create_dataset(name, data=np.array([number], np.int32))

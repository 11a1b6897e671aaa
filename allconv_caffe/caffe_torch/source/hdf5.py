"""HDF5 files: opened, and what a data set may hold: floats and integers, of any width.

Source: hdf5.cpp.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import h5py

from allconv_caffe.caffe_torch import glog
from allconv_caffe.caffe_torch.errors import CaffeError
from allconv_caffe.proto.files import NotAFile, check_file

_NAMES = ("FLOAT", "INTEGER", "TIME", "STRING", "BITFIELD", "OPAQUE", "COMPOUND", "REFERENCE", "ENUM", "VLEN", "ARRAY")
TYPE_CLASSES = {getattr(h5py.h5t, name): f"H5T_{name}" for name in _NAMES}
DAMAGE = (
    OSError,
    RuntimeError,
    KeyError,
    ValueError,
    TypeError,
    AttributeError,
    MemoryError,
)  # h5py's, at whatever it reads
LINES = {"H5T_FLOAT": 33, "H5T_INTEGER": 36}  # of the log line in hdf5.cpp


def check_class(dataset: h5py.Dataset, where: str = "") -> None:
    """Says, the first time in a process, that a data set of this class is read. Raises CaffeError where it holds no numbers."""
    class_: Any = dataset.id.get_type().get_class()
    name = TYPE_CLASSES.get(class_, f"unknown ({class_})")
    if name not in LINES:
        raise CaffeError(f"Unsupported datatype class: {name}", where)
    glog.info_first(f"hdf5.cpp:{LINES[name]}", f"Datatype class: {name}")


def open_hdf5(path: str | os.PathLike[str]) -> h5py.File:
    """The file, opened for reading. Raises OSError: where HDF5 cannot, or would wait for ever."""
    check_file(path)
    file = h5py.File(path, "r")
    try:
        for name in _external_files(file):
            for folder in ("", os.path.dirname(os.path.abspath(path))):
                check_file(os.path.join(folder, name))
    except NotAFile:
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
    """The files that links of any group lead to. A group may lie in itself."""
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
            elif isinstance(link, h5py.HardLink) and group.get(name, getclass=True) is h5py.Group:
                waiting.append(group[name])


def reason(error: Exception) -> str:
    """What HDF5, h5py or the system says was wrong, in one line."""
    if isinstance(error, OSError) and error.strerror:
        return " ".join(error.strerror.split())
    known = error.args and isinstance(error.args[0], str) and not isinstance(error, UnicodeError)
    return " ".join(str(error.args[0] if known else error).split()) or type(error).__name__

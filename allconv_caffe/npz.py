"""NumPy's .npz files, of which name, type and shape of each array are looked at before it is read."""

from __future__ import annotations

import math
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from allconv_caffe import files
from allconv_caffe.errors import FoundError

Kind = tuple[str, int]
"""What an array must be: its dtype ("float32") or the letters of its kind ("U": text, "iuf": numbers), and its number of axes."""
_DAMAGE = (
    OSError,
    ValueError,
    KeyError,
    IndexError,
    EOFError,
    OverflowError,
    NotImplementedError,
    RuntimeError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    SyntaxError,  # numpy's, of a header
    tokenize.TokenError,  # likewise
    TypeError,
)
"""What numpy, zipfile and zlib make of damaged files."""


def read(
    path: files.Path, expected: str, kinds: Mapping[str, Kind], error: type[FoundError] = FoundError
) -> dict[str, np.ndarray]:
    """The arrays of a file by name; those whose names are not in `kinds` are not read.

    Args:
        expected: What the file is for: "what `mine` wrote".
        kinds: By name; ``"*.x"`` stands for ``"0.x"``, ``"1.x"``, ...
        error: What is raised.

    Raises:
        error: no such file, damaged, an array of another kind, a name twice, or more than `files.most_unpacked`.
    """
    where = os.fspath(path)
    try:
        files.check_regular(path)
        with zipfile.ZipFile(where) as archive:
            return _arrays(archive, where, kinds, error)
    except FileNotFoundError:
        raise error(where, "no such file", expected) from None
    except _DAMAGE as failure:
        if isinstance(failure, error):
            raise
        raise error(where, f"an unreadable file ({failure})"[:300], expected) from failure


def _arrays(
    archive: zipfile.ZipFile, where: str, kinds: Mapping[str, Kind], error: type[FoundError]
) -> dict[str, np.ndarray]:
    left = most = files.most_unpacked(os.path.getsize(where))
    found: dict[str, np.ndarray] = {}
    for info in archive.infolist():
        name = info.filename.removesuffix(".npy")
        kind = kinds.get(name) or kinds.get("*." + name.partition(".")[2])
        if kind is None:
            continue
        if name in found:
            raise ValueError(f"two arrays {name[:40]!r}")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"compression method {info.compress_type}")
        with archive.open(info) as file:
            shape, by_column, dtype = _head(file)
            if len(shape) != kind[1] or not (kind[0] == dtype.name or (kind[0] in _WORDS and dtype.kind in kind[0])):
                word = _WORDS.get(kind[0], kind[0])
                raise error(where, f"{dtype.name} {shape} for {name}", f"{word} of {kind[1]} axes")
            left -= math.prod(shape) * max(dtype.itemsize, 1)
            if left < 0:
                raise ValueError(f"arrays of more than {most} bytes")
            size = math.prod(shape) * dtype.itemsize
            data = file.read(size)  # bounded: read() alone unpacks whatever there is
            if len(data) != size:
                raise ValueError(f"{len(data)} bytes for {name}, which has {size}")
        found[name] = np.frombuffer(bytearray(data), dtype).reshape(shape, order="F" if by_column else "C")
    return found


def _head(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether column by column, and type, as the array's header has them."""
    version = np.lib.format.read_magic(file)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in read_header:
        raise ValueError(f"version {version} of an array's header")
    shape, by_column, dtype = read_header[version](file)
    if dtype.hasobject or min(shape, default=0) < 0:
        raise ValueError("an array of objects" if dtype.hasobject else f"an array of shape {shape}")
    return shape, by_column, dtype


_WORDS = {"U": "text", "iuf": "a number"}

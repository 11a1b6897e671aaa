"""What a data set of an HDF5 file may hold: floats and integers, of any width.

Source: hdf5.cpp.
"""

from __future__ import annotations

from typing import Any

import h5py

from allconv_caffe.engine import glog
from allconv_caffe.engine.errors import CaffeError

_NAMES = ("FLOAT", "INTEGER", "TIME", "STRING", "BITFIELD", "OPAQUE", "COMPOUND", "REFERENCE", "ENUM", "VLEN", "ARRAY")
TYPE_CLASSES = {getattr(h5py.h5t, name): f"H5T_{name}" for name in _NAMES}
LINES = {"H5T_FLOAT": 33, "H5T_INTEGER": 36}  # of the log line in hdf5.cpp


def check_class(dataset: h5py.Dataset, where: str = "") -> None:
    """Says, the first time in a process, that a data set of this class is read. Raises CaffeError where it holds no numbers."""
    class_: Any = dataset.id.get_type().get_class()
    name = TYPE_CLASSES.get(class_, f"unknown ({class_})")
    if name not in LINES:
        raise CaffeError(f"Unsupported datatype class: {name}", where)
    glog.info_first(f"hdf5.cpp:{LINES[name]}", f"Datatype class: {name}")

"""``compute_image_mean``: the mean image of a data set as a binaryproto, and the mean of each channel.

    caffe-torch compute_image_mean train_lmdb mean.binaryproto

Source: tools/compute_image_mean.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from allconv_caffe.caffe_torch import glog
from allconv_caffe.caffe_torch.errors import CaffeError, check
from allconv_caffe.caffe_torch.source.database import Reader, open_source
from allconv_caffe.caffe_torch.tools import gflags
from allconv_caffe.caffe_torch.tools.gflags import Flag
from allconv_caffe.caffe_torch.tools.program import guarded, start
from allconv_caffe.proto import BlobProto, DataParameter, ProtoError, write_binary

NAME, FILE = "compute_image_mean", "tools/compute_image_mean.cpp"
MESSAGE = """Compute the mean_image of a set of images given by a leveldb/lmdb
Usage:
    compute_image_mean [FLAGS] INPUT_DB [OUTPUT_FILE]"""
FLAGS = (
    Flag("backend", "lmdb", "The backend {leveldb, lmdb} containing the images", FILE),
    *gflags.GLOG,
    *gflags.BUILT_IN,
)
BACKENDS = {"lmdb": DataParameter.LMDB, "leveldb": DataParameter.LEVELDB}
TOLD = 10000  # records between two log lines


def main(arguments: Sequence[str]) -> int:
    """Returns the exit status."""
    started = start(NAME, NAME, MESSAGE, FLAGS, FILE, arguments)
    if isinstance(started, int):
        return started
    flags, rest = started
    if not 1 <= len(rest) <= 2:
        print(gflags.usage(NAME, MESSAGE, [flag for flag in FLAGS if flag.file == FILE]), end="")
        return 1
    return guarded(lambda: compute(rest[0], flags.backend, rest[1] if len(rest) > 1 else None), f"{NAME}.cpp:118")


def compute(path: str, backend: str, out: str | None) -> int:
    """Logs the means of the data set `path`, and writes the mean image to `out`. Raises CaffeError."""
    check(backend in BACKENDS, f"Unknown database backend: {backend} (backends: {', '.join(BACKENDS)})")
    mean = mean_image(path, BACKENDS[backend])
    if out is not None:
        glog.info(f"{NAME}.cpp:108", f"Write to {out}")
        channels, height, width = mean.shape
        blob = BlobProto(num=1, channels=channels, height=height, width=width, data=mean.ravel().tolist())
        try:
            write_binary(out, blob)
        except ProtoError as error:
            raise CaffeError(str(error)) from None
    glog.info(f"{NAME}.cpp:114", f"Number of channels: {len(mean)}")
    for c, plane in enumerate(mean):
        total = np.add.accumulate(plane.ravel())[-1]
        glog.info(f"{NAME}.cpp:119", f"mean_value channel [{c}]: {glog.number(total / np.float32(plane.size))}")
    return 0


def mean_image(path: str, backend: int) -> np.ndarray:
    """(C, H, W) float32, summed in the order of the records. Raises CaffeError: other sizes among them, none at all."""
    reader = Reader(open_source(path, backend))
    total = np.zeros_like(reader.first(), dtype=np.float32)
    if reader.decodes:
        glog.info(f"{NAME}.cpp:57", "Decoding Datum")
    glog.info(f"{NAME}.cpp:70", "Starting iteration")
    count = 0
    for image, _ in reader.records():
        check(image.size == total.size, f"Incorrect data field size {image.size} ({path}, record {count})")
        total += image.reshape(total.shape)
        count += 1
        if count % TOLD == 0:
            glog.info(f"{NAME}.cpp:95", f"Processed {count} files.")
    if count % TOLD:
        glog.info(f"{NAME}.cpp:101", f"Processed {count} files.")
    return total / np.float32(count)

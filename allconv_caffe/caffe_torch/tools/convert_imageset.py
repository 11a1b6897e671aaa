"""``convert_imageset``: the images of a list as Datums in an LMDB or a LevelDB.

    caffe-torch convert_imageset -resize_height 32 -resize_width 32 images/ list.txt train_lmdb

Each line of the list is ``path label``. Source: tools/convert_imageset.cpp, io.cpp.
Differs: a list that is missing or empty is refused.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import cv2
import numpy as np

from allconv_caffe.caffe_torch import glog
from allconv_caffe.caffe_torch.errors import CaffeError, check
from allconv_caffe.caffe_torch.layers.data_image import read_list
from allconv_caffe.caffe_torch.source.datum import channels_first
from allconv_caffe.caffe_torch.tools import gflags
from allconv_caffe.caffe_torch.tools.gflags import Flag
from allconv_caffe.caffe_torch.tools.new_database import NewDatabase, new_database
from allconv_caffe.caffe_torch.tools.program import Flags, guarded, start
from allconv_caffe.files import open_file
from allconv_caffe.proto import Datum, ProtoError, image_file

NAME, FILE = "convert_imageset", "tools/convert_imageset.cpp"
MESSAGE = """Convert a set of images to the leveldb/lmdb
format used as input for Caffe.
Usage:
    convert_imageset [FLAGS] ROOTFOLDER/ LISTFILE DB_NAME"""
FLAGS = (
    Flag("gray", False, "When this option is on, treat images as grayscale ones", FILE),
    Flag("shuffle", False, "Randomly shuffle the order of images and their labels", FILE),
    Flag("backend", "lmdb", "The backend {lmdb, leveldb} for storing the result", FILE),
    Flag("resize_width", 0, "Width images are resized to", FILE),
    Flag("resize_height", 0, "Height images are resized to", FILE),
    Flag("check_size", False, "When this option is on, check that all the datum have the same size", FILE),
    Flag("encoded", False, "When this option is on, the encoded image will be save in datum", FILE),
    Flag("encode_type", "", "Optional: What type should we encode the image as ('png','jpg',...).", FILE),
    *gflags.GLOG,
    *gflags.BUILT_IN,
)


def main(arguments: Sequence[str]) -> int:
    """Returns the exit status."""
    started = start(NAME, NAME, MESSAGE, FLAGS, FILE, arguments)
    if isinstance(started, int):
        return started
    flags, rest = started
    if len(rest) < 3:
        print(gflags.usage(NAME, MESSAGE, [flag for flag in FLAGS if flag.file == FILE]), end="")
        return 1
    return guarded(lambda: convert(flags, *rest[:3]), "convert_imageset.cpp:152")


def convert(flags: Flags, root: str, list_path: str, out: str) -> int:
    """Writes the data set `out`. Raises CaffeError."""
    lines = read_list(list_path)
    if flags.shuffle:
        glog.info("convert_imageset.cpp:86", "Shuffling data")
        random.shuffle(lines)
    glog.info("convert_imageset.cpp:89", f"A total of {len(lines)} images.")
    if flags.encode_type and not flags.encoded:
        glog.info("convert_imageset.cpp:92", "encode_type specified, assuming encoded=true.")
    with new_database(out, flags.backend) as database:
        _write(flags, root, lines, database)
    if database.count % 1000:
        _processed(database, 153)
    return 0


def _write(flags: Flags, root: str, lines: Sequence[tuple[str, int]], database: NewDatabase) -> None:
    datum, size = Datum(), None
    for i, (name, label) in enumerate(lines):
        if not read_to_datum(flags, root, name, label, datum):
            continue
        if flags.check_size:
            if size is None:
                size = datum.channels * datum.height * datum.width
            else:
                found = len(datum.data)
                check(found == size, f"Incorrect data field size {found} ({root + name}, expected {size})")
        key = f"{i:08d}_{name}".encode("utf-8", "surrogateescape")
        if database.put(key, datum.SerializeToString()):
            _processed(database, 147)


def _processed(database: NewDatabase, line: int) -> None:
    glog.info(f"convert_imageset.cpp:{line}", f"Processed {database.count} files.")


def read_to_datum(flags: Flags, root: str, name: str, label: int, datum: Datum) -> bool:
    """ReadImageToDatum: fills `datum`, in which fields of the image before it may remain. False where there is no image."""
    path = root + name
    encoding = flags.encode_type
    if flags.encoded and not encoding:
        _, dot, ending = name.rpartition(".")
        if not dot:
            glog.warning("convert_imageset.cpp:117", f"Failed to guess the encoding of '{name}'")
        encoding = ending.lower()
    height, width = max(0, flags.resize_height), max(0, flags.resize_width)
    try:
        with open_file(path) as file:
            raw = file.read()
        image = image_file.decode(raw, not flags.gray, mend=True)
    except (OSError, ValueError, ProtoError):
        glog.error("io.cpp:83", f"Could not open or find file {path}")
        return False
    if height and width:
        image = cv2.resize(image, (width, height))
    if encoding:
        same = not height and not width and _matches(path, encoding)
        datum.data = raw if same else _encoded(image, encoding, path)
        datum.label, datum.encoded = label, True
        return True
    pixels = channels_first(image)
    datum.channels, datum.height, datum.width = pixels.shape
    datum.data, datum.label, datum.encoded = pixels.tobytes(), label, False
    return True


def _matches(path: str, encoding: str) -> bool:
    """Whether the file's ending is that of the encoding: its bytes can stay as they are."""
    ending = path.rpartition(".")[2].lower()
    return ending == encoding.lower() or (encoding.lower() == "jpg" and ending == "jpeg")


def _encoded(image: np.ndarray, encoding: str, path: str) -> bytes:
    try:
        done, raw = cv2.imencode(f".{encoding}", image)
    except cv2.error:
        done = False
    if not done:
        raise CaffeError(f"encode_type '{encoding}': OpenCV has no encoder of that name", path)
    return bytes(raw.tobytes())

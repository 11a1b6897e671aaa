"""``extract_features``: blobs of a trained net as Datums of floats in LMDBs, one record for each input.

    caffe-torch extract_features x.caffemodel net.prototxt fc7,prob features_lmdb,prob_lmdb 10 lmdb

Source: tools/extract_features.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import torch

from allconv_caffe.caffe_torch import glog
from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.errors import check
from allconv_caffe.caffe_torch.layer import Context
from allconv_caffe.caffe_torch.layers.data_image import c_integer
from allconv_caffe.caffe_torch.net import load_net
from allconv_caffe.caffe_torch.tools.new_database import NewDatabase, new_database
from allconv_caffe.caffe_torch.tools.program import guarded
from allconv_caffe.proto import TEST, Datum

NAME = "extract_features"
USAGE = (
    "This program takes in a trained network and an input data layer, and then extract features of the input data "
    "produced by the net.\n"
    "Usage: extract_features  pretrained_net_param  feature_extraction_proto_file  "
    "extract_feature_blob_name1[,name2,...]  save_feature_dataset_name1[,name2,...]  num_mini_batches  db_type  "
    "[CPU/GPU] [DEVICE_ID=0]\n"
    "Note: you can extract multiple features in one pass by specifying multiple feature blob names and dataset names "
    "separated by ','. The names cannot contain white space characters and the number of blobs and datasets must be equal."
)


def main(arguments: Sequence[str]) -> int:
    """Returns the exit status."""
    glog.init(NAME)
    if len(arguments) < 6:
        glog.error(f"{NAME}.cpp:35", USAGE)
        return 1
    return guarded(lambda: extract(list(arguments[:6]), device_of(arguments[6:])), f"{NAME}.cpp:184")


def device_of(words: Sequence[str]) -> torch.device:
    """``GPU 1``, or the CPU. Raises CaffeError where there is no such GPU."""
    if not words or words[0] != "GPU":
        glog.error(f"{NAME}.cpp:62", "Using CPU")
        return torch.device("cpu")
    number = c_integer(words[1]) if len(words) > 1 else 0
    check(number >= 0, f"Check failed: device_id >= 0 ({number} vs. 0)")
    glog.error(f"{NAME}.cpp:52", "Using GPU")
    glog.error(f"{NAME}.cpp:58", f"Using Device_id={number}")
    check(
        torch.cuda.is_available() and number < torch.cuda.device_count(),
        f"Cannot use GPU in CPU-only Caffe: check mode. (PyTorch {torch.__version__} finds no CUDA device {number})",
    )
    return torch.device("cuda", number)


def extract(arguments: list[str], device: torch.device) -> int:
    """Runs the net and writes the data sets; `arguments` as in USAGE. Raises CaffeError; then none of them is there."""
    weights, model, blobs, datasets, batches, backend = arguments
    net = load_net(model, Context(phase=TEST, device=device, fast=True), level=0)
    net.copy_trained_layers_from(weights)
    names, paths = blobs.split(","), datasets.split(",")
    check(
        len(names) == len(paths),
        f"the number of blob names and dataset names must be equal ({len(names)} vs. {len(paths)})",
    )
    for name in names:
        check(
            name in net.blobs,
            f"Unknown feature blob name {name} in the network {model} (blobs: {', '.join(net.blobs)})",
        )
    with ExitStack() as stack:
        databases = []
        for path in paths:
            glog.info(f"{NAME}.cpp:125", f"Opening dataset {path}")
            databases.append(stack.enter_context(new_database(path, backend)))
        glog.error(f"{NAME}.cpp:133", "Extracting Features")
        for _ in range(c_integer(batches)):
            net.forward()
            for name, database in zip(names, databases, strict=True):
                _put(net.blobs[name], name, database)
    for name, database in zip(names, databases, strict=True):
        _told(name, database, 176)
    glog.error(f"{NAME}.cpp:181", "Successfully extracted the features!")
    return 0


def _put(blob: Blob, name: str, database: NewDatabase) -> None:
    """A record for each item of the batch."""
    count, channels, height, width = (blob.legacy_shape(axis) for axis in range(4))
    for values in blob.data.reshape(count, -1).cpu().numpy():
        datum = Datum(channels=channels, height=height, width=width, float_data=values.tolist())
        if database.put(f"{database.count:010d}".encode(), datum.SerializeToString()):
            _told(name, database, 165)


def _told(name: str, database: NewDatabase, line: int) -> None:
    message = f"Extracted features of {database.count} query images for feature blob {name}"
    glog.error(f"{NAME}.cpp:{line}", message)

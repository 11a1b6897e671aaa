"""The weights of a net's layers, read and written: a .caffemodel, and the same in HDF5.

A file is written whole or not at all. Source: net.cpp (CopyTrainedLayersFrom, ToProto, ToHDF5).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from allconv_caffe.caffe_torch import glog
from allconv_caffe.caffe_torch.blob import Blob, shape_count, shape_string, stored_data
from allconv_caffe.caffe_torch.errors import CaffeError, check
from allconv_caffe.caffe_torch.source import hdf5
from allconv_caffe.caffe_torch.upgrade import upgrade_net
from allconv_caffe.proto import NetParameter, ProtoError, StoredBlob, read_stored, unknown_fields, write_stored
from allconv_caffe.proto.caffemodel import blob_shape, is_hdf5, shape_equals

if TYPE_CHECKING:
    import h5py


class LayerBlobs(NamedTuple):
    """A layer as its weights are stored: its name, its parameters, and which of them belong to an earlier layer."""

    name: str
    blobs: Sequence[Blob]
    shared: Sequence[bool]


def load(layers: Sequence[LayerBlobs], path: str) -> None:
    """Copies weights by layer name from a .caffemodel or its HDF5 form, whichever the file is. Raises CaffeError."""
    try:
        in_hdf5 = is_hdf5(path)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise CaffeError(f"Couldn't open {path} ({getattr(error, 'strerror', None) or error})") from None
    (load_hdf5 if in_hdf5 else load_binary)(layers, path)


# .caffemodel
def load_binary(layers: Iterable[LayerBlobs], path: str | Path) -> None:
    """Copies weights by layer name (the first layer of that name) from a binary .caffemodel, array by array: beside
    the layers' own weights, no more than one array lies in memory (none on a CPU).

    Source: net.cpp, CopyTrainedLayersFrom.
    Raises: CaffeError: missing or damaged file, other number of blobs, other shape.
    """
    try:
        proto, stored = read_stored(path, NetParameter)
    except ProtoError as error:
        raise CaffeError(
            f"{error} (Failed to parse NetParameter file: {path})" if error.where else str(error)
        ) from None
    for place, number in unknown_fields(proto):
        glog.warning("weights.py:1", f"{path}: field number {number} in {place} is unknown to Caffe 1.0: not used")
    upgrade_net(proto, str(path))
    check(len(stored) == sum(len(layer.blobs) for layer in proto.layer), f"{path}: blobs in a layer that has none")
    targets: dict[str, Sequence[Blob]] = {}
    for layer in layers:
        targets.setdefault(layer.name, layer.blobs)
    waiting = iter(stored)
    for source in proto.layer:
        arrays = [next(waiting) for _ in source.blobs]
        if source.name not in targets:
            glog.info("net.cpp:746", f"Ignoring source layer {source.name}")
            continue
        try:
            _copy_layer(source, arrays, targets[source.name])
        except CaffeError as error:
            raise error.within(f"{path}: layer '{source.name}'") from None


def _copy_layer(source: Any, arrays: Sequence[StoredBlob], target: Sequence[Blob]) -> None:
    check(len(target) == len(source.blobs), f"Incompatible number of blobs for layer {source.name}")
    for j, (blob, proto, stored) in enumerate(zip(target, source.blobs, arrays, strict=True)):
        if not shape_equals(blob.shape, proto):
            shape = blob_shape(proto)
            stored_data(shape_count(shape), stored)
            raise CaffeError(
                f"Cannot copy param {j} weights from layer '{source.name}'; shape mismatch.  Source param shape is "
                f"{shape_string(shape)}; target param shape is {blob.shape_string}. "
                "To learn this layer's parameters from scratch rather than copying from a saved net, rename the layer."
            )
        blob.from_stored(stored)


def save_binary(outline: NetParameter, blobs: Iterable[Blob], path: str | Path, write_diff: bool = False) -> None:
    """Writes a binary .caffemodel; beside the net's own weights, none lies in memory (on a GPU, one array does).

    Args:
        outline: the net, its BlobProtos with shapes and without numbers.
        blobs: the parameters that these stand for, in their order.

    Raises: ProtoError: a folder that cannot be written, or over 2 GiB.
    """
    write_stored(path, outline, [blob.numbers(write_diff) for blob in blobs])


# HDF5: /data/<layer>/<i> (owners only), /diff likewise
def load_hdf5(layers: Iterable[LayerBlobs], path: str | Path) -> None:
    """Copies weights by layer name (the last layer of that name).

    Source: net.cpp, CopyTrainedLayersFromHDF5.
    Raises: CaffeError: missing or damaged file, other number of blobs, other shape.
    """
    import h5py

    targets = {layer.name: layer for layer in layers}
    with hdf5.reading(path, "Couldn't open") as file:
        sentence = f"Error reading weights from {path}"
        groups = hdf5.member(file, "data", h5py.Group, sentence)
        for name in groups:
            if name not in targets:
                glog.info("net.cpp:801", f"Ignoring source layer {name}")
                continue
            target, group = targets[name], hdf5.member(groups, name, h5py.Group, sentence)
            incompatible = f"{path}: Incompatible number of blobs for layer {name}"
            check(len(group) <= len(target.blobs), incompatible)
            for j, (blob, shared) in enumerate(zip(target.blobs, target.shared, strict=True)):
                if str(j) in group:
                    hdf5.load_nd_dataset(group, str(j), blob, f"{path}: layer '{name}'")
                else:
                    check(shared, incompatible)


def save_hdf5(layers: Sequence[LayerBlobs], path: Path, write_diff: bool = False) -> None:
    """Source: net.cpp, ToHDF5.

    Raises: CaffeError: a layer name that cannot be a new group: a second one, none, or a path to a group not there.
    """

    def fill(file: h5py.File) -> None:
        for name in ("data", "diff")[: 1 + write_diff]:
            group = file.create_group(name)
            for layer in layers:
                layer_group = _new_group(group, layer.name, f"layer_{name}_hid", path)
                for j, (blob, shared) in enumerate(zip(layer.blobs, layer.shared, strict=True)):
                    if (not shared or name == "diff") and str(j) not in layer_group:  # a sharer's diff is written, too
                        hdf5.save_nd_dataset(layer_group, str(j), getattr(blob, name))

    hdf5.write(path, fill, "weights")


def _new_group(parent: h5py.Group, name: str, handle: str, path: Path) -> h5py.Group:
    """What H5Gcreate2 makes of a name: `a/b` lies in the group `a`, which must be there; `/a` in the file's root."""
    import h5py

    try:
        return h5py.Group(h5py.h5g.create(parent.id, name.encode()))
    except (ValueError, RuntimeError, TypeError):
        sentence = f"Check failed: {handle} >= 0 (-1 vs. 0) Error saving weights to {path}."
        raise CaffeError(f"{sentence} (layer name '{name}'; BINARYPROTO takes any)") from None

"""Snapshots: `<prefix>_iter_<n>.caffemodel` and `.solverstate`, protobuf or HDF5, as Caffe writes and reads them.

Every file is written under another name and renamed, so a snapshot is whole or absent. Source: solver.cpp,
sgd_solver.cpp, net.cpp (ToHDF5), hdf5.cpp.
"""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import torch

from allconv_caffe.caffe_torch import glog
from allconv_caffe.caffe_torch.blob import MAX_AXES, Blob, blob_proto_shape
from allconv_caffe.caffe_torch.errors import CaffeError, check
from allconv_caffe.caffe_torch.source.hdf5 import DAMAGE, Sink, check_class, open_hdf5, reason
from allconv_caffe.caffe_torch.upgrade import upgrade_net
from allconv_caffe.proto import (
    NetParameter,
    Numbers,
    ProtoError,
    SolverParameter,
    SolverState,
    StoredBlob,
    read_stored,
    unknown_fields,
    write_stored,
)
from allconv_caffe.proto.files import shortened

if TYPE_CHECKING:
    from allconv_caffe.caffe_torch.net import Net
    from allconv_caffe.caffe_torch.solver import Solver


def complete_prefix(param: SolverParameter, solver_path: str | Path | None) -> None:
    """An absent snapshot_prefix becomes the solver's path without extension; a folder gets the solver's stem."""
    if solver_path is None:
        return
    stem = os.path.splitext(solver_path)[0]
    if not param.HasField("snapshot_prefix"):
        param.snapshot_prefix = stem
        glog.info("upgrade_proto.cpp:1108", f"snapshot_prefix was not specified and is set to {stem}")
    elif os.path.isdir(param.snapshot_prefix):
        param.snapshot_prefix = os.path.join(param.snapshot_prefix, os.path.basename(stem))
        glog.info(
            "upgrade_proto.cpp:1113", f"snapshot_prefix was a directory and is replaced to {param.snapshot_prefix}"
        )


def check_write_permissions(param: SolverParameter) -> None:
    """Fails before training, not at the first snapshot. Raises CaffeError."""
    if not param.snapshot:
        return
    check(param.HasField("snapshot_prefix"), "In solver params, snapshot is specified but snapshot_prefix is not")
    folder, name = os.path.split(param.snapshot_prefix)
    hdf5 = param.snapshot_format == SolverParameter.HDF5
    try:
        with contextlib.suppress(FileNotFoundError):
            os.lstat(file_name(param, param.snapshot, ".solverstate" + ".h5" * hdf5))  # the name may be too long
        with tempfile.NamedTemporaryFile(dir=folder or ".", prefix=shortened(name)):
            pass
    except (OSError, ValueError):  # ValueError: a NUL in the name
        raise CaffeError(
            f"Cannot write to snapshot prefix '{param.snapshot_prefix}'.  "
            "Make sure that the directory exists and is writable."
        ) from None


def file_name(param: SolverParameter, iteration: int, extension: str) -> str:
    return f"{param.snapshot_prefix}_iter_{iteration}{extension}"


def write(solver: Solver) -> tuple[str, str]:
    """Writes weights, then state; returns both paths."""
    param = solver.param
    check(solver.iter < 2**31, f"iteration {solver.iter}: a solver state counts to {2**31 - 1}")
    hdf5 = param.snapshot_format == SolverParameter.HDF5
    model = file_name(param, solver.iter, ".caffemodel" + (".h5" if hdf5 else ""))
    state = file_name(param, solver.iter, ".solverstate" + (".h5" if hdf5 else ""))
    try:
        if hdf5:
            glog.info("solver.cpp:474", f"Snapshotting to HDF5 file {model}")
            save_weights_hdf5(solver.net, Path(model), param.snapshot_diff)
            glog.info("sgd_solver.cpp:296", f"Snapshotting solver state to HDF5 file {state}")
            _write_state_hdf5(solver, model, Path(state))
        else:
            glog.info("solver.cpp:464", f"Snapshotting to binary proto file {model}")
            save_weights(solver.net, model, param.snapshot_diff)
            glog.info("sgd_solver.cpp:284", f"Snapshotting solver state to binary proto file {state}")
            _write_state(solver, model, state)
    except ProtoError as error:
        raise CaffeError(f"Check failed: proto.SerializeToOstream(&output) ({error.reason})", error.place) from None
    except (OSError, RuntimeError) as error:
        detail = getattr(error, "strerror", None) or error
        raise CaffeError(f"Cannot write the snapshot: {detail}", param.snapshot_prefix) from None
    return model, state


def _write_state(solver: Solver, model: str, path: str) -> None:
    state = SolverState(iter=solver.iter, learned_net=model, current_step=solver.current_step)
    for blob in solver.history:
        blob.to_proto(state.history.add(), with_data=False)
    write_stored(path, state, [_numbers(blob) for blob in solver.history])


def _numbers(blob: Blob, write_diff: bool = False) -> Numbers:
    """A blob's arrays for `write_stored`, fetched from their device when their turn comes."""
    return {name: (blob.count, partial(_array, blob, name)) for name in ("data", "diff")[: 1 + write_diff]}


def _array(blob: Blob, name: str) -> np.ndarray:
    return _numpy(getattr(blob, name))


def restore(solver: Solver, path: str) -> None:
    """Iteration, step, history, and the weights the state names.

    Raises:
        CaffeError: missing or damaged file, wrong number or shape of histories.
    """
    try:
        if path.endswith(".h5"):
            _restore_hdf5(solver, path)
        else:
            _restore_binary(solver, path)
    except ProtoError as error:
        raise CaffeError(str(error)) from None


def _restore_binary(solver: Solver, path: str) -> None:
    state, stored = read_stored(path, SolverState)
    solver.iter = state.iter
    if state.HasField("learned_net"):
        check(os.path.exists(state.learned_net), f"File not found: {state.learned_net}")
        solver.net.copy_trained_layers_from(state.learned_net)
    solver.current_step = state.current_step
    _check_history(len(state.history), solver, path)
    glog.info("sgd_solver.cpp:336", "SGDSolver: restoring history")
    for i, (blob, proto, numbers) in enumerate(zip(solver.history, state.history, stored, strict=True)):
        try:
            count = _stored_count(blob_proto_shape(proto))
            # an old state has four axes where the solver has fewer
            check(count == blob.count, f"history blob {i} has {count} values, the solver expects {blob.shape_string}")
            _fill(blob, numbers)
        except CaffeError as error:
            raise error.within(path) from None


def _check_history(found: int, solver: Solver, path: str) -> None:
    expected = len(solver.history)
    if found != expected:
        comparison = f"state.history_size() == history_.size() ({found} vs. {expected})"
        raise CaffeError(f"Check failed: {comparison} Incorrect length of history blobs.", path)


def _stored_count(shape: tuple[int, ...]) -> int:
    """How many values a stored shape means. Raises CaffeError for one that no blob can have, as Blob::Reshape."""
    check(len(shape) <= MAX_AXES, f"Check failed: shape.size() <= kMaxBlobAxes ({len(shape)} vs. {MAX_AXES})")
    count = 1
    for dim in shape:
        check(dim >= 0, f"Check failed: shape[i] >= 0 ({dim} vs. 0)")
        check(not count or dim <= (2**31 - 1) // count, "blob size exceeds INT_MAX")
        count *= dim
    return count


# weights
def save_weights(net: Net, path: str | Path, write_diff: bool = False) -> None:
    """Writes a binary .caffemodel; beside the net's own weights, none lies in memory (on a GPU, one array does).

    Raises: ProtoError: a folder that cannot be written, or over 2 GiB.
    """
    outline = net.to_proto(with_data=False)
    write_stored(path, outline, [_numbers(blob, write_diff) for layer in net.layers for blob in layer.blobs])


def load_weights(net: Net, path: str | Path) -> None:
    """Copies weights by layer name from a binary .caffemodel, array by array: beside the net's own weights, no more
    than one array lies in memory (none on a CPU).

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
        glog.warning("snapshot.py:1", f"{path}: field number {number} in {place} is unknown to Caffe 1.0: not used")
    upgrade_net(proto, str(path))
    check(len(stored) == sum(len(layer.blobs) for layer in proto.layer), f"{path}: blobs in a layer that has none")
    targets: dict[str, Any] = {}
    for layer in net.layers:
        targets.setdefault(layer.name, layer)
    waiting = iter(stored)
    for layer_param in proto.layer:
        numbers = [next(waiting) for _ in layer_param.blobs]
        if layer_param.name not in targets:
            glog.info("net.cpp:746", f"Ignoring source layer {layer_param.name}")
            continue
        try:
            _copy_layer(layer_param, numbers, targets[layer_param.name])
        except CaffeError as error:
            raise error.within(f"{path}: layer '{layer_param.name}'") from None


def _copy_layer(source: Any, numbers: list[StoredBlob], target: Any) -> None:
    check(len(target.blobs) == len(source.blobs), f"Incompatible number of blobs for layer {source.name}")
    for j, (blob, proto, stored) in enumerate(zip(target.blobs, source.blobs, numbers, strict=True)):
        if not blob.shape_equals(proto):
            shape = blob_proto_shape(proto)
            count = _stored_count(shape)
            _check_data(count, stored)
            raise CaffeError(
                f"Cannot copy param {j} weights from layer '{source.name}'; shape mismatch.  Source param shape is "
                f"{_shape_text(shape)}; target param shape is {blob.shape_string}. "
                "To learn this layer's parameters from scratch rather than copying from a saved net, rename the layer."
            )
        _fill(blob, stored)


def _shape_text(shape: tuple[int, ...]) -> str:
    return "".join(f"{dim} " for dim in shape) + f"({math.prod(shape)})"


def _check_data(expected: int, stored: StoredBlob) -> None:
    """Blob::FromProto's demand; an array of nothing has no memory to copy into."""
    count = stored.count("data")
    check(expected > 0, "Check failed: data_ (a blob without values)")
    check(count == expected, f"Check failed: count_ == proto.data_size() ({expected} vs. {count})")


def _fill(blob: Blob, stored: StoredBlob) -> None:
    """Reads data, and diff where there is one, into `blob`, whose count is the stored one's."""
    _check_data(blob.count, stored)
    diffs = stored.count("diff")
    check(diffs in (0, blob.count), f"Check failed: count_ == proto.diff_size() ({blob.count} vs. {diffs})")
    for name in ("data", "diff") if diffs else ("data",):
        tensor = getattr(blob, name)
        try:
            if tensor.device.type == "cpu" and tensor.is_contiguous():
                stored.read(name, tensor.detach().numpy())
            else:
                setattr(blob, name, torch.from_numpy(stored.read(name)).reshape(blob.shape).to(tensor.device))
        except ProtoError as error:
            raise CaffeError(str(error)) from None


# HDF5: /data/<layer>/<i> (owners only), /diff likewise; states: /iter, /current_step, /learned_net, /history/<i>
def _hdf5_to(path: Path, fill: Callable[[h5py.File], None], what: str) -> None:
    temporary = path.parent / f".{shortened(path.name)}.{os.getpid()}.tmp"
    try:
        with contextlib.closing(Sink(temporary)) as sink:
            with h5py.File(sink, "w") as file:
                fill(file)
            sink.check()
        os.replace(temporary, path)
    except (OSError, RuntimeError, ValueError) as error:
        raise CaffeError(f"Couldn't open {path} to save {what}. ({reason(error)})") from None
    finally:
        with contextlib.suppress(OSError, ValueError):
            temporary.unlink(missing_ok=True)


def save_weights_hdf5(net: Net, path: Path, write_diff: bool = False) -> None:
    """Raises CaffeError for a layer name that cannot be a new group: a second one, none, or a path to a group not there."""

    def fill(file: h5py.File) -> None:
        groups = [("data", "data")] + ([("diff", "diff")] if write_diff else [])
        for group_name, attribute in groups:
            group = file.create_group(group_name)
            for i, (name, layer) in enumerate(zip(net.layer_names, net.layers, strict=True)):
                layer_group = _new_group(group, name, f"layer_{attribute}_hid", path)
                for j, blob in enumerate(layer.blobs):
                    owns = net.param_owners[net.param_layer_indices.index((i, j))] < 0
                    if (owns or attribute == "diff") and str(j) not in layer_group:  # a sharer's diff is written, too
                        layer_group.create_dataset(str(j), data=_numpy(getattr(blob, attribute)))

    _hdf5_to(path, fill, "weights")


def _new_group(parent: h5py.Group, name: str, handle: str, path: Path) -> h5py.Group:
    """What H5Gcreate2 makes of a name: `a/b` lies in the group `a`, which must be there; `/a` in the file's root."""
    try:
        return h5py.Group(h5py.h5g.create(parent.id, name.encode()))
    except (ValueError, RuntimeError, TypeError):
        sentence = f"Check failed: {handle} >= 0 (-1 vs. 0) Error saving weights to {path}."
        raise CaffeError(f"{sentence} (layer name '{name}'; BINARYPROTO takes any)") from None


@contextlib.contextmanager
def _reading(path: str | Path, sentence: str) -> Iterator[h5py.File]:
    """An HDF5 file opened for reading. What HDF5 says of a damaged one becomes a CaffeError with the path, and, where
    it cannot even be opened, Caffe's `sentence`."""
    opened = False
    try:
        with open_hdf5(path) as file:
            opened = True
            yield file
    except DAMAGE as error:
        detail = reason(error)
        raise CaffeError(
            f"{path}: damaged HDF5 file: {detail}" if opened else f"{sentence} {path} ({detail})"
        ) from None


def load_weights_hdf5(net: Net, path: str | Path) -> None:
    """Copies weights by layer name (the last layer of that name). Raises CaffeError."""
    by_name = dict(zip(net.layer_names, net.layers, strict=True))
    with _reading(path, "Couldn't open") as file:
        sentence = f"Error reading weights from {path}"
        layers = _member(file, "data", h5py.Group, sentence)
        for name in layers:
            if name not in by_name:
                glog.info("net.cpp:801", f"Ignoring source layer {name}")
                continue
            layer, group = by_name[name], _member(layers, name, h5py.Group, sentence)
            check(len(group) <= len(layer.blobs), f"{path}: Incompatible number of blobs for layer {name}")
            for j, blob in enumerate(layer.blobs):
                if str(j) not in group:
                    index = net.param_layer_indices.index((net.layers.index(layer), j))
                    shared = net.param_owners[index] >= 0
                    check(shared, f"{path}: Incompatible number of blobs for layer {name}")
                    continue
                _read_dataset(group, str(j), blob, f"{path}: layer '{name}'")


def _member(group: h5py.Group, name: str, kind: type[Any], sentence: str) -> Any:
    """group[name], if it is of that kind. Raises CaffeError with Caffe's `sentence`."""
    try:
        found = group.get(name) if name in group else None
    except DAMAGE as error:
        raise CaffeError(f"{sentence} ({reason(error)})") from None
    if not isinstance(found, kind):
        said = "nothing" if found is None else type(found).__name__.lower()
        raise CaffeError(f"{sentence}: found {said} called '{name}', expected a {kind.__name__.lower()}")
    return found


_NUMBERS = "fiu"  # NumPy's letters for what HDF5 calls H5T_FLOAT and H5T_INTEGER


def _read_dataset(group: h5py.Group, name: str, blob: Blob, where: str) -> None:
    """Source: hdf5.cpp, hdf5_load_nd_dataset."""
    if name not in group:
        raise CaffeError(f"Failed to find HDF5 dataset {name}", where)
    dataset = group[name]
    if not isinstance(dataset, h5py.Dataset):
        raise CaffeError(f"Failed to get dataset ndims for {name}", where)
    check_class(dataset, f"{where} blob {name}")
    if tuple(dataset.shape) != blob.shape:
        raise CaffeError(
            f"Cannot load blob from hdf5; shape mismatch. Source shape is {_shape_text(dataset.shape)} "
            f"target shape is {blob.shape_string}",
            f"{where} blob {name}",
        )
    tensor = blob.data
    if tensor.device.type == "cpu" and blob.count:
        dataset.read_direct(tensor.detach().numpy())
    else:
        blob.data = torch.from_numpy(np.asarray(dataset, dtype=np.float32)).to(blob.device)


def _write_state_hdf5(solver: Solver, model: str, path: Path) -> None:
    def fill(file: h5py.File) -> None:
        file.create_dataset("iter", data=np.array([solver.iter], np.int32))
        _write_string(file, "learned_net", model)
        file.create_dataset("current_step", data=np.array([solver.current_step], np.int32))
        group = file.create_group("history")
        for i, blob in enumerate(solver.history):
            group.create_dataset(str(i), data=_numpy(blob.data))

    _hdf5_to(path, fill, "solver state")


def _write_string(file: h5py.File, name: str, text: str) -> None:
    """A string that ends with a NUL: Caffe reads on until it meets one. Source: hdf5.cpp, hdf5_save_string."""
    data = os.fsencode(text) + b"\0"
    kind = h5py.h5t.C_S1.copy()
    kind.set_size(len(data))
    kind.set_strpad(h5py.h5t.STR_NULLTERM)
    dataset = h5py.h5d.create(file.id, name.encode(), kind, h5py.h5s.create(h5py.h5s.SCALAR))
    dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, np.array(data, f"S{len(data)}"), kind)


def _restore_hdf5(solver: Solver, path: str) -> None:
    with _reading(path, "Couldn't open solver state file") as file:
        solver.iter = _integer(file, "iter", path)
        if "learned_net" in file:
            solver.net.copy_trained_layers_from(_text(_member(file, "learned_net", h5py.Dataset, path)))
        solver.current_step = _integer(file, "current_step", path)
        history = _member(file, "history", h5py.Group, f"Error reading history from {path}")
        _check_history(len(history), solver, path)
        for i, blob in enumerate(solver.history):
            _read_dataset(history, str(i), blob, f"{path}: history")


def _text(dataset: h5py.Dataset) -> str:
    """Source: hdf5.cpp, hdf5_load_string."""
    found: Any = dataset[(0,) * dataset.ndim] if dataset.size else b""
    return found.decode("utf-8", "backslashreplace") if isinstance(found, bytes) else str(found)


def _integer(file: h5py.File, name: str, path: str) -> int:
    """As HDF5 converts to an int: to the nearest one there is. Source: hdf5.cpp, hdf5_load_int."""
    sentence = f"{path}: Failed to load int dataset with name {name}"
    dataset = _member(file, name, h5py.Dataset, sentence)
    if dataset.dtype.kind not in _NUMBERS + "b" or not dataset.size:
        raise CaffeError(f"{sentence} (found {dataset.dtype}, {dataset.size} of them)")
    number = np.asarray(dataset[(0,) * dataset.ndim]).item()
    return 0 if number != number else int(max(-(2**31), min(2**31 - 1, number)))


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()

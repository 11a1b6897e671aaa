"""Snapshots: `<prefix>_iter_<n>.caffemodel` and `.solverstate`, protobuf or HDF5, as Caffe writes and reads them.

Every file is written under another name and renamed, so a snapshot is whole or absent. Source: solver.cpp,
sgd_solver.cpp, net.cpp (ToHDF5), hdf5.cpp.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import torch

from allconv_caffe.engine import glog
from allconv_caffe.engine.blob import Blob, blob_proto_shape
from allconv_caffe.engine.errors import CaffeError, check
from allconv_caffe.engine.upgrade import upgrade_net
from allconv_caffe.proto import (
    NetParameter,
    ProtoError,
    SolverParameter,
    SolverState,
    StoredBlob,
    read_stored,
    unknown_fields,
    write_binary,
)

if TYPE_CHECKING:
    from allconv_caffe.engine.net import Net
    from allconv_caffe.engine.solver import Solver


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
        glog.info("upgrade_proto.cpp:1113", f"snapshot_prefix was a directory and is replaced to {param.snapshot_prefix}")


def check_write_permissions(param: SolverParameter) -> None:
    """Fails before training, not at the first snapshot. Raises CaffeError."""
    if not param.snapshot:
        return
    check(param.HasField("snapshot_prefix"), "In solver params, snapshot is specified but snapshot_prefix is not")
    prefix = Path(param.snapshot_prefix)
    try:
        with tempfile.NamedTemporaryFile(dir=prefix.parent, prefix=prefix.name):
            pass
    except OSError:
        raise CaffeError(
            f"Cannot write to snapshot prefix '{param.snapshot_prefix}'.  "
            "Make sure that the directory exists and is writable."
        ) from None


def file_name(param: SolverParameter, iteration: int, extension: str) -> str:
    return f"{param.snapshot_prefix}_iter_{iteration}{extension}"


def write(solver: Solver) -> tuple[str, str]:
    """Writes weights, then state; returns both paths."""
    param = solver.param
    hdf5 = param.snapshot_format == SolverParameter.HDF5
    model = file_name(param, solver.iter, ".caffemodel" + (".h5" if hdf5 else ""))
    state = file_name(param, solver.iter, ".solverstate" + (".h5" if hdf5 else ""))
    try:
        if hdf5:
            glog.info("solver.cpp:464", f"Snapshotting to HDF5 file {model}")
            save_weights_hdf5(solver.net, Path(model), param.snapshot_diff)
            glog.info("sgd_solver.cpp:296", f"Snapshotting solver state to HDF5 file {state}")
            _write_state_hdf5(solver, model, Path(state))
        else:
            glog.info("solver.cpp:454", f"Snapshotting to binary proto file {model}")
            write_binary(model, solver.net.to_proto(param.snapshot_diff))
            glog.info("sgd_solver.cpp:284", f"Snapshotting solver state to binary proto file {state}")
            _write_state(solver, model, state)
    except OSError as error:
        raise CaffeError(f"Cannot write the snapshot: {error.strerror or error}", param.snapshot_prefix) from None
    return model, state


def _write_state(solver: Solver, model: str, path: str) -> None:
    state = SolverState(iter=solver.iter, learned_net=model, current_step=solver.current_step)
    for blob in solver.history:
        blob.to_proto(state.history.add())
    write_binary(path, state)


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
        solver.net.copy_trained_layers_from(state.learned_net)
    solver.current_step = state.current_step
    _check_history(len(state.history), solver, path)
    glog.info("sgd_solver.cpp:318", "SGDSolver: restoring history")
    for i, (blob, proto, numbers) in enumerate(zip(solver.history, state.history, stored, strict=True)):
        try:
            _check_history_shape(i, blob_proto_shape(proto), blob)
            _fill(blob, numbers)
        except CaffeError as error:
            raise error.within(path) from None


def _check_history(found: int, solver: Solver, path: str) -> None:
    expected = len(solver.history)
    if found != expected:
        raise CaffeError(f"Incorrect length of history blobs. ({found} vs. {expected})", path)


def _check_history_shape(i: int, found: tuple[int, ...], blob: Blob) -> None:
    check(found == blob.shape, f"history blob {i} has shape {found}, the solver expects {blob.shape}")


# weights
def load_weights(net: Net, path: Path) -> None:
    """Copies weights by layer name from a binary .caffemodel, array by array: beside the net's own weights, no more
    than one array lies in memory (none on a CPU).

    Source: net.cpp, CopyTrainedLayersFrom.
    Raises: CaffeError: missing or damaged file, other number of blobs, other shape.
    """
    try:
        proto, stored = read_stored(path, NetParameter)
    except ProtoError as error:
        raise CaffeError(str(error)) from None
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
            glog.info("net.cpp:734", f"Ignoring source layer {layer_param.name}")
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
            raise CaffeError(
                f"Cannot copy param {j} weights from layer '{source.name}'; shape mismatch.  Source param shape is "
                f"{''.join(f'{d} ' for d in shape)}({math.prod(shape)}); target param shape is {blob.shape_string}. "
                "To learn this layer's parameters from scratch rather than copying from a saved net, rename the layer."
            )
        _fill(blob, stored)


def _fill(blob: Blob, stored: StoredBlob) -> None:
    """Reads data, and diff where there is one, into `blob`, whose shape is the stored one's."""
    for name in ("data", "diff"):
        count = stored.count(name)
        if not count and name == "diff":
            continue
        check(count == blob.count, f"Check failed: count_ == proto.{name}_size() ({blob.count} vs. {count})")
        tensor = getattr(blob, name)
        try:
            if tensor.device.type == "cpu" and tensor.is_contiguous():
                stored.read(name, tensor.detach().numpy())
            else:
                setattr(blob, name, torch.from_numpy(stored.read(name)).reshape(blob.shape).to(tensor.device))
        except ProtoError as error:
            raise CaffeError(str(error)) from None


# HDF5: /data/<layer>/<i> (owners only), /diff likewise; states: /iter, /current_step, /learned_net, /history/<i>
def _hdf5_to(path: Path, fill: Callable[[h5py.File], None]) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with h5py.File(temporary, "w") as file:
            fill(file)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_weights_hdf5(net: Net, path: Path, write_diff: bool = False) -> None:
    """Raises CaffeError for a layer name with a slash, which HDF5 takes for a group (real Caffe aborts, too)."""
    for name in net.layer_names:
        check("/" not in name, f"Error saving weights to {path}: layer name '{name}' has a slash; use BINARYPROTO")

    def fill(file: h5py.File) -> None:
        groups = [("data", "data")] + ([("diff", "diff")] if write_diff else [])
        for group_name, attribute in groups:
            group = file.create_group(group_name)
            for i, (name, layer) in enumerate(zip(net.layer_names, net.layers, strict=True)):
                layer_group = group.require_group(name)
                for j, blob in enumerate(layer.blobs):
                    if net.param_owners[net.param_layer_indices.index((i, j))] < 0 and str(j) not in layer_group:
                        layer_group.create_dataset(str(j), data=_numpy(getattr(blob, attribute)))

    _hdf5_to(path, fill)


def load_weights_hdf5(net: Net, path: Path) -> None:
    """Copies weights by layer name (the last layer of that name). Raises CaffeError."""
    by_name = dict(zip(net.layer_names, net.layers, strict=True))
    try:
        with h5py.File(path, "r") as file:
            check("data" in file, f"Error reading weights from {path}: no group 'data'")
            for name, group in file["data"].items():
                if name not in by_name:
                    glog.info("net.cpp:780", f"Ignoring source layer {name}")
                    continue
                layer = by_name[name]
                check(len(group) <= len(layer.blobs), f"Incompatible number of blobs for layer {name}")
                for j, blob in enumerate(layer.blobs):
                    if str(j) not in group:
                        index = net.param_layer_indices.index((net.layers.index(layer), j))
                        check(net.param_owners[index] >= 0, f"Incompatible number of blobs for layer {name}")
                        continue
                    _read_dataset(group[str(j)], blob, f"{path}: layer '{name}' blob {j}")
    except OSError as error:
        raise CaffeError(f"Couldn't open {path} ({error})") from None


def _read_dataset(dataset: h5py.Dataset, blob: Blob, where: str) -> None:
    if tuple(dataset.shape) != blob.shape:
        raise CaffeError(f"shape mismatch: found {tuple(dataset.shape)}, expected {blob.shape}", where)
    blob.data = torch.from_numpy(np.asarray(dataset, dtype=np.float32)).to(blob.device)


def _write_state_hdf5(solver: Solver, model: str, path: Path) -> None:
    def fill(file: h5py.File) -> None:
        file.create_dataset("iter", data=np.array([solver.iter], np.int32))
        file.create_dataset("learned_net", data=np.bytes_(model))
        file.create_dataset("current_step", data=np.array([solver.current_step], np.int32))
        group = file.create_group("history")
        for i, blob in enumerate(solver.history):
            group.create_dataset(str(i), data=_numpy(blob.data))

    _hdf5_to(path, fill)


def _restore_hdf5(solver: Solver, path: str) -> None:
    try:
        with h5py.File(path, "r") as file:
            for key in ("iter", "current_step", "history"):
                check(key in file, f"{path}: Error loading solver state: no '{key}'")
            solver.iter = int(np.asarray(file["iter"]).reshape(-1)[0])
            if "learned_net" in file:
                model: Any = file["learned_net"][()]
                solver.net.copy_trained_layers_from(model.decode() if isinstance(model, bytes) else str(model))
            solver.current_step = int(np.asarray(file["current_step"]).reshape(-1)[0])
            _check_history(len(file["history"]), solver, path)
            for i, blob in enumerate(solver.history):
                _read_dataset(file["history"][str(i)], blob, f"{path}: history blob {i}")
    except OSError as error:
        raise CaffeError(f"Couldn't open {path} ({error})") from None


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()



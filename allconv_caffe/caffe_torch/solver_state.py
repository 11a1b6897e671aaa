"""The state of a solver, read and written: a .solverstate, and the same in HDF5.

A file is written whole or not at all. Source: sgd_solver.cpp (SnapshotSolverStateTo..., RestoreSolverStateFrom...).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from allconv_caffe.caffe_torch import glog
from allconv_caffe.caffe_torch.blob import Blob, shape_count
from allconv_caffe.caffe_torch.errors import CaffeError, check
from allconv_caffe.caffe_torch.source import hdf5
from allconv_caffe.proto import ProtoError, SolverState, read_stored, write_stored
from allconv_caffe.proto.caffemodel import blob_shape

if TYPE_CHECKING:
    import h5py


@dataclass(frozen=True)
class State:
    """Where a training stands.

    Attributes:
        iter: iterations done.
        current_step: steps that a multistep policy has taken.
        history: what the solver keeps for each parameter.
        learned_net: the file with the weights of this moment; "": none is named.
    """

    iter: int
    current_step: int
    history: Sequence[Blob]
    learned_net: str


def save_binary(state: State, path: str) -> None:
    """Writes a binary .solverstate. Raises: ProtoError: a folder that cannot be written, or over 2 GiB."""
    proto = SolverState(iter=state.iter, learned_net=state.learned_net, current_step=state.current_step)
    for blob in state.history:
        blob.to_proto(proto.history.add(), with_data=False)
    write_stored(path, proto, [blob.numbers() for blob in state.history])


def load_binary(path: str, history: Sequence[Blob], load_net: Callable[[str], object]) -> State:
    """Reads a binary .solverstate, its history into `history`; the weights that it names go to `load_net` before.

    Raises: CaffeError: missing or damaged file, another number or other sizes of histories.
    """
    try:
        proto, stored = read_stored(path, SolverState)
    except ProtoError as error:
        raise CaffeError(str(error)) from None
    if proto.HasField("learned_net"):
        check(os.path.exists(proto.learned_net), f"File not found: {proto.learned_net}")
        load_net(proto.learned_net)
    _check_length(len(proto.history), history, path)
    glog.info("sgd_solver.cpp:336", "SGDSolver: restoring history")
    for i, (blob, source, arrays) in enumerate(zip(history, proto.history, stored, strict=True)):
        try:
            count = shape_count(blob_shape(source))
            # an old state has four axes where the solver has fewer
            check(count == blob.count, f"history blob {i} has {count} values, the solver expects {blob.shape_string}")
            blob.from_stored(arrays)
        except CaffeError as error:
            raise error.within(path) from None
    return _checked(State(proto.iter, proto.current_step, history, proto.learned_net), path)


def _checked(state: State, path: str) -> State:
    """Raises CaffeError: Caffe would train for years, or look for a stepvalue before the first."""
    for name in ("iter", "current_step"):
        number = getattr(state, name)
        if number < 0:
            raise CaffeError(f"found {name} {number}, expected 0 or more", path)
    return state


def _check_length(found: int, history: Sequence[Blob], path: str) -> None:
    expected = len(history)
    if found != expected:
        comparison = f"state.history_size() == history_.size() ({found} vs. {expected})"
        raise CaffeError(f"Check failed: {comparison} Incorrect length of history blobs.", path)


# HDF5: /iter, /learned_net, /current_step, /history/<i>
def save_hdf5(state: State, path: Path) -> None:
    """Raises: CaffeError: a file that cannot be written."""

    def fill(file: h5py.File) -> None:
        hdf5.save_int(file, "iter", state.iter)
        hdf5.save_string(file, "learned_net", state.learned_net)
        hdf5.save_int(file, "current_step", state.current_step)
        group = file.create_group("history")
        for i, blob in enumerate(state.history):
            hdf5.save_nd_dataset(group, str(i), blob.data)

    hdf5.write(path, fill, "solver state")


def load_hdf5(path: str, history: Sequence[Blob], load_net: Callable[[str], object]) -> State:
    """As `load_binary` does.

    Raises: CaffeError: missing or damaged file, another number or other shapes of histories.
    """
    import h5py

    with hdf5.reading(path, "Couldn't open solver state file") as file:
        iteration, learned_net = hdf5.load_int(file, "iter", path), ""
        if "learned_net" in file:
            learned_net = hdf5.load_string(hdf5.member(file, "learned_net", h5py.Dataset, path))
            load_net(learned_net)
        current_step = hdf5.load_int(file, "current_step", path)
        group = hdf5.member(file, "history", h5py.Group, f"Error reading history from {path}")
        _check_length(len(group), history, path)
        for i, blob in enumerate(history):
            hdf5.load_nd_dataset(group, str(i), blob, f"{path}: history")
    return _checked(State(iteration, current_step, history, learned_net), path)

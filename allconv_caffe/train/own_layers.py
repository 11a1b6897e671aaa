"""The data layers of a net of somebody's own: which they are, what they read, and how to make them read something else."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allconv_caffe.caffe_torch import glog
from allconv_caffe.caffe_torch.errors import CaffeError
from allconv_caffe.caffe_torch.net_filter import filter_net
from allconv_caffe.proto import TEST, TRAIN, LayerParameter, NetParameter, NetState, SolverParameter
from allconv_caffe.train import data as data_
from allconv_caffe.train.settings import DriverError

_PHASES = {TRAIN: "TRAIN", TEST: "TEST"}


@dataclass(frozen=True)
class Feed:
    """A layer that reads images from disk: the layer itself, in the net that it stands in."""

    layer: LayerParameter

    @property
    def _words(self) -> dict[str, Any]:
        """The param_str of AugmentedData."""
        try:
            words = json.loads(self.layer.python_param.param_str)
        except ValueError:
            return {}
        return words if isinstance(words, dict) else {}

    @property
    def _param(self) -> Any:
        return {
            "Data": self.layer.data_param,
            "ImageData": self.layer.image_data_param,
            "HDF5Data": self.layer.hdf5_data_param,
        }.get(self.layer.type)

    @property
    def source(self) -> str:
        """What it reads; "" where it says nothing of it."""
        return str(self._words.get("source", "") if self._param is None else self._param.source)

    @property
    def batch_size(self) -> int:
        """Images of a batch."""
        found = self._words.get("batch_size", 0) if self._param is None else self._param.batch_size
        return int(found) if isinstance(found, int) else 0

    @property
    def reads_lmdb(self) -> bool:
        """Whether another LMDB may be given to it."""
        return self.layer.type in ("Data", "Python")

    def set(self, **values: Any) -> None:
        """Change source or batch_size."""
        if self._param is None:
            self.layer.python_param.param_str = json.dumps({**self._words, **values})
            return
        for name, value in values.items():
            setattr(self._param, name, value)

    def count(self, root: Path, where: Path) -> int:
        """How many images its source holds.

        Raises:
            DriverError: nothing there, or not what the layer reads.
        """
        path = root / self.source
        try:
            if self.layer.type == "ImageData":
                return sum(1 for line in path.read_text(errors="replace").splitlines() if line.strip())
            if self.layer.type == "HDF5Data":
                return sum(_rows(root / line) for line in path.read_text().split())
        except OSError as error:
            place = f"{where}: layer '{self.layer.name}'"
            raise DriverError(place, f"found no {self.source} ({error.strerror or error})") from None
        return data_.records(path)


def _rows(path: Path) -> int:
    from allconv_caffe.caffe_torch.source.hdf5 import open_hdf5

    with open_hdf5(path) as file:
        return max((int(entry.shape[0]) for entry in file.values() if getattr(entry, "shape", ())), default=0)


def of_phase(net: NetParameter, phase: int, solver: SolverParameter) -> NetParameter:
    """The layers of a phase, which the solver's train_state or test_state may narrow."""
    full = NetParameter()
    full.CopyFrom(net)
    full.state.MergeFrom(state_of(solver, phase))
    full.state.phase = phase
    with glog.quiet():
        return filter_net(full)


def state_of(solver: SolverParameter, phase: int) -> NetState:
    if phase == TRAIN:
        return solver.train_state
    return solver.test_state[0] if solver.test_state else NetState()


def feed_of(net: NetParameter, phase: int, solver: SolverParameter, where: Path) -> Feed:
    """The layer of ``net`` that reads the images of a phase.

    Raises:
        DriverError: none, or one of whose images nothing is known.
    """
    try:
        kept = of_phase(net, phase, solver)
    except CaffeError as error:
        raise DriverError.of(error).within(str(where)) from None
    first = next((layer for layer in kept.layer if not layer.bottom), None)
    known = ("Data", "ImageData", "HDF5Data", "Python (AugmentedData)")
    if first is None:
        raise DriverError(
            where, f"found no data layer in the {_PHASES[phase]} phase (choices: {', '.join(known)})", choices=known
        )
    text = first.SerializeToString(deterministic=True)
    feed = Feed(next(layer for layer in net.layer if layer.SerializeToString(deterministic=True) == text))
    if first.type not in ("Data", "ImageData", "HDF5Data", "Python") or not feed.source or feed.batch_size < 1:
        raise DriverError(
            f"{where}: layer '{first.name}'",
            f"found {first.type} without a source and a batch_size, expected a layer that names its images (choices: "
            f"{', '.join(known)})",
            choices=known,
        )
    if first.type == "Data" and first.data_param.backend != first.data_param.LMDB:
        raise DriverError(f"{where}: layer '{first.name}'", "found backend LEVELDB, expected LMDB")
    return feed

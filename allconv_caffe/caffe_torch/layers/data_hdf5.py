"""HDF5Data and HDF5Output.

Source: hdf5_data_layer.cpp, hdf5_output_layer.cpp, hdf5.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from allconv_caffe.caffe_torch import glog
from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.errors import CaffeError, check
from allconv_caffe.caffe_torch.layer import Layer, register
from allconv_caffe.caffe_torch.layers.data import SourceLayer
from allconv_caffe.caffe_torch.source.hdf5 import Sink, check_class, open_hdf5, reason
from allconv_caffe.caffe_torch.source.share import ALONE
from allconv_caffe.files import check_file, open_file
from allconv_caffe.proto import TRAIN, LayerParameter


class CRand:
    """glibc's rand() from its start (seed 1), one sequence for the process: what std::random_shuffle draws from."""

    def __init__(self) -> None:
        state = [1]
        for _ in range(30):
            state.append(16807 * state[-1] % 2147483647)
        self._state = state + state[:3]
        for _ in range(34, 344):
            self._step()

    def _step(self) -> int:
        self._state.append((self._state[-31] + self._state[-3]) & 0xFFFFFFFF)
        del self._state[0]
        return self._state[-1]

    def rand(self) -> int:
        return self._step() >> 1

    def shuffle(self, items: np.ndarray) -> None:
        """libstdc++'s random_shuffle, in place."""
        for i in range(1, len(items)):
            j = self.rand() % (i + 1)
            items[i], items[j] = items[j], items[i]


RAND = CRand()


def load_dataset(file: Any, name: str, shapes_only: bool = False) -> np.ndarray:
    """A data set as float32, whatever its numeric type, or zeros of its shape that take no memory.

    Raises CaffeError: missing, without axes, not numbers.
    """
    import h5py

    check(isinstance(file.get(name), h5py.Dataset), f"Failed to find HDF5 dataset {name}")
    dataset = file[name]
    check(dataset.ndim >= 1, f"Check failed: ndims >= min_dim ({dataset.ndim} vs. 1)")
    check_class(dataset)
    if shapes_only:
        return np.broadcast_to(np.float32(0), dataset.shape)
    return np.ascontiguousarray(dataset[()], dtype=np.float32)


@register("HDF5Data")
class HDF5DataLayer(SourceLayer):
    """tops = the next batch_size rows of the HDF5 data sets of the same names, file after file, going round.

    Of N solvers that train together, number r takes rows r, r + N, r + 2N, ...
    `shuffle` shuffles the files, and the rows within each, with C's rand() as Caffe does, not with `random_seed`.
    Source: hdf5_data_layer.cpp.
    """

    min_top = 1

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        check(not self.param.HasField("transform_param"), f"{self.type} does not transform data.")
        param = self.param.hdf5_data_param
        self.shuffle: bool = param.shuffle and not self.ctx.shapes_only  # which would take from RAND
        glog.info("hdf5_data_layer.cpp:81", f"Loading list of HDF5 filenames from: {param.source}")
        try:
            with open_file(param.source, pipes=True) as file:
                self.files = [name.decode("utf-8", "surrogateescape") for name in file.read().split()]
        except FileNotFoundError:
            raise CaffeError(f"Failed to open source file: {param.source}") from None
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            raise CaffeError(f"Failed to open source file: {param.source} ({reason(error)})") from None
        glog.info("hdf5_data_layer.cpp:95", f"Number of HDF5 files: {len(self.files)}")
        check(len(self.files) >= 1, f"Must have at least 1 HDF5 filename listed in {param.source}")
        self.file_order = np.arange(len(self.files))
        if self.shuffle:
            RAND.shuffle(self.file_order)
        self.current_file = self.current_row = 0
        self._share = self.ctx.share if self.phase == TRAIN else ALONE
        self._offset = 0
        self.arrays: list[np.ndarray] = []
        self._load()
        for blob, array in zip(top, self.arrays, strict=True):
            blob.reshape(param.batch_size, *array.shape[1:])

    def _load(self) -> None:
        path = self.files[self.file_order[self.current_file]]
        try:
            with open_hdf5(path) as file:
                arrays = [load_dataset(file, name, self.ctx.shapes_only) for name in self.param.top]
        except CaffeError as error:
            raise error.within(path) from None
        except (
            Exception
        ) as error:  # h5py says of a damaged file what comes to its mind: OSError, RuntimeError, KeyError
            raise CaffeError(f"Failed opening HDF5 file: {path} ({reason(error)})") from None
        rows = len(arrays[0])
        for array in arrays[1:]:
            if len(array) != rows:
                raise CaffeError(f"Check failed: hdf_blobs_[i]->shape(0) == num ({len(array)} vs. {rows})", path)
        for name, array, before in zip(self.param.top, arrays, self.arrays, strict=False):
            if array.shape[1:] != before.shape[1:]:
                raise CaffeError(
                    f"found rows of shape {array.shape[1:]} in dataset {name}, expected {before.shape[1:]}",
                    path,
                )
        if not rows:
            raise CaffeError("Check failed: data_ (found no rows)", path)
        self.arrays, self.row_order = arrays, np.arange(rows)
        if self.shuffle:
            RAND.shuffle(self.row_order)

    def _next(self) -> None:
        self._offset += 1
        self.current_row += 1
        if self.current_row < len(self.row_order):
            return
        if len(self.files) > 1:
            self.current_file += 1
            if self.current_file == len(self.files):
                self.current_file = 0
                if self.shuffle:
                    RAND.shuffle(self.file_order)
            self._load()
        self.current_row = 0
        if self.shuffle:
            RAND.shuffle(self.row_order)

    def next_batch(self) -> list[torch.Tensor]:
        """One float32 tensor for each top, (N, ...), on the net's device."""
        if self.current_row >= len(self.row_order):  # the next file could not be read; it may be there by now
            self._load()
            self.current_row = 0
        batch: list[list[np.ndarray]] = [[] for _ in self.arrays]
        for _ in range(self.param.hdf5_data_param.batch_size):
            while self._offset % self._share.count != self._share.rank:
                self._next()
            row = self.row_order[self.current_row]
            for rows, array in zip(batch, self.arrays, strict=True):
                rows.append(array[row])
            self._next()
        return [torch.from_numpy(np.stack(rows)).to(self.ctx.device) for rows in batch]

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        if not self.param.hdf5_data_param.batch_size:
            return
        for blob, value in zip(top, self.next_batch(), strict=True):
            blob.data = value


@register("HDF5Output")
class HDF5OutputLayer(Layer):
    """Writes bottom[0] and bottom[1] to an HDF5 file as data sets "data" and "label", four axes each.

    The file is emptied when the layer is made, and holds one batch: a second forward stops, as in Caffe.
    Source: hdf5_output_layer.cpp.
    """

    traceable = False
    num_bottom, num_top = 2, 0

    def __init__(self, param: LayerParameter, context: Any) -> None:
        super().__init__(param, context)
        self._file: Any = None

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.file_name: str = self.param.hdf5_output_param.file_name
        if self.ctx.shapes_only:
            return
        import h5py

        try:
            check_file(self.file_name)
            self._sink = Sink(self.file_name)
            self._file = h5py.File(self._sink, "w")
        except (OSError, ValueError) as error:
            raise CaffeError(f"Failed to open HDF5 file {self.file_name} ({reason(error)})") from None

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """There is no top."""

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        data, label = bottom
        check(
            data.legacy_shape(0) == label.legacy_shape(0),
            f"Check failed: bottom[0]->num() == bottom[1]->num() ({data.legacy_shape(0)} vs. {label.legacy_shape(0)})",
        )
        glog.info("hdf5_output_layer.cpp:33", f"Saving HDF5 file {self.file_name}")
        for name, blob in (("data", data), ("label", label)):
            shape = tuple(blob.legacy_shape(i) for i in range(4))
            if name in self._file:
                raise CaffeError(f"Failed to make float dataset {name}: the file holds one", self.file_name)
            self._file.create_dataset(name, data=blob.data.detach().cpu().numpy().reshape(shape))
        self._file.flush()
        try:
            self._sink.check()
        except OSError as error:
            raise CaffeError(f"Failed to make float dataset label ({reason(error)})", self.file_name) from None
        glog.info("hdf5_output_layer.cpp:38", f"Successfully saved {data.legacy_shape(0)} rows")

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        """Nothing flows back."""

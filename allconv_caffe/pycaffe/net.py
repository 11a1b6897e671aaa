"""pycaffe's `Net`: the engine's net with blobs as NumPy arrays.

Source: _caffe.cpp, python/caffe/pycaffe.py, net.cpp.
"""

from __future__ import annotations

import operator
import os
import stat
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np

from allconv_caffe.caffe_torch import glog, net as engine
from allconv_caffe.caffe_torch.layer import Layer as EngineLayer
from allconv_caffe.caffe_torch.layers.data_memory import MemoryDataLayer
from allconv_caffe.caffe_torch.layers.python import PythonLayer
from allconv_caffe.caffe_torch.pyblob import PyBlob, PyBlobVec, PyLayer
from allconv_caffe.files import open_file
from allconv_caffe.proto import NetParameter, parse_text, read_net
from allconv_caffe.pycaffe import common
from allconv_caffe.pycaffe.common import as_pycaffe

Path_ = str | os.PathLike[str]
Arrays = dict[str, np.ndarray]


class Layer(PyLayer):
    """A layer of a net: `blobs`, `type`, and `setup`, `reshape`, `forward`, `backward` with lists of blobs."""

    def setup(self, bottom: Sequence[PyBlob], top: Sequence[PyBlob]) -> None:
        self.layer.recording = None
        self.layer.setup([b.blob for b in bottom], [t.blob for t in top])

    def reshape(self, bottom: Sequence[PyBlob], top: Sequence[PyBlob]) -> None:
        self.layer.recording = None
        self.layer.reshape([b.blob for b in bottom], [t.blob for t in top])

    def forward(self, bottom: Sequence[PyBlob], top: Sequence[PyBlob]) -> None:
        self.layer.recording = None
        self.layer.forward([b.blob for b in bottom], [t.blob for t in top])

    def backward(self, top: Sequence[PyBlob], propagate_down: Sequence[bool], bottom: Sequence[PyBlob]) -> None:
        self.layer.backward([t.blob for t in top], list(propagate_down), [b.blob for b in bottom])


def _face(layer: EngineLayer) -> PyLayer:
    """The user's own object for a Python layer, else a `Layer`."""
    return layer.self_ if isinstance(layer, PythonLayer) else Layer.bind(layer)


def check_file(path: Path_) -> str:
    """The path as text. Raises: RuntimeError where the file cannot be opened for reading."""
    name = os.fspath(path)
    try:
        if not stat.S_ISFIFO(os.stat(name).st_mode):  # a pipe gives what it holds but once
            open_file(name).close()
        return name
    except (OSError, ValueError):
        raise RuntimeError(f"Could not open file {name}") from None


class Net:
    """A net for one phase.

    ``Net(network_file, phase, level=0, stages=None, weights=None)``, or in the old form ``Net(network_file, weights,
    phase)``. `Net.from_text` takes the prototxt itself, `Net.from_proto` a NetParameter.

    Args:
        network_file: prototxt.
        phase: TRAIN (0) or TEST (1).
        level, stages: what the layers' include and exclude rules are held against.
        weights: .caffemodel or its HDF5 form, copied by layer name.

    Raises:
        RuntimeError: a file that cannot be opened.
        CaffeError: what stops Caffe, in its words.
        Whatever user code in a Python layer raises.
    """

    _net: engine.Net

    def __init__(
        self,
        network_file: Path_,
        phase: int | Path_,
        level: int | None = None,
        stages: Sequence[str] | None = None,
        weights: Path_ | None = None,
    ) -> None:
        if isinstance(phase, (str, os.PathLike)):  # Net(network_file, weights, phase)
            if level is None or stages is not None or weights is not None:
                raise TypeError(
                    f"Net(network_file, weights, phase): found phase {phase!r}, expected a number for it, no stages and no "
                    "second weights"
                )
            network_file, weights, phase, level = os.fspath(network_file), os.fspath(phase), operator.index(level), 0
            for line in (
                "DEPRECATION WARNING - deprecated use of Python interface",
                'Use this instead (with the named "weights" parameter):',
                f"Net('{network_file}', {phase}, weights='{weights}')",
            ):
                glog.warning("_caffe.cpp:139", line)
            check_file(weights)
        where = check_file(network_file)
        with as_pycaffe():
            param = read_net(where)
        self._build(param, operator.index(phase), level or 0, stages, weights, where)

    @classmethod
    def from_text(
        cls, text: str, phase: int, level: int = 0, stages: Sequence[str] | None = None, weights: Path_ | None = None
    ) -> Net:
        """The net of a prototxt that is at hand as text. Differs: real pycaffe wants a file."""
        with as_pycaffe():
            param = parse_text(text, NetParameter)
        return cls.from_proto(param, phase, level, stages, weights)

    @classmethod
    def from_proto(
        cls, param: Any, phase: int, level: int = 0, stages: Sequence[str] | None = None, weights: Path_ | None = None
    ) -> Net:
        """The net of a NetParameter, such as `to_proto` gives. Differs: real pycaffe wants a file."""
        net = cls.__new__(cls)
        net._build(param, operator.index(phase), level, stages, weights, "")
        return net

    @classmethod
    def wrap(cls, net: engine.Net) -> Net:
        """The face of a net that the engine made, such as a solver's."""
        own = cls.__new__(cls)
        own._adopt(net)
        return own

    def _build(
        self, param: Any, phase: int, level: int, stages: Sequence[str] | None, weights: Path_ | None, where: str
    ) -> None:
        if isinstance(stages, str):
            raise TypeError(f"stages: found the text {stages!r}, expected a list of texts")
        with as_pycaffe():
            net = engine.Net(
                param, common.context(phase, fast=True), level=level, stages=list(stages or ()), where=where
            )
            if weights is not None:
                net.copy_trained_layers_from(check_file(weights))
        self._adopt(net)

    def _adopt(self, net: engine.Net) -> None:
        self._net = net
        self._blob_list = [PyBlob(blob) for blob in net.blob_list]
        self._layers = [_face(layer) for layer in net.layers]
        named = net.blob_names
        self._top_names = {
            name: [named[j] for j in ids] for name, ids in zip(net.layer_names, net.top_ids, strict=True)
        }
        self._bottom_names = {
            name: [named[j] for j in ids] for name, ids in zip(net.layer_names, net.bottom_ids, strict=True)
        }
        self._params_dict: OrderedDict[str, PyBlobVec] | None = None
        self._blobs_dict: OrderedDict[str, PyBlob] = OrderedDict(zip(named, self._blob_list, strict=True))

    # what the net consists of
    @property
    def layers(self) -> list[PyLayer]:
        """The layers, from input to output; those of splits included."""
        return self._layers

    @property
    def _blobs(self) -> list[PyBlob]:
        return self._blob_list

    @property
    def blobs(self) -> OrderedDict[str, PyBlob]:
        """The blobs by name, from input to output; those of splits included."""
        return self._blobs_dict

    @property
    def blob_loss_weights(self) -> OrderedDict[str, float]:
        return OrderedDict(zip(self._net.blob_names, self._net.blob_loss_weights, strict=True))

    @property
    def layer_dict(self) -> OrderedDict[str, PyLayer]:
        """The layers by name; of two with the same name, the last."""
        return OrderedDict(zip(self._net.layer_names, self.layers, strict=True))

    @property
    def params(self) -> OrderedDict[str, PyBlobVec]:
        """The parameters of every layer that has some, by the layer's name: one dictionary for all calls, as in pycaffe."""
        if self._params_dict is None:
            pairs = zip(self._net.layer_names, self.layers, strict=True)
            self._params_dict = OrderedDict((name, layer.blobs) for name, layer in pairs if len(layer.blobs))
        return self._params_dict

    @property
    def inputs(self) -> list[str]:
        """The tops of Input layers."""
        return [self._net.blob_names[i] for i in self._net.net_input_ids]

    @property
    def outputs(self) -> list[str]:
        """The tops that no layer takes, in byte order of their names."""
        return [self._net.blob_names[i] for i in self._net.output_ids]

    @property
    def _input_list(self) -> list[str]:
        return self.inputs

    @property
    def _output_list(self) -> list[str]:
        return self.outputs

    @property
    def top_names(self) -> OrderedDict[str, list[str]]:
        return OrderedDict(self._top_names)

    @property
    def bottom_names(self) -> OrderedDict[str, list[str]]:
        return OrderedDict(self._bottom_names)

    @property
    def _layer_names(self) -> list[str]:
        return list(self._net.layer_names)

    @property
    def _blob_names(self) -> list[str]:
        return list(self._net.blob_names)

    @property
    def _blob_loss_weights(self) -> list[float]:
        return list(self._net.blob_loss_weights)

    @property
    def _inputs(self) -> list[int]:
        return list(self._net.net_input_ids)

    @property
    def _outputs(self) -> list[int]:
        return list(self._net.output_ids)

    def _top_ids(self, i: int) -> list[int]:
        return list(self._net.top_ids[_index(i, len(self.layers))])

    def _bottom_ids(self, i: int) -> list[int]:
        return list(self._net.bottom_ids[_index(i, len(self.layers))])

    # running
    def forward(
        self, blobs: Sequence[str] | None = None, start: str | None = None, end: str | None = None, **kwargs: Any
    ) -> Arrays:
        """Runs the layers from `start` to `end`, both included.

        Args:
            blobs: blobs to return besides the outputs.
            kwargs: arrays for the inputs; all of them, or none.
        Returns: live arrays by name: the net's outputs (with `end`: that layer's tops) and `blobs`.
        """
        first = 0 if start is None else self._layer_index(start)
        last = len(self.layers) - 1 if end is None else self._layer_index(end)
        names = [*(self.outputs if end is None else self._top_names[end]), *_names(blobs)]
        if kwargs:
            if set(kwargs) != set(self.inputs):
                raise Exception("Input blob arguments do not match net inputs.")
            for name, value in kwargs.items():
                array, blob = np.asarray(value), self.blobs[name]
                if array.shape[:1] != blob.shape[:1]:
                    raise Exception("Input is not batch sized")
                blob.data[...] = array
        self._forward(first, last)
        return {name: self.blobs[name].data for name in dict.fromkeys(names)}

    def backward(
        self, diffs: Sequence[str] | None = None, start: str | None = None, end: str | None = None, **kwargs: Any
    ) -> Arrays:
        """Runs the layers backward from `start` down to `end`, both included. Gradients of parameters accumulate.

        Args:
            diffs: blobs whose diffs to return besides the inputs'.
            kwargs: diffs for the outputs; all of them, or none.
        Returns: live diffs by name: the net's inputs (with `end`: that layer's bottoms) and `diffs`.
        """
        first = len(self.layers) - 1 if start is None else self._layer_index(start)
        last = 0 if end is None else self._layer_index(end)
        names = [*(self.inputs if end is None else self._bottom_names[end]), *_names(diffs)]
        if kwargs:
            if set(kwargs) != set(self.outputs):
                raise Exception("Top diff arguments do not match net outputs.")
            for name, value in kwargs.items():
                array, blob = np.asarray(value), self.blobs[name]
                if array.shape[:1] != blob.shape[:1]:
                    raise Exception("Diff is not batch sized")
                blob.diff[...] = array
        self._backward(first, last)
        return {name: self.blobs[name].diff for name in dict.fromkeys(names)}

    def _layer_index(self, name: str) -> int:
        if name not in self._net.layer_names:
            raise ValueError(f"{name!r} is not in list (layers: {', '.join(self._net.layer_names)})")
        return self._net.layer_names.index(name)

    def _forward(self, start: int, end: int) -> float:
        """Runs layers by index; returns the loss."""
        with as_pycaffe():
            return float(self._net.forward_from_to(operator.index(start), operator.index(end)))

    def _backward(self, start: int, end: int) -> None:
        with as_pycaffe():
            self._net.backward_from_to(operator.index(start), operator.index(end))

    def forward_all(self, blobs: Sequence[str] | None = None, **kwargs: Any) -> Arrays:
        """Runs arrays of any length through the net, batch by batch; the last batch is filled up with zeros.

        Returns: arrays by name, as long as those that were given.
        """
        outs: dict[str, list[np.ndarray]] = {name: [] for name in dict.fromkeys([*self.outputs, *(blobs or [])])}
        for batch in self._batch(kwargs):
            for name, value in self.forward(blobs=blobs, **batch).items():
                outs[name].extend(value.copy())
        return self._cut(outs, kwargs)

    def forward_backward_all(
        self, blobs: Sequence[str] | None = None, diffs: Sequence[str] | None = None, **kwargs: Any
    ) -> tuple[Arrays, Arrays]:
        """`forward_all`, and for each batch a backward pass; `kwargs` may hold diffs of the outputs.

        Returns: arrays and diffs by name.
        """
        outs: dict[str, list[np.ndarray]] = {name: [] for name in dict.fromkeys([*self.outputs, *(blobs or [])])}
        all_diffs: dict[str, list[np.ndarray]] = {name: [] for name in dict.fromkeys([*self.inputs, *(diffs or [])])}
        forward, backward = (
            self._batch(given) if given else iter(())
            for given in (
                {name: kwargs[name] for name in names if name in kwargs} for names in (self.inputs, self.outputs)
            )
        )
        nothing: dict[str, Any] = {}
        for inputs, tops in zip_longest(forward, backward, fillvalue=nothing):
            for name, value in self.forward(blobs=blobs, **inputs).items():
                outs[name].extend(value.copy())
            for name, value in self.backward(diffs=diffs, **tops).items():
                all_diffs[name].extend(value.copy())
        return self._cut(outs, kwargs), self._cut(all_diffs, kwargs)

    @staticmethod
    def _cut(found: dict[str, list[np.ndarray]], given: Mapping[str, Any]) -> Arrays:
        """Without what the padding of the last batch gave."""
        pad = len(next(iter(found.values()))) - len(next(iter(given.values()))) if found and given else 0
        return {name: np.asarray(values[: len(values) - pad] if pad > 0 else values) for name, values in found.items()}

    def _batch(self, blobs: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Batches of the net's size; the last one is filled up with zeros."""
        if not blobs:
            raise RuntimeError("forward_all: found no arrays, expected one for each net input")
        num = len(next(iter(blobs.values())))
        size = next(iter(self.blobs.values())).shape[0]
        for first in range(0, num - num % size, size):
            yield {name: values[first : first + size] for name, values in blobs.items()}
        rest = num % size
        if rest:
            padded = {}
            for name, values in blobs.items():
                array = np.asarray(values)
                padded[name] = np.concatenate([array[-rest:], np.zeros((size - rest, *array.shape[1:]))])
            yield padded

    def reshape(self) -> None:
        """Lets every layer give its tops their shapes, after an input was reshaped."""
        with as_pycaffe():
            self._net.reshape()

    def clear_param_diffs(self) -> None:
        """Sets the gradients of all parameters to zero."""
        self._net.clear_param_diffs()

    def set_input_arrays(self, data: np.ndarray, labels: np.ndarray) -> None:
        """The arrays that a first layer of type MemoryData serves; they are not copied.

        Args:
            data: (n, C, H, W), float32, C-contiguous, n a multiple of the batch size.
            labels: (n,) or (n, 1, 1, 1), float32.
        Raises: RuntimeError.
        """
        if labels.ndim == 1:
            labels = np.ascontiguousarray(labels[:, np.newaxis, np.newaxis, np.newaxis])
        self._set_input_arrays(data, labels)

    def _set_input_arrays(self, data: np.ndarray, labels: np.ndarray) -> None:
        layer = self._net.layers[0] if self._net.layers else None
        if not isinstance(layer, MemoryDataLayer):
            raise RuntimeError("set_input_arrays may only be called if the first layer is a MemoryDataLayer")
        _check_array(data, "data array", layer.shape)
        _check_array(labels, "labels array", (1, 1, 1))
        if len(data) != len(labels):
            raise RuntimeError("data and labels must have the same first dimension")
        if len(data) % layer.batch_size:
            raise RuntimeError("first dimensions of input arrays must be a multiple of batch size")
        layer.reset(data, labels)

    # callbacks: called with the layer's index
    def before_forward(self, run: Callable[[int], object]) -> None:
        self._net.before_forward.append(run)

    def after_forward(self, run: Callable[[int], object]) -> None:
        self._net.after_forward.append(run)

    def before_backward(self, run: Callable[[int], object]) -> None:
        self._net.before_backward.append(run)

    def after_backward(self, run: Callable[[int], object]) -> None:
        self._net.after_backward.append(run)

    # weights
    def copy_from(self, filename: Path_) -> None:
        """Copies weights by layer name from a .caffemodel, protobuf or HDF5."""
        with as_pycaffe():
            self._net.copy_trained_layers_from(os.fspath(filename))

    def share_with(self, net: Net) -> None:
        """Uses `net`'s parameters from now on, by layer name: the same memory, no copies."""
        if not isinstance(net, Net):
            raise TypeError(f"share_with: found a {type(net).__name__}, expected a Net")
        with as_pycaffe():
            self._net.share_trained_layers_with(net._net)

    def save(self, filename: Path_) -> None:
        """Writes the net with its weights as a .caffemodel."""
        with as_pycaffe():
            self._net.to_binary_proto(os.fspath(filename))

    def save_hdf5(self, filename: Path_) -> None:
        """Writes the weights as an HDF5 file."""
        self._net.to_hdf5(os.fspath(filename))

    def load_hdf5(self, filename: Path_) -> None:
        """Copies weights by layer name from an HDF5 file."""
        self._net.copy_trained_layers_from_hdf5(os.fspath(filename))


def _names(names: Sequence[str] | None) -> Sequence[str]:
    """Raises TypeError for one text, which is no list of names."""
    if isinstance(names, str):
        raise TypeError(f"found the text {names!r}, expected a list of names")
    return names or []


def _index(i: int, count: int) -> int:
    if not 0 <= operator.index(i) < count:
        raise IndexError(f"Invalid layer id: found {i}, expected 0 to {count - 1}")
    return operator.index(i)


def _check_array(array: np.ndarray, name: str, shape: tuple[int, int, int]) -> None:
    if not array.flags.c_contiguous:
        raise RuntimeError(f"{name} must be C contiguous")
    if array.ndim != 4:
        raise RuntimeError(f"{name} must be 4-d")
    if array.dtype != np.float32:
        raise RuntimeError(f"{name} must be float32")
    for word, found, expected in zip(("number of channels", "height", "width"), array.shape[1:], shape, strict=True):
        if found != expected:
            raise RuntimeError(f"{name} has wrong {word}")


__all__ = ["Layer", "Net"]

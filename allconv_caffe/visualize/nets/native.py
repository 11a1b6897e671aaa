"""The torch engine: the rule is a setting of the ReLU layer. No numpy on the way, no hooks, no autograd.

On a CPU, forward is the net's own, by its fastest kernels. Where every layer allows it, layers run backward, and on a GPU forward,
inside a `Tracing`, eagerly: blobs are bound to what layers compute, images and weights channels_last, instead of copied into
C-contiguous memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from allconv_caffe import files
from allconv_caffe.caffe_torch import glog
from allconv_caffe.caffe_torch.blob import Blob, Memory
from allconv_caffe.caffe_torch.compute.fast_math import FastMath
from allconv_caffe.caffe_torch.errors import CaffeError
from allconv_caffe.caffe_torch.layer import Context
from allconv_caffe.caffe_torch.layers.relu import ReLULayer
from allconv_caffe.caffe_torch.net import Net
from allconv_caffe.caffe_torch.tracing import Tracing
from allconv_caffe.visualize.nets import base
from allconv_caffe.visualize.nets.errors import VizError
from allconv_caffe.visualize.nets.graph import Graph, Node


class EngineNet(base.VizNet):
    """A net of our engine. Gradients of weights are not computed; only the layers on the unit's path run back."""

    engine = "torch"

    def __init__(
        self, param: Any, weights: base.PathLike | None = None, *, where: str = "net", device: str = "cpu"
    ) -> None:
        self.param, self.where = param, where
        try:
            self.device = torch.device(device)
        except RuntimeError:
            raise VizError("device", repr(device), "cpu, cuda or cuda:N") from None
        if any(layer.type == "Python" for layer in param.layer):
            import allconv_caffe.pycaffe  # noqa: F401  (answers to `import caffe` in the layer's module)
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise VizError("device", repr(device), "a CUDA device; this machine has none", ("cpu",))
        try:
            with glog.quiet():
                self.net = Net(param, Context(device=self.device, fast=True), where=where)
        except CaffeError as error:
            raise VizError(where, str(error), "a net that can be built") from None
        if weights is not None:
            own: dict[str, list[tuple[int, ...]]] = {}
            for layer in self.net.layers:
                if layer.blobs:
                    own.setdefault(layer.name, [blob.shape for blob in layer.blobs])
            base.check_weights(own, weights)
            try:
                with glog.quiet():
                    self.net.copy_trained_layers_from(str(weights))
            except CaffeError as error:
                raise VizError(str(weights), str(error), "weights of this net") from None
        names = self.net.blob_names
        self.graph = Graph(
            [
                Node(
                    name,
                    layer.type,
                    tuple(names[j] for j in self.net.bottom_ids[i]),
                    tuple(names[j] for j in self.net.top_ids[i]),
                )
                for i, (name, layer) in enumerate(zip(self.net.layer_names, self.net.layers, strict=True))
            ]
        )
        for layer in self.net.layers:
            layer.param_propagate_down = [False] * len(layer.blobs)
        self._bound = all(layer.traceable or layer.type == "Input" for layer in self.net.layers)
        self._fast = self._bound and isinstance(self.net.ctx.math, FastMath)
        self.net.remembers = True
        self._tracing = Tracing()
        self._weights: list[tuple[Memory, torch.Tensor]] = []
        self._relus = [layer for layer in self.net.layers if isinstance(layer, ReLULayer)]
        self.blob_names = base.blob_names(param, self.net.blobs)
        self.input = base.input_blob(param, where)
        _, c, h, w = self.net.blobs[self.input].shape
        self.input_shape = (c, h, w)
        self._shapes = {name: blob.shape[1:] for name, blob in self.net.blobs.items()}
        self.weights_sha256 = files.digest(weights) if weights is not None else base.hash_arrays(self.params())

    def blob_shape(self, blob: str) -> tuple[int, ...]:
        return self._shapes[blob]

    def data(self, blob: str) -> np.ndarray:
        with contextlib.nullcontext() if self._fast else self._running():
            return np.array(self.net.blobs[blob].data.cpu().numpy(), order="C")

    def diff(self, blob: str) -> np.ndarray:
        with self._running():
            return np.array(self.net.blobs[blob].diff.cpu().numpy(), order="C")

    def params(self) -> dict[str, list[np.ndarray]]:
        return {
            layer.name: [np.array(blob.data.cpu().numpy()) for blob in layer.blobs]
            for layer in self.net.layers
            if layer.blobs
        }

    def set_params(self, params: dict[str, list[np.ndarray]]) -> None:
        by_name = {layer.name: layer for layer in self.net.layers if layer.blobs}
        for name, arrays in params.items():
            for blob, array in zip(by_name[name].blobs, arrays, strict=True):
                blob.data = torch.from_numpy(np.ascontiguousarray(array, np.float32)).to(self.device)
        self._weights = []
        self.weights_sha256 = base.hash_arrays(self.params())

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        """Layers see what they are bound to; parameters are bound anew after they were set."""
        if not self._bound:
            yield
            return
        if not self._weights:
            for layer in self.net.layers:
                for blob in layer.blobs:
                    value = blob.data
                    self._weights.append((blob._data, _channels_last(value)))
            for memory, value in self._weights:
                self._tracing.bound[memory] = value
        with self._tracing:
            yield

    def _batch_shape(self, blob: str) -> tuple[int, ...]:
        return self.net.blobs[blob].shape

    def _forward(self, images: np.ndarray, end: int) -> None:
        blob = self.net.blobs[self.input]
        blob.reshape(*images.shape)
        if self._fast:
            with torch.no_grad():
                blob.data = torch.from_numpy(images)
                self.net.forward_from_to(0, end)
            return
        with torch.no_grad(), self._running():
            blob.data = (
                _channels_last(torch.from_numpy(images).to(self.device)) if self._bound else torch.from_numpy(images)
            )
            self.net.forward_from_to(0, end)

    def _backward(self, blob: str, seeds: np.ndarray, rule: str, order: list[int], idle: list[str]) -> None:
        blobs = self.net.blobs
        if self._bound:  # what is bound to nothing is zero
            for each in self.net.blob_list:
                self._tracing.bound.pop(each._diff, None)
        if self._fast:
            for each in self.net.blob_list:
                self._tracing.bound[each._data] = _as_it_lies(each)
        try:
            for relu in self._relus:
                relu.rule = rule
            with torch.no_grad(), self._running():
                for name in [] if self._bound else [*idle, self.input]:
                    blobs[name].diff = torch.zeros(blobs[name].shape, device=self.device)
                blobs[blob].diff = torch.from_numpy(seeds).to(self.device)
                for i in order:
                    bottom, top = self.net.bottom_vecs[i], self.net.top_vecs[i]
                    if bottom:
                        self.net.layers[i].backward(top, self.net.bottom_need_backward[i], bottom)
        finally:  # whoever runs the net next finds Caffe's own ReLU
            for relu in self._relus:
                relu.rule = "backprop"


def _as_it_lies(blob: Blob) -> torch.Tensor:
    """What a blob's memory holds, channels_last where it lies so; what shares it with another shape reads it in C order."""
    memory = blob._data
    if memory.layout is None or memory.flat is None:
        return _channels_last(blob.data)
    return memory.layout.view(memory.flat)


def _channels_last(value: torch.Tensor) -> torch.Tensor:
    return value.contiguous(memory_format=torch.channels_last) if value.dim() == 4 and value.shape[1] > 1 else value

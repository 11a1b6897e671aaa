"""A net behind the pycaffe API, in this process."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from allconv_caffe import files
from allconv_caffe.proto import to_text
from allconv_caffe.visualize.nets import rules
from allconv_caffe.visualize.nets.base import (
    PathLike,
    VizNet,
    blob_names,
    check_weights,
    hash_arrays,
    input_blob,
)
from allconv_caffe.visualize.nets.errors import VizError
from allconv_caffe.visualize.nets.graph import Graph, Node


class PycaffeNet(VizNet):
    """A net behind the pycaffe API: `caffe.Net` of a real Caffe, or our drop-in's.

    Every ReLU must be a Python layer of `rules.rewrite`, so that its rule can be set; one net serves all three rules.
    """

    engine = "caffe"

    def __init__(self, net: Any, param: Any, *, where: str = "net", weights_sha256: str = "") -> None:
        self.net, self.param, self.where = net, param, where
        names = list(net._layer_names)
        self.graph = Graph(
            [
                Node(name, layer.type, tuple(net.bottom_names[name]), tuple(net.top_names[name]))
                for name, layer in zip(names, net.layers)
            ]
        )
        self._rule_layers = [layer for layer in net.layers if layer.type == "Python" and hasattr(layer, "rule")]
        self.blob_names = blob_names(param, net.blobs)
        self.input = input_blob(param, where)
        c, h, w = net.blobs[self.input].shape[1:]
        self.input_shape = (int(c), int(h), int(w))
        self._shapes = {name: tuple(int(d) for d in blob.shape)[1:] for name, blob in net.blobs.items()}
        self.weights_sha256 = weights_sha256 or hash_arrays(self.params())

    @classmethod
    def build(
        cls, caffe: Any, param: Any, weights: Optional[PathLike], *, where: str = "net", device: str = "cpu"
    ) -> PycaffeNet:
        """Writes the rewritten prototxt to a temporary file, loads it, checks the weights' shapes, copies them.

        Raises: VizError: weights that do not fit; a device that is none.
        """
        rewritten = rules.rewrite(param, "guided", where)
        kind, _, index = device.partition(":")
        if kind not in ("cpu", "cuda"):
            raise VizError("device", repr(device), "cpu, cuda or cuda:N")
        if kind == "cpu":
            caffe.set_mode_cpu()
        else:
            caffe.set_device(int(index or 0))
            caffe.set_mode_gpu()
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "deploy.prototxt")
            Path(path).write_text(to_text(rewritten))
            net = caffe.Net(path, caffe.TEST)
        if weights is not None:
            check_weights({name: [tuple(b.shape) for b in blobs] for name, blobs in net.params.items()}, weights)
            net.copy_from(os.fspath(weights))
        return cls(net, param, where=where, weights_sha256=files.digest(weights) if weights is not None else "")

    def blob_shape(self, blob: str) -> Tuple[int, ...]:
        return self._shapes[blob]

    def data(self, blob: str) -> np.ndarray:
        return np.array(self.net.blobs[blob].data, np.float32)

    def diff(self, blob: str) -> np.ndarray:
        return np.array(self.net.blobs[blob].diff, np.float32)

    def params(self) -> Dict[str, List[np.ndarray]]:
        return {name: [np.array(blob.data, np.float32) for blob in blobs] for name, blobs in self.net.params.items()}

    def set_params(self, params: Dict[str, List[np.ndarray]]) -> None:
        for name, arrays in params.items():
            for blob, array in zip(self.net.params[name], arrays):
                blob.data[...] = array
        self.weights_sha256 = hash_arrays(self.params())

    def _batch_shape(self, blob: str) -> Tuple[int, ...]:
        return tuple(int(d) for d in self.net.blobs[blob].shape)

    def _forward(self, images: np.ndarray, end: int) -> None:
        blob = self.net.blobs[self.input]
        if tuple(blob.shape) != images.shape:
            blob.reshape(*images.shape)
        blob.data[...] = images
        self.net._forward(0, end)

    def _backward(self, blob: str, seeds: np.ndarray, rule: str, order: List[int], idle: List[str]) -> None:
        blobs = self.net.blobs
        for name in idle:
            blobs[name].diff[...] = 0
        blobs[self.input].diff[...] = 0
        blobs[blob].diff[...] = seeds
        before = [layer.rule for layer in self._rule_layers]
        try:
            for layer in self._rule_layers:
                layer.rule = rule
            for i in order:
                if self.graph.nodes[i].bottoms:
                    self.net._backward(i, i)
        finally:
            for layer, own in zip(self._rule_layers, before):
                layer.rule = own

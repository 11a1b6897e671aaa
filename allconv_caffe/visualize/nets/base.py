"""What every net offers, whichever engine runs it: `VizNet`, and what the engines share to build one.

    scores = net.forward(images, ("global_pool",))["global_pool"]
    maps = net.backward("conv9", seeds, rule="guided")

A net is opened by `open.open_net`. All of this folder but `native` and `phases` loads under Python 3.9 with numpy 1.19
and without torch: the interpreter of an old pycaffe runs it.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import numpy as np

from allconv_caffe.proto import ProtoError, to_text
from allconv_caffe.proto.caffemodel import is_hdf5, misfits, read_weights
from allconv_caffe.visualize.nets import rules
from allconv_caffe.visualize.nets.errors import VizError
from allconv_caffe.visualize.nets.graph import Graph

PathLike = Union[str, "os.PathLike[str]"]


class VizNet(ABC):
    """A net with weights, in TEST phase.

    Attributes:
        engine: "torch" or "caffe".
        where: the prototxt's name, for errors.
        param: the NetParameter, as `rules.prepare` gives it.
        graph: its layers as built.
        input: name of the image blob. input_shape: (C, H, W).
        blob_names: every blob of the prototxt, in order, that `forward` can give.
        weights_sha256, net_sha256: of the weights file (or of the parameters, where there is none) and of `param`.
    """

    engine: str
    where: str
    param: Any
    graph: Graph
    input: str
    input_shape: Tuple[int, int, int]
    blob_names: Tuple[str, ...]
    weights_sha256: str

    @property
    def net_sha256(self) -> str:
        return hashlib.sha256(to_text(rules.plain(self.param)).encode()).hexdigest()

    @abstractmethod
    def blob_shape(self, blob: str) -> Tuple[int, ...]:
        """Shape of one image's part of a blob: without the batch axis."""

    def forward(
        self, images: np.ndarray, blobs: Sequence[str] = (), until: Optional[str] = None
    ) -> Dict[str, np.ndarray]:
        """Runs `images` as one batch.

        Args:
            images: (N, C, H, W), any number type, in the units of the input blob.
            blobs: which to return, each as (N, ...) float32, copies. In-place layers have run: a conv blob with an
                in-place ReLU is post-ReLU.
            until: stop after the last layer that writes this blob; what lies above is not computed.

        Raises: VizError: images of another shape, unknown blob.
        """
        images = np.asarray(images)
        if images.shape[1:] != self.input_shape or not len(images):
            raise VizError(
                f"{self.where}: images", f"shape {images.shape}", f"(N, {', '.join(map(str, self.input_shape))})"
            )
        for blob in (*blobs, *([until] if until else [])):
            if blob not in self.blob_names:
                raise VizError(f"{self.where}: blob", repr(blob), "a blob of the net", self.blob_names)
        end = len(self.graph.nodes) - 1 if until is None else self.graph.writer(until)
        self._forward(np.ascontiguousarray(images, np.float32), end)
        return {blob: self.data(blob) for blob in blobs}

    def backward(self, blob: str, seeds: np.ndarray, rule: str = "guided") -> np.ndarray:
        """From `seeds` at `blob` back to the images of the last `forward`, one image per seed, in one pass.

        Args:
            seeds: (N, ...) like the blob: what its diff begins with.
            rule: "backprop", "deconvnet" or "guided".

        Returns:
            (N, C, H, W) float32: the diff of the input blob.

        Raises: VizError: unknown blob or rule, seeds of another shape, a non-linear layer on the way that is no ReLU.
        """
        rule = rules.rule_name(rule)
        if blob not in self.blob_names:
            raise VizError(f"{self.where}: blob", repr(blob), "a blob of the net", self.blob_names)
        order, idle = self.graph.path(blob)
        if rule != "backprop":
            for i in order:
                node = self.graph.nodes[i]
                if node.type in rules.NOT_RELU:
                    raise VizError(
                        f"{self.where}: layer '{node.name}'",
                        f"type {node.type} below '{blob}'",
                        f"ReLU: the {rule} rule has no meaning for other non-linear layers, backprop has",
                    )
        expected = self._batch_shape(blob)
        if tuple(seeds.shape) != expected:
            raise VizError(f"seeds at '{blob}'", f"shape {tuple(seeds.shape)}", f"{expected}")
        self._backward(blob, np.ascontiguousarray(seeds, np.float32), rule, order, idle)
        return self.diff(self.input)

    @abstractmethod
    def data(self, blob: str) -> np.ndarray:
        """A copy of the blob's data, after `forward`."""

    @abstractmethod
    def diff(self, blob: str) -> np.ndarray:
        """A copy of the blob's diff, after `backward`: for an in-place ReLU, the gradient at its bottom."""

    @abstractmethod
    def params(self) -> Dict[str, List[np.ndarray]]:
        """Copies of every layer's parameters, by layer name: [weights, bias]."""

    @abstractmethod
    def set_params(self, params: Dict[str, List[np.ndarray]]) -> None:
        """Replaces the parameters of the layers named; shapes must agree."""

    def close(self) -> None:  # noqa: B027 (most engines hold nothing)
        """Frees what the engine holds (a process of its own, for a real Caffe). The net is of no use afterwards."""

    def __enter__(self) -> VizNet:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @abstractmethod
    def _batch_shape(self, blob: str) -> Tuple[int, ...]: ...

    @abstractmethod
    def _forward(self, images: np.ndarray, end: int) -> None: ...

    @abstractmethod
    def _backward(self, blob: str, seeds: np.ndarray, rule: str, order: List[int], idle: List[str]) -> None: ...


def check_weights(shapes: Dict[str, List[Tuple[int, ...]]], weights: PathLike) -> None:
    """A .caffemodel has, for every layer with parameters, blobs of the right shapes.

    Args:
        shapes: by layer name, the shapes of its parameters.

    Raises: VizError: unreadable; a layer without weights there; another number of blobs or another shape.
    """
    where = os.fspath(weights)
    if is_hdf5(where):
        return  # Caffe checks those itself
    try:
        stored = read_weights(where)
    except ProtoError as error:
        raise VizError(error.place or where, error.reason, "a .caffemodel") from None
    wrong = [misfit for misfit in misfits(stored, shapes) if misfit.expected]
    missing = [misfit.layer for misfit in wrong if not misfit.found]
    if missing:
        raise VizError(where, f"no weights for layer {', '.join(missing)}", "weights of this net", list(stored))
    for name, theirs, own in wrong:
        raise VizError(f"{where}: layer '{name}'", f"blobs {_list(theirs)}", f"{_list(own)}")


def _list(shapes: Sequence[Tuple[int, ...]]) -> str:
    return ", ".join("x".join(map(str, shape)) for shape in shapes)


def blob_names(param: Any, built: Any) -> Tuple[str, ...]:
    """The blobs of the prototxt, in order, that the net has `built`: what a phase or a stage leaves out is not there."""
    names: Dict[str, None] = {}
    for layer in param.layer:
        for top in layer.top:
            if top in built:
                names[top] = None
    return tuple(names)


def input_blob(param: Any, where: str) -> str:
    """The image blob: the first top of an Input layer that has four axes.

    Raises: VizError: there is none.
    """
    for layer in param.layer:
        if layer.type == "Input":
            shapes = list(layer.input_param.shape)
            for i, top in enumerate(layer.top):
                shape = shapes[i if len(shapes) > 1 else 0] if shapes else None
                if shape is not None and len(shape.dim) == 4:
                    return str(top)
    raise VizError(where, "no Input of 4 axes", "an Input layer with shape (N, C, H, W)")


def hash_arrays(params: Dict[str, List[np.ndarray]]) -> str:
    """SHA-256 of names and values of parameters that came from no file."""
    digest = hashlib.sha256()
    for name in sorted(params):
        digest.update(name.encode())
        for array in params[name]:
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()

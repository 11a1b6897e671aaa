"""One net, one image blob, three rules: the interface that everything else here is written against.

    net = open_net("deploy.prototxt", "weights.caffemodel", engine="torch")
    scores = net.forward(images, ("global_pool",))["global_pool"]
    maps = net.backward("conv9", seeds, rule="guided")

Engines: ``torch``, ours, the rule a setting of the ReLU layer (`native.EngineNet`); ``caffe``, a real one through
pycaffe, the rule in Python layers (`PycaffeNet`): in this process where `caffe` can be imported, else in its own
interpreter (`remote.RemoteNet`). This module loads under Python 3.9 with numpy 1.19 and without torch.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import numpy as np

from allconv_caffe.proto import NetParameter, ProtoError, read_binary, read_net, to_text
from allconv_caffe.visualize.nets import rules
from allconv_caffe.visualize.nets.errors import VizError
from allconv_caffe.visualize.nets.graph import Graph, Node

ENGINES = ("torch", "caffe")
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

    @property
    def has_relu(self) -> bool:
        return bool(rules.relu_names(self.param))

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
                        f"ReLU: the {rule} rule has no meaning for other non-linear layers",
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


def open_net(
    net: Union[PathLike, Any],
    weights: Optional[PathLike] = None,
    *,
    engine: str = "torch",
    device: str = "cpu",
    python: Optional[PathLike] = None,
    require_relu: bool = True,
) -> VizNet:
    """The net of a deploy prototxt (a path or a NetParameter) with its weights.

    Args:
        weights: a .caffemodel or .caffemodel.h5; None keeps what the fillers drew.
        engine: "torch" or "caffe".
        device: torch: "cpu", "cuda", "cuda:1"; caffe: "cpu", or "cuda:0" for a GPU build.
        python: caffe: the interpreter that has pycaffe. None: this one if it has, else what `make caffe` installed
            or CAFFE_ROOT names.
        require_relu: False takes a net without any ReLU, for which the rules are all the same.

    Raises: VizError: one line for whatever is wrong with file, net, weights, engine or device.
    """
    if engine not in ENGINES:
        raise VizError("engine", repr(engine), "an engine", ENGINES)
    where = "net"
    if isinstance(net, (str, os.PathLike)):
        where = os.fspath(net)
        try:
            param = read_net(net)
        except ProtoError as error:
            raise VizError(error.place or where, error.reason, "a deploy prototxt") from None
    else:
        param = net
    param = rules.plain(param, where)
    if require_relu and not rules.relu_names(param):
        raise VizError(where, "no ReLU layer", "at least one: without it the three rules are the same")
    if weights is not None and not os.path.isfile(weights):
        raise VizError(os.fspath(weights), "no such file", "a .caffemodel")
    if engine == "torch":
        from allconv_caffe.visualize.nets.native import EngineNet

        return EngineNet(param, weights, where=where, device=device)
    caffe = _real_caffe() if python is None else None
    if caffe is not None:
        return PycaffeNet.build(caffe, param, weights, where=where, device=device)
    from allconv_caffe.visualize.nets.remote import RemoteNet

    return RemoteNet(param, weights, where=where, device=device, python=python)


def _real_caffe() -> Any:
    """The `caffe` of this interpreter, if it is a real one."""
    try:
        import caffe
    except ImportError:
        return None
    return caffe if hasattr(caffe, "_caffe") else None


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
        self.blob_names = _blob_names(param, net.blobs)
        self.input = _input_blob(param, where)
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
        rewritten = rules.rewrite(param, "guided", where) if rules.relu_names(param) else rules.prepare(param, where)
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
        return cls(net, param, where=where, weights_sha256=hash_file(weights) if weights is not None else "")

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


def check_weights(shapes: Dict[str, List[Tuple[int, ...]]], weights: PathLike) -> None:
    """A .caffemodel has, for every layer with parameters, blobs of the right shapes.

    Args:
        shapes: by layer name, the shapes of its parameters.

    Raises: VizError: unreadable; a layer without weights there; another number of blobs or another shape.
    """
    where = os.fspath(weights)
    with open(where, "rb") as file:
        if file.read(8) == b"\x89HDF\r\n\x1a\n":
            return  # Caffe checks those itself
    try:
        stored = read_binary(where, NetParameter)
    except ProtoError as error:
        raise VizError(error.place or where, error.reason, "a .caffemodel") from None
    # V1 files (bvlc_reference_caffenet of 2014) hold the same in `layers`
    found = {layer.name: layer.blobs for layer in [*stored.layers, *stored.layer] if len(layer.blobs)}
    missing = [name for name in shapes if name not in found]
    if missing:
        raise VizError(where, f"no weights for layer {', '.join(missing)}", "weights of this net", list(found))
    for name, own in shapes.items():
        theirs = [_proto_shape(blob) for blob in found[name]]
        same = len(own) == len(theirs) and all(_squeeze(a) == _squeeze(b) for a, b in zip(own, theirs))
        if not same:
            raise VizError(f"{where}: layer '{name}'", f"blobs {_list(theirs)}", f"{_list(own)}")


def _list(shapes: Sequence[Tuple[int, ...]]) -> str:
    return ", ".join("x".join(map(str, shape)) for shape in shapes)


def _proto_shape(blob: Any) -> Tuple[int, ...]:
    if blob.HasField("shape"):
        return tuple(blob.shape.dim)
    return (blob.num, blob.channels, blob.height, blob.width)


def _squeeze(shape: Tuple[int, ...]) -> Tuple[int, ...]:
    """Without leading ones: old files pad every shape to four axes."""
    while shape and shape[0] == 1:
        shape = shape[1:]
    return shape


def _blob_names(param: Any, built: Any) -> Tuple[str, ...]:
    names: Dict[str, None] = {}
    for layer in param.layer:
        for top in layer.top:
            if top in built:
                names[top] = None
    return tuple(names)


def _input_blob(param: Any, where: str) -> str:
    for layer in param.layer:
        if layer.type == "Input":
            shapes = list(layer.input_param.shape)
            for i, top in enumerate(layer.top):
                shape = shapes[i if len(shapes) > 1 else 0] if shapes else None
                if shape is not None and len(shape.dim) == 4:
                    return str(top)
    raise VizError(where, "no Input of 4 axes", "an Input layer with shape (N, C, H, W)")


def hash_file(path: PathLike) -> str:
    """SHA-256 of a file's bytes, as hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def hash_arrays(params: Dict[str, List[np.ndarray]]) -> str:
    """SHA-256 of names and values of parameters that came from no file."""
    digest = hashlib.sha256()
    for name in sorted(params):
        digest.update(name.encode())
        for array in params[name]:
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()

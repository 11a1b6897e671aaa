"""A net in a real Caffe that runs under an interpreter of its own (Debian's pycaffe needs Python 3.9)."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from allconv_caffe.proto import to_text
from allconv_caffe.visualize.nets.base import PathLike, VizNet
from allconv_caffe.visualize.nets.errors import VizError
from allconv_caffe.visualize.nets.graph import Graph, Node
from allconv_caffe.visualize.nets.worker import receive, send

_ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", ".."))


class RemoteNet(VizNet):
    """`PycaffeNet` in another process. What Caffe logs goes to a temporary file; its last words to the error."""

    engine = "caffe"

    def __init__(
        self,
        param: Any,
        weights: Optional[PathLike] = None,
        *,
        where: str = "net",
        device: str = "cpu",
        python: Optional[PathLike] = None,
    ) -> None:
        self.param, self.where = param, where
        command, environment = _interpreter(python)
        path = [_ROOT, *(part for part in environment.get("PYTHONPATH", "").split(os.pathsep) if part)]
        environment["PYTHONPATH"] = os.pathsep.join(path)
        environment.setdefault("GLOG_minloglevel", "2")
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the net)
        try:
            self._process = subprocess.Popen(
                [command, "-m", "allconv_caffe.visualize.nets.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env=environment,
            )
        except OSError as error:
            self._log.close()
            raise VizError(command, error.strerror or str(error), "an interpreter with pycaffe") from None
        path_there = None if weights is None else os.path.abspath(os.fspath(weights))
        try:
            about, _ = self._ask(
                {"do": "open", "net": to_text(param), "where": where, "device": device, "weights": path_there}
            )
        except VizError as error:
            self.close()
            if path_there is None:
                raise
            named = error.where.replace(path_there, os.fspath(weights))  # type: ignore[arg-type]
            raise VizError(named, error.found, error.expected, error.choices) from None
        except BaseException:
            self.close()
            raise
        self.graph = Graph(
            [Node(name, kind, tuple(bottoms), tuple(tops)) for name, kind, bottoms, tops in about["nodes"]]
        )
        self._shapes = {name: tuple(shape) for name, shape in about["shapes"].items()}
        self.blob_names = tuple(about["blob_names"])
        self.input = about["input"]
        c, h, w = about["input_shape"]
        self.input_shape = (c, h, w)
        self.weights_sha256 = about["weights_sha256"]

    def blob_shape(self, blob: str) -> Tuple[int, ...]:
        return self._shapes[blob]

    def data(self, blob: str) -> np.ndarray:
        return np.array(self._ask({"do": "data", "blob": blob})[1][0])

    def diff(self, blob: str) -> np.ndarray:
        return np.array(self._ask({"do": "diff", "blob": blob})[1][0])

    def params(self) -> Dict[str, List[np.ndarray]]:
        answer, arrays = self._ask({"do": "params"})
        left = [np.array(array) for array in arrays]
        return {name: [left.pop(0) for _ in range(n)] for name, n in answer["names"]}

    def set_params(self, params: Dict[str, List[np.ndarray]]) -> None:
        names = [[name, len(arrays)] for name, arrays in params.items()]
        flat = [np.asarray(array, np.float32) for arrays in params.values() for array in arrays]
        self.weights_sha256 = self._ask({"do": "set_params", "names": names}, flat)[0]["weights_sha256"]

    def close(self) -> None:
        process = self._process
        for pipe in (process.stdin, process.stdout):
            if pipe is not None and not pipe.closed:
                with contextlib.suppress(OSError):
                    pipe.close()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._log.close()

    def __del__(self) -> None:
        process = getattr(self, "_process", None)
        if process is not None and process.poll() is None:
            process.kill()
            process.wait()

    def _batch_shape(self, blob: str) -> Tuple[int, ...]:
        return tuple(self._ask({"do": "shape", "blob": blob})[0]["shape"])

    def _forward(self, images: np.ndarray, end: int) -> None:
        self._ask({"do": "forward", "end": end}, [images])

    def _backward(self, blob: str, seeds: np.ndarray, rule: str, order: List[int], idle: List[str]) -> None:
        self._ask({"do": "backward", "blob": blob, "rule": rule, "order": order, "idle": idle}, [seeds])

    def _ask(
        self, message: Dict[str, Any], arrays: Sequence[np.ndarray] = ()
    ) -> Tuple[Dict[str, Any], List[np.ndarray]]:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            send(self._process.stdin, message, arrays)  # type: ignore[arg-type]
            answer, out = receive(self._process.stdout)  # type: ignore[arg-type]
        except (EOFError, OSError, ValueError):
            raise VizError(f"{self.where}: real Caffe", self._last_words(), "a net and weights that it takes") from None
        if "error" in answer:
            raise VizError(*answer["error"])
        return answer, out

    def _last_words(self) -> str:
        """What Caffe said before it ended: its fatal line, or the last one."""
        self._process.wait()
        if self._log.closed:
            return "a process that has ended"
        self._log.seek(0)
        lines = [line for line in self._log.read().decode(errors="replace").splitlines() if line.strip()]
        fatal = [line for line in lines if re.match(r"[FE]\d{4} ", line)]
        text = (fatal or [line for line in lines if not line.startswith(("***", "    @", "Aborted"))] or ["no word"])[
            -1
        ]
        return re.sub(r"^[FE]\d{4} .*?\] ", "", text.strip())


def _interpreter(python: Optional[PathLike]) -> Tuple[str, Dict[str, str]]:
    """The command and environment of an interpreter that has pycaffe.

    Raises: VizError: none is known.
    """
    if python is not None:
        return os.fspath(python), dict(os.environ)
    if sys.version_info >= (3, 10):  # noqa: UP036 (an old pycaffe's interpreter loads this, too)
        from allconv_caffe.bvlc.find import BvlcError, find_caffe

        try:
            found = find_caffe(_ROOT)
        except BvlcError as error:
            raise VizError(error.where, error.found, error.expected) from None
        if found is not None and found.python is not None:
            return str(found.python), found.environment()
    raise VizError(
        "engine caffe",
        "no interpreter with pycaffe",
        "one named with --python or CAFFE_ROOT, or `make caffe`",
        ("torch",),
    )

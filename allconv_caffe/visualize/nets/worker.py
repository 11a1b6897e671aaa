"""The far end of `remote`: runs under pycaffe's own interpreter and serves one net over stdin and stdout.

A message is one line of JSON, with `arrays` naming type and shape of the raw arrays that follow it.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, BinaryIO, Dict, List, Sequence, Tuple

import numpy as np

from allconv_caffe.proto import NetParameter, parse_text
from allconv_caffe.visualize.nets.errors import VizError
from allconv_caffe.visualize.nets.pycaffe_net import PycaffeNet


def send(file: BinaryIO, message: Dict[str, Any], arrays: Sequence[np.ndarray] = ()) -> None:
    """Writes one message."""
    arrays = [np.ascontiguousarray(array) for array in arrays]
    head = dict(message, arrays=[[array.dtype.str, list(array.shape)] for array in arrays])
    file.write(json.dumps(head).encode() + b"\n")
    file.writelines(array.tobytes() for array in arrays)
    file.flush()


def receive(file: BinaryIO) -> Tuple[Dict[str, Any], List[np.ndarray]]:
    """Reads one message.

    Raises: EOFError: the other end is gone.
    """
    line = file.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    message = json.loads(line)
    arrays = []
    for kind, shape in message.pop("arrays"):
        dtype = np.dtype(kind)
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        data = file.read(size)
        if len(data) != size:
            raise EOFError
        arrays.append(np.frombuffer(data, dtype).reshape(shape))
    return message, arrays


def serve() -> None:
    """Answers until stdin ends."""
    incoming = sys.stdin.buffer
    outgoing = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a layer prints goes to stderr, not between the messages
    net: Any = None
    while True:
        try:
            message, arrays = receive(incoming)
        except EOFError:
            return
        answer: Dict[str, Any] = {}
        out: List[np.ndarray] = []
        try:
            kind = message["do"]
            if kind == "open":
                try:
                    import caffe
                except ImportError as error:
                    ways = "one that has it: --python, CAFFE_ROOT (a build tree), or `make caffe`"
                    raise VizError(f"interpreter {sys.executable}", f"no pycaffe ({error})", ways) from None

                param = parse_text(message["net"], NetParameter)
                net = PycaffeNet.build(
                    caffe, param, message["weights"], where=message["where"], device=message["device"]
                )
                answer = {
                    "nodes": [[node.name, node.type, node.bottoms, node.tops] for node in net.graph.nodes],
                    "shapes": {name: net.blob_shape(name) for name in net.net.blobs},
                    "blob_names": net.blob_names,
                    "input": net.input,
                    "input_shape": net.input_shape,
                    "weights_sha256": net.weights_sha256,
                }
            elif kind == "forward":
                net._forward(np.array(arrays[0]), message["end"])
            elif kind == "backward":
                net._backward(message["blob"], np.array(arrays[0]), message["rule"], message["order"], message["idle"])
            elif kind in ("data", "diff"):
                out = [getattr(net, kind)(message["blob"])]
            elif kind == "shape":
                answer = {"shape": net._batch_shape(message["blob"])}
            elif kind == "params":
                params = net.params()
                answer = {"names": [[name, len(blobs)] for name, blobs in params.items()]}
                out = [array for blobs in params.values() for array in blobs]
            elif kind == "set_params":
                left = list(arrays)
                net.set_params({name: [left.pop(0) for _ in range(n)] for name, n in message["names"]})
                answer = {"weights_sha256": net.weights_sha256}
        except VizError as error:
            answer = {"error": [error.where, str(error.found), error.expected, [str(c) for c in error.choices]]}
        except Exception as error:  # a layer's own complaint: told in one line at the other end
            answer = {"error": ["pycaffe", f"{type(error).__name__}: {error}", "a net that runs", []]}
        send(outgoing, answer, out)


if __name__ == "__main__":
    serve()

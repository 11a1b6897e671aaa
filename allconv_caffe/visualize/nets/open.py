"""Opens a net by either engine:

    net = open_net("deploy.prototxt", "weights.caffemodel", engine="torch")

``torch`` is ours, the rule a setting of the ReLU layer (`native.EngineNet`). ``caffe`` is a real one through pycaffe, the
rule in Python layers: in this process where `caffe` can be imported (`pycaffe_net.PycaffeNet`), else in its own
interpreter (`remote.RemoteNet`).
"""

from __future__ import annotations

import os
from typing import Any, Optional, Union

from allconv_caffe.proto import ProtoError, read_net
from allconv_caffe.visualize.nets import rules
from allconv_caffe.visualize.nets.base import PathLike, VizNet
from allconv_caffe.visualize.nets.errors import VizError
from allconv_caffe.visualize.nets.pycaffe_net import PycaffeNet
from allconv_caffe.visualize.nets.remote import RemoteNet

ENGINES = ("torch", "caffe")


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
        from allconv_caffe.visualize.nets.native import EngineNet  # torch: only where it is asked for

        return EngineNet(param, weights, where=where, device=device)
    caffe = _real_caffe() if python is None else None
    if caffe is not None:
        return PycaffeNet.build(caffe, param, weights, where=where, device=device)
    return RemoteNet(param, weights, where=where, device=device, python=python)


def _real_caffe() -> Any:
    """The `caffe` of this interpreter, if it is a real one."""
    try:
        import caffe
    except ImportError:
        return None
    return caffe if hasattr(caffe, "_caffe") and caffe.__name__ == "caffe" else None  # the drop-in keeps its own name

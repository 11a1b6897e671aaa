"""Opens a net by either engine:

    net = open_net("deploy.prototxt", "weights.caffemodel", engine="torch")

``torch`` is ours, the rule a setting of the ReLU layer (`native.EngineNet`). ``caffe`` is a real one through pycaffe, the
rule in Python layers: in this process where `caffe` can be imported (`pycaffe_net.PycaffeNet`), else in its own
interpreter (`remote.RemoteNet`).
"""

from __future__ import annotations

import os
from typing import Any, Optional, Sequence, Union

from allconv_caffe.files import absent
from allconv_caffe.proto import TEST, NetParameter, ProtoError, read_net
from allconv_caffe.proto.upgrade import upgrade_net
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
    level: int = 0,
    stages: Sequence[str] = (),
) -> VizNet:
    """The net of a deploy prototxt (a path or a NetParameter) with its weights.

    Args:
        weights: a .caffemodel or .caffemodel.h5; None keeps what the fillers drew.
        engine: "torch" or "caffe".
        device: torch: "cpu", "cuda", "cuda:1"; caffe: "cpu", or "cuda:0" for a GPU build.
        python: caffe: the interpreter that has pycaffe. None: this one if it has, else what `make caffe` installed
            or CAFFE_ROOT names.
        level, stages: what the layers' include and exclude rules are held against; those that do not meet them are not there.

    Raises: VizError: one line for whatever is wrong with file, net, weights, engine or device.
    """
    if engine not in ENGINES:
        raise VizError("engine", repr(engine), "an engine", ENGINES)
    where = os.fspath(net) if isinstance(net, (str, os.PathLike)) else "net"
    param = rules.plain(read_deploy(net, level, stages), where)
    if weights is not None and not os.path.isfile(weights):
        raise VizError(os.fspath(weights), absent(weights), "a .caffemodel")
    if engine == "torch":
        from allconv_caffe.visualize.nets.native import EngineNet  # torch: only where it is asked for

        return EngineNet(param, weights, where=where, device=device)
    caffe = _real_caffe() if python is None else None
    if caffe is not None:
        return PycaffeNet.build(caffe, param, weights, where=where, device=device)
    return RemoteNet(param, weights, where=where, device=device, python=python)


def read_deploy(net: Union[PathLike, Any], level: int = 0, stages: Sequence[str] = ()) -> Any:
    """The layers that a deploy net has in TEST phase at a level and with stages, their rules settled.

    Args:
        net: a path, or a NetParameter.
    Raises: VizError.
    """
    from allconv_caffe.caffe_torch import glog
    from allconv_caffe.caffe_torch.errors import CaffeError
    from allconv_caffe.caffe_torch.net_filter import filter_net

    where = os.fspath(net) if isinstance(net, (str, os.PathLike)) else "net"
    try:
        param = NetParameter()
        param.CopyFrom(read_net(net) if isinstance(net, (str, os.PathLike)) else net)
        upgrade_net(param, where)
        param.state.phase, param.state.level = TEST, level
        param.state.stage.extend(stages)
        with glog.quiet():
            param = filter_net(param)
    except ProtoError as error:
        raise VizError(error.place or where, error.reason, "a deploy prototxt") from None
    except CaffeError as error:
        raise VizError(where, str(error), "a net that can be built") from None
    for layer in param.layer:
        layer.ClearField("include")
        layer.ClearField("exclude")
    param.ClearField("state")
    return param


def _real_caffe() -> Any:
    """The `caffe` of this interpreter, if it is a real one."""
    try:
        import caffe
    except ImportError:
        return None
    return caffe if hasattr(caffe, "_caffe") and caffe.__name__ == "caffe" else None  # the drop-in keeps its own name

"""pycaffe on this project's engine: ``import allconv_caffe.pycaffe as caffe``.

`install` puts it under the name `caffe`, for scripts that import that. A mistake that makes real Caffe abort the
interpreter raises `CaffeError` here, with Caffe's text.

Source: python/caffe/.
"""

from __future__ import annotations

import importlib
import sys

from allconv_caffe import interrupts as _interrupts  # noqa: F401  (before what takes long to import)
from allconv_caffe.caffe_torch import import_caffe
from allconv_caffe.caffe_torch.errors import CaffeError
from allconv_caffe.pycaffe import (
    binding as _caffe,  # noqa: F401  (scripts say caffe._caffe.RawBlobVec())
    classifier,
    coord_map,
    detector,
    draw,
    io,
    net_spec,
    proto,
    pycaffe,
)
from allconv_caffe.pycaffe.binding import (
    NCCL,
    AdaDeltaSolver,
    AdaGradSolver,
    AdamSolver,
    Layer,
    NesterovSolver,
    Net,
    RMSPropSolver,
    SGDSolver,
    Timer,
    __version__,
    get_solver,
    has_nccl,
    init_log,
    layer_type_list,
    log,
    set_device,
    set_mode_cpu,
    set_mode_gpu,
    set_multiprocess,
    set_random_seed,
    set_seed_exact,
    set_solver_count,
    set_solver_rank,
    solver_count,
    solver_rank,
)
from allconv_caffe.pycaffe.classifier import Classifier
from allconv_caffe.pycaffe.detector import Detector
from allconv_caffe.pycaffe.net_spec import NetSpec, layers, params, to_proto
from allconv_caffe.pycaffe.proto.caffe_pb2 import TEST, TRAIN

_MODULES = {"_caffe": "binding"} | {
    name: name
    for name in ("pycaffe", "io", "net_spec", "coord_map", "draw", "classifier", "detector", "proto", "proto.caffe_pb2")
}


def install() -> None:
    """Makes `caffe` and its sub-modules (``caffe.io``, ``caffe.proto.caffe_pb2``, ...) this package, in this process.

    Whatever was imported under that name before is put aside; nothing is written to disk.
    """
    for name in [name for name in sys.modules if name == "caffe" or name.startswith("caffe.")]:
        del sys.modules[name]
    sys.modules["caffe"] = sys.modules[__name__]
    for name, own in _MODULES.items():
        sys.modules[f"caffe.{name}"] = importlib.import_module(f"{__name__}.{own}")


import_caffe.answer_with(install)

__all__ = [
    "NCCL",
    "TEST",
    "TRAIN",
    "AdaDeltaSolver",
    "AdaGradSolver",
    "AdamSolver",
    "CaffeError",
    "Classifier",
    "Detector",
    "Layer",
    "NesterovSolver",
    "Net",
    "NetSpec",
    "RMSPropSolver",
    "SGDSolver",
    "Timer",
    "__version__",
    "classifier",
    "coord_map",
    "detector",
    "draw",
    "get_solver",
    "has_nccl",
    "init_log",
    "install",
    "io",
    "layer_type_list",
    "layers",
    "log",
    "net_spec",
    "params",
    "proto",
    "pycaffe",
    "set_device",
    "set_mode_cpu",
    "set_mode_gpu",
    "set_multiprocess",
    "set_random_seed",
    "set_seed_exact",
    "set_solver_count",
    "set_solver_rank",
    "solver_count",
    "solver_rank",
    "to_proto",
]

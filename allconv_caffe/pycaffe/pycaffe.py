"""The classes that real pycaffe keeps in a module of this name."""

from allconv_caffe.pycaffe.common import Timer
from allconv_caffe.pycaffe.nccl import NCCL
from allconv_caffe.pycaffe.net import Net
from allconv_caffe.pycaffe.solver import (
    AdaDeltaSolver,
    AdaGradSolver,
    AdamSolver,
    NesterovSolver,
    RMSPropSolver,
    SGDSolver,
)

__all__ = [
    "NCCL",
    "AdaDeltaSolver",
    "AdaGradSolver",
    "AdamSolver",
    "NesterovSolver",
    "Net",
    "RMSPropSolver",
    "SGDSolver",
    "Timer",
]

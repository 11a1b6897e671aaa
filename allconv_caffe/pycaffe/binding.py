"""What real pycaffe keeps in its compiled module of this name. Source: _caffe.cpp."""

from allconv_caffe.caffe_torch.pyblob import PyBlob as Blob, PyBlobVec as BlobVec, PyLayer as Layer, RawBlobVec
from allconv_caffe.proto import LayerParameter, SolverParameter
from allconv_caffe.pycaffe.common import (
    Timer,
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
from allconv_caffe.pycaffe.nccl import NCCL
from allconv_caffe.pycaffe.net import Net
from allconv_caffe.pycaffe.solver import (
    AdaDeltaSolver,
    AdaGradSolver,
    AdamSolver,
    NesterovSolver,
    RMSPropSolver,
    SGDSolver,
    Solver,
    get_solver,
)
from allconv_caffe.pycaffe.vectors import BoolVec, DtypeVec, IntVec, LayerVec, NetVec, StringVec

__version__ = "1.0.0"

__all__ = [
    "NCCL",
    "AdaDeltaSolver",
    "AdaGradSolver",
    "AdamSolver",
    "Blob",
    "BlobVec",
    "BoolVec",
    "DtypeVec",
    "IntVec",
    "Layer",
    "LayerParameter",
    "LayerVec",
    "NesterovSolver",
    "Net",
    "NetVec",
    "RMSPropSolver",
    "RawBlobVec",
    "SGDSolver",
    "Solver",
    "SolverParameter",
    "StringVec",
    "Timer",
    "get_solver",
    "has_nccl",
    "init_log",
    "layer_type_list",
    "log",
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
]

"""`proto.upgrade` with Caffe's log lines and errors. Source: upgrade_proto.cpp."""

from __future__ import annotations

import os

from allconv_caffe.caffe_torch import glog
from allconv_caffe.caffe_torch.errors import CaffeError
from allconv_caffe.proto import NetParameter, ProtoError, SolverParameter, read_solver, upgrade


def upgrade_net(param: NetParameter, where: str = "") -> NetParameter:
    """Brings `param`, from the file `where`, to today's form in place and returns it. Raises CaffeError."""
    try:
        return upgrade.upgrade_net(param, where, _say)
    except ProtoError as error:
        raise CaffeError(error.reason, error.where) from None


def upgrade_solver(param: SolverParameter, where: str = "") -> SolverParameter:
    """The enum `solver_type` becomes the string `type`, in place. Raises CaffeError where both are there."""
    try:
        return upgrade.upgrade_solver(param, where, _say)
    except ProtoError as error:
        raise CaffeError(error.reason, error.where) from None


def read_solver_params(path: str) -> SolverParameter:
    """ReadSolverParamsFromTextFileOrDie: the file brought to today's form, with its snapshot_prefix. Raises CaffeError."""
    try:
        param = read_solver(path)
    except ProtoError as error:
        raise CaffeError(str(error)) from None
    upgrade_solver(param, path)
    upgrade_snapshot_prefix(param, path)
    return param


def upgrade_snapshot_prefix(param: SolverParameter, solver_path: str) -> None:
    """An absent snapshot_prefix becomes the solver's path without extension; a folder gets the solver's stem."""
    stem = os.path.splitext(solver_path)[0]
    if not param.HasField("snapshot_prefix"):
        param.snapshot_prefix = stem
        glog.info("upgrade_proto.cpp:1108", f"snapshot_prefix was not specified and is set to {stem}")
    elif os.path.isdir(param.snapshot_prefix):
        param.snapshot_prefix = os.path.join(param.snapshot_prefix, os.path.basename(stem))
        glog.info(
            "upgrade_proto.cpp:1113", f"snapshot_prefix was a directory and is replaced to {param.snapshot_prefix}"
        )


def _say(level: str, line: int, message: str) -> None:
    {"info": glog.info, "warning": glog.warning, "error": glog.error}[level](f"upgrade_proto.cpp:{line}", message)

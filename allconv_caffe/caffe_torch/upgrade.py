"""`proto.upgrade` with Caffe's log lines and errors. Source: upgrade_proto.cpp."""

from __future__ import annotations

from allconv_caffe.caffe_torch import glog
from allconv_caffe.caffe_torch.errors import CaffeError
from allconv_caffe.proto import NetParameter, ProtoError, SolverParameter, upgrade


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


def _say(level: str, line: int, message: str) -> None:
    {"info": glog.info, "warning": glog.warning, "error": glog.error}[level](f"upgrade_proto.cpp:{line}", message)

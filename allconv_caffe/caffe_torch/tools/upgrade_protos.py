"""``upgrade_net_proto_text``, ``upgrade_net_proto_binary``, ``upgrade_solver_proto_text``: old files in today's form.

    caffe-torch upgrade_net_proto_text old.prototxt new.prototxt

Source: tools/upgrade_net_proto_text.cpp, upgrade_net_proto_binary.cpp, upgrade_solver_proto_text.cpp.
Differs: a file that cannot be upgraded is not written.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from allconv_caffe.caffe_torch import glog
from allconv_caffe.caffe_torch.errors import CaffeError, check
from allconv_caffe.caffe_torch.tools.program import guarded
from allconv_caffe.caffe_torch.upgrade import upgrade_net, upgrade_solver
from allconv_caffe.proto import (
    NetParameter,
    ProtoError,
    SolverParameter,
    read_binary,
    read_net,
    read_solver,
    write_binary,
    write_text,
)


@dataclass(frozen=True, kw_only=True)
class Tool:
    """One of the three programs."""

    name: str
    usage: str  # of its two arguments
    form: str  # of the files: text or binary
    message: Any
    read: Callable[[str], Any]
    upgrade: Callable[[Any, str], Any]
    write: Callable[[str, Any], None]
    lines: tuple[int, int, int, int]  # usage, failed to parse, latest format, written

    def main(self, arguments: Sequence[str]) -> int:
        """Status 0; 1 for a wrong number of arguments, no such file or a failed upgrade; 2 for a file that cannot be read."""
        glog.init(self.name)
        return guarded(lambda: self._run(list(arguments)), f"{self.name}.cpp:{self.lines[3]}")

    def _run(self, arguments: list[str]) -> int:
        if len(arguments) != 2:
            self._say(glog.error, 0, f"Usage: {self.name} {self.usage}")
            return 1
        path, out = arguments
        kind = self.message.DESCRIPTOR.name
        try:
            old = self.read(path)
        except ProtoError as error:
            check(os.path.exists(path), f"File not found: {path}")
            self._say(glog.error, 1, f"Failed to parse input {self.form} file as {kind}: {path} ({error})")
            return 2
        new = type(old)()
        new.CopyFrom(old)
        try:
            self.upgrade(new, path)
        except CaffeError as error:
            raise CaffeError(f"{error} (Encountered error(s) while upgrading prototxt)") from None
        if new == old:
            self._say(glog.error, 2, f"File already in latest proto format: {path}")
        try:
            self.write(out, new)
        except ProtoError as error:
            raise CaffeError(str(error)) from None
        self._say(glog.info, 3, f"Wrote upgraded {kind} {self.form} proto to {out}")
        return 0

    def _say(self, level: Callable[[str, str], None], line: int, message: str) -> None:
        level(f"{self.name}.cpp:{self.lines[line]}", message)


def _read_weights(path: str) -> Any:
    return read_binary(path, NetParameter, allow_unknown=True)


NET_TEXT = Tool(
    name="upgrade_net_proto_text",
    usage="v0_net_proto_file_in net_proto_file_out",
    form="text",
    message=NetParameter,
    read=read_net,
    upgrade=upgrade_net,
    write=write_text,
    lines=(22, 30, 43, 49),
)
NET_BINARY = Tool(
    name="upgrade_net_proto_binary",
    usage="v0_net_proto_file_in net_proto_file_out",
    form="binary",
    message=NetParameter,
    read=_read_weights,
    upgrade=upgrade_net,
    write=write_binary,
    lines=(22, 30, 43, 48),
)
SOLVER_TEXT = Tool(
    name="upgrade_solver_proto_text",
    usage="old_solver_proto_file_in solver_proto_file_out",
    form="text",
    message=SolverParameter,
    read=read_solver,
    upgrade=upgrade_solver,
    write=write_text,
    lines=(22, 30, 43, 49),
)

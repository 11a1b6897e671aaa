"""The snapshots of a run: which can be resumed, and how many parameters a caffemodel holds."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from allconv_caffe import proto

_STATE = re.compile(r"_iter_(\d+)\.solverstate$")


def parameters_in(caffemodel: Path) -> int:
    """Weights and biases in a caffemodel, counted from its blobs."""
    net = proto.read_binary(caffemodel, proto.NetParameter, allow_unknown=True)
    return sum(_count(blob) for layer in net.layer for blob in layer.blobs)


def _count(blob: Any) -> int:
    if blob.HasField("shape"):
        return math.prod(blob.shape.dim)
    if any(blob.HasField(name) for name in ("num", "channels", "height", "width")):
        return int(blob.num * blob.channels * blob.height * blob.width)
    return len(blob.data) or len(blob.double_data)


def _broken(state: Path, iteration: int) -> str | None:
    model = state.with_suffix(".caffemodel")
    if not model.is_file():
        return f"{model.name} is missing"
    try:
        found = proto.read_binary(state, proto.SolverState, allow_unknown=True)
        net = proto.read_binary(model, proto.NetParameter, allow_unknown=True)
    except proto.ProtoError as error:
        return str(error)
    if found.iter != iteration:
        return f"it holds iteration {found.iter}"
    if not found.HasField("current_step"):
        return "it holds no current_step, which ends it: truncated"
    learned = _learned(net)
    histories = [_count(blob) for blob in found.history]
    if not learned or histories not in (learned, learned * 2):  # one for each blob, or two: Adam, AdaDelta
        return f"it holds {len(histories)} histories for {len(learned)} blobs of {model.name}: truncated"
    return None


def _learned(net: Any) -> list[int]:
    """Values in each blob that a solver keeps a history of: one that several layers share by its name counts once."""
    counts, names = [], set()
    for layer in net.layer:
        for index, blob in enumerate(layer.blobs):
            name = layer.param[index].name if index < len(layer.param) else ""
            if not name or name not in names:
                counts.append(_count(blob))
            names.add(name)
    return counts


def adopt(state: Path, model: str) -> None:
    """Let a solver state name the weights beside it: in a copied or moved directory it names those of another place.

    Args:
        model: the path by which the engine will read them.
    """
    content = proto.read_binary(state, proto.SolverState, allow_unknown=True)
    if content.learned_net != model:
        content.learned_net = model
        proto.write_binary(state, content)


def newest_snapshot(prefix: Path, say: Callable[[str], None]) -> tuple[Path, int] | None:
    """The newest solver state that can be resumed, and its iteration; None without one.

    A state is passed over, with a line that says so, where it or its caffemodel is missing, damaged or truncated.
    """
    states: list[tuple[int, Path]] = []
    for path in prefix.parent.glob(f"{prefix.name}_iter_*.solverstate"):
        if match := _STATE.search(path.name):
            states.append((int(match[1]), path))
    for iteration, path in sorted(states, reverse=True):
        why = _broken(path, iteration)
        if why is None:
            return path, iteration
        say(f"snapshot {path} is passed over: {why}")
    return None

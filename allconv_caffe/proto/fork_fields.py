"""The fields of Caffe's forks in a message, and what of a net is a fork's.

Caffe's own messages carry them as extensions (see `build`), so `message.norm_param` is no attribute: ``field(message,
"norm_param")``.
"""

from __future__ import annotations

from typing import Any, Dict, List

from . import forks
from .messages import EXTENSIONS


def field(message: Any, name: str) -> Any:
    """The value of a fork's field of a LayerParameter or a BatchNormParameter; its default where it is not there."""
    return message.Extensions[EXTENSIONS[message.DESCRIPTOR.name][name]]


def has(message: Any, name: str) -> bool:
    """Whether the field is there."""
    return bool(message.HasExtension(EXTENSIONS[message.DESCRIPTOR.name][name]))


def used(net: Any) -> Dict[str, List[str]]:
    """What of a NetParameter's layers BVLC Caffe does not know, by fork: types, and fields of layers whose type it knows."""
    found: Dict[str, List[str]] = {}
    for layer in net.layer:
        if layer.type in forks.TYPES:
            names = [layer.type]
        else:
            parts = (layer, "LayerParameter"), (layer.batch_norm_param, "BatchNormParameter")
            names = [name for message, kind in parts for name in EXTENSIONS[kind] if has(message, name)]
        for name in names:
            known = found.setdefault(forks.TYPES.get(name) or forks.FIELDS.get(name) or forks.NVCAFFE, [])
            if name not in known:
                known.append(name)
    return found


def sentence(net: Any) -> str:
    """What to say of a net that runs here and that BVLC Caffe refuses; "" where a net has nothing of a fork."""
    parts = [f"{', '.join(names)} (that of {fork})" for fork, names in used(net).items()]
    return f"BVLC Caffe would refuse this net, which needs a fork of it: {'; '.join(parts)}" if parts else ""

"""Whether the weights of a file fit a net: the one owner of that question for files of weights in protobuf.

Source: blob.cpp (ShapeEquals), net.cpp (CopyTrainedLayersFrom).
"""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, NamedTuple, Sequence, Tuple

from allconv_caffe.files import Path, open_file

from .messages import NetParameter
from .stored import read_stored
from .upgrade import upgrade_net

Shape = Tuple[int, ...]


class Misfit(NamedTuple):
    """A layer whose parameters in the file are not those of the net."""

    layer: str
    """The layer's name."""
    found: List[Shape]
    """The shapes in the file; none: the file has no such layer, or none of its parameters."""
    expected: List[Shape]
    """The shapes of the net; none: the net has no parameters of a layer of that name."""


def blob_shape(proto: Any) -> Shape:
    """The shape that a BlobProto states: its `shape`, or the legacy num, channels, height, width."""
    if _is_legacy(proto):
        return (proto.num, proto.channels, proto.height, proto.width)
    return tuple(proto.shape.dim)


def shape_equals(shape: Sequence[int], proto: Any) -> bool:
    """Whether a BlobProto has this shape; legacy ones have four axes, the first of them 1 where the shape has fewer."""
    if _is_legacy(proto):
        return len(shape) <= 4 and (1,) * (4 - len(shape)) + tuple(shape) == blob_shape(proto)
    return tuple(shape) == blob_shape(proto)


def _is_legacy(proto: Any) -> bool:
    return any(proto.HasField(name) for name in ("num", "channels", "height", "width"))


def is_hdf5(path: Path) -> bool:
    """Whether a file begins with HDF5's signature. Raises: OSError, ValueError (a NUL in the name)."""
    with open_file(path) as file:
        return file.read(8) == b"\x89HDF\r\n\x1a\n"


def read_weights(path: Path) -> Dict[str, Sequence[Any]]:
    """The BlobProtos of a binary .caffemodel, without their numbers, by the name of the layer that they belong to.

    Raises: ProtoError: missing, truncated, no NetParameter, a net of 2013 that cannot be brought to today's form.
    """
    net = upgrade_net(read_stored(path, NetParameter)[0], str(path))
    return {
        layer.name: layer.blobs for layer in net.layer if len(layer.blobs)
    }  # of two, Caffe leaves the last in the net


def misfits(stored: Mapping[str, Sequence[Any]], shapes: Mapping[str, Sequence[Sequence[int]]]) -> List[Misfit]:
    """What keeps stored weights from being those of a net, all of them and no others; empty where they are.

    Caffe itself skips a layer of another name on either side; `Misfit.expected` or `Misfit.found` is empty for those.

    Args:
        stored: as `read_weights` gives them.
        shapes: the shapes of the net's parameters by layer name.

    Returns: one entry for each layer that differs, the net's in its order, then those that only the file has.
    """
    found = []
    for name, own in shapes.items():
        blobs = stored.get(name, ())
        if len(own) != len(blobs) or not all(map(shape_equals, own, blobs)):
            found.append(Misfit(name, [blob_shape(blob) for blob in blobs], [tuple(shape) for shape in own]))
    return found + [
        Misfit(name, [blob_shape(blob) for blob in blobs], []) for name, blobs in stored.items() if name not in shapes
    ]

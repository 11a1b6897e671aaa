"""Whether weights fit a net: shapes of today and of 2013, layers that are missing or too many."""

from __future__ import annotations

from pathlib import Path

import pytest

from allconv_caffe.proto import BlobProto, NetParameter, ProtoError, V1LayerParameter, write_binary
from allconv_caffe.proto.caffemodel import Misfit, is_hdf5, misfits, read_weights, shape_equals

OLD = BlobProto(num=1, channels=1, height=3, width=4)


def new(*shape: int) -> BlobProto:
    blob = BlobProto()
    blob.shape.dim.extend(shape)
    return blob


@pytest.mark.parametrize(
    ("shape", "proto", "equal"),
    [
        ((3, 4), new(3, 4), True),
        ((3, 4), new(4, 3), False),
        ((3, 4), new(1, 1, 3, 4), False),
        ((3, 4), OLD, True),
        ((1, 1, 3, 4), OLD, True),
        ((3, 4, 1), OLD, False),
        ((1, 1, 1, 3, 4), OLD, False),
        ((), new(), True),
    ],
)
def test_only_legacy_shapes_may_begin_with_ones(shape: tuple[int, ...], proto: BlobProto, equal: bool) -> None:
    """Blob::ShapeEquals: num, channels, height and width are compared from the right, a `shape` axis by axis."""
    assert shape_equals(shape, proto) == equal


def test_every_layer_that_does_not_fit_is_named(tmp_path: Path) -> None:
    """Another shape, another number of blobs, a layer that only one side has; not those that fit or have no weights."""
    net = NetParameter()
    for name, blobs in (
        ("fits", [new(2, 3), new(2)]),
        ("relu", []),
        ("other", [new(2, 4)]),
        ("fewer", [new(5)]),
        ("theirs", [new(7)]),
    ):
        net.layer.add(name=name).blobs.extend(blobs)
    write_binary(tmp_path / "w.caffemodel", net)
    own = {"fits": [(2, 3), (2,)], "other": [(2, 3)], "ours": [(1,)], "fewer": [(5,), (5,)]}
    assert misfits(read_weights(tmp_path / "w.caffemodel"), own) == [
        Misfit("other", [(2, 4)], [(2, 3)]),
        Misfit("ours", [], [(1,)]),
        Misfit("fewer", [(5,)], [(5,), (5,)]),
        Misfit("theirs", [(7,)], []),
    ]


def test_weights_of_a_net_of_2014_are_read(tmp_path: Path) -> None:
    """`layers` of V1 with legacy shapes are the layers of today."""
    net = NetParameter()
    net.layers.add(name="ip", type=V1LayerParameter.INNER_PRODUCT).blobs.append(OLD)
    write_binary(tmp_path / "w.caffemodel", net)
    assert misfits(read_weights(tmp_path / "w.caffemodel"), {"ip": [(3, 4)]}) == []
    assert misfits(read_weights(tmp_path / "w.caffemodel"), {"ip": [(4, 3)]}) == [
        Misfit("ip", [(1, 1, 3, 4)], [(4, 3)])
    ]


def test_what_is_no_net_is_an_error(tmp_path: Path) -> None:
    """Text is no binary NetParameter; a file of HDF5 is known by its first bytes."""
    (tmp_path / "text").write_text("weights")
    with pytest.raises(ProtoError):
        read_weights(tmp_path / "text")
    (tmp_path / "h5").write_bytes(b"\x89HDF\r\n\x1a\n and so on")
    assert is_hdf5(tmp_path / "h5") and not is_hdf5(tmp_path / "text")

"""Weights read and written without lying in memory as a message: all forms of the wire, and files that lie."""

from __future__ import annotations

import random
import struct
import time
from pathlib import Path

import numpy as np
import pytest

from allconv_caffe.proto import (
    BlobProto,
    NetParameter,
    ProtoError,
    SolverState,
    blobs_of,
    read_binary,
    read_stored,
    unknown_fields,
    write_binary,
    write_stored,
)
from allconv_caffe.proto.files import varint

DATA, DIFF, DOUBLE_DATA = 5, 6, 8  # field numbers in BlobProto


def field(number: int, body: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(body)) + body


def packed(number: int, values: np.ndarray) -> bytes:
    return field(number, values.tobytes())


def unpacked(number: int, values: np.ndarray) -> bytes:
    key = varint(number << 3 | (5 if values.itemsize == 4 else 1))
    return b"".join(key + value.tobytes() for value in values)


def model(*blob_parts: bytes) -> bytes:
    """A net of one layer with one blob."""
    return field(100, field(1, b"ip") + field(7, b"".join(blob_parts)))


@pytest.mark.parametrize("doubles", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_every_form_of_the_wire_gives_protobufs_numbers(tmp_path: Path, seed: int, doubles: bool) -> None:
    """Numbers packed, unpacked, in any mixture, between other fields: the same as protobuf reads, in the same order."""
    rng, rs = random.Random(seed), np.random.RandomState(seed)
    parts, shape = [], field(7, field(1, varint(3)))
    for _ in range(rng.randrange(1, 9)):
        number = rng.choice((DATA, DIFF))
        dtype = "<f8" if doubles and number == DATA else "<f4"
        values = rs.randn(rng.choice((0, 1, 2, 63, 64, 65, 1000, 3000))).astype(dtype)
        if doubles and number == DATA:
            number = DOUBLE_DATA
        parts.append(rng.choice((packed, unpacked))(number, values))
        if rng.random() < 0.3:
            parts.append(shape)
    path = tmp_path / "x.caffemodel"
    path.write_bytes(model(*parts))
    expected = read_binary(path, NetParameter).layer[0].blobs[0]
    message, (stored,) = read_stored(path, NetParameter)
    assert list(message.layer[0].blobs[0].shape.dim) == list(expected.shape.dim)
    for name in ("data", "diff"):
        values = np.array(getattr(expected, "double_" + name) or getattr(expected, name), np.float32)
        assert stored.count(name) == len(values)
        np.testing.assert_array_equal(stored.read(name), values)
        out = np.full((len(values) + 1,), 7, np.float32)
        stored.read(name, out[:-1])
        np.testing.assert_array_equal(out, [*values, 7])


@pytest.mark.parametrize("dtype", ["<f4", "<f8"])
def test_millions_of_unpacked_numbers_are_read_at_once(tmp_path: Path, dtype: str) -> None:
    """Three million numbers, each a field of its own, as other programs write them: read whole, within seconds."""
    values = np.arange(3_000_000, dtype=dtype)
    key = varint((DATA << 3 | 5) if dtype == "<f4" else (DOUBLE_DATA << 3 | 1))
    records = np.zeros(len(values), [("key", "u1"), ("value", dtype)])
    records["key"], records["value"] = key[0], values
    path = tmp_path / "x.caffemodel"
    path.write_bytes(model(records.tobytes(), field(7, field(1, varint(len(values))))))
    began = time.perf_counter()
    message, (stored,) = read_stored(path, NetParameter)
    assert list(message.layer[0].blobs[0].shape.dim) == [3_000_000]
    np.testing.assert_array_equal(stored.read("data"), values.astype(np.float32))
    assert time.perf_counter() - began < 60  # one at a time it would be minutes


def test_a_file_of_countless_fields_is_refused(tmp_path: Path) -> None:
    """What is neither an array nor a net ends before it takes minutes: fields beyond 250,000, one after the other."""
    path = tmp_path / "x.caffemodel"
    alternating: bytes = (unpacked(DATA, np.ones(1, "<f4")) + unpacked(DIFF, np.ones(1, "<f4"))) * 130_000
    for raw in (model(alternating), b"\x60\x01" * 260_000):
        path.write_bytes(raw)
        with pytest.raises(ProtoError, match="more than 250000 fields"):
            read_stored(path, NetParameter)


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (model(unpacked(DATA, np.ones(9, "<f4")))[:-2], "byte 3 begins 51 bytes, of 49 that are left"),
        (field(100, field(7, unpacked(DATA, np.ones(9, "<f4"))[:-2])), "a field that ends at byte 50, beyond 48"),
        (field(100, field(7, b"\x2d\x00\x00")), "a field that ends at byte 10, beyond 8"),
        (field(100, field(7, field(DATA, b"\0" * 7))), "7 bytes at byte 7 are no whole number of data"),
    ],
)
def test_a_cut_array_is_refused_with_its_place(tmp_path: Path, raw: bytes, sentence: str) -> None:
    """Arrays that go on beyond their blob, packed or not."""
    path = tmp_path / "x.caffemodel"
    path.write_bytes(raw)
    with pytest.raises(ProtoError) as caught:
        read_stored(path, NetParameter)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(("kind", "dtype"), [(0, "<f8"), (1, "<f4"), (2, "<f2")])
def test_nvcaffes_raw_numbers_are_arrays(tmp_path: Path, kind: int, dtype: str) -> None:
    """NVCaffe 0.16 and 0.17 keep a blob's numbers as bytes of a told type; they are read as any, behind those of Caffe's."""
    values, diff = np.linspace(-2, 2, 6).astype(dtype), np.arange(6).astype(dtype)
    told = bytes([10 << 3, kind, 11 << 3, kind])
    path = tmp_path / "nv.caffemodel"
    for body in (told + field(12, values.tobytes()) + field(13, diff.tobytes()), field(12, values.tobytes()) + told):
        path.write_bytes(model(field(7, field(1, b"\x06")) + body))
        message, (stored,) = read_stored(path, NetParameter)
        assert stored.count("data") == 6 and not list(unknown_fields(message))
        np.testing.assert_array_equal(stored.read("data"), values.astype(np.float32))
    path.write_bytes(model(told + field(12, values.tobytes()) + packed(DATA, np.ones(2, "<f4"))))
    (stored,) = read_stored(path, NetParameter)[1]
    np.testing.assert_array_equal(stored.read("data"), [1, 1])


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (
            bytes([10 << 3, 3]) + field(12, b"\0" * 8),
            "raw_data of type 3 at byte 13, expected 0, 1 or 2: double, float, half",
        ),
        (bytes([10 << 3, 2]) + field(12, b"\0" * 7), "7 bytes at byte 13 are no whole number of half_data"),
        (field(13, b"\0" * 8), "raw_diff of type None at byte 11, expected 0, 1 or 2: double, float, half"),
    ],
)
def test_raw_numbers_of_another_kind_are_refused(tmp_path: Path, body: bytes, sentence: str) -> None:
    """Ints, halves that are cut, bytes of no told type."""
    path = tmp_path / "nv.caffemodel"
    path.write_bytes(model(body))
    with pytest.raises(ProtoError) as caught:
        read_stored(path, NetParameter)
    assert sentence in str(caught.value)


def test_a_file_that_became_shorter_is_noticed(tmp_path: Path) -> None:
    """Arrays are read later than their places are found; what is gone by then is an error, not zeros."""
    path = tmp_path / "x.caffemodel"
    for values in (packed(DATA, np.ones(9, "<f4")), unpacked(DATA, np.ones(9, "<f4"))):
        path.write_bytes(model(values))
        _, (stored,) = read_stored(path, NetParameter)
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(ProtoError, match="truncated"):
            stored.read("data")


def example(rs: np.random.RandomState, with_arrays: bool) -> tuple[NetParameter, list[dict[str, np.ndarray]]]:
    """A net with blobs in several layers, in current and V1 form, with scalars and empty blobs among them."""
    net, arrays = NetParameter(name="n", input=["data"], force_backward=True), []
    for i, shape in enumerate([(2, 3), (), (0,), (1, 1, 1, 5)]):
        layer = net.layer.add(name=f"l{i}", type="Convolution", top=["a", "b"])
        layer.convolution_param.kernel_size.append(3)
        layer.param.add(lr_mult=2)
        for with_diff in (False, True):
            blob = layer.blobs.add()
            blob.shape.dim.extend(shape)
            own = {"data": np.float32(rs.randn(*shape)).reshape(shape)}
            if with_diff:
                own["diff"] = np.float32(rs.randn(*shape)).reshape(shape)
            arrays.append(own)
            if with_arrays:
                for name, values in own.items():
                    getattr(blob, name).extend(values.reshape(-1).tolist())
    old = net.layers.add(name="old").blobs.add(num=1, channels=1, height=1, width=2)
    arrays.insert(0, {"data": np.float32([1, 2])})
    if with_arrays:
        old.data.extend([1, 2])
    return net, arrays


def test_what_is_written_piece_by_piece_has_protobufs_bytes(tmp_path: Path) -> None:
    """`write_stored` and `write_binary` write the same file; and real arrays come back from it."""
    whole, arrays = example(np.random.RandomState(0), True)
    outline, _ = example(np.random.RandomState(0), False)
    write_binary(tmp_path / "whole", whole)
    numbers = [{name: (a.size, lambda a=a: a) for name, a in own.items()} for own in arrays]
    assert len(numbers) == sum(1 for _ in blobs_of(outline))
    write_stored(tmp_path / "pieces", outline, numbers)
    assert (tmp_path / "pieces").read_bytes() == (tmp_path / "whole").read_bytes()
    for own, stored in zip(arrays, read_stored(tmp_path / "pieces", NetParameter)[1], strict=True):
        for name, values in own.items():
            np.testing.assert_array_equal(stored.read(name), values.reshape(-1))


def test_more_than_protobuf_can_hold_is_refused_before_it_is_written(tmp_path: Path) -> None:
    """Two gigabytes are the most; nothing is fetched, nothing stays behind."""
    state = SolverState(iter=3)
    state.history.add().shape.dim.append(2**29)

    def fetched() -> np.ndarray:
        raise AssertionError("fetched")

    with pytest.raises(ProtoError, match=r"Found 21474836\d\d bytes to write, expected at most 2147483647"):
        write_stored(tmp_path / "x", state, [{"data": (2**29, fetched)}])
    assert list(tmp_path.iterdir()) == []


def test_a_blob_of_a_fork_with_doubles_beside_floats() -> None:
    """The key of unpacked floats is one byte, as the reader assumes."""
    assert BlobProto(data=[1.0]).SerializeToString() == packed(DATA, np.ones(1, "<f4"))
    assert unpacked(DATA, np.ones(1, "<f4")) == struct.pack("<Bf", 0x2D, 1.0)

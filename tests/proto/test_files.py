"""Binary files in and out: the same bytes as protobuf's own, whole or not at all, one line for what is wrong."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from allconv_caffe.proto import (
    BlobProto,
    Datum,
    NetParameter,
    ProtoError,
    SolverParameter,
    SolverState,
    blobs_of,
    read_binary,
    read_net,
    read_solver,
    read_stored,
    unknown_fields,
    write_binary,
    write_text,
)


def net_with_weights() -> object:
    """Two layers of three blobs, one of them of doubles, as a caffemodel holds them."""
    net = NetParameter(name="net")
    rng = np.random.default_rng(0)
    for name, shapes in (("a", [(2, 3), (2,)]), ("b", [(4,)])):
        layer = net.layer.add(name=name, type="InnerProduct")
        for shape in shapes:
            blob = layer.blobs.add()
            blob.shape.dim.extend(shape)
            values = rng.standard_normal(int(np.prod(shape)))
            (blob.double_data if name == "b" else blob.data).extend(values.tolist())
    return net


def test_a_written_file_has_the_bytes_of_protobufs_own_serialiser(tmp_path: Path) -> None:
    """`write_binary` goes element by element, so weights never lie in memory twice; the bytes do not show it."""
    net = net_with_weights()
    write_binary(tmp_path / "n.caffemodel", net)
    assert (tmp_path / "n.caffemodel").read_bytes() == net.SerializeToString()
    assert read_binary(tmp_path / "n.caffemodel", NetParameter) == net


def test_stored_weights_are_those_of_the_whole_message(tmp_path: Path) -> None:
    """Arrays read from their place in the file equal the message's; the outline keeps everything else."""
    net = net_with_weights()
    write_binary(tmp_path / "n.caffemodel", net)
    outline, stored = read_stored(tmp_path / "n.caffemodel", NetParameter)
    whole = list(blobs_of(net))
    assert len(stored) == len(whole) == 3
    for blob, place in zip(whole, stored, strict=True):
        expected = np.array(list(blob.double_data) or list(blob.data), np.float32)
        assert place.count("data") == expected.size
        np.testing.assert_array_equal(place.read("data"), expected)
    assert [layer.name for layer in outline.layer] == ["a", "b"]
    assert all(not blob.data and not blob.double_data for blob in blobs_of(outline))
    assert [list(blob.shape.dim) for blob in blobs_of(outline)] == [[2, 3], [2], [4]]


@pytest.mark.parametrize("cut", [1, 7, -1, -20])
def test_a_truncated_file_is_refused(tmp_path: Path, cut: int) -> None:
    """Cut anywhere but between two fields, and by both readers."""
    raw = net_with_weights().SerializeToString()[:cut]
    (tmp_path / "n.caffemodel").write_bytes(raw)
    for read in (read_binary, read_stored):
        with pytest.raises(
            ProtoError, match=rf"n\.caffemodel: Found {len(raw)} bytes that are no binary caffe\.NetParameter"
        ):
            read(tmp_path / "n.caffemodel", NetParameter)


def test_what_cannot_be_read_is_said_in_one_line(tmp_path: Path) -> None:
    """Missing, empty, a folder, a device: each its sentence, the place before it."""
    (tmp_path / "empty").touch()
    for read in (lambda p: read_binary(p, NetParameter), lambda p: read_stored(p, NetParameter)):
        with pytest.raises(ProtoError) as caught:
            read(tmp_path / "none.caffemodel")
        assert str(caught.value) == f"File not found: {tmp_path / 'none.caffemodel'}"
        with pytest.raises(ProtoError, match="Found an empty file, expected a binary caffe.NetParameter"):
            read(tmp_path / "empty")
        with pytest.raises(ProtoError, match="Found a folder, expected a file"):
            read(tmp_path)
        with pytest.raises(ProtoError, match="Found a device, expected a file"):
            read("/dev/zero")
    with pytest.raises(ProtoError, match="File not found"):
        read_net(tmp_path / "none.prototxt")


def test_a_prototxt_file_is_read_with_its_name_in_errors(tmp_path: Path) -> None:
    """`read_net` and `read_solver` of files: the place of a mistake is a place in the file."""
    (tmp_path / "s.prototxt").write_text("\ufeffbase_lr: 0.5\n", encoding="utf-8")
    with pytest.raises(ProtoError, match=r"s.prototxt:1:1: Interpreting non ascii codepoint 239\. \(a byte order mark"):
        read_solver(tmp_path / "s.prototxt")
    (tmp_path / "s.prototxt").write_bytes(b"# caf\xe9\nbase_lr: 0.25\n")
    assert read_solver(tmp_path / "s.prototxt").base_lr == 0.25
    (tmp_path / "s.prototxt").write_bytes(b'net: "caf\xe9"\n')
    with pytest.raises(ProtoError) as caught:
        read_solver(tmp_path / "s.prototxt")
    path = f"{tmp_path}/s.prototxt"
    sentence = f"(Failed to parse SolverParameter file: {path})"
    assert str(caught.value) == f"{path}:1:10: Found byte 0xE9, expected UTF-8 text {sentence}"
    assert caught.value.column == 10


def test_fields_of_a_fork_are_named_or_kept(tmp_path: Path) -> None:
    """A field number that Caffe 1.0 does not have stops `read_binary`, unless it is asked to keep it."""
    raw = NetParameter(name="x").SerializeToString() + b"\xa0\x3e\x01"  # field 996, varint 1
    (tmp_path / "fork.caffemodel").write_bytes(raw)
    with pytest.raises(ProtoError, match="Found field number 996 in caffe.NetParameter, unknown to Caffe 1.0"):
        read_binary(tmp_path / "fork.caffemodel", NetParameter)
    kept = read_binary(tmp_path / "fork.caffemodel", NetParameter, allow_unknown=True)
    assert list(unknown_fields(kept)) == [("caffe.NetParameter", 996)]
    write_binary(tmp_path / "again.caffemodel", kept)
    assert (tmp_path / "again.caffemodel").read_bytes() == raw


def test_a_file_that_exists_stays_whole_when_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk in the middle leaves the old file and nothing beside it."""
    path = tmp_path / "n.caffemodel"
    write_binary(path, NetParameter(name="old"))

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ProtoError, match="Cannot write: No space left on device"):
        write_binary(path, NetParameter(name="new"))
    with pytest.raises(ProtoError, match="Cannot write"):
        write_text(path, NetParameter(name="new"))
    assert read_binary(path, NetParameter).name == "old"
    assert os.listdir(tmp_path) == ["n.caffemodel"]


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    """One line with the file's name."""
    with pytest.raises(ProtoError, match=r"no/n\.caffemodel: Cannot write: No such file or directory"):
        write_binary(tmp_path / "no" / "n.caffemodel", NetParameter())


def test_written_files_obey_the_umask(tmp_path: Path) -> None:
    """Snapshots are as readable to others as any file of the user's."""
    old = os.umask(0o027)
    try:
        write_text(tmp_path / "s.prototxt", SolverParameter(base_lr=1))
    finally:
        os.umask(old)
    assert (tmp_path / "s.prototxt").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "s.prototxt").read_text() == "base_lr: 1\n"


@pytest.mark.parametrize(
    "message",
    [
        SolverState(iter=3, learned_net="m", current_step=1),
        Datum(channels=1, data=b"\0\xff"),
        BlobProto(num=1, channels=2, height=3, width=4),
    ],
)
def test_every_kind_of_caffes_files_survives(tmp_path: Path, message: object) -> None:
    """solverstate, Datum, binaryproto."""
    write_binary(tmp_path / "f", message)
    assert read_binary(tmp_path / "f", type(message)) == message


def test_the_error_travels_between_processes() -> None:
    """A ProtoError keeps its fields through pickle, as worker processes need."""
    error = ProtoError("f", "Found x", 1, 2, "x", ["y"])
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.line, again.column, again.choices) == (str(error), 1, 2, ("y",))

"""Which snapshot can be resumed."""

from __future__ import annotations

from pathlib import Path

import pytest

from allconv_caffe import proto
from allconv_caffe.train import snapshots


def test_a_snapshot_needs_its_caffemodel_and_all_its_histories(tmp_path: Path) -> None:
    """A state without its weights, of another iteration, or with histories missing does not count."""
    net = proto.NetParameter()
    for _ in range(2):
        net.layer.add().blobs.add().data.append(1.0)
    said: list[str] = []

    def save(iteration: int, histories: int, claims: int | None = None) -> Path:
        state = proto.SolverState(iter=iteration if claims is None else claims, current_step=0)
        for _ in range(histories):
            state.history.add().data.append(0.0)
        base = tmp_path / f"x_iter_{iteration}"
        proto.write_binary(base.with_suffix(".solverstate"), state)
        proto.write_binary(base.with_suffix(".caffemodel"), net)
        return base

    save(5, 2)
    save(6, 4)  # Adam keeps two for each blob
    save(7, 1)
    save(8, 2, claims=3)
    save(9, 2).with_suffix(".caffemodel").unlink()
    found = snapshots.newest_snapshot(tmp_path / "x", said.append)
    assert found == (tmp_path / "x_iter_6.solverstate", 6)
    assert [line.rsplit(": ", 1)[-1] for line in said] == [
        "x_iter_9.caffemodel is missing",
        "it holds iteration 3",
        "truncated",
    ]


def _saved(folder: Path, shared: bool = False) -> tuple[Path, Path]:
    """A state and its caffemodel: three layers of a weight and a bias; the last may share the weight of the second."""
    net = proto.NetParameter(name="net")
    state = proto.SolverState(iter=5, learned_net="elsewhere/x_iter_5.caffemodel", current_step=0)
    for index, outputs in enumerate((3, 4, 4)):
        layer = net.layer.add(name=f"conv{index}", type="Convolution")
        for size, name in ((outputs * 2, "w" if shared and index else ""), (outputs, "")):
            layer.param.add(name=name)
            blob = layer.blobs.add()
            blob.shape.dim.append(size)
            blob.data.extend([0.5] * size)
            if not (name and index == 2):
                state.history.add().CopyFrom(blob)
    base = folder / "x_iter_5"
    proto.write_binary(base.with_suffix(".solverstate"), state)
    proto.write_binary(base.with_suffix(".caffemodel"), net)
    return base.with_suffix(".solverstate"), base.with_suffix(".caffemodel")


def _field_ends(content: bytes) -> list[int]:
    """Where the fields of a message end, by the wire format: a key, then a varint, or a length and as many bytes."""

    def varint(at: int) -> tuple[int, int]:
        value = shift = 0
        while True:
            byte = content[at]
            value, at, shift = value | (byte & 127) << shift, at + 1, shift + 7
            if byte < 128:
                return value, at

    ends, at = [], 0
    while at < len(content):
        key, at = varint(at)
        length, at = varint(at)
        at += length if key & 7 == 2 else 0
        ends.append(at)
    return ends


@pytest.mark.parametrize("which", [0, 1], ids=["solverstate", "caffemodel"])
def test_a_file_cut_where_a_field_ends_does_not_count(tmp_path: Path, which: int) -> None:
    """Such a file is a message still: blobs that no history fits, or a state without its last field, give it away."""
    path = _saved(tmp_path)[which]
    content = path.read_bytes()
    *ends, whole = _field_ends(content)
    assert whole == len(content) and len(ends) >= 3
    assert snapshots.newest_snapshot(tmp_path / "x", print) is not None
    for end in ends:
        path.write_bytes(content[:end])
        assert snapshots.newest_snapshot(tmp_path / "x", lambda line: None) is None, end


def test_weights_that_layers_share_have_one_history(tmp_path: Path) -> None:
    """A caffemodel keeps a shared blob with each of its layers; the solver has one history for it."""
    state, _ = _saved(tmp_path, shared=True)
    assert snapshots.newest_snapshot(tmp_path / "x", print) == (state, 5)


def test_a_state_names_the_weights_beside_it(tmp_path: Path) -> None:
    """Of a copied directory, the state names the copy's weights before an engine reads it; else it is left as it is."""
    state, model = _saved(tmp_path)
    snapshots.adopt(state, str(model))
    assert proto.read_binary(state, proto.SolverState).learned_net == str(model)
    before = state.stat()
    snapshots.adopt(state, str(model))
    assert state.stat() == before

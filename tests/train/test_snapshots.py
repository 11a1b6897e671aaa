"""Which snapshot can be resumed."""

from __future__ import annotations

from pathlib import Path

from allconv_caffe import proto
from allconv_caffe.train import snapshots


def test_a_snapshot_needs_its_caffemodel_and_all_its_histories(tmp_path: Path) -> None:
    """A state without its weights, of another iteration, or with histories missing does not count."""
    net = proto.NetParameter()
    for _ in range(2):
        net.layer.add().blobs.add().data.append(1.0)
    said: list[str] = []

    def save(iteration: int, histories: int, claims: int | None = None) -> Path:
        state = proto.SolverState(iter=iteration if claims is None else claims)
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

"""Solvers beside each other."""

from __future__ import annotations

import torch

from allconv_caffe.caffe_torch.solver import Solver


def assert_trained_alike(plain: Solver, traced: Solver) -> None:
    """Trains both to their end: every weight has moved, to the same place in both."""
    before = [p.data.clone() for p in plain.net.learnable_params]
    plain.solve()
    traced.solve()
    for old, a, b in zip(before, plain.net.learnable_params, traced.net.learnable_params, strict=True):
        assert not torch.equal(old, a.data)
        torch.testing.assert_close(a.data, b.data, rtol=1e-5, atol=1e-5)

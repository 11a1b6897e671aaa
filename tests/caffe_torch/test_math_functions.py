"""Factors of 0 and nan as OpenBLAS has them."""

from __future__ import annotations

import math

import pytest
import torch

from allconv_caffe.caffe_torch.compute.math_functions import TorchMath

NAN, INF = math.nan, math.inf
X, Y = torch.tensor([2.0, NAN, INF, 0.0]), torch.tensor([1.0, 2.0, 3.0, 4.0])
OURS = TorchMath()


@pytest.mark.parametrize("alpha", [0.0, -0.0, NAN])
def test_scal_by_zero_or_nan_fills_with_zero(alpha: float) -> None:
    """Whatever stands there, given as a number or as a tensor."""
    for factor in (alpha, torch.tensor(alpha), torch.full((4,), alpha)):
        assert OURS.scal(factor, X).tolist() == [0, 0, 0, 0]


def test_axpy_by_zero_adds_nothing_and_by_nan_adds_nan() -> None:
    for zero in (0.0, torch.tensor(-0.0)):
        assert OURS.axpby(zero, X).tolist() == [0, 0, 0, 0]
        assert OURS.axpby(zero, X, 1.0, Y).tolist() == Y.tolist()
    assert OURS.axpy(0.0, X, Y).tolist() == Y.tolist() and OURS.axpy(NAN, X, Y).isnan().all()
    assert OURS.axpby(NAN, X).isnan().all() and OURS.axpby(torch.tensor(NAN), X).isnan().all()


@pytest.mark.parametrize("alpha", [3.0, -1.0, INF])
def test_any_other_factor_multiplies(alpha: float) -> None:
    for product in (OURS.scal, OURS.axpby):
        for factor in (alpha, torch.tensor(alpha)):
            torch.testing.assert_close(product(factor, X), X * alpha, rtol=0, atol=0, equal_nan=True)


def test_factors_of_a_tensor_count_each_for_itself() -> None:
    """A Scale layer's row of scales: 0 and nan fill their columns, the others multiply."""
    x = torch.full((2, 3), INF)
    assert OURS.scal(torch.tensor([0.0, NAN, 2.0]), x).tolist() == [[0, 0, INF]] * 2

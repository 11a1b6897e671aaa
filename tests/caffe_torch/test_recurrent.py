"""The steps of LSTM and RNN in C++ against the formulas in double, one step after the other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from allconv_caffe.caffe_torch.compute import recurrent

OPS = torch.ops.allconv_caffe
#: Steps, streams, units: one of each; less than a vector; panels, chunks and the depth of a cache begun and not filled; whole ones.
SIZES = [(1, 1, 1), (3, 2, 5), (4, 7, 70), (2, 53, 100), (3, 32, 256)]


@pytest.fixture(params=[1, 2, 5], ids=lambda n: f"{n} threads")
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """More threads than there are processors, too: rows and panels are then shared out otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def cont(steps: int, n: int) -> torch.Tensor:
    """Sequences that begin, that go on, and factors between."""
    values = torch.tensor([0.0, 1.0, 1.0, 0.5])
    return values[torch.randint(0, 4, (steps, n, 1), generator=torch.Generator().manual_seed(1))]


class Forget(torch.autograd.Function):
    """cont sigmoid(x), with Caffe's gradient f (1 - f), which is right where cont is 0 or 1."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cont: torch.Tensor) -> torch.Tensor:
        f = cont * x.sigmoid()
        ctx.save_for_backward(f)
        return f

    @staticmethod
    def backward(ctx: Any, df: torch.Tensor) -> tuple[torch.Tensor, None]:
        (f,) = ctx.saved_tensors
        return df * f * (1 - f), None


def in_double(*arrays: torch.Tensor) -> list[torch.Tensor]:
    return [array.double().requires_grad_() for array in arrays]


def lstm_in_double(
    inputs: torch.Tensor, cont: torch.Tensor, h: torch.Tensor, c: torch.Tensor, w: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    outputs, cells = [], [c]
    for x, goes_on in zip(inputs, cont, strict=True):
        i, f, o, g = (x + (goes_on * h) @ w.t()).chunk(4, -1)
        c = Forget.apply(f, goes_on) * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        outputs.append(h)
        cells.append(c)
    return torch.stack(outputs), torch.stack(cells)


def rnn_in_double(inputs: torch.Tensor, cont: torch.Tensor, h: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    outputs = []
    for x, goes_on in zip(inputs, cont, strict=True):
        h = (x + (goes_on * h) @ w.t()).tanh()
        outputs.append(h)
    return torch.stack(outputs)


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Within 100 roundings of float32 of the largest value: sums of up to 1,024 products, carried over 4 steps."""
    limit = 100 * 2**-24 * max(1.0, expected.detach().abs().max().item())
    torch.testing.assert_close(found, expected.detach().float(), rtol=0, atol=limit)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.usefixtures("threads")
def test_lstm_is_its_formula_and_backward_its_gradient(size: tuple[int, int, int]) -> None:
    steps, n, d = size
    inputs, h, c, w = noise(steps, n, 4 * d), noise(n, d, seed=2), noise(n, d, seed=3), noise(4 * d, d, seed=4) / d**0.5
    go_on, dy = cont(steps, n), noise(steps, n, d, seed=5)
    x_double, *others = in_double(inputs, h, c, w)
    expected, expected_cells = lstm_in_double(x_double, go_on.double(), *others)
    outputs, cells, gates, h_conted = OPS.lstm(inputs, go_on, h, c, w)
    close(outputs, expected)
    close(cells, expected_cells)
    before = torch.cat([h.double().unsqueeze(0), expected[:-1]])
    close(h_conted, go_on * before)
    (dx,) = torch.autograd.grad(expected, x_double, dy.double())
    close(OPS.lstm_backward(dy, go_on, gates, cells, w), dx)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.usefixtures("threads")
def test_rnn_is_its_formula_and_backward_its_gradient(size: tuple[int, int, int]) -> None:
    steps, n, d = size
    inputs, h, w, dy = noise(steps, n, d), noise(n, d, seed=2), noise(d, d, seed=4) / d**0.5, noise(steps, n, d, seed=5)
    go_on = cont(steps, n)
    x_double, *others = in_double(inputs, h, w)
    expected = rnn_in_double(x_double, go_on.double(), *others)
    hidden, h_conted = OPS.rnn(inputs, go_on, h, w)
    close(hidden, expected)
    close(h_conted, go_on * torch.cat([h.double().unsqueeze(0), expected[:-1]]))
    (dx,) = torch.autograd.grad(expected, x_double, dy.double())
    close(OPS.rnn_backward(dy, go_on, hidden, w), dx)


@pytest.mark.parametrize(("m", "k", "n"), [(1, 1, 1), (50, 300, 70), (97, 128, 64), (5, 0, 3)])
@pytest.mark.parametrize("left", [False, True], ids=["a", "a.t"])
@pytest.mark.parametrize("right", [False, True], ids=["b", "b.t"])
@pytest.mark.usefixtures("threads")
def test_a_product_takes_its_factors_as_they_lie(m: int, k: int, n: int, left: bool, right: bool) -> None:
    """Transposed or not, deeper than what stays in a cache, and of no depth at all."""
    a = noise(k, m).t() if left else noise(m, k)
    b = noise(n, k, seed=1).t() if right else noise(k, n, seed=1)
    close(OPS.product(a, b), a.double() @ b.double())


def test_tanh_and_sigmoid_at_their_ends() -> None:
    """Far out they are 0, 1 and -1; near 0 tanh keeps its digits; nan stays nan. A step without weights is the two alone."""
    x = torch.tensor([-1e30, -200, -90, -20, -1e-6, -0.0, 1e-6, 0.3, 20, 90, 200, 1e30, float("nan"), float("inf")])
    go_on, none = torch.ones(1, 1, 1), torch.zeros(1, len(x))
    hidden, _ = OPS.rnn(x.reshape(1, 1, -1), go_on, none, torch.zeros(len(x), len(x)))
    torch.testing.assert_close(hidden.flatten(), x.double().tanh().float(), rtol=4e-7, atol=0, equal_nan=True)
    _, _, gates, _ = OPS.lstm(x.repeat(4).reshape(1, 1, -1), go_on, none, none, torch.zeros(4 * len(x), len(x)))
    i, f, o, g = gates.flatten().chunk(4)
    for gate in (i, f, o):
        torch.testing.assert_close(gate, x.double().sigmoid().float(), rtol=4e-7, atol=1e-37, equal_nan=True)
    torch.testing.assert_close(g, x.double().tanh().float(), rtol=4e-7, atol=0, equal_nan=True)


def test_the_kernels_are_there() -> None:
    """Where there is a compiler; without, a net with such layers runs in the plain executor."""
    assert recurrent.why_not() is None

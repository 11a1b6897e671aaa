"""All steps of an LSTM or RNN as one operator, forward and backward, for compiled nets that run float32 on the CPU.

As a graph of single steps a sequence takes minutes to compile. Here each step is one product, and for the LSTM one pass of
kernels/lstm.cpp; what needs no order (the gradient of the weights) is left to the caller, for all steps at once.

Source: lstm_unit_layer.cpp, rnn_layer.cpp.
"""

from __future__ import annotations

import ctypes
import functools

import torch

from allconv_caffe.caffe_torch.compute.compiler import BuildError, load
from allconv_caffe.caffe_torch.compute.operators import define


@functools.cache
def _load() -> tuple[ctypes.CDLL | None, str | None]:
    try:
        library = load("lstm", ["-ffp-contract=fast", "-fno-math-errno"])
    except (BuildError, OSError) as error:
        return None, str(error)
    i, p = ctypes.c_int64, ctypes.c_void_p
    library.lstm_step.argtypes = [i, i, *[p] * 7, ctypes.c_int]
    library.lstm_step_backward.argtypes = [i, i, *[p] * 8, ctypes.c_int]
    for function in (library.lstm_step, library.lstm_step_backward):
        function.restype = None
    return library, None


def why_not() -> str | None:
    """What keeps this machine from the kernels, in words; None where nothing does. Compiles them on the first call."""
    return _load()[1]


def _library() -> ctypes.CDLL:
    library, reason = _load()
    if library is None:
        raise BuildError(f"the recurrent kernels are not available: {reason}")
    return library


Four = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
Two = tuple[torch.Tensor, torch.Tensor]


def _lstm(inputs: torch.Tensor, cont: torch.Tensor, h: torch.Tensor, c: torch.Tensor, w: torch.Tensor) -> Four:
    """The steps of LSTMLayer.

    Args:
        inputs: (T, N, 4D), what x gives the gates, in the order i, f, o, g.
        cont: (T, N, 1).
        h, c: (N, D), the states before.
        w: (4D, D).
    Returns: h (T, N, D); c with the one before (T + 1, N, D); the gates (T, N, 4D); cont h_{t-1} (T, N, D).
    """
    steps, n, d = *inputs.shape[:2], w.shape[1]
    gates, cont, w = inputs.contiguous().clone(), cont.contiguous(), w.t()
    outputs, h_conted, cells = (torch.empty(length, n, d) for length in (steps, steps, steps + 1))
    torch.mul(cont[0], h, out=h_conted[0])
    cells[0] = c
    step, threads = _library().lstm_step, torch.get_num_threads()
    for t in range(steps):
        gates[t].addmm_(h_conted[t], w)
        following = (cont[t + 1].data_ptr(), h_conted[t + 1].data_ptr()) if t + 1 < steps else (None, None)
        arrays = (gates[t], cont[t], cells[t], cells[t + 1], outputs[t])
        step(n, d, *(a.data_ptr() for a in arrays), *following, threads)
    return outputs, cells, gates, h_conted


def _lstm_fake(inputs: torch.Tensor, cont: torch.Tensor, h: torch.Tensor, c: torch.Tensor, w: torch.Tensor) -> Four:
    steps, n, d = *inputs.shape[:2], w.shape[1]
    sizes = ((steps, n, d), (steps + 1, n, d), (steps, n, 4 * d), (steps, n, d))
    one, two, three, four = (torch.empty(size, device=inputs.device) for size in sizes)
    return one, two, three, four


def _lstm_backward(
    dy: torch.Tensor, cont: torch.Tensor, gates: torch.Tensor, cells: torch.Tensor, w: torch.Tensor
) -> torch.Tensor:
    """The gradient of `inputs` (T, N, 4D) from that of the outputs; no gradient comes from the states after."""
    steps, n, d = dy.shape
    dy, cont, gates, cells = dy.contiguous(), cont.contiguous(), gates.contiguous(), cells.contiguous()
    dx, dc, dh = torch.empty(steps, n, 4 * d), torch.zeros(n, d), torch.empty(n, d)
    step, threads = _library().lstm_step_backward, torch.get_num_threads()
    for t in reversed(range(steps)):
        arrays = (gates[t], cells[t], cells[t + 1], dc, dy[t])
        above = (dh.data_ptr(), cont[t + 1].data_ptr()) if t + 1 < steps else (None, None)
        step(n, d, *(a.data_ptr() for a in arrays), *above, dx[t].data_ptr(), threads)
        if t:
            torch.mm(dx[t], w, out=dh)
    return dx


def _rnn(inputs: torch.Tensor, cont: torch.Tensor, h: torch.Tensor, w: torch.Tensor) -> Two:
    """The steps of RNNLayer: inputs (T, N, D), cont (T, N, 1), h (N, D), w (D, D) to h and cont h_{t-1}, (T, N, D) each."""
    hidden, h_conted = torch.empty(inputs.shape), torch.empty(inputs.shape)
    for t in range(inputs.shape[0]):
        torch.mul(cont[t], h, out=h_conted[t])
        h = torch.addmm(inputs[t], h_conted[t], w.t(), out=hidden[t]).tanh_()
    return hidden, h_conted


def _rnn_backward(dh: torch.Tensor, cont: torch.Tensor, hidden: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """The gradient of `inputs` from that of `hidden`, (T, N, D) both."""
    dx = dh * (1 - hidden * hidden)
    for t in reversed(range(1, dh.shape[0])):
        back = torch.mm(dx[t], w).mul_(cont[t])
        dx[t - 1].addcmul_(back, 1 - hidden[t - 1] * hidden[t - 1])
    return dx


define(
    "Tensor inputs, Tensor cont, Tensor h, Tensor c, Tensor w", "(Tensor, Tensor, Tensor, Tensor)", _lstm, _lstm_fake
)
define(
    "Tensor dy, Tensor cont, Tensor gates, Tensor cells, Tensor w",
    "Tensor",
    _lstm_backward,
    lambda dy, cont, gates, cells, w: torch.empty(gates.shape, device=dy.device),
)
define(
    "Tensor inputs, Tensor cont, Tensor h, Tensor w",
    "(Tensor, Tensor)",
    _rnn,
    lambda inputs, *_: (
        torch.empty(inputs.shape, device=inputs.device),
        torch.empty(inputs.shape, device=inputs.device),
    ),
)
define(
    "Tensor dh, Tensor cont, Tensor hidden, Tensor w",
    "Tensor",
    _rnn_backward,
    lambda dh, *_: torch.empty(dh.shape, device=dh.device),
)

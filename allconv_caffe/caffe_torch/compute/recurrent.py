"""All steps of an LSTM or RNN as one operator, forward and backward, and the products around them, for compiled nets that run
float32 on the CPU.

As a graph of single steps a sequence takes minutes to compile. Here kernels/recurrent.cpp runs the steps, each a product and
what follows from it. What needs no order, the products of the inputs and of the weights' gradients, is left to the caller, for
all steps at once, by a product of the same make: MKL's, which PyTorch calls, uses half of the vectors of a processor that is
not Intel's.

Source: lstm_unit_layer.cpp, rnn_layer.cpp.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

import torch

from allconv_caffe.caffe_torch.compute.compiler import BuildError, load
from allconv_caffe.caffe_torch.compute.operators import define

#: The arguments of each function of the library: I, a number; P, a pointer; T, the number of threads.
FUNCTIONS = {
    "lstm_forward": "III PPPPPPP T",
    "lstm_backward": "III PPPPPPP T",
    "rnn_forward": "III PPPPP T",
    "rnn_backward": "III PPPPP T",
    "product": "III PII PII P T",
}
TYPES = {"I": ctypes.c_int64, "P": ctypes.c_void_p, "T": ctypes.c_int}


@functools.cache
def _load() -> tuple[ctypes.CDLL | None, str | None]:
    try:
        library = load("recurrent", ["-ffp-contract=fast", "-fno-math-errno"])
    except (BuildError, OSError) as error:
        return None, str(error)
    for name, arguments in FUNCTIONS.items():
        function = getattr(library, name)
        function.restype = None
        function.argtypes = [TYPES[kind] for kind in arguments if kind != " "]
    return library, None


def why_not() -> str | None:
    """What keeps this machine from the kernels, in words; None where nothing does. Compiles them on the first call."""
    return _load()[1]


def _call(name: str, *arguments: torch.Tensor | int) -> None:
    library, reason = _load()
    if library is None:
        raise BuildError(f"the recurrent kernels are not available: {reason}")
    values = (a.data_ptr() if isinstance(a, torch.Tensor) else a for a in arguments)
    getattr(library, name)(*values, torch.get_num_threads())


Four = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
Two = tuple[torch.Tensor, torch.Tensor]


Room = Callable[..., torch.Tensor]
"""Gives memory for results: of a shape, like `torch.empty`."""


class Rooms:
    """Memory for the results of one layer's forward, the same in the same order each time: a page that is new costs more than what
    is computed on it.
    """

    def __init__(self) -> None:
        self._kept: list[torch.Tensor] = []
        self._next = 0

    def begin(self) -> None:
        """Before a forward."""
        self._next = 0

    def __call__(self, *shape: int) -> torch.Tensor:
        i, self._next = self._next, self._next + 1
        if i == len(self._kept):
            self._kept.append(torch.empty(shape))
        elif self._kept[i].shape != shape:
            self._kept[i] = torch.empty(shape)
        return self._kept[i]


def lstm(
    inputs: torch.Tensor,
    cont: torch.Tensor,
    h: torch.Tensor,
    c: torch.Tensor,
    w: torch.Tensor,
    room: Room = torch.empty,
) -> Four:
    """The steps of LSTMLayer.

    Args:
        inputs: (T, N, 4D), what x gives the gates, in the order i, f, o, g.
        cont: (T, N, 1).
        h, c: (N, D), the states before.
        w: (4D, D).
    Returns: h (T, N, D); c with the one before (T + 1, N, D); the gates (T, N, 4D); cont h_{t-1} (T, N, D).
    """
    steps, n, d = *inputs.shape[:2], w.shape[1]
    inputs, cont, w, gates = inputs.contiguous(), cont.contiguous(), w.contiguous(), room(*inputs.shape)
    outputs, h_conted, cells = (room(length, n, d) for length in (steps, steps, steps + 1))
    torch.mul(cont[0], h, out=h_conted[0])
    cells[0] = c
    _call("lstm_forward", steps, n, d, inputs, cont, w, outputs, cells, gates, h_conted)
    return outputs, cells, gates, h_conted


def _lstm(inputs: torch.Tensor, cont: torch.Tensor, h: torch.Tensor, c: torch.Tensor, w: torch.Tensor) -> Four:
    return lstm(inputs, cont, h, c, w)


def _lstm_fake(inputs: torch.Tensor, cont: torch.Tensor, h: torch.Tensor, c: torch.Tensor, w: torch.Tensor) -> Four:
    steps, n, d = *inputs.shape[:2], w.shape[1]
    sizes = ((steps, n, d), (steps + 1, n, d), (steps, n, 4 * d), (steps, n, d))
    one, two, three, four = (torch.empty(size, device=inputs.device) for size in sizes)
    return one, two, three, four


def _lstm_backward(
    dy: torch.Tensor, cont: torch.Tensor, gates: torch.Tensor, cells: torch.Tensor, w: torch.Tensor
) -> torch.Tensor:
    """The gradient of `inputs` (T, N, 4D) from that of the outputs; no gradient comes from the states after."""
    dx, dc = torch.empty(gates.shape), torch.zeros(dy.shape[1:])
    arrays = (array.contiguous() for array in (dy, cont, w, gates, cells))
    _call("lstm_backward", *dy.shape, *arrays, dc, dx)
    return dx


def _rnn(inputs: torch.Tensor, cont: torch.Tensor, h: torch.Tensor, w: torch.Tensor) -> Two:
    """The steps of RNNLayer: inputs (T, N, D), cont (T, N, 1), h (N, D), w (D, D) to h and cont h_{t-1}, (T, N, D) each."""
    hidden, h_conted = torch.empty(inputs.shape), torch.empty(inputs.shape)
    torch.mul(cont[0], h, out=h_conted[0])
    arrays = (array.contiguous() for array in (inputs, cont, w))
    _call("rnn_forward", *inputs.shape, *arrays, hidden, h_conted)
    return hidden, h_conted


def _rnn_backward(dh: torch.Tensor, cont: torch.Tensor, hidden: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """The gradient of `inputs` from that of `hidden`, (T, N, D) both."""
    dx = torch.empty(dh.shape)
    _call("rnn_backward", *dh.shape, *(array.contiguous() for array in (dh, cont, w, hidden)), dx)
    return dx


def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a (M, K) b (K, N), in any layout, transposed ones without a copy."""
    c = torch.empty(a.shape[0], b.shape[1])
    _call("product", *c.shape, a.shape[1], a, *a.stride(), b, *b.stride(), c)
    return c


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
define(
    "Tensor a, Tensor b",
    "Tensor",
    _product,
    lambda a, b: torch.empty(a.shape[0], b.shape[1], device=a.device),
)

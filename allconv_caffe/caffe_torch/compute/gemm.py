"""Which library multiplies two matrices: PyTorch's own choice ("mm", mostly MKL) or oneDNN ("onednn").

MKL uses half of the vectors of a processor that is not Intel's. Which of them is taken is measured, see `choice.py`.
"""

from __future__ import annotations

import torch

from allconv_caffe.caffe_torch.compute import choice
from allconv_caffe.caffe_torch.compute.operators import define

ALGORITHMS = ("mm", "onednn")
SMALL_FLOP = 1e7  # below, the time goes into calls, and neither is clearly faster


def _onednn_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(a, b.t(), None, "none", [], "")


# an operator of our own, since PyTorch's compiler would copy transposed factors for oneDNN's
define("Tensor a, Tensor b", "Tensor", _onednn_product, lambda a, b: a.new_empty(a.shape[0], b.shape[1]))


def product(algo: str, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a (M, K) b (K, N), in any layout: (M, N)."""
    return torch.ops.allconv_caffe.onednn_product(a, b) if algo == "onednn" else a @ b


def choose(a: torch.Tensor, b: torch.Tensor, *, compiled: bool, mode: str = "auto") -> str:
    """The library's name.

    Args:
        a, b: (M, K) and (K, N); only their shapes, layouts, types and device count.
        mode: "auto": where a compiled net runs float32 on the CPU, the fastest for what is not small; else "mm".
    """
    (m, k), n = (int(length) for length in a.shape), int(b.shape[1])
    if not (compiled and mode == "auto" and a.device.type == "cpu" and a.dtype == b.dtype == torch.float32):
        return "mm"
    if 2 * m * k * n < SMALL_FLOP or not torch.backends.mkldnn.is_available():
        return "mm"
    left, right = (factor.stride(0) == 1 for factor in (a, b))
    layout: choice.Layout = ("a.t b.t" if right else "a.t b") if left else ("a b.t" if right else "a b")
    question = choice.Product(what=layout, m=m, k=k, n=n, threads=torch.get_num_threads())

    def trial(algo: str) -> choice.Trial:
        def run(rows: int) -> object:
            first = choice.numbers(k, rows).t() if left else choice.numbers(rows, k)
            return product(algo, first, choice.numbers(n, k).t() if right else choice.numbers(k, n))

        return run

    return choice.fastest(question, {algo: trial(algo) for algo in ALGORITHMS})

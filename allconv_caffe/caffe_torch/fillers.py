"""Initial values of parameters: one function per filler, shape and generator in, a float32 tensor out.

Throughout, for a blob of `shape`: ``fan_in = count / shape[0]``, and ``fan_out = count / shape[1]`` (`count` when there
is one axis). These are the literal divisions of Caffe, whatever the axes of the layer mean: for a transposed
InnerProduct or a Deconvolution, ``fan_in`` is not the number of inputs of a unit.

Source: filler.hpp.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from allconv_caffe.caffe_torch.compute.memory import zeros
from allconv_caffe.caffe_torch.compute.rng import Generator
from allconv_caffe.caffe_torch.errors import CaffeError, check
from allconv_caffe.proto import FillerParameter

Filler = Callable[[tuple[int, ...], Any, Generator], torch.Tensor]
FILLERS: dict[str, Filler] = {}


def filler(name: str) -> Callable[[Filler], Filler]:
    """Function decorator: makes a filler known under its prototxt `type`. Registering a name twice raises."""

    def add(function: Filler) -> Filler:
        if name in FILLERS:
            raise ValueError(f"filler {name} already registered")
        FILLERS[name] = function
        return function

    return add


NO_AXIS = "axis 0 out of range for 0-D Blob with shape (1)"


def fill(shape: Sequence[int], filler_param: Any, rng: Generator) -> torch.Tensor:
    """Draws the contents of a parameter.

    Args:
        shape: of the blob; no axis may be 0.
        filler_param: a FillerParameter; its default `type` is "constant" with value 0.
        rng: where random fillers draw, row-major.

    Returns: float32 tensor of `shape` on the generator's device.
    Raises: CaffeError for an unknown type, an empty blob, `sparse` where it is not supported, or impossible bounds.
    """
    function = FILLERS.get(filler_param.type)
    if function is None:
        raise CaffeError(f"Unknown filler name: {filler_param.type} (known fillers: {', '.join(sorted(FILLERS))})")
    check(math.prod(shape) > 0, f"Check failed: data_ (cannot fill a blob of shape {tuple(shape)})")
    if filler_param.type != "gaussian":
        check(filler_param.sparse == -1, "Sparsity not supported by this Filler.")
    return function(tuple(int(d) for d in shape), filler_param, rng)


def fan(shape: Sequence[int], variance_norm: int) -> float:
    """The n of xavier and msra: fan_in (default), fan_out, or their average."""
    check(len(shape) > 0, NO_AXIS)
    count = math.prod(shape)
    fan_in = count // shape[0]
    fan_out = count // shape[1] if len(shape) > 1 else count
    if variance_norm == FillerParameter.AVERAGE:
        return (fan_in + fan_out) / 2
    return fan_out if variance_norm == FillerParameter.FAN_OUT else fan_in


def _float32_sqrt(numerator: float, n: float) -> float:
    return float(np.sqrt(np.float32(numerator) / np.float32(n)))


def _uniform(shape: Sequence[int], low: float, high: float, rng: Generator) -> torch.Tensor:
    check(low <= high, f"Check failed: a <= b ({low:g} vs. {high:g})")
    return rng.uniform(shape, low, high)


def _gaussian(shape: Sequence[int], mean: float, std: float, rng: Generator) -> torch.Tensor:
    check(std > 0, f"Check failed: sigma > 0 ({std:g} vs. 0)")
    return rng.gaussian(shape, mean, std)


@filler("constant")
def constant(shape: tuple[int, ...], param: Any, rng: Generator) -> torch.Tensor:
    """x = value (default 0). Draws nothing."""
    if rng.device.type == "cpu" and str(float(param.value)) == "0.0":  # not -0
        return zeros(shape)
    return torch.full(shape, param.value, dtype=torch.float32, device=rng.device)


@filler("uniform")
def uniform(shape: tuple[int, ...], param: Any, rng: Generator) -> torch.Tensor:
    """x ~ U(min, max), default U(0, 1)."""
    return _uniform(shape, param.min, param.max, rng)


@filler("gaussian")
def gaussian(shape: tuple[int, ...], param: Any, rng: Generator) -> torch.Tensor:
    """x ~ N(mean, std^2), default N(0, 1).

    ``sparse: s`` (s >= 0) then keeps each value with probability s / shape[0] and zeroes the others, so that a unit of
    a square matrix has s non-zero weights on average.
    """
    x = _gaussian(shape, param.mean, param.std, rng)
    check(param.sparse >= -1, f"Check failed: sparse >= -1 ({param.sparse} vs. -1)")
    if param.sparse >= 0:
        check(len(shape) >= 1, f"Check failed: blob->num_axes() >= 1 ({len(shape)} vs. 1)")
        p = np.float32(param.sparse) / np.float32(shape[0])
        check(p <= 1, f"Check failed: p <= 1 ({p:g} vs. 1)")
        x = x * rng.bernoulli(shape, p, torch.device("cpu"))
    return x


@filler("positive_unitball")
def positive_unitball(shape: tuple[int, ...], param: Any, rng: Generator) -> torch.Tensor:
    """x ~ U(0, 1), then each row (fan_in values) divided by its sum, so that it sums to 1."""
    check(len(shape) > 0, NO_AXIS)
    x = _uniform(shape, 0.0, 1.0, rng)
    if x.is_meta:
        return x
    rows = x.reshape(shape[0], -1).numpy()
    sums = rows.cumsum(1)[:, -1:]  # one by one, as Caffe adds: another order rounds otherwise
    return torch.from_numpy(rows / sums).reshape(shape)


@filler("xavier")
def xavier(shape: tuple[int, ...], param: Any, rng: Generator) -> torch.Tensor:
    """x ~ U(-a, a), a = sqrt(3 / n); n = fan_in, fan_out or their average (`variance_norm`). Variance 1 / n."""
    a = _float32_sqrt(3, fan(shape, param.variance_norm))
    return _uniform(shape, -a, a, rng)


@filler("msra")
def msra(shape: tuple[int, ...], param: Any, rng: Generator) -> torch.Tensor:
    """x ~ N(0, 2 / n); n = fan_in, fan_out or their average (`variance_norm`)."""
    return _gaussian(shape, 0.0, _float32_sqrt(2, fan(shape, param.variance_norm)), rng)


@filler("bilinear")
def bilinear(shape: tuple[int, ...], param: Any, rng: Generator) -> torch.Tensor:
    """x[.., i, j] = (1 - |i/f - c|) (1 - |j/f - c|), f = ceil(w/2), c = (w - 1)/(2f): interpolation kernels.

    For 4-axis square filters, upsampling by Deconvolution. Draws nothing.
    """
    check(len(shape) == 4, "Blob must be 4 dim.")
    check(shape[3] == shape[2], "Filter must be square")
    w = shape[3]
    f = math.ceil(w / 2)
    c = (w - 1) / (2 * f)
    line = 1 - (torch.arange(w, dtype=torch.float32, device=rng.device) / f - c).abs()
    return (line[:, None] * line[None, :]).expand(shape).contiguous()

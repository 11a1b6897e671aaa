"""Which algorithm convolves: one interface, forward and backward, over torch operations.

`forward(algo, ...)` returns the top; `backward(algo, ...)` returns the three gradients. "direct" is PyTorch's own
convolution. "winograd2" and "winograd4" compute convolutions through 3x3, and the former through 5x5, with stride 1 on tiles
of 2x2 and 4x4 outputs with 2.25 to 4 times fewer multiplications, in float32, of bfloat16, too; see `winograd.py`. "phases2"
and "phases4" make forward and dw of those with stride on the same tiles, of the phases of the image, see `phases.py`. "amx" is
for bfloat16 where the processor multiplies its tiles, see `amx.py`; there, "turned" makes dx as PyTorch's convolution of dy
with turned filters. "patches" makes dw of images of one channel as a product of dy and what lies under each window. Which of
them is taken is measured, see `choice.py`.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from allconv_caffe.caffe_torch.compute import amx, bf16, choice, phases, winograd
from allconv_caffe.caffe_torch.compute.window import Window

Gradients = tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]
Need = tuple[bool, bool, bool]  # of dx, dw, db
WINOGRAD = {"winograd2": 2, "winograd4": 4}
PHASES = {"phases2": "winograd2", "phases4": "winograd4"}
ALGORITHMS = ("direct", *WINOGRAD, *PHASES, "turned", "amx", "patches")
DIRECT = ("direct", "direct")
MAX_AXES = 3  # spatial axes of PyTorch's convolution


def choose(
    what: choice.What, x: torch.Tensor, w: torch.Tensor, window: Window, *, compiled: bool, mode: str = "auto"
) -> str:
    """The algorithm's name.

    Args:
        what: which of a convolution's results.
        x, w: bottom and filters; only their shapes, types and device count.
        mode: an algorithm, or "auto": where a compiled net runs on the CPU, the fastest of those whose kernels are there.

    Raises:
        ValueError: unknown mode.
    """
    if mode not in ("auto", *ALGORITHMS):
        raise ValueError(f"unknown convolution algorithm '{mode}' (known: auto, {', '.join(ALGORITHMS)})")
    if mode == "auto":
        possible = _possible(what, x, w, window) if compiled else ("direct",)
        return _fastest(what, x, w, window, possible) if len(possible) > 1 else "direct"
    return mode if mode in _fitting(what, x, w, window) else "direct"


def _fitting(what: choice.What, x: torch.Tensor, w: torch.Tensor, window: Window) -> tuple[str, ...]:
    """The algorithms that can compute it, whether their kernels are there or not; the usual one first."""
    tiles = tuple(f"winograd{m}" for m in winograd.tiles(w.shape[0] // window.group, w.shape[1], window))
    if x.dtype == torch.bfloat16:
        turns = what == "dx" and window.turned() is not None
        ours: tuple[str, ...] = ("turned", "amx") if turns else ("amx",)
        return ("direct", *(ours if amx.fits(x, window) else ()), *tiles)
    if tiles:
        return (*tiles, "direct")
    within = phases.without_stride(window)
    if within is not None and what != "dx":
        parts = winograd.tiles(w.shape[0], w.shape[1] * math.prod(window.stride), within)
        return ("direct", *(f"phases{m}" for m in parts))
    simple = x.dim() == 4 and x.shape[1] == 1 and window.dilation == (1, 1) and not any(window.pad)
    return ("direct", "patches") if what == "dw" and simple else ("direct",)


def _possible(what: choice.What, x: torch.Tensor, w: torch.Tensor, window: Window) -> tuple[str, ...]:
    """Those among which a measurement decides."""
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.bfloat16):
        return ("direct",)
    possible = _fitting(what, x, w, window)
    if "amx" in possible:  # which no tiles of Winograd's outrun
        left_out = {"turned", "amx"} if amx.why_not() else set(WINOGRAD)
        possible = tuple(algo for algo in possible if algo not in left_out)
    if {*WINOGRAD, *PHASES} & set(possible) and winograd.why_not():
        possible = tuple(algo for algo in possible if algo not in {*WINOGRAD, *PHASES})
    return possible


def _fastest(what: choice.What, x: torch.Tensor, w: torch.Tensor, window: Window, algos: tuple[str, ...]) -> str:
    n, c, height, width = (int(length) for length in x.shape)
    out, threads = window.output_size((height, width)), torch.get_num_threads()
    question: choice.Question
    if x.dtype == torch.float32 and "winograd2" in algos:
        question = choice.Convolution(
            what=what, n=n, c=c, h=height, w=width, o=w.shape[0],
            kernel=window.kernel[0], pad=window.pad[0], group=window.group, threads=threads,
        )  # fmt: skip
    else:
        kind = choice.Bfloat16Convolution if x.dtype == torch.bfloat16 else choice.WindowConvolution
        question = kind(
            what=what, n=n, c=c, h=height, w=width, o=w.shape[0], oh=out[0], ow=out[1],
            kernel=window.kernel, stride=window.stride, pad=window.pad, threads=threads,
        )  # fmt: skip

    def trial(algo: str) -> choice.Trial:
        def run(images: int) -> object:
            bottom = choice.numbers(images, c, height, width, dtype=x.dtype)
            filters = choice.numbers(*w.shape, dtype=x.dtype)
            if what == "forward":
                return forward(algo, bottom, filters, None, window)
            top = choice.numbers(images, w.shape[0], *out, dtype=x.dtype)
            return backward((algo, algo), top, bottom, filters, window, (what == "dx", what == "dw", False))

        return run

    return choice.fastest(question, {algo: trial(algo) for algo in algos})


def forward(algo: str, x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, window: Window) -> torch.Tensor:
    """y = x * w + b, (N, C, spatial...) and (K, C / group, kernel...) to (N, K, spatial...)."""
    if algo in WINOGRAD and window.group > 1:
        biases = [None] * window.group if b is None else b.chunk(window.group)
        groups = zip(x.chunk(window.group, 1), w.chunk(window.group), biases, strict=True)
        return torch.cat([forward(algo, *group, replace(window, group=1)) for group in groups], 1)
    if algo in WINOGRAD:
        m = WINOGRAD[algo]
        u = winograd.transformed(bf16.widened(w), m)
        return torch.ops.allconv_caffe.winograd(x, u, None if b is None else bf16.widened(b), m, window.pad[0])
    if algo in PHASES:
        within = phases.without_stride(window)
        assert within is not None
        return forward(PHASES[algo], phases.apart(x, window), phases.filters_apart(w, window), b, within)
    if algo == "amx":
        return amx.convolution(x, w, b, window)
    if window.num_axes > MAX_AXES:
        inner = window.without_first_axis()
        y = sum(forward(algo, part, w[:, :, k], None, inner) for k, part in enumerate(_slices(x, window)))
        assert isinstance(y, torch.Tensor)
        y = y.reshape(x.shape[0], -1, *y.shape[1:]).transpose(1, 2)
        return y if b is None else y + _along_channels(b, window)
    return torch.ops.aten.convolution(_last(x), w, b, *_arguments(window, transposed=False))


def _last(x: torch.Tensor) -> torch.Tensor:
    """Images of one channel lie channels_last and in C order at once: PyTorch takes the former if their strides say so.

    What it gives is channels_last then, as whatever follows a convolution on a CPU wants it.
    """
    if x.device.type != "cpu" or x.dim() != 4 or x.shape[1] != 1 or not x.is_contiguous():
        return x
    height, width = x.shape[2:]
    return x.as_strided(x.shape, (height * width, 1, width, 1))


def backward(
    algos: tuple[str, str], dy: torch.Tensor, x: torch.Tensor, w: torch.Tensor, window: Window, need: Need
) -> Gradients:
    """dx, dw, db; None where `need` says no.

    Args:
        algos: which algorithm makes dx, and which dw.
    """
    if window.num_axes > MAX_AXES:
        return _backward_deep(dy, x, w, window, need)
    direct = [wanted and algo == "direct" for wanted, algo in zip(need, algos, strict=False)]
    dx, dw, db = None, None, None
    if any(direct):  # where the bias is wanted without the filters, oneDNN would make both
        mask = [*direct, need[2] and direct[1]]
        arguments = _arguments(window, transposed=False)
        dx, dw, db = torch.ops.aten.convolution_backward(dy, _last(x), w, [w.shape[0]], *arguments, mask)
    if need[0] and not direct[0]:
        dx = _data_gradient(algos[0], dy, x, w, window)
    if need[1] and algos[1] in WINOGRAD:
        m = WINOGRAD[algos[1]]
        groups = zip(x.chunk(window.group, 1), dy.chunk(window.group, 1), strict=True)
        parts = [torch.ops.allconv_caffe.winograd_weight(*group, m, window.pad[0]) for group in groups]
        g = winograd.filter_transform(m, parts[0], w.shape[2])
        dw = torch.cat([torch.einsum("ir,js,ijco->ocrs", g, g, du.unflatten(0, (len(g), len(g)))) for du in parts])
    if need[1] and algos[1] in PHASES:
        within, filters = phases.without_stride(window), phases.filters_apart(w, window)
        assert within is not None
        one = PHASES[algos[1]]
        _, dw, _ = backward((one, one), dy, phases.apart(x, window), filters, within, (False, True, False))
        dw = None if dw is None else phases.filters_together(dw, window)
    if need[1] and algos[1] == "patches":
        dw = (dy.permute(0, 2, 3, 1).flatten(0, 2).t() @ _patches(x, window)).view(w.shape)
    if need[1] and algos[1] == "amx":
        dw, db = amx.weight_gradient(dy, x, window)
    if need[2] and db is None:
        db = dy.sum([0, *range(2, dy.dim())])
    return dx, dw, db if need[2] else None


def _patches(x: torch.Tensor, window: Window) -> torch.Tensor:
    """What lies under each window in images of one channel: (N * out, kernel)."""
    (height, width), (down, right) = window.kernel, window.stride
    return x[:, 0].unfold(1, height, down).unfold(2, width, right).reshape(-1, height * width)


def _data_gradient(algo: str, dy: torch.Tensor, x: torch.Tensor, w: torch.Tensor, window: Window) -> torch.Tensor:
    if algo == "amx":
        return amx.data_gradient(dy, x, w, window)
    within = window.turned()
    assert within is not None  # what fits it has that
    return forward(algo if algo in WINOGRAD else "direct", dy, turned(w, window.group), None, within)


def turned(w: torch.Tensor, group: int = 1) -> torch.Tensor:
    """The filters (K, C / group, height, width) by which dy is convolved into dx: turned by 180 degrees, (C, K / group, ...)."""
    return w.unflatten(0, (group, -1)).transpose(1, 2).flatten(0, 1).flip(2, 3)


def transposed(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, window: Window) -> torch.Tensor:
    """What a convolution with w (C, K / group, kernel...) sends back from x (N, C, spatial...), + b: (N, K, out...)."""
    if window.num_axes <= MAX_AXES:
        return torch.ops.aten.convolution(x, w, b, *_arguments(window, transposed=True))
    below = x.new_zeros(x.shape[0], w.shape[1] * window.group, *window.input_size(x.shape[2:]))
    y, _, _ = backward(DIRECT, x, below, w, window, (True, False, False))
    assert y is not None
    return y if b is None else y + _along_channels(b, window)


def transposed_backward(dy: torch.Tensor, x: torch.Tensor, w: torch.Tensor, window: Window, need: Need) -> Gradients:
    """dx, dw, db of `transposed`; None where `need` says no."""
    if window.num_axes <= MAX_AXES:
        dx, dw, db = torch.ops.aten.convolution_backward(
            dy, x, w, [w.shape[1] * window.group], *_arguments(window, transposed=True), list(need)
        )
        return dx, dw, db
    return (
        forward("direct", dy, w, None, window) if need[0] else None,
        backward(DIRECT, x, dy, w, window, (False, True, False))[1] if need[1] else None,
        dy.sum([0, *range(2, dy.dim())]) if need[2] else None,
    )


def _arguments(window: Window, *, transposed: bool) -> tuple[list[int], list[int], list[int], bool, list[int], int]:
    """stride to groups, as aten's two convolutions take them."""
    zero = [0] * window.num_axes  # output_padding
    return list(window.stride), list(window.pad), list(window.dilation), transposed, zero, window.group


def _along_channels(b: torch.Tensor, window: Window) -> torch.Tensor:
    return b.reshape(-1, *[1] * window.num_axes)


# more axes than PyTorch convolves: for each place k of the kernel along the first, a convolution over the rest
def _places(x: torch.Tensor, window: Window) -> list[slice]:
    """Along the padded first axis, what lies under each place of the kernel."""
    kernel, stride, dilation = window.kernel[0], window.stride[0], window.dilation[0]
    out = window.output_size(x.shape[2:])[0]
    return [slice(k * dilation, k * dilation + (out - 1) * stride + 1, stride) for k in range(kernel)]


def _padded(x: torch.Tensor, window: Window) -> torch.Tensor:
    return torch.constant_pad_nd(x, [0, 0] * (x.dim() - 3) + [window.pad[0], window.pad[0]])


def _as_images(x: torch.Tensor) -> torch.Tensor:
    """(N, C, D, rest...) as (N * D, C, rest...)."""
    return x.transpose(1, 2).reshape(-1, x.shape[1], *x.shape[3:])


def _slices(x: torch.Tensor, window: Window) -> list[torch.Tensor]:
    padded = _padded(x, window)
    return [_as_images(padded[:, :, place]) for place in _places(x, window)]


def _backward_deep(dy: torch.Tensor, x: torch.Tensor, w: torch.Tensor, window: Window, need: Need) -> Gradients:
    above, total, dws = _as_images(dy), torch.zeros_like(_padded(x, window)), []
    inner = window.without_first_axis()
    for k, (place, part) in enumerate(zip(_places(x, window), _slices(x, window), strict=True)):
        dx, dw, _ = backward(DIRECT, above, part, w[:, :, k], inner, (need[0], need[1], False))
        if dx is not None and need[0]:
            total[:, :, place] += dx.reshape(x.shape[0], -1, *dx.shape[1:]).transpose(1, 2)
        dws.append(dw)
    return (
        total.narrow(2, window.pad[0], x.shape[2]) if need[0] else None,
        torch.stack([dw for dw in dws if dw is not None], 2) if need[1] else None,
        dy.sum([0, *range(2, dy.dim())]) if need[2] else None,
    )

"""ONNX's operations as PyTorch expressions: Python source over marks that stand for values.

`Module` keeps what the expressions need below self: `nn` modules and parameters, called after the prototxt's layers.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

WORDS = {
    "self",
    "torch",
    "nn",
    "F",
    "hashlib",
    "json",
    "math",
    "Path",
    "load",
    "prepare",
    "read_safetensors",
    "WEIGHTS",
    "WEIGHTS_SHA256",
    "CLASS_NAMES",
}
"""What a written file calls by these names itself."""
MARK = re.compile(r"_v(\d+)_")
"""A value in an expression."""


def identifier(text: str, taken: Iterable[str] = ()) -> str:
    """`text` as a Python name that is none of `taken`."""
    name = re.sub(r"^__+", "_", re.sub(r"\W", "_", text, flags=re.ASCII))  # of two, Python makes another in a class
    name = f"_{name}" if name[:1].isdigit() or not name else name
    taken = set(taken)
    while keyword.iskeyword(name) or name in taken:
        name += "_"
    return name


def number(value: float) -> str:
    """A float32 in the fewest digits that give it again, and are no larger than the largest of its kind."""
    exact = float(np.float32(value))
    short = float(str(np.float32(value)))
    if not np.isfinite(exact):
        return f"float('{exact}')"
    return repr(short if abs(short) <= float(np.finfo(np.float32).max) else exact)


def sizes(values: Sequence[int]) -> str:
    """``3``, or ``(3, 5)``."""
    return str(values[0]) if len(set(values)) == 1 else str(tuple(values))


@dataclass(kw_only=True)
class Array:
    """A constant, with the layer and the word that it is called by; one of no layer belongs to the preparation."""

    values: np.ndarray
    layer: str
    word: str

    @property
    def learned(self) -> bool:
        return bool(self.layer) and self.word not in ("factors", "table")


class Module:
    """What a written class has below self.

    Attributes:
        parts: source of what ``__init__`` makes, by attribute; those of `buffers` are registered as buffers.
        tensors: what its state dict holds, by name.
    """

    def __init__(self) -> None:
        self.parts: dict[str, str] = {}
        self.buffers: set[str] = set()
        self.tensors: dict[str, np.ndarray] = {}
        self.arrays: dict[str, Array] = {}
        self._values: dict[str, int] = {}
        self._attributes: dict[tuple[str, str], str] = {}
        self._forbidden = {*dir(nn.Module()), *WORDS}

    def value(self, mark: str) -> str | None:
        """The value that a mark stands for; None where it is no mark."""
        match = MARK.fullmatch(mark)
        return list(self._values)[int(match[1])] if match else None

    def ref(self, value: str) -> str:
        """How a value stands in an expression: a number, an attribute, or a mark."""
        array = self.arrays.get(value)
        if array is None:
            return f"_v{self._values.setdefault(value, len(self._values))}_"
        if array.values.ndim == 0:
            return number(float(array.values))
        name = self._attribute(value, f"{array.layer}_{array.word}" if array.layer else array.word)
        text = f"torch.empty({', '.join(map(str, array.values.shape))})"
        self.parts[name] = f"nn.Parameter({text})" if array.learned else text
        self.tensors[name] = array.values
        if not array.learned:
            self.buffers.add(name)
        return f"self.{name}"

    def module(self, layer: str, text: str, tensors: dict[str, np.ndarray]) -> str:
        """``self.<layer>``, which `text` makes; the same however often it is called."""
        name = self._attribute("", layer)
        self.parts[name] = text
        self.tensors |= {f"{name}.{word}": values for word, values in tensors.items()}
        return f"self.{name}"

    def _attribute(self, value: str, text: str) -> str:
        """A name below self, the same for the same constant (or for the same layer, value "")."""
        if (value, text) not in self._attributes:
            taken = {*self._attributes.values(), *self._forbidden}
            self._attributes[value, text] = identifier(text, taken)
        return self._attributes[value, text]


Source = Callable[[Module, Sequence[str], dict[str, Any]], str]
"""From inputs and attributes of an operation to an expression."""


def _infix(sign: str) -> Source:
    return lambda module, inputs, _: f"({module.ref(inputs[0])}) {sign} ({module.ref(inputs[1])})"


def _call(function: str, **words: str) -> Source:
    """A function of all inputs, and of the operation's attributes; `words`: PyTorch's word for an attribute's."""

    def source(module: Module, inputs: Sequence[str], attributes: dict[str, Any]) -> str:
        more = [f"{word}={number(attributes[theirs])}" for word, theirs in words.items()]
        return f"{function}({', '.join([*map(module.ref, inputs), *more])})"

    return source


def _weights(module: Module, inputs: Sequence[str], transposed: bool = False) -> tuple[str, dict[str, np.ndarray]]:
    """The layer that the second input is called by, and its tensors."""
    weight = module.arrays[inputs[1]]
    tensors = {"weight": np.ascontiguousarray(weight.values.T) if transposed else weight.values}
    if len(inputs) > 2:
        tensors["bias"] = module.arrays[inputs[2]].values
    return weight.layer, tensors


def _conv(kind: str) -> Source:
    def source(module: Module, inputs: Sequence[str], words: dict[str, Any]) -> str:
        layer, tensors = _weights(module, inputs)
        x, axes, group = module.ref(inputs[0]), len(words["kernel_shape"]), words["group"]
        before, behind = words["pads"][:axes], words["pads"][axes:]
        more = [after - first for first, after in zip(before, behind, strict=True)]
        if any(more):
            x = f"F.pad({x}, {tuple(size for each in reversed(more) for size in (0, each))})"
        first, second = tensors["weight"].shape[:2]
        channels = (first, second * group) if kind == "ConvTranspose" else (second * group, first)
        text = f"nn.{kind}{axes}d({channels[0]}, {channels[1]}, {sizes(words['kernel_shape'])}"
        for word, values, idle in (
            ("stride", words["strides"], 1),
            ("padding", before, 0),
            ("dilation", words["dilations"], 1),
        ):
            text += f", {word}={sizes(values)}" if set(values) != {idle} else ""
        text += f", groups={group}" if group != 1 else ""
        text += ")" if "bias" in tensors else ", bias=False)"
        return f"{module.module(layer, text, tensors)}({x})"

    return source


def _gemm(module: Module, inputs: Sequence[str], words: dict[str, Any]) -> str:
    layer, tensors = _weights(module, inputs, transposed=not words["transB"])
    outputs, count = tensors["weight"].shape
    text = f"nn.Linear({count}, {outputs}{'' if 'bias' in tensors else ', bias=False'})"
    return f"{module.module(layer, text, tensors)}({module.ref(inputs[0])})"


def _prelu(module: Module, inputs: Sequence[str], words: dict[str, Any]) -> str:
    layer, tensors = _weights(module, inputs)
    slope = tensors["weight"].reshape(-1)
    return f"{module.module(layer, f'nn.PReLU({len(slope)})', {'weight': slope})}({module.ref(inputs[0])})"


def _pool(function: str, edge: str) -> Source:
    def source(module: Module, inputs: Sequence[str], words: dict[str, Any]) -> str:
        x, (above, left, below, right) = module.ref(inputs[0]), words["pads"]
        if any(words["pads"]):
            x = f"F.pad({x}, ({left}, {right}, {above}, {below}){edge})"
        return f"{function}({x}, {sizes(words['kernel_shape'])}, stride={sizes(words['strides'])})"

    return source


def _pad(module: Module, inputs: Sequence[str], words: dict[str, Any]) -> str:
    amounts = module.arrays[inputs[1]].values.tolist()
    axes = len(amounts) // 2
    pairs = [(amounts[axis], amounts[axis + axes]) for axis in reversed(range(2, axes))]
    edge = f", value={module.ref(inputs[2])}" if len(inputs) > 2 else ""
    return f"F.pad({module.ref(inputs[0])}, {tuple(size for pair in pairs for size in pair)}{edge})"


def _slice(module: Module, inputs: Sequence[str], words: dict[str, Any]) -> str:
    starts, ends, axes = (module.arrays[name].values.tolist() for name in inputs[1:])
    where = dict(zip(axes, zip(starts, ends, strict=True), strict=True))
    parts = ["{}:{}".format(*where[axis]) if axis in where else ":" for axis in range(max(axes) + 1)]
    return f"({module.ref(inputs[0])})[{', '.join(parts)}]"


def _sum(module: Module, inputs: Sequence[str], words: dict[str, Any]) -> str:
    axes = module.arrays[inputs[1]].values.tolist()
    return f"({module.ref(inputs[0])}).sum({axes[0] if len(axes) == 1 else tuple(axes)}, keepdim=True)"


def _lrn(module: Module, inputs: Sequence[str], words: dict[str, Any]) -> str:
    values = f"{words['size']}, alpha={number(words['alpha'])}, beta={number(words['beta'])}, k={number(words['bias'])}"
    return f"F.local_response_norm({module.ref(inputs[0])}, {values})"


SOURCES: dict[str, Source] = {
    "Conv": _conv("Conv"),
    "ConvTranspose": _conv("ConvTranspose"),
    "Gemm": _gemm,
    "PRelu": _prelu,
    "MaxPool": _pool("F.max_pool2d", ", value=-torch.inf"),
    "AveragePool": _pool("F.avg_pool2d", ""),
    "GlobalMaxPool": lambda module, inputs, _: f"({module.ref(inputs[0])}).amax((2, 3), keepdim=True)",
    "GlobalAveragePool": lambda module, inputs, _: f"({module.ref(inputs[0])}).mean((2, 3), keepdim=True)",
    "LRN": _lrn,
    "Relu": _call("F.relu"),
    "LeakyRelu": _call("F.leaky_relu", negative_slope="alpha"),
    "Elu": _call("F.elu", alpha="alpha"),
    "Sigmoid": _call("torch.sigmoid"),
    "Tanh": _call("torch.tanh"),
    "Abs": _call("torch.abs"),
    "Max": _call("torch.maximum"),
    "Clip": _call("torch.clamp"),
    "Transpose": lambda module, inputs, words: f"({module.ref(inputs[0])}).permute({tuple(words['perm'])})",
    "Where": _call("torch.where"),
    "Softmax": lambda module, inputs, words: f"F.softmax({module.ref(inputs[0])}, {words['axis']})",
    "Concat": lambda module, inputs, words: f"torch.cat(({', '.join(map(module.ref, inputs))},), {words['axis']})",
    "Add": _infix("+"),
    "Sub": _infix("-"),
    "Mul": _infix("*"),
    "Div": _infix("/"),
    "Pow": _infix("**"),
    "Less": _infix("<"),
    "MatMul": _infix("@"),
    "Pad": _pad,
    "Slice": _slice,
    "Cast": lambda module, inputs, _: f"({module.ref(inputs[0])}).float()",
    "Gather": lambda module, inputs, _: f"({module.ref(inputs[0])})[:, {module.arrays[inputs[1]].values.tolist()}]",
    "Identity": lambda module, inputs, _: module.ref(inputs[0]),
    "Sqrt": _call("torch.sqrt"),
    "ReduceSum": _sum,
    "ReduceL2": lambda module, inputs, _: f"torch.linalg.vector_norm({module.ref(inputs[0])}, dim=1, keepdim=True)",
}
"""Each operation that `layers` and `whole` write; axes are those that these take."""

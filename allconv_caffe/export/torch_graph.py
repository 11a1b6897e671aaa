"""A net's operations as lines of Python: one for each value that has a name in the prototxt.

A value without a name that is read once stands inside the expression that reads it; a blob that Caffe writes in place is one
variable, bound again.
"""

from __future__ import annotations

import ast
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from allconv_caffe.export.layers import Graph, Pool
from allconv_caffe.export.torch_ops import SOURCES, WORDS, Array, Module, identifier, number, sizes


@dataclass(kw_only=True)
class Line:
    """A value, and the expression that gives it; `named`: it has a name in the prototxt."""

    value: str
    tree: ast.expr
    named: bool


@dataclass(kw_only=True)
class Statement:
    """A line of the file, `variable` = `text`, for a value of the graph."""

    value: str
    variable: str
    text: str


class TorchGraph(Graph):
    """Collects lines; `module` has what they need below self."""

    def __init__(self) -> None:
        super().__init__()
        self.module = Module()
        self._lines: list[Line] = []
        self._alias: dict[str, str] = {}

    def constant(self, values: Any, hint: str, dtype: Any = np.float32) -> str:
        name = self.name(hint)
        layer, _, word = hint.rpartition(":")
        self.module.arrays[name] = Array(values=np.array(values, dtype, order="C"), layer=layer, word=word)
        return name

    def add(self, op: str, *inputs: str, output: str | None = None, hint: str = "", **attributes: Any) -> str:
        if op == "Identity" and inputs[0] not in self.module.arrays:
            assert output is not None
            self._alias[output] = inputs[0]
            return output
        return self._line(SOURCES[op](self.module, inputs, attributes), output, hint or inputs[0])

    def shaped(self, x: str, shape: Sequence[int], output: str | None = None) -> str:
        call = "flatten(1)" if len(shape) == 1 else f"reshape(-1, {', '.join(map(str, shape))})"
        return self._line(f"({self.module.ref(x)}).{call}", output, x)

    def dropout(self, x: str, ratio: float, output: str) -> None:
        self._line(f"F.dropout({self.module.ref(x)}, {number(ratio)}, self.training)", output, x)

    def batch_norm(
        self, x: str, layer: str, mean: np.ndarray, var: np.ndarray, eps: float, axes: int, output: str
    ) -> None:
        tensors = {"running_mean": mean, "running_var": var, "num_batches_tracked": np.array(0, np.int64)}
        kind = {4: "2d", 5: "3d"}.get(axes, "1d")
        text = f"nn.BatchNorm{kind}({len(mean)}, eps={number(eps)}, affine=False)"
        self._line(f"{self.module.module(layer, text, tensors)}({self.module.ref(x)})", output, x)

    def pool(self, x: str, pool: Pool, output: str) -> None:
        """PyTorch's own words where its windows are Caffe's: it divides a mean as Caffe does, too."""
        words = None if pool.window.covers(pool.size) else _words(pool)
        if words is None:
            super().pool(x, pool, output)
        else:
            self._line(f"F.{'max' if pool.is_max else 'avg'}_pool2d({self.module.ref(x)}, {words})", output, x)

    def places(self, x: str, pool: Pool, output: str) -> None:
        """PyTorch counts as Caffe does, the first of equal maxima, too; in a padded image the place there."""
        image, words, (above, left, below, right) = self.module.ref(x), _words(pool), pool.pads
        if words is not None:
            self._line(f"F.max_pool2d({image}, {words}, return_indices=True)[1].float()", output, x)
            return
        padded = f"F.pad({image}, ({left}, {right}, {above}, {below}), value=-torch.inf)"
        words = f"{sizes(pool.window.kernel)}, stride={sizes(pool.window.stride)}, return_indices=True"
        i = self.module.ref(self._line(f"F.max_pool2d({padded}, {words})[1]", None, f"{pool.name}_place"))
        width, wide = pool.size[1], left + pool.size[1] + right
        self._line(f"(({i} // {wide} - {above}) * {width} + {i} % {wide} - {left}).float()", output, x)

    def interp(self, x: str, layer: str, shape: Sequence[int], output: str) -> None:
        source = f"F.interpolate({self.module.ref(x)}, {tuple(shape[1:])}, mode='bilinear', align_corners=True)"
        self._line(source, output, x)

    def unpool(self, x: str, places: str, layer: str, shape: Sequence[int], size: Sequence[int], output: str) -> None:
        (channels, *old), ref = shape, self.module.ref
        index = ref(self._line(f"{ref(places)}.flatten(2).long()", self.name(f"{layer}_index"), ""))
        turns = f"torch.arange(1, {math.prod(old) + 1}, device={index}.device).expand_as({index})"
        zeros = f"{index}.new_zeros(len({index}), {channels}, {math.prod(size)})"
        last = ref(self._line(f"{zeros}.scatter_reduce(2, {index}, {turns}, 'amax')", self.name(f"{layer}_last"), ""))
        given = f"F.pad({ref(x)}.flatten(2), (1, 0)).gather(2, {last})"  # turn 0, no value's, takes the 0 in front
        self._line(f"{given}.reshape(-1, {', '.join(map(str, (channels, *size)))})", output, x)

    def _line(self, source: str, output: str | None, hint: str) -> str:
        value = output if output is not None else self.name(f"{hint}:value")
        tree = ast.parse(source, mode="eval").body
        self._lines.append(Line(value=value, tree=tree, named=output is not None))
        return value

    def _value(self, mark: str) -> str | None:
        """The value that a mark stands for, the one that it is another name of."""
        value = self.module.value(mark)
        while value in self._alias:
            value = self._alias[value]
        return value

    def _reads(self, tree: ast.expr) -> list[str]:
        found = [self._value(node.id) for node in ast.walk(tree) if isinstance(node, ast.Name)]
        return [value for value in found if value is not None]

    def statements(self, input_: str, outputs: Sequence[str]) -> tuple[list[Statement], list[str]]:
        """The lines of the file, and what `outputs` are called after the last; the value `input_` is there before them."""
        ends = [self._value(self.module.ref(value)) or value for value in outputs]
        kept = self._inlined(ends)
        last = {value: i for i, line in enumerate(kept) for value in self._reads(line.tree)}
        last |= dict.fromkeys(ends, len(kept))
        variables = _Variables()
        variables.bind(input_, 0, last)
        found = []
        for i, line in enumerate(kept):
            tree = _Put(lambda mark: _name(variables.of.get(self._value(mark) or ""))).visit(line.tree)
            found.append(
                Statement(value=line.value, variable=variables.bind(line.value, i, last), text=ast.unparse(tree))
            )
        return found, [variables.of[value] for value in ends]

    def _inlined(self, ends: Sequence[str]) -> list[Line]:
        """The lines, but for those of values that have no name and are read once: they stand where they are read."""
        uses = Counter(value for line in self._lines for value in self._reads(line.tree))
        inner: dict[str, ast.expr] = {}
        kept = []
        for line in self._lines:
            line.tree = _Put(lambda mark: inner.get(self._value(mark) or "")).visit(line.tree)
            if line.named or line.value in ends or uses[line.value] != 1:
                kept.append(line)
            else:
                inner[line.value] = line.tree
        return kept


def _name(variable: str | None) -> ast.expr | None:
    return ast.Name(variable) if variable is not None else None


class _Put(ast.NodeTransformer):
    """Puts what `of` gives for a name in its place."""

    def __init__(self, of: Callable[[str], ast.expr | None]) -> None:
        self.of = of

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.of(node.id) or node


class _Variables:
    """Which variable holds which value; `of` is by value."""

    def __init__(self) -> None:
        self.of: dict[str, str] = {}
        self._holds: dict[str, str] = {}

    def bind(self, value: str, line: int, last: dict[str, int]) -> str:
        """A variable for `value`, which `line` gives: its blob's name, unless what that holds is read by a line behind.

        Args:
            last: the last line that reads a value.
        """
        taken = {name for name, held in self._holds.items() if last.get(held, -1) > line}
        name = identifier(value.partition(":")[0], WORDS | taken)
        self.of[value], self._holds[name] = name, value
        return name


def _words(pool: Pool) -> str | None:
    """The window in the words of PyTorch's pooling; None: it would place it otherwise."""
    window = pool.window
    for ceil in (False, True):
        if _places(pool, ceil) == pool.out:
            words = f"{sizes(window.kernel)}, stride={sizes(window.stride)}"
            words += f", padding={sizes(window.pad)}" if any(window.pad) else ""
            return words + (", ceil_mode=True" if ceil else "")
    return None


def _places(pool: Pool, ceil: bool) -> tuple[int, ...] | None:
    """How many places PyTorch's pooling has along each axis; None: it does not take such padding."""
    out = []
    window = pool.window
    for h, k, p, s in zip(pool.size, window.kernel, window.pad, window.stride, strict=True):
        room = h + 2 * p - k
        if room < 0 or 2 * p > k:
            return None
        places = (-(-room // s) if ceil else room // s) + 1
        out.append(places - 1 if ceil and (places - 1) * s >= h + p else places)
    return tuple(out)

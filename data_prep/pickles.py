"""CIFAR's pickles, read by a machine of our own that knows what a batch is made of, and nothing else.

Python's unpickler is not asked: a few bytes make it nest a key a million deep, hash for years, or take gigabytes. Here every
opcode is one step, the steps are counted, keys are texts, and what is built is no larger than what it was built from.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from data_prep.errors import PrepError
from data_prep.imageset import UInt8Array

MOST_STEPS = 100_000  # CIFAR-100's 50,000 images take 600,000 in 155 MB: a step for each _BYTES_A_STEP bytes more
_BYTES_A_STEP = 100
_MOST_KEY = 1000  # characters
_MOST_AXES = 8  # of an array
_NUMBERS = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT")
_OLD_STRINGS = ("STRING", "BINSTRING", "SHORT_BINSTRING")  # Python 2's, which are bytes
_TEXTS = ("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8")
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_NAMES = {
    ("numpy.core.multiarray", "_reconstruct"): "array",
    ("numpy._core.multiarray", "_reconstruct"): "array",
    ("numpy", "ndarray"): "kind",
    ("numpy", "dtype"): "dtype",
    ("_codecs", "encode"): "encode",  # how protocol 2 writes Python 3's bytes
}


@dataclass(frozen=True)
class _Name:
    """One of the few names that a pickle of numpy's may ask for; what it stands for is done here."""

    means: str


@dataclass(eq=False)
class _Array:
    """An array, empty until its state comes."""

    array: UInt8Array


class _Dtype:
    """uint8."""


def load(data: bytes, where: str) -> Any:
    """Read a pickle of dictionaries, lists, tuples, texts, bytes, numbers and uint8 arrays.

    Args:
        data: The pickle's bytes (protocol 0 to 4; Python 2's strings come back as bytes).
        where: Named in the error.

    Returns:
        The object; of a dictionary, keys are text and values that are arrays are numpy's.

    Raises:
        PrepError: the pickle asks for anything else (which a malicious one does), takes more steps than a batch of its
            size, or is cut short or malformed.
    """
    try:
        value = _Machine(data, where).run()
        if not isinstance(value, dict):
            return _plain(value)
        return {(k.decode("latin1") if isinstance(k, bytes) else k): _plain(v) for k, v in value.items()}
    except PrepError:
        raise
    except Exception as error:  # what a hostile pickle leaves on the stack can make any step raise nearly anything
        said = f"{type(error).__name__}: {error}"[:200]
        raise PrepError(where, f"a truncated or malformed pickle ({said})", "a CIFAR batch") from error


def _plain(value: Any) -> Any:
    return value.array if isinstance(value, _Array) else value


class _Machine:
    """A stack, marks on it, and a memo; a method for each group of opcodes."""

    def __init__(self, data: bytes, where: str) -> None:
        self.data, self.where = data, where
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.encoded = 0  # bytes that were made of texts
        self.does: dict[str, Callable[[Any], None]] = {
            "MARK": lambda _: self.marks.append(len(self.stack)),
            "EMPTY_LIST": lambda _: self.stack.append([]),
            "EMPTY_DICT": lambda _: self.stack.append({}),
            "LIST": lambda _: self.stack.append(self.marked()),
            "TUPLE": lambda _: self.stack.append(tuple(self.marked())),
            "DICT": lambda _: self.stack.append(self.filled({}, self.marked())),
            "APPEND": lambda _: self.extend([self.stack.pop()]),
            "APPENDS": lambda _: self.extend(self.marked()),
            "SETITEM": lambda _: self.update([self.stack.pop(-2), self.stack.pop()]),
            "SETITEMS": lambda _: self.update(self.marked()),
            "GLOBAL": lambda names: self.name(*names.split(" ", 1)),
            "STACK_GLOBAL": lambda _: self.name(self.stack.pop(-2), self.stack.pop()),
            "REDUCE": lambda _: self.reduce(),
            "BUILD": lambda _: self.build(),
            "MEMOIZE": lambda _: self.memo.__setitem__(len(self.memo), self.stack[-1]),
            "PROTO": lambda _: None,
            "FRAME": lambda _: None,
        }
        self.does |= {
            name: lambda i: self.memo.__setitem__(i, self.stack[-1]) for name in ("PUT", "BINPUT", "LONG_BINPUT")
        }
        self.does |= {name: lambda i: self.stack.append(self.memo[i]) for name in ("GET", "BINGET", "LONG_BINGET")}
        self.does |= dict.fromkeys(_NUMBERS, self.number)
        self.does |= dict.fromkeys(_TEXTS, self.stack.append)
        self.does |= dict.fromkeys(_OLD_STRINGS, lambda text: self.stack.append(text.encode("latin1")))
        self.does |= {name: partial(self.constant, value) for name, value in _CONSTANTS.items()}
        self.does |= {name: partial(self.tuple_of, count) for name, count in _TUPLES.items()}

    def run(self) -> Any:
        """Step by step to the end. Raises: PrepError, and whatever a step raises where the stack lacks what it takes."""
        left = MOST_STEPS + len(self.data) // _BYTES_A_STEP
        for opcode, argument, _ in pickletools.genops(self.data):
            if opcode.name == "STOP":
                break
            if (left := left - 1) < 0:
                steps = MOST_STEPS + len(self.data) // _BYTES_A_STEP
                raise PrepError(self.where, f"a pickle of more than {steps} steps", "fewer in so many bytes")
            if opcode.name not in self.does:
                raise PrepError(
                    self.where, f"a pickle with the opcode {opcode.name}", "lists, strings, integers, arrays"
                )
            self.does[opcode.name](argument)
        return self.stack.pop()

    def marked(self) -> list[Any]:
        """Takes away what lies above the last mark, and the mark."""
        mark = self.marks.pop()
        found = self.stack[mark:]
        del self.stack[mark:]
        return found

    def number(self, value: Any) -> None:
        if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
            raise PrepError(
                self.where, f"a number of {value.bit_length()} bits", "numbers of at most 63 bits and a sign"
            )
        self.stack.append(value)

    def constant(self, value: Any, _: None) -> None:
        self.stack.append(value)

    def tuple_of(self, count: int, _: None) -> None:
        start = len(self.stack) - count
        found = tuple(self.stack[start:])
        if len(found) != count:
            raise IndexError("a tuple of what is not there")
        del self.stack[start:]
        self.stack.append(found)

    def extend(self, values: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise TypeError("values for what is no list")
        self.stack[-1].extend(values)

    def update(self, pairs: list[Any]) -> None:
        if not isinstance(self.stack[-1], dict):
            raise TypeError("keys for what is no dictionary")
        self.filled(self.stack[-1], pairs)

    def filled(self, target: dict[Any, Any], pairs: list[Any]) -> dict[Any, Any]:
        """`target` with key, value, key, value, ... put in."""
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if not isinstance(key, (str, bytes)) or len(key) > _MOST_KEY:
                kind = f"{len(key)} characters" if isinstance(key, (str, bytes)) else type(key).__name__
                raise PrepError(self.where, f"a dictionary with a key of {kind}", f"texts of {_MOST_KEY} at most")
            target[key] = value
        return target

    def name(self, module: Any, name: Any) -> None:
        if (module, name) not in _NAMES:
            asked = f"{module}.{name}"[:100]
            raise PrepError(self.where, f"a pickle that asks for {asked}", "lists, strings, integers, arrays")
        self.stack.append(_Name(_NAMES[module, name]))

    def reduce(self) -> None:
        """What a name makes of arguments."""
        arguments, called = self.stack.pop(), self.stack.pop()
        if not isinstance(called, _Name) or not isinstance(arguments, tuple) or called.means == "kind":
            raise TypeError("a call of what is no function")
        if called.means == "array":
            self.stack.append(_Array(np.zeros(0, np.uint8)))
        elif called.means == "dtype":
            self.stack.append(self.dtype(arguments[0]))
        else:
            self.stack.append(self.encode(*arguments))

    def dtype(self, name: Any) -> _Dtype:
        if name not in (b"u1", "u1", b"|u1", "|u1"):
            raise PrepError(self.where, f"an array of dtype {name!r:.100}", "uint8")
        return _Dtype()

    def encode(self, text: Any, encoding: Any = "latin1") -> bytes:
        if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
            raise PrepError(self.where, f"a string in the encoding {encoding!r:.100}", "latin1")
        self.encoded += len(text)
        if self.encoded > len(self.data):
            raise PrepError(self.where, f"a pickle of {len(self.data)} bytes that makes more of them", "a CIFAR batch")
        return text.encode("latin1")

    def build(self) -> None:
        """Gives an array its state; a dtype's is of no interest."""
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, _Dtype):
            return
        if not isinstance(target, _Array):
            raise TypeError("a state of what is no array")
        _, shape, dtype, by_column, raw = state
        if not isinstance(dtype, _Dtype) or not isinstance(raw, bytes):
            raise PrepError(self.where, "an array that does not hold plain bytes", "uint8 pixels")
        if not isinstance(shape, tuple) or len(shape) > _MOST_AXES or not all(type(n) is int and n >= 0 for n in shape):
            raise PrepError(self.where, "an array of an odd shape", f"at most {_MOST_AXES} whole numbers")
        if int(np.prod(shape, dtype=object)) != len(raw):
            raise PrepError(self.where, f"an array of shape {shape} with {len(raw)} bytes", "as many bytes as pixels")
        target.array = np.frombuffer(raw, np.uint8).reshape(shape, order="F" if by_column is True else "C")

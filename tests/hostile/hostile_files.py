"""Files as an enemy, or a broken disk, would leave them: seeded mutations of valid ones."""

from __future__ import annotations

import random
import re
import resource
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

Mutant = tuple[str, bytes]  # what was done, the file

# numbers that a length, a dimension or a label should not be
VARINTS = (0, 1, 127, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1)
NUMBERS = (
    "0",
    "-1",
    "1e39",
    "-1e39",
    "nan",
    "inf",
    "2147483647",
    "2147483648",
    "-2147483649",
    "99999999999999999999",
    "1.5",
    "0x7fffffff",
    "true",
    "MAX",
    '"x"',
    "{ }",
    "[1, 2]",
    "",
)
SMALL_NUMBERS = tuple(
    text for text in NUMBERS if text not in ("2147483647", "0x7fffffff")
)  # a training ends with these
NAN = struct.pack("<f", float("nan"))
EXTRA_BYTES = 1 << 30  # of address space, beyond what the imports took
BOUNDED = {  # one thread, and one heap: glibc sets 64 MiB of address space apart for each thread that allocates
    "MALLOC_ARENA_MAX": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OPENCV_LOG_LEVEL": "OFF",
}
"""What stands in the environment of a process whose memory is to be bounded."""


def bound_memory() -> None:
    """From here on this process has `EXTRA_BYTES` of address space; to be called when everything is imported."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + EXTRA_BYTES, resource.RLIM_INFINITY))


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def read_varint(raw: bytes, at: int) -> tuple[int, int]:
    """The number at `at`, and where the next byte is."""
    value = shift = 0
    while True:
        byte = raw[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


# tags of fields that hold messages on the way from NetParameter and SolverState to a blob's shape
NETS: dict[int, object] = {100: {7: {7: {}}, 1: {}, 143: {}}, 2: {6: {7: {}}}}
STATES: dict[int, object] = {3: {7: {}}}


def fields(raw: bytes, tree: dict[int, object], at: int = 0, end: int | None = None) -> Iterator[tuple[int, int, int]]:
    """(where a field begins, where its payload or number begins, where it ends), those inside a message after it."""
    end = len(raw) if end is None else end
    while at < end:
        begin = at
        key, at = read_varint(raw, at)
        if key & 7 == 0:
            payload = at
            _, at = read_varint(raw, at)
        elif key & 7 == 2:
            size, payload = read_varint(raw, at)
            at = payload + size
        else:
            payload = at
            at += 4 if key & 7 == 5 else 8
        yield begin, payload, at
        inner = tree.get(key >> 3)
        if key & 7 == 2 and isinstance(inner, dict):
            yield from fields(raw, inner, payload, at)


def wire_mutants(raw: bytes, tree: dict[int, object], rng: random.Random, flips: int) -> Iterator[Mutant]:
    """Of a protobuf file: cut at every boundary, lengths and numbers that lie, other wire types, flipped bits."""
    found = list(fields(raw, tree))
    cuts = sorted({place for field in found for place in field} | {place + 1 for _, place, _ in found} | {0})
    for place in cuts:
        if place < len(raw):
            yield f"cut at byte {place}", raw[:place]
    for begin, payload, end in found:
        key, after = read_varint(raw, begin)
        for wire in range(8):
            if wire != key & 7:
                yield f"wire type {wire} at byte {begin}", raw[:begin] + varint(key & ~7 | wire) + raw[after:]
        for value in (*VARINTS, rng.getrandbits(64)):
            if key & 7 in (0, 2):
                stop = payload if key & 7 == 2 else end
                yield f"{value} at byte {after}", raw[:after] + varint(value) + raw[stop:]
        yield f"field of byte {begin} twice", raw[:end] + raw[begin:end] + raw[end:]
        yield f"no field at byte {begin}", raw[:begin] + raw[end:]
        yield f"field number {2**28} at byte {begin}", raw[:begin] + varint(2**31 | key & 7) + raw[after:]
    yield from byte_mutants(raw, rng, flips)


def byte_mutants(raw: bytes, rng: random.Random, count: int, page: int = 64) -> Iterator[Mutant]:
    """Bits flipped, bytes replaced, stretches zeroed, doubled, cut away or filled with noise."""
    edits: list[tuple[str, Callable[[bytearray, int], None]]] = [
        ("bit flipped", lambda b, i: b.__setitem__(i, b[i] ^ 1 << rng.randrange(8))),
        ("byte 255", lambda b, i: b.__setitem__(i, 255)),
        ("zeros", lambda b, i: b.__setitem__(slice(i, i + page), bytes(len(b[i : i + page])))),
        ("noise", lambda b, i: b.__setitem__(slice(i, i + page), rng.randbytes(len(b[i : i + page])))),
        ("stretch gone", lambda b, i: b.__delitem__(slice(i, i + page))),
        ("stretch twice", lambda b, i: b.__setitem__(slice(i, i), b[i : i + page])),
        ("end gone", lambda b, i: b.__delitem__(slice(i, None))),
        ("nan", lambda b, i: b.__setitem__(slice(i, i + 4), NAN)),
    ]
    for _ in range(count):
        changed, said = bytearray(raw), []
        for _ in range(rng.choice((1, 1, 1, 2, 8))):
            if changed:
                word, edit = rng.choice(edits)
                place = rng.randrange(len(changed))
                said.append(f"{word} at byte {place}")
                edit(changed, place)
        yield ", ".join(said), bytes(changed)


def text_mutants(text: str, rng: random.Random, count: int, numbers: tuple[str, ...] = NUMBERS) -> Iterator[Mutant]:
    """Of a prototxt: values that nobody should write, words exchanged, lines gone or twice, stray bytes."""
    tokens = [match.span() for match in re.finditer(r"[\w.+-]+|\"[^\"]*\"|[{}:\[\],]", text)]
    words = sorted({text[a:b] for a, b in tokens})
    values = [match.span(1) for match in re.finditer(r":\s*([\w.+-]+|\"[^\"]*\")", text)]
    for _ in range(count):
        kind = rng.randrange(6)
        if kind <= 1:
            a, b = rng.choice(values)
            new = rng.choice(numbers)
            yield f"{text[a:b]!r} at {a} is {new!r}", (text[:a] + new + text[b:]).encode()
        elif kind == 2:
            a, b = rng.choice(tokens)
            new = rng.choice(words)
            yield f"{text[a:b]!r} at {a} is {new!r}", (text[:a] + new + text[b:]).encode()
        elif kind == 3:
            a, b = rng.choice(tokens)
            yield f"no {text[a:b]!r} at {a}", (text[:a] + text[b:]).encode()
        elif kind == 4:
            lines = text.splitlines(keepends=True)
            i = rng.randrange(len(lines))
            lines[i] *= rng.choice((0, 2))
            yield f"line {i + 1} gone or twice", "".join(lines).encode()
        else:
            yield from byte_mutants(text.encode(), rng, 1, page=8)

"""Prototxt in and out: what Caffe reads, its sentences for what it does not, numbers as C++ prints them."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path

import pytest
from google.protobuf import text_format
from hypothesis import given, strategies as st

from allconv_caffe.proto import (
    TEST,
    LayerParameter,
    NetParameter,
    PoolingParameter,
    ProtoError,
    SolverParameter,
    float_text,
    parse_text,
    to_text,
)


def test_every_form_of_text_format_that_caffe_reads_is_read() -> None:
    """Comments, lists, separators, joined strings, either bracket, enums by name and by number."""
    net = parse_text(
        """
        name: "a" 'b'   # joined: "ab"
        layer < name: "p"; type: "Pooling", bottom: ["x", "y"] top: "z"
                include { phase: TEST } include: { phase: 1 }
                pooling_param { pool: AVE kernel_size: 0x3 } >
        """,
        NetParameter,
    )
    layer = net.layer[0]
    assert (net.name, list(layer.bottom), layer.pooling_param.kernel_size) == ("ab", ["x", "y"], 3)
    assert [rule.phase for rule in layer.include] == [TEST, TEST]
    assert layer.pooling_param.pool == PoolingParameter.AVE


@pytest.mark.parametrize(
    ("text", "line", "column", "sentence"),
    [
        ('layer { nmae: "x" }', 1, 9, 'Message type "caffe.LayerParameter" has no field named "nmae".'),
        (
            "layer {\n  pooling_param { pool: MAXI } }",
            2,
            25,
            'Unknown enumeration value of "MAXI" for field "pool". (known: MAX, AVE, STOCHASTIC)',
        ),
        ('name: "a"\nname: "b"', 2, None, 'Non-repeated field "name" is specified multiple times.'),
        ("name: unquoted", 1, 7, "Expected string"),
        ("layer { ", 1, 9, 'Expected "}", found end of file.'),
        ('layer {\n name: "x"\n# }\n', 4, 1, 'Expected "}", found end of file.'),
        ("layer { name:", 1, 14, "Expected string, got: end of file"),
        ("force_backward: maybe", 1, 17, 'Invalid value for boolean field "force_backward". Value: "maybe".'),
        ("input_dim: [1, two]", 1, 16, "Expected integer, got: two"),
        ("input_dim: 3000000000", 1, 12, "Integer out of range (3000000000)"),
        ("layer { loss_weight: x }", 1, 22, "Expected double, got: x"),
        ("layer { top: 3 }", 1, 14, "Expected string, got: 3"),
        ("layer { name 'x' }", 1, 14, 'Expected ":", found "\'x\'".'),
        ('name: "a" }', 1, 11, "Expected identifier, got: }"),
        ("input_dim: 1\ninput_dim: +3", 2, 12, "Expected integer, got: +"),
        ('name: "a+b" # + \\q\nname: "\\q"', 2, 8, "Invalid escape sequence in string literal."),
        ('name: "a"\0', 1, 10, "Invalid control characters encountered in text."),
    ],
)
def test_a_mistake_is_said_with_its_place(text: str, line: int, column: int | None, sentence: str) -> None:
    """One line, beginning with file, line and column, that names what stood there."""
    with pytest.raises(ProtoError) as caught:
        parse_text(text, NetParameter, "net.prototxt")
    error = caught.value
    said = str(error)
    assert sentence in said and "\n" not in said
    assert (error.where, error.line) == ("net.prototxt", line) and said.startswith(f"net.prototxt:{line}")
    if column is not None:
        assert error.column == column


@pytest.mark.parametrize("text", ["base_lr: 1e400", "iter_size: 3000000000", "iter_size: -3000000000", "max_iter: 1.5"])
def test_numbers_that_do_not_fit_their_field_are_refused_or_infinite_as_in_cpp(text: str) -> None:
    """An int32 beyond its range is an error; a float beyond its own becomes infinite, as C++'s parser makes it."""
    if text.startswith("base_lr"):
        assert parse_text(text, SolverParameter).base_lr == float("inf")
    else:
        with pytest.raises(ProtoError):
            parse_text(text, SolverParameter)


def test_a_required_field_left_out_is_named() -> None:
    """ClipParameter has the only two required fields of the schema."""
    with pytest.raises(ProtoError) as caught:
        parse_text("layer { clip_param { min: 0 } }", NetParameter, "net.prototxt")
    assert str(caught.value) == "net.prototxt: Message missing required fields: layer[0].clip_param.max"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1"),
        (1e-5, "1e-05"),
        (0.1, "0.1"),
        (0.9, "0.9"),
        (123456789.0, "123456792"),
        (1e10, "1e+10"),
        (float("inf"), "inf"),
        (float("-inf"), "-inf"),
        (float("nan"), "nan"),
        (3.4028235e38, "3.40282347e+38"),
        (1.401298464324817e-45, "1.40129846e-45"),
        (-0.0, "-0"),
    ],
)
def test_floats_are_printed_as_cpp_protobuf_prints_them(value: float, text: str) -> None:
    """`SimpleFtoa`: %.6g where that reads back as the same float32, else %.9g. Values printed by real Caffe's logs."""
    single = struct.unpack("<f", struct.pack("<f", value))[0] if value == value else value
    assert float_text(single) == text


@given(st.floats(width=32, allow_nan=False))
def test_a_printed_float_reads_back_as_the_same_float32(value: float) -> None:
    """Nine digits are enough for every float32."""
    back = parse_text(f"base_lr: {float_text(value)}", SolverParameter).base_lr
    assert struct.pack("<f", back) == struct.pack("<f", value)


@given(st.text(max_size=30).filter(lambda text: not any(0xD800 <= ord(c) < 0xE000 for c in text)))
def test_any_string_survives(text: str) -> None:
    """Quotes, backslashes, newlines and letters beyond ASCII are escaped as C does."""
    printed = to_text(NetParameter(name=text))
    assert printed.isascii() and parse_text(printed, NetParameter).name == text


def _random_layer(rng: random.Random) -> object:
    layer = LayerParameter(
        name=f"l{rng.random()}", type=rng.choice(["Convolution", "Pooling"]), phase=rng.choice([0, 1])
    )
    layer.bottom.extend(f"b{i}" for i in range(rng.randrange(3)))
    layer.loss_weight.extend(rng.uniform(-1, 1) for _ in range(rng.randrange(3)))
    for _ in range(rng.randrange(3)):
        layer.param.add(lr_mult=rng.uniform(0, 2), decay_mult=rng.randrange(3))
    if rng.random() < 0.5:
        layer.convolution_param.kernel_size.extend([3] * rng.randrange(1, 3))
        layer.convolution_param.weight_filler.std = rng.gauss(0, 1)
    for _ in range(rng.randrange(2)):
        blob = layer.blobs.add()
        blob.data.extend(rng.gauss(0, 1) for _ in range(4))
        blob.shape.dim.extend([2, 2])
    return layer


def test_the_python_librarys_own_printer_means_the_same() -> None:
    """An independent reader of what we print, and we of what it prints: equal messages, for 50 random nets."""
    rng = random.Random(1)
    for _ in range(50):
        net = NetParameter(name="n", force_backward=rng.random() < 0.5)
        for _ in range(rng.randrange(4)):
            net.layer.add().CopyFrom(_random_layer(rng))
        again = NetParameter()
        text_format.Parse(to_text(net), again)
        assert again == net
        assert parse_text(text_format.MessageToString(net), NetParameter) == net


def test_numbers_are_read_as_by_the_real_parser() -> None:
    """Each of the solvers of one line that tests/parity/number_golden.py recorded: the same text back, or a refusal."""
    recorded = json.loads((Path(__file__).parents[1] / "golden" / "numbers.json").read_text())
    wrong = []
    for text, expected in recorded.items():
        try:
            found = to_text(parse_text(text, SolverParameter))
        except ProtoError:
            found = None
        if found != expected:
            wrong.append(f"{text!r}: found {found!r}, Caffe has {expected!r}")
    assert len(recorded) > 600 and not wrong, "\n".join(wrong)


def test_wrong_numbers_are_refused_in_the_real_parsers_words() -> None:
    """The sentence that Caffe prints first for each of the same solvers that it refuses; choices may follow."""
    recorded = json.loads((Path(__file__).parents[1] / "golden" / "numbers_refused.json").read_text())
    wrong = []
    for text, expected in recorded.items():
        with pytest.raises(ProtoError) as error:
            parse_text(text, SolverParameter)
        if not error.value.reason.startswith(expected):
            wrong.append(f"{text!r}: {error.value.reason!r}, Caffe says {expected!r}")
    assert len(recorded) > 500 and not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("max_iter: " + "1" * 5000, "Integer out of range (1111"),
        ("debug_info: " + "7" * 5000, "Integer out of range (7777"),
        ("solver_mode: 0x" + "f" * 5000, "Integer out of range (0xff"),
        ("solver_mode: 0" + "7" * 5000, "Integer out of range (0777"),
        ("max_iter: " + "0" * 5000 + "11", "max_iter: 9\n"),
        ("debug_info: " + "0" * 5000 + "1", "debug_info: true\n"),
        ("base_lr: 0." + "1" * 5000, "base_lr: 0.111111112\n"),
    ],
)
def test_numbers_of_thousands_of_digits_are_numbers(text: str, sentence: str) -> None:
    """What C++'s parser, which counts with 64 bits, makes of them (seen with Debian's Caffe)."""
    try:
        found = to_text(parse_text(text, SolverParameter))
    except ProtoError as error:
        found = error.reason
    assert found.startswith(sentence), found[:200]

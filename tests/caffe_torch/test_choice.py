"""Which algorithm is taken, and how it is remembered."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from allconv_caffe.caffe_torch.compute import choice
from allconv_caffe.caffe_torch.compute.choice import Bfloat16Convolution, Convolution, Product

QUESTION = Convolution(what="forward", n=4, c=16, h=8, w=8, o=16, kernel=3, pad=1, threads=1)


class Clock:
    """CPU time that passes while trials run, and only then."""

    def __init__(self) -> None:
        self.now, self.runs = 0.0, 0

    def trial(self, *seconds: float) -> choice.Trial:
        """Takes so many seconds, one after the other; the last of them from then on."""
        left = list(seconds)

        def run(images: int) -> None:
            self.runs += 1
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return run


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """In a process that was asked nothing yet, with an empty cache."""
    clock = Clock()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(choice, "_answers", {})
    monkeypatch.setattr(choice.time, "process_time", lambda: clock.now)
    return clock


@pytest.fixture
def forget(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """What makes of this process another one."""
    return lambda: monkeypatch.setattr(choice, "_answers", {})


def test_the_fastest_is_taken(clock: Clock) -> None:
    """What counts is the best turn after the first, which warms up."""
    trials = {"a": clock.trial(1.0), "b": clock.trial(9.0, 0.9, 0.5, 0.8), "c": clock.trial(0.1, 0.7)}
    assert choice.fastest(QUESTION, trials) == "b"


def test_what_is_far_behind_is_not_tried_again(clock: Clock) -> None:
    """One turn after the first shows it; the others go on, as long as there are any."""
    near = {"a": clock.trial(1.0), "b": clock.trial(1.1), "far": clock.trial(1.6)}
    assert choice.fastest(QUESTION, near) == "a"
    assert clock.runs == 3 + 3 + 2 * (choice.TURNS - 1)
    clock.runs = 0
    alone = {"a": clock.trial(1.0), "far": clock.trial(1.6)}
    assert choice.fastest(replace(QUESTION, pad=0), alone) == "a"
    assert clock.runs == 2 + 2


def test_a_small_gain_changes_nothing(clock: Clock) -> None:
    """Noise chooses nothing: the usual algorithm stays unless another is clearly faster."""
    assert choice.fastest(QUESTION, {"usual": clock.trial(1.0), "other": clock.trial(0.97)}) == "usual"


def test_an_answer_is_kept(clock: Clock, forget: Callable[[], None], tmp_path: Path) -> None:
    """Another process gives the same answer without a trial; the file says what was measured."""
    choice.fastest(QUESTION, {"a": clock.trial(2.0), "b": clock.trial(1.0)})
    runs = clock.runs
    forget()
    assert choice.fastest(QUESTION, {"a": clock.trial(1.0), "b": clock.trial(2.0)}) == "b"
    assert clock.runs == runs
    (path,) = tmp_path.glob("allconv-caffe/convolutions/*.json")
    kept = json.loads(path.read_text(encoding="utf-8"))
    assert kept["algorithm"] == "b" and kept["question"]["c"] == 16
    assert kept["cpu_seconds"] == pytest.approx({"a": 2.0, "b": 1.0})


def test_another_text_of_the_kernels_asks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those alone that a question tries: a product tries none of ours."""
    product = Product(what="a b.t", m=64, k=800, n=500, threads=1)
    before = QUESTION.key, product.key
    monkeypatch.setattr(choice, "text", "other {}".format)
    assert QUESTION.key != before[0] and product.key == before[1]


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"algorithm": "c"}', '{"algorithm": ["a"]}'])
def test_a_damaged_answer_is_measured_again(
    clock: Clock, forget: Callable[[], None], tmp_path: Path, content: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """One line says which file; then it is whole again."""
    choice.fastest(QUESTION, {"a": clock.trial(1.0), "b": clock.trial(2.0)})
    (path,) = tmp_path.glob("allconv-caffe/convolutions/*.json")
    path.write_text(content, encoding="utf-8")
    forget()
    assert choice.fastest(QUESTION, {"a": clock.trial(2.0), "b": clock.trial(1.0)}) == "b"
    assert capfd.readouterr().err.count(f"{path}") == 1
    assert json.loads(path.read_text(encoding="utf-8"))["algorithm"] == "b"


def test_a_cache_that_cannot_be_written_is_done_without(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The choice is made all the same, and one line says that it is not kept."""

    def refuse(path: Path, content: object) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(choice.files, "write_json", refuse)
    assert choice.fastest(QUESTION, {"a": clock.trial(2.0), "b": clock.trial(1.0)}) == "b"
    assert capfd.readouterr().err.count("No space left on device; the choice is not kept") == 1


def test_what_is_tried_stays_out_of_a_graph(clock: Clock) -> None:
    """A question that comes up while a net is captured is tried on real numbers, and leaves no operation behind."""
    found = []

    def run(images: int) -> None:
        found.append(float(choice.numbers(images, 2).sum()))

    def traced(x: torch.Tensor) -> torch.Tensor:
        choice.fastest(QUESTION, {"a": run})
        return x + 1

    graph = make_fx(traced, tracing_mode="fake")(torch.zeros(2))
    assert len(found) == 2
    assert [node.op for node in graph.graph.nodes] == ["placeholder", "call_function", "output"]


def test_random_numbers_stay_as_they_are() -> None:
    """Trials draw none: training goes on as it would have."""
    torch.manual_seed(1)
    before = torch.get_rng_state()
    choice.numbers(3, 2, 4, 4)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_large_batch_is_tried_in_part() -> None:
    """As many images as are work enough."""
    assert QUESTION.part() == 4
    large = Convolution(what="dw", n=1000, c=96, h=32, w=32, o=96, kernel=3, pad=1, threads=1)
    assert 1 < large.part() < 100
    halves = Bfloat16Convolution(
        what="dx", n=1000, c=96, h=32, w=32, o=96, oh=32, ow=32, kernel=(3, 3), stride=(1, 1), pad=(1, 1), threads=1
    )
    assert halves.part() == 128  # 2e10 / (2 * 9 * 96 * 96 * 32 * 32) = 117.7, in groups of 32
    assert replace(halves, n=100).part() == 100
    assert Product(what="a b.t", m=64, k=800, n=500, threads=1).part() == 64
    assert 1 < Product(what="a b.t", m=10_000, k=1000, n=8801, threads=1).part() < 1000


def test_a_line_for_each_shape(clock: Clock) -> None:
    """What was asked while recording, also what was answered before."""
    choice.fastest(QUESTION, {"a": clock.trial(1.0)})
    with choice.recording() as record:
        choice.fastest(QUESTION, {"a": clock.trial(1.0)})
        choice.fastest(
            Convolution(what="dw", n=4, c=16, h=8, w=8, o=16, kernel=3, pad=1, threads=1), {"b": clock.trial(1.0)}
        )
        choice.fastest(Product(what="a b.t", m=64, k=800, n=500, threads=1), {"a": clock.trial(1.0)})
    choice.fastest(
        Convolution(what="dx", n=1, c=16, h=8, w=8, o=16, kernel=3, pad=1, threads=1), {"b": clock.trial(1.0)}
    )
    assert choice.lines(record) == [
        "Convolution of 4x16x8x8 to 16 channels, kernel 3x3, pad 1: forward a, dw b",
        "Product of 64x800 by 800x500: a b.t a",
    ]

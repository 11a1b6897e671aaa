"""How long a training will take: from its log's times, from its first test, from one image before it starts."""

from __future__ import annotations

import os
import signal
import subprocess
from datetime import datetime, timezone

import pytest
from support.driver import Bench

from allconv_caffe import proto
from allconv_caffe.report.log import TestRow, TrainRow, parse_lines
from allconv_caffe.train import estimate as estimating, probe
from allconv_caffe.train.estimate import Estimate, Pace, Work, clock, measured, span
from allconv_caffe.train.settings import DriverError

WORK = Work(max_iter=1000, batch_size=100, display=50, test_interval=200, test_images=1000)
NOON = datetime(2026, 11, 29, 12, 0, tzinfo=timezone.utc)


def estimate(work: Work = WORK, **words: object) -> Estimate:
    return Estimate(work, now=lambda: NOON, **words)  # type: ignore[arg-type]


def row_of_test(iteration: int, seconds: float, took: float | None) -> TestRow:
    return TestRow(iteration=iteration, seconds=seconds, took=took, outputs={"accuracy": 0.1})


def row_of_loss(iteration: int, seconds: float | None, for_now: bool = False) -> TrainRow:
    return TrainRow(iteration=iteration, loss=2.3, seconds=seconds, for_now=for_now)


def test_a_slow_training_is_estimated_from_its_first_test_at_once() -> None:
    """1000 images tested in 200 s: a batch of 100, forward and backward, is 3 x 20 s; 1000 of them and 5 tests more are
    61,000 s = 16 h 57 min."""
    assert estimate().test(row_of_test(0, 0.0, 200.0)) == (
        "about 16 h 57 min left, until Mon 04:56, measured on the first test of 1,000 images"
    )


def test_the_first_iteration_counts_where_it_was_faster_than_the_test_let_fear() -> None:
    """A test of 10 s lets fear 3 s an iteration; the first takes 2 s: 1000 x 2 s and 5 x 10 s are 34 min 10 s. Half of the test
    may have been its warm-up: then 1000 x 1.5 s and 5 x 10 s, 25 min 50 s."""
    one = estimate()
    assert one.test(row_of_test(0, 0.0, 10.0)) is None  # 50 iterations come within minutes: but an iteration soon
    assert one.train(row_of_loss(0, 12.0)) == (
        "26 min to 34 min left, until 12:34 at the latest, measured on the first iteration"
    )


def test_a_first_iteration_that_warms_up_is_no_measure() -> None:
    """30 s for the first iteration of a net that tests 1000 images in 1 s: 50 more come soon, and are waited for."""
    one = estimate()
    assert one.test(row_of_test(0, 0.0, 1.0)) is None
    assert one.train(row_of_loss(0, 31.0)) is None
    # 50 iterations in 10 s: 950 x .2 s and 5 x 1 s are 195 s
    assert one.train(row_of_loss(50, 41.0)) == "about 3 min left, until 12:03, measured on 50 iterations"
    assert one.train(row_of_loss(100, 51.0)) is None


def test_a_test_of_few_images_says_nothing_of_the_rest() -> None:
    """24 images tested in 2 s, 3 s for the first 128 of training: all of it may be a warm-up, and no 32 s an iteration is feared.
    What 100 iterations took is said: 900 x .2 s and 9 x 2 s are 3 min 18 s."""
    one = estimate(Work(max_iter=1000, batch_size=128, display=100, test_interval=100, test_images=24))
    assert one.test(row_of_test(0, 0.0, 2.0)) is None
    assert one.train(row_of_loss(0, 5.0)) is None
    assert one.train(row_of_loss(100, 25.0)) == "about 3 min left, until 12:03, measured on 100 iterations"


def test_iterations_that_a_compiled_one_will_replace_tell_the_most() -> None:
    """2 s layer by layer, .5 s compiled: at most 900 x 2 s at first; after the change its own iterations count alone."""
    one = estimate(Work(max_iter=1000, batch_size=10, display=50, test_interval=1000, test_images=0))
    assert one.train(row_of_loss(0, 0.0, for_now=True)) is one.train(row_of_loss(2, 4.0, for_now=True)) is None
    assert one.train(row_of_loss(100, 200.0, for_now=True)) == (
        "at most 30 min left, until 12:30, measured on 100 iterations; a faster iteration is being compiled"
    )
    assert one.train(row_of_loss(150, 260.0)) is None and one.update().startswith("at most 28 min left")
    assert one.train(row_of_loss(200, 285.0)) == "about 7 min left, until 12:06, measured on 50 iterations"
    assert one.train(row_of_loss(250, 310.0)) is None


def test_a_few_iterations_are_no_measure() -> None:
    """Two displayed losses one iteration apart: ten iterations are waited for, or three such intervals."""
    rows = [row_of_loss(place, 100.0 * place) for place in range(4)]
    assert measured(rows[:3], []) is None
    assert measured(rows, []) == Pace(iteration_seconds=100.0, test_seconds=0.0, measured="3 iterations")


def test_a_pace_that_changes_is_a_range() -> None:
    """Intervals of 50 iterations in 50 and in 100 s by turns: 550 iterations more take 550 to 1,100 s."""
    one = estimate(Work(max_iter=1000, batch_size=10, display=50, test_interval=1000, test_images=0))
    seconds = 0.0
    for place in range(10):
        one.train(row_of_loss(50 * place, seconds))
        seconds += 50.0 + 50.0 * (place % 2)
    assert one.update() == "9 min to 18 min left, until 12:18 at the latest"


def test_the_log_says_what_will_be_replaced() -> None:
    """Rows between the line that says so and the change, of one session."""
    said = ["Solving x", "Executor: plain, until a compiled iteration is ready", "Iteration 0, loss = 2"]
    said += ["Executor: compiled, from iteration 7 on", "Iteration 10, loss = 1", "Solving x", "Iteration 11, loss = 1"]
    assert [row.for_now for row in parse_lines(said).train] == [True, False, False]
    gave_up = [*said[:3], "Executor: plain (no compiler)", "Iteration 20, loss = 1"]
    assert [row.for_now for row in parse_lines(gave_up).train] == [True, False]


def test_each_test_brings_the_estimate_up_to_date() -> None:
    """Tests are left out of the iterations' time, and those to come are counted."""
    one = estimate()
    for row in (row_of_loss(0, 0.0), row_of_loss(50, 50.0), row_of_loss(100, 100.0), row_of_loss(150, 150.0)):
        one.train(row)
    one.test(row_of_test(200, 200.0, 60.0))
    # 200 iterations in 260 s without the test's 60: 1 s each; 800 x 1 s and 4 x 60 s are 17 min 20 s
    one.train(row_of_loss(200, 260.0))
    assert one.update() == "about 17 min left, until 12:17"


def test_a_while_of_something_else_says_nothing_of_the_rest() -> None:
    """Intervals of 50, 50, 900 and 50 s: an iteration takes 1 s, not 5."""
    rows = [row_of_loss(50 * place, seconds) for place, seconds in enumerate((0.0, 50.0, 100.0, 1000.0, 1050.0))]
    pace = measured(rows, [])
    assert pace is not None and pace.iteration_seconds == 1.0 and pace.measured == "200 iterations"


@pytest.mark.parametrize(
    ("max_iter", "iteration", "tests"), [(1000, 0, 5), (1000, 200, 4), (1100, 1000, 1), (1000, 1000, 0)]
)
def test_tests_to_come_are_counted(max_iter: int, iteration: int, tests: int) -> None:
    """One for each interval that is left, and one at the end."""
    work = Work(max_iter=max_iter, batch_size=100, display=50, test_interval=200, test_images=1000)
    assert Pace(iteration_seconds=0.0, test_seconds=1.0, measured="").left(work, iteration) == tests


def test_a_log_without_times_gives_no_estimate() -> None:
    """Rows without seconds say nothing of the pace, and less than a minute is not worth a line."""
    one = estimate()
    assert one.test(TestRow(iteration=0)) is one.train(row_of_loss(0, None)) is one.train(row_of_loss(50, None)) is None
    assert one.update() == "" and measured([row_of_loss(0, None), row_of_loss(50, None)], []) is None
    fast = estimate()
    assert [fast.train(row_of_loss(0, 0.0)), fast.train(row_of_loss(50, 0.5))] == [None, None]


def test_the_log_says_how_long_a_test_took() -> None:
    """From its first line to its last output."""
    log = parse_lines(
        [
            "I1129 12:00:00.000000 1 solver.cpp:60] Solving x",
            "I1129 12:00:01.000000 1 solver.cpp:347] Iteration 0, Testing net (#0)",
            "I1129 12:00:04.000000 1 solver.cpp:414]     Test net output #0: accuracy = 0.1",
            "I1129 12:00:04.500000 1 solver.cpp:414]     Test net output #1: loss = 2.3 (* 1 = 2.3 loss)",
        ]
    )
    assert log.test[0].took == 3.5


@pytest.mark.parametrize(
    ("seconds", "words", "then"),
    [
        (40, "40 s", "12:00"),
        (3599, "1 h 0 min", "12:59"),
        (12_000, "3 h 20 min", "15:20"),
        (12 * 3600, "12 h 0 min", "Mon 00:00"),
        (5 * 86400, "5 days", "Fri 12:00"),
        (80 * 86400, "80 days", "17 Feb 2027"),
        (3.2e11, "3,703,704 days", "the year 12166"),
    ],
)
def test_spans_and_clocks(seconds: float, words: str, then: str) -> None:
    """A span is short, and an end is an hour, a day or a date."""
    assert (span(seconds), clock(NOON, seconds)) == (words, then)


# -- before the start


def test_a_heavy_training_is_measured_on_one_image(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the first test is much work, the engine's own `caffe time` runs one image before the training starts."""
    monkeypatch.setitem(probe.HEAVY, "CPU", 1e11)
    bench.behave(time_ms=[20_000.0, 60_000.0])
    bench.run()
    # 40 iterations of 128 images, 60 s each, and 4 tests of 400 images, 20 s each: 339,200 s
    assert next(line for line in bench.lines if "left" in line).startswith("about 4 days left, until ")
    assert "measured on one image: 812 million multiply-adds an image and step, 13.5 million a second" in bench.said
    (call,) = bench.calls("time")
    assert call[call.index("-iterations") + 1] == "1" and "-gpu" not in call
    assert not list(bench.home.glob("runs/*/*/.probe*"))
    bench.run()
    assert len(bench.calls("time")) == 1


def test_on_a_gpu_a_batch_is_measured(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """One image would leave a GPU idle: 60 s for 64 of 128 images on one of two GPUs are 60 s for both."""
    monkeypatch.setitem(probe.HEAVY, "GPU", 1e11)
    bench.behave(gpu=True, time_ms=[20_000.0, 60_000.0])
    bench.run(gpu="0,1")
    # 40 x 60 s and 4 x 400 / 64 x 20 s are 2900 s
    assert "about 48 min left" in bench.said and "measured on one batch of 64: " in bench.said


def test_a_light_training_is_not_measured_before(bench: Bench) -> None:
    """What tests itself within minutes starts at once."""
    bench.run()
    assert bench.calls("time") == []


def test_a_probe_that_fails_is_said_and_the_training_starts(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that cannot run one image says why; the training is begun all the same."""
    monkeypatch.setitem(probe.HEAVY, "CPU", 1e11)
    assert bench.run().status == "done"
    assert "how long it will take is not known yet: Check failed: out of memory" in bench.said


def test_a_training_that_goes_on_is_estimated_from_its_session_before(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an earlier session of the run took is said before the engine starts again."""
    monkeypatch.setattr(estimating, "_LINE_FROM_SECONDS", 0.0)
    bench.behave(**{"1": {"crash_at": 25}})
    with pytest.raises(DriverError):
        bench.run()
    bench.run()
    said = [line for line in bench.lines if "left" in line]
    assert said[0].endswith("measured on 20 iterations of the session before")
    assert any(line.endswith("measured on 10 iterations") for line in said[1:])


def test_a_probe_can_be_stopped(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while one image is run ends the run before its training; the same command begins it."""
    monkeypatch.setitem(probe.HEAVY, "CPU", 1e11)
    bench.behave(time_ms=[1.0, 2.0])
    wait = subprocess.Popen.wait

    def interrupted(self: subprocess.Popen[bytes], timeout: float | None = None) -> int:
        monkeypatch.setattr(subprocess.Popen, "wait", wait)
        os.kill(os.getpid(), signal.SIGINT)
        return wait(self, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in the background
    try:
        assert bench.run().status == "interrupted"
    finally:
        signal.signal(signal.SIGINT, before)
    assert [call[0] for call in bench.all_calls()] in ([], ["time"])
    assert bench.run().status == "done"


def test_the_net_that_is_timed_goes_backward_too() -> None:
    """A deploy net gets a loss, for without one Caffe's backward pass leaves everything out."""
    net = probe.with_loss(proto.read_net("solvers/cifar10-allcnn-c/deploy.prototxt"))
    assert net is not None
    last = net.layer[-1]
    assert (last.type, list(last.bottom)) == ("SoftmaxWithLoss", ["global_pool", "label"])
    assert probe.with_loss(proto.NetParameter()) is None

"""The parser of Caffe's log, on logs recorded from Caffe (99bd997) and on the ways in which logs go wrong."""

from __future__ import annotations

import math
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from allconv_caffe.report.log import complete_lines, parse_lines, parse_log

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "logs"


def lines(*messages: str, start: int = 0) -> list[str]:
    """Messages under glog's prefix, one second apart."""
    return [f"I1123 10:00:{start + second:02d}.250000  4242 solver.cpp:239] {m}\n" for second, m in enumerate(messages)]


def test_a_recorded_and_resumed_training_is_one_history() -> None:
    """A log of real Caffe, 40 iterations and then resumed for 20 more, gives each iteration once, with its own rate."""
    log = parse_log(GOLDEN / "caffe_resumed.log")
    assert (log.sessions, log.done, log.stopped, log.fatal) == (2, True, False, [])
    assert [row.iteration for row in log.train] == list(range(0, 61, 5))
    assert [row.iteration for row in log.test] == [0, 20, 40, 60]
    by_iteration = {row.iteration: row for row in log.train}
    # the log: "Iteration 25, lr = 0.005" after "MultiStep Status: Iteration 25, step = 1"
    assert (by_iteration[20].lr, by_iteration[25].lr, by_iteration[35].lr) == (0.05, 0.005, 0.0005)
    assert by_iteration[10].loss == 1.47307
    assert by_iteration[10].outputs == {"loss": 1.47307}
    assert log.test[1].outputs == {"accuracy": 1.0, "loss": 0.363409}
    assert [row.session for row in log.test] == [1, 1, 2, 2]
    assert log.resumed_from == ["snap_iter_40.solverstate"]
    assert log.snapshots[-1] == "snap_iter_60.solverstate"


@pytest.mark.parametrize(
    "before",
    [
        "2026-11-29T20:00:00.123456789Z ",
        "caffe_1  | ",
        "Nov 29 20:00:00 host caffe[7]: ",
        "\x1b[0;32m",
        "\x1b[36mnet |\x1b[0m ",
    ],
)
def test_what_ran_caffe_may_put_words_before_its_lines(before: str) -> None:
    """A container's time and name, the journal's, colours: the rows are those of the log without them."""
    plain = (GOLDEN / "caffe_resumed.log").read_text().splitlines(keepends=True)
    log, expected = parse_lines(before + line for line in plain), parse_lines(plain)
    assert (log.train, log.sessions, log.snapshots) == (expected.train, expected.sessions, expected.snapshots)
    assert log.test == expected.test and len(log.test) == 4


def test_seconds_leave_out_the_pause_between_sessions() -> None:
    """Time runs from "Solving" to the last row of each session; 20 s between two sessions do not count."""
    log = parse_lines(
        lines("Solving x", "Iteration 0, loss = 2", "Iteration 1, loss = 1.9")
        + lines("Solving x", "Iteration 2, loss = 1.8", start=22)
    )
    assert [row.seconds for row in log.train] == [1.0, 2.0, 3.0]


def test_an_interrupted_training_is_told_from_a_finished_one() -> None:
    """Real Caffe after SIGINT says both "stopped early" and "Optimization Done."; that is no finished training."""
    log = parse_log(GOLDEN / "caffe_interrupted.log")
    assert log.stopped and not log.done
    assert log.snapshots == ["snap_iter_2935.solverstate"]


def test_nan_makes_an_accuracy_void() -> None:
    """Real Caffe on NaN: the loss reads -nan, the accuracy 1; the row has no error."""
    log = parse_log(GOLDEN / "caffe_nan.log")
    assert math.isnan(log.train[3].loss)
    last = log.test[-1]
    assert last.outputs["accuracy"] == 1 and last.error_percent is None
    assert log.test[0].error_percent == pytest.approx(90.625)


def test_iterations_per_second_change_nothing() -> None:
    """Logs with and without "(R iter/s, Ts/D iters)" give equal rows, even with Caffe's first, meaningless rate."""
    plain = parse_lines(lines("Iteration 100, loss = 1.5"))
    for suffix in (
        " (5 iter/s, 20s/100 iters)",
        " (-1.65846e+36 iter/s, 0.001s/5 iters)",
        " (-inf iter/s, 0.001s/5 iters)",
    ):
        assert parse_lines(lines(f"Iteration 100{suffix}, loss = 1.5")).train == plain.train


def test_multistep_lines_are_no_tests() -> None:
    """ "MultiStep Status: Iteration 25, step = 1" begins no row and disturbs none."""
    log = parse_lines(
        lines(
            "Iteration 25, Testing net (#0)",
            "    Test net output #0: accuracy = 0.5",
            "MultiStep Status: Iteration 25, step = 1",
            "Iteration 25, lr = 0.005",
        )
    )
    assert [row.iteration for row in log.test] == [25]
    assert log.train == []


def test_incomplete_rows_keep_what_they_have() -> None:
    """A test that was cut off keeps the outputs that were written; the next rows are whole."""
    log = parse_lines(
        lines(
            "Iteration 0, Testing net (#0)",
            "    Test net output #0: accuracy = 0.1",
            "Solving again",
            "Iteration 10, Testing net (#0)",
            "    Test net output #0: accuracy = 0.3",
            "    Test net output #1: loss = 2 (* 1 = 2 loss)",
        )
    )
    assert [row.outputs for row in log.test] == [{"accuracy": 0.1}, {"accuracy": 0.3, "loss": 2.0}]


def test_repeated_iterations_of_a_resume_count_once() -> None:
    """After a crash at 300 resumed from 100, the rows of 200 and 300 are those of the second session."""
    first = lines("Solving x", *(f"Iteration {n}, loss = {n}" for n in (0, 100, 200, 300)))
    second = [f"Iteration {n}, loss = {n + 1}" for n in (100, 200)]
    for marker in (["Solving x"], []):  # also where the line that names the net was lost
        log = parse_lines(first + lines(*marker, *second, start=30))
        assert [(row.iteration, row.loss) for row in log.train] == [(0, 0), (100, 101), (200, 201)]


def test_lines_without_a_prefix_and_empty_lines_are_read_or_passed_over() -> None:
    """Shell output before the first line, empty lines and a log stripped of glog's prefix do no harm."""
    text = [
        "+ caffe train -solver s\n",
        "\n",
        "Iteration 5, loss = 2.5\n",
        "    Train net output #0: loss = 2.5\n",
        "\r\n",
    ]
    log = parse_lines(text)
    assert [(row.iteration, row.loss, row.seconds) for row in log.train] == [(5, 2.5, None)]
    assert log.train[0].outputs == {"loss": 2.5}


def test_a_log_without_its_first_lines_is_read() -> None:
    """A log that begins in the middle of a test gives the rows that can be known, and no wrong one."""
    log = parse_lines(
        lines("    Test net output #1: loss = 9 (* 1 = 9 loss)", "Iteration 7, loss = 2", "Iteration 7, lr = 0.1")
    )
    assert log.test == [] and (log.train[0].iteration, log.train[0].lr) == (7, 0.1)


def test_a_line_still_being_written_is_not_read() -> None:
    """ "loss = 2.3" may become 2.30259: a last line without its newline is left for later."""
    assert list(complete_lines("a\nIteration 5, loss = 2.3")) == ["a\n"]


def test_outputs_of_several_elements_keep_all() -> None:
    """An output printed once for each of its elements gets numbered names."""
    log = parse_lines(
        lines("Iteration 0, Testing net (#1)", *(f"    Test net output #{i}: class = 0.{i}" for i in range(3)))
    )
    assert log.test[0].net == 1
    assert log.test[0].outputs == {"class": 0.0, "class_1": 0.1, "class_2": 0.2}


def test_times_pass_midnight_and_new_year() -> None:
    """glog 0.4 writes month and day without a year; glog 0.6 writes it."""
    old = ["I1231 23:59:59.000000 1 s.cpp:1] Solving x\n", "I0101 00:00:01.500000 1 s.cpp:1] Iteration 1, loss = 1\n"]
    new = ["I20241231 23:59:59.0 1 s.cpp:1] Solving x\n", "I20250101 00:00:01.5 1 s.cpp:1] Iteration 1, loss = 1\n"]
    assert [parse_lines(text).train[0].seconds for text in (old, new)] == [2.5, 2.5]


def stamped(stamp: str, message: str) -> str:
    return f"I{stamp} 1 s.cpp:1] {message}\n"


def test_a_29_february_counts_where_there_was_one() -> None:
    """Two minutes from 28 February to 1 March without a line of the 29th; a day and two minutes with one, or in 2028."""
    common = [stamped("0228 23:59:00", "Solving x"), stamped("0301 00:01:00", "Iteration 1, loss = 1")]
    leap = [common[0], stamped("0229 12:00:00", "Iteration 0, loss = 1"), common[1]]
    named = [stamped("20280228 23:59:00", "Solving x"), stamped("20280301 00:01:00", "Iteration 1, loss = 1")]
    assert [parse_lines(text).train[-1].seconds for text in (common, leap, named)] == [120.0, 86520.0, 86520.0]


@pytest.mark.parametrize("jump", [3600, -3600, 7 * 86400])
def test_a_clock_that_is_set_is_no_training(jump: int) -> None:
    """Summer time, a clock that was wrong, a machine that slept: ten steps of 60 s stay 600 s."""
    begin = datetime(2026, 3, 29, 1, 0, tzinfo=timezone.utc)
    text = [stamped(f"{begin:%m%d %H:%M:%S}", "Solving x")]
    for step in range(1, 11):
        then = begin + timedelta(seconds=60 * step + (jump if step > 6 else 0))
        text.append(stamped(f"{then:%m%d %H:%M:%S}", f"Iteration {step}, loss = 1"))
    assert parse_lines(text).train[-1].seconds == 600.0


def test_a_long_test_is_no_jump() -> None:
    """Half an hour for the first test, among losses that come every second, is time of the training, as its outputs say."""
    text = [stamped("1129 12:00:00", "Solving x")]
    text += [stamped(f"1129 12:00:0{step}", f"Iteration {step}, loss = 1") for step in range(1, 6)]
    text += [stamped("1129 12:00:06", "Iteration 6, Testing net (#0)")]
    text += [stamped("1129 12:30:06", "    Test net output #0: accuracy = 0.5")]
    text += [stamped("1129 12:30:07", "Iteration 6, loss = 1")]
    assert parse_lines(text).train[-1].seconds == 1807.0


def test_a_number_without_end_is_no_iteration() -> None:
    """More digits than any counter has: the line is passed over."""
    log = parse_lines(
        lines("Solving x", f"Iteration {'1' * 5000}, loss = 1", f"GPU {'1' * 5000}: x", "Iteration 5, loss = 2")
    )
    assert [row.iteration for row in log.train] == [5] and not log.gpus


def test_a_line_of_no_day_has_no_time() -> None:
    """Month 13 is passed over, and the row stays."""
    log = parse_lines([stamped("1129 12:00:00", "Solving x"), stamped("1329 12:00:01", "Iteration 0, loss = 1")])
    assert [row.iteration for row in log.train] == [0]


def test_fatal_lines_are_kept() -> None:
    """The message of a glog F line is what the engine died of."""
    log = parse_lines(
        ["F1123 10:00:00.1 1 syncedmem.cpp:71] Check failed: error == cudaSuccess (2 vs. 0)  out of memory\n"]
    )
    assert log.fatal == ["Check failed: error == cudaSuccess (2 vs. 0)  out of memory"]


def test_the_gpus_of_a_training_are_named() -> None:
    """Number and name of each, of the last session; on a CPU none."""
    log = parse_lines(
        lines("Using GPUs 0, 1", "GPU 0: NVIDIA H100 80GB HBM3", "GPU 1: Tesla K40", "Solving x", "GPU 0: Titan X")
    )
    assert log.gpus == {0: "Titan X", 1: "Tesla K40"}
    assert parse_lines(lines("Use CPU.")).gpus == {}

"""On course or off it: the check-points of a public training, said and recorded where they hold, and nowhere else."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from support.driver import Bench

from allconv_caffe.paper import course as points
from allconv_caffe.paper.course import ALL_CNN_C, CheckPoint
from allconv_caffe.report.log import LogParser, TestRow
from allconv_caffe.train import course
from allconv_caffe.train.course import Course, CourseWatch
from allconv_caffe.train.plan import Plan, plan
from allconv_caffe.train.settings import RunSettings

ITERS = 50_000 / 256  # of an epoch
LOG = {  # iteration: (error in percent, test loss) of the public log
    0: (90.0, 2.30314),
    200: (85.82, 2.19372),
    1800: (46.06, 1.25078),
    2000: (43.70, 1.21104),
    9600: (16.48, 0.483519),
    9800: (16.64, 0.487565),
    40_000: (14.35, 0.423359),
    40_200: (11.02, 0.335187),
    40_400: (10.69, 0.3413),
    50_000: (10.37, 0.343417),
    50_200: (9.78, 0.331378),
}
PLATEAU = [13.75, 14.2, 15.1, 13.9, 12.6, 14.4, 13.63, 15.9, 14.8, 13.74, 13.9]  # at epochs 100, 110, ... 200
"""In part the log's, in part drawn from its range of 12.4 to 15.9."""


def rows(changes: dict[int, float] | None = None) -> list[TestRow]:
    found = dict(LOG) | {round((100 + 10 * i) * ITERS): (error, 0.5) for i, error in enumerate(PLATEAU)}
    found |= {iteration: (error, 2.0) for iteration, error in (changes or {}).items()}
    return [
        TestRow(iteration=iteration, outputs={"accuracy": 1 - error / 100, "loss": loss})
        for iteration, (error, loss) in sorted(found.items())
    ]


def of_the_log() -> Course:
    return Course(points=ALL_CNN_C, epoch_iters=ITERS, drop_epochs=(204.8, 256, 307.2), note="")


def test_the_training_that_they_are_taken_from_is_on_course() -> None:
    """Every check-point holds of its own log, the drops where it has them."""
    assert [entry.words for entry in of_the_log().judge(rows())] == [
        "on course: test loss 2.194 at epoch 1.0, below 2.3",
        "on course: 43.70 % at epoch 10.2, below 55 %",
        "on course: 16.64 % at epoch 50.2, below 19 %",
        "on course: 14.17 % on average from epoch 100 to 200, between 12.5 and 16 %",
        "on course: 10.69 % at epoch 206.8, 2.0 after the first drop, below 11.5 %",
        "on course: 9.78 % at epoch 257.0, 1.0 after the second drop, below 10.3 %",
    ]


def test_a_training_that_stands_higher_is_off_course() -> None:
    """As our JPEG training, which lies on 20 to 22 % from epoch 60 to 200."""
    high = {round((100 + 10 * i) * ITERS): 21.0 for i in range(11)} | {2000: 60.12, 40_200: 13.1, 40_400: 12.9}
    found = of_the_log().judge(rows(high))
    assert [entry.words for entry in found if not entry.on_course] == [
        "off course: 60.12 % at epoch 10.2, expected below 55 %",
        "off course: 21.00 % on average from epoch 100 to 200, expected between 12.5 and 16 %",
        "off course: 12.90 % at epoch 206.8, 2.0 after the first drop, expected below 11.5 %",
    ]


def test_a_test_at_the_drop_itself_is_made_before_it() -> None:
    """What stands at iteration 40,000, the drop, says nothing of what comes after it, be it as good as it may."""
    found = of_the_log().judge([row for row in rows({40_000: 11.0}) if row.iteration <= 40_000])
    assert len(found) == 4


def test_a_window_is_waited_for_until_it_is_over() -> None:
    """A test above the bound decides nothing while another may come within two epochs of the drop."""
    begun = [row for row in rows({40_200: 12.0}) if row.iteration <= 40_200]
    assert len(of_the_log().judge(begun)) == 4
    assert of_the_log().judge([*begun, *rows()[-3:]])[4].on_course


def test_what_was_not_tested_is_not_judged() -> None:
    """A training with few tests has no check-point where none lies near, and a NaN is no loss."""
    few = [TestRow(iteration=5000, outputs={"accuracy": 0.7, "loss": 0.9})]
    nan = [TestRow(iteration=200, outputs={"accuracy": 1.0, "loss": float("nan")})]
    assert of_the_log().judge(few) == of_the_log().judge(nan) == []


def test_each_is_said_once() -> None:
    """A check-point is said as its test comes; a training that goes on does not repeat those of before."""
    log, said = LogParser(), list[str]()
    log.test = rows()[:2]
    watch = CourseWatch(of_the_log(), log, said.append)
    for row in rows()[2:5]:
        log.test.append(row)
        watch.test(row)
    assert said == ["on course: 43.70 % at epoch 10.2, below 55 %"]


# -- where they hold


def planned(bench: Bench, experiment: str = "cifar10-allcnn-c", **settings: object) -> Plan:
    from allconv_caffe.paper import experiments

    options = {"engine": "caffe", "root": bench.home, "runs_dir": Path("runs"), **settings}
    return plan(experiments.experiment(experiment), RunSettings(**options), lambda line: None)  # type: ignore[arg-type]


@pytest.fixture
def whole(bench: Bench) -> Bench:
    bench.data = dataclasses.replace(bench.data, n_train=50_000, n_test=10_000, display_name="CIFAR-10", official=True)
    return bench


def test_they_hold_for_the_whole_schedule_of_all_cnn_c_alone(whole: Bench) -> None:
    """Other nets, rates, schedules, options, preprocessings and parts of the images are claimed nothing of."""
    assert course.of(planned(whole, options={"display": 50})).points == ALL_CNN_C
    others = [{"epochs": 35}, {"lr": 0.01}, {"options": {"filler": "msra"}}, {"options": {"drop_epochs": (200, 300)}}]
    assert [course.of(planned(whole, **other)).points for other in others] == [()] * 4
    assert course.of(planned(whole, "cifar10-model-c", lr=0.05)).points == ()
    whole.data = dataclasses.replace(whole.data, preprocessing="gcn")
    assert course.of(planned(whole)).points == ()
    whole.data = dataclasses.replace(whole.data, preprocessing="gcn-zca", n_train=45_000)
    assert course.of(planned(whole)).points == ()


def test_a_recipe_that_they_are_not_confirmed_for_is_named(whole: Bench) -> None:
    """The log is of batch 256 and the original pixels; of others a line says that nothing confirms them."""
    assert course.of(planned(whole, batch_size=256)).note == ""
    whole.data = dataclasses.replace(whole.data, display_name="CIFAR-10 (JPEG)", official=False)
    assert course.of(planned(whole)).note == (
        "check-points of its course are confirmed for batch 256 and base_lr 0.05 on CIFAR-10's own pixels alone; "
        "here: batch 128, CIFAR-10 (JPEG)"
    )


def test_a_run_says_and_records_them(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line at the check-point, and the record keeps it with what it is confirmed for."""
    one = CheckPoint(output="error", epochs=(2, 3), below=65)
    made = Course(points=(one,), epoch_iters=10, drop_epochs=(), note="a note")
    monkeypatch.setattr(course, "of", lambda plan: made)
    ended = bench.run()
    # the stand-in's accuracy is .1 + iteration / 50: half right at iteration 20, epoch 2
    assert bench.lines.count("on course: 50.00 % at epoch 2.0, below 65 %") == 1 and "a note" in bench.lines
    kept = json.loads((ended.directory / "result.json").read_text())["course"]
    assert kept["confirmed_for"] == points.CONFIRMED
    assert [(entry["on_course"], entry["value"]) for entry in kept["points"]] == [(True, 50.0)]


def test_a_run_of_another_kind_records_none(bench: Bench) -> None:
    """Four epochs are claimed nothing of."""
    assert bench.run().record.course is None and "course" not in bench.said

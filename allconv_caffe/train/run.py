"""Trains an experiment from nothing: data, prototxt, training, test, record; continues what was begun.

``run`` does whatever is missing. Each run has a directory of its own, ``runs/<experiment>/<run id>/``; the same
settings find it again and go on from its newest snapshot, other settings get another one.

Source: section 3 of the paper for what is trained; caffe.cpp for how an engine is called and stopped.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from allconv_caffe import files
from allconv_caffe.paper.experiments import Experiment
from allconv_caffe.report.log import LogParser, parse_log
from allconv_caffe.report.record import Record
from allconv_caffe.train import course, folder as folder_, own, probe, process, record, snapshots
from allconv_caffe.train.estimate import Estimate, Work, measured
from allconv_caffe.train.folder import LOG, RESULT_FILE, STATE_FILE, TEST_LOG
from allconv_caffe.train.lease import DEAD_SECONDS, Lease
from allconv_caffe.train.own import OwnNet
from allconv_caffe.train.plan import Plan, plan
from allconv_caffe.train.points import Events, Points
from allconv_caffe.train.prototxt import TRAIN_VAL
from allconv_caffe.train.settings import DriverError, RunSettings
from allconv_caffe.train.watch import DeadRule, DeadWatch, Follower, Listener, Progress


@dataclass(frozen=True)
class RunResult:
    """How a run ended.

    status: ``done``, ``interrupted`` (it can go on) or ``dead``. directory: of the run. record: what stands in
    ``result.json``; None where no training had begun.
    """

    status: str
    directory: Path
    record: Record | None


def run(
    experiment: str | Experiment | OwnNet,
    settings: RunSettings | None = None,
    say: Callable[[str], None] = print,
    listen: Callable[[Plan], Listener] | None = None,
) -> RunResult:
    """Do whatever is missing of an experiment, from the data to the result.

    Args:
        experiment: its name in ``experiments.EXPERIMENTS``, or an ``Experiment`` of one's own; or the folder of a net of
            one's own.
        say: takes each line for people.
        listen: makes a listener to the run that is planned; it gets every row of every training in it.
    Raises:
        DriverError, TableError: a setting, the data or the engine does not serve; one line.
    """
    settings = settings or RunSettings()
    subject = own.subject(experiment, settings.root) if isinstance(experiment, str) else experiment
    try:
        planned = plan(subject, settings, say)
    except KeyboardInterrupt:
        say("stopped while the data were prepared; nothing half-done is left, the same command begins again")
        return RunResult("interrupted", settings.root.resolve(), None)
    planned.folder.mkdir(parents=True, exist_ok=True)
    with folder_.locked(planned.folder, say) as lease:
        for place in (planned.folder, planned.prefix.parent):
            files.sweep(place)
        return _Run(planned, lease, say, () if listen is None else (listen(planned),)).go()


class _Run:
    """One run directory, held, and the trainings in it."""

    def __init__(
        self, planned: Plan, lease: Lease, say: Callable[[str], None], listeners: tuple[Listener, ...] = ()
    ) -> None:
        self.plan, self.folder = planned, planned.folder
        self._lease, self._say, self._listeners = lease, say, listeners
        self._state = folder_.read_state(planned.folder)
        self._attempts: list[dict[str, Any]] = self._state["attempts"]

    def _save_state(self) -> None:
        files.write_json(self.folder / STATE_FILE, self._state)

    # -- the attempts -------------------------------------------------------------------------------------------------

    def go(self) -> RunResult:
        """Train until done, interrupted, or dead without a retry left."""
        plan, attempts = self.plan, self._attempts
        if attempts and attempts[-1]["status"] == "done" and (self.folder / RESULT_FILE).exists():
            result = record.read_result(self.folder)
            self._say(f"already done: {plan.path(self.folder)}")
            self._say(record.summary(result))
            return RunResult("done", self.folder, result)
        record.write_settings(plan)
        stops = plan.settings.stop_dead
        while True:
            if attempts and attempts[-1]["status"] == "dead" and stops:
                if len(attempts) > plan.settings.retries:
                    return self._give_up()
                self._put_aside(attempts[-1])
            if not attempts or "directory" in attempts[-1]:
                self._begin_attempt()
            self._save_state()
            status = self._train(attempts[-1])
            if status != "dead" or not stops:
                break
        result = record.write_result(plan, status, attempts)
        if status == "done":
            self._say(record.summary(result))
        else:
            again = plan.settings.command or "the same command"
            at = result.iterations
            self._say(f"stopped at iteration {at} of {plan.max_iter}; to go on, run again: {again}")
        return RunResult(status, self.folder, result)

    def _give_up(self) -> RunResult:
        last = self._attempts[-1]
        self._say(f"attempt {last['attempt']} (seed {last['seed']}) is dead: {last['why']}")
        self._say(
            f"no retry is left: RETRIES={len(self._attempts)} begins again with seed {last['seed'] + 1}; "
            f"a smaller LR or another filler may help more; the log is {self.plan.path(self.folder / LOG)}"
        )
        return RunResult("dead", self.folder, record.write_result(self.plan, "dead", self._attempts))

    def _put_aside(self, attempt: dict[str, Any]) -> None:
        where = self.folder / f"attempt-{attempt['attempt']}"
        folder_.move_into(self.folder, folder_.ATTEMPT_FILES, where)
        attempt["directory"] = where.name

    def _begin_attempt(self) -> None:
        before = self._attempts[-1] if self._attempts else None
        number = len(self._attempts) + 1
        seed = self.plan.settings.seed + number - 1
        self._attempts.append({"attempt": number, "seed": seed, "status": "new", "why": "", "sessions": []})
        if before is not None:
            self._say(f"attempt {before['attempt']} is kept in {before['directory']}/; beginning again, seed {seed}")

    # -- one training -------------------------------------------------------------------------------------------------

    def _train(self, attempt: dict[str, Any]) -> str:
        """Go on with an attempt to its end, solver by solver; returns how it ended: done, interrupted or dead."""
        plan = self.plan
        plan.prefix.parent.mkdir(exist_ok=True)
        for name, text in plan.files(attempt["seed"]).items():
            files.write(self.folder / name, text)
        ended, first_iter = "", 0
        for solver, last_iter in plan.prototxt.stages:
            snapshot = snapshots.newest_snapshot(plan.prefix, self._say)
            reached = snapshot[1] if snapshot else 0
            if reached < first_iter:
                raise DriverError(
                    plan.path(plan.prefix.parent),
                    f"found no whole snapshot of iteration {first_iter}, expected one for {solver} to go on from; "
                    "the same command trains there again",
                )
            first_iter = last_iter
            if reached < last_iter or last_iter == plan.max_iter:
                ended = self._session(attempt, solver, snapshot)
                if ended != "done":
                    break
        return ended

    def _session(self, attempt: dict[str, Any], solver: str, snapshot: tuple[Path, int] | None) -> str:
        """Run the engine with a solver, from a snapshot if there is one; returns how it ended."""
        plan, log_path = self.plan, self.folder / LOG
        words = ["train", "-solver", plan.path(self.folder / solver)]
        if snapshot:
            snapshots.adopt(snapshot[0], plan.path(snapshot[0].with_suffix(".caffemodel")))
            words += ["-snapshot", plan.path(snapshot[0])]
            self._say(f"continuing from iteration {snapshot[1]} of {plan.max_iter}: {plan.path(snapshot[0])}")
        elif log_path.exists():
            self._say("there is no snapshot to go on from: beginning again")
        command = process.command_of(plan.engine, words, plan.settings.caffe_flags)
        self._say(f"run directory: {plan.path(self.folder)}")
        self._say(f"curves as they come: tensorboard --logdir {shlex.quote(plan.path(self.folder / 'events'))}")
        self._say(f"$ {shlex.join(command)}")
        log = parse_log(log_path) if log_path.exists() else LogParser()
        session = {
            "solver": solver,
            "command": shlex.join(process.shown(plan.engine, command)),
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "git": record.git_state(Path(__file__).resolve().parent),
        }
        attempt["sessions"].append(session)
        attempt["status"], attempt["why"] = "running", ""
        self._save_state()
        ended = self._follow(command, log, snapshot[1] if snapshot else 0, session)
        if self._lease.lost:
            raise DriverError(
                plan.path(self.folder),
                f"this training showed no life for {DEAD_SECONDS:g} s, and another one has taken the directory over",
            )
        attempt["status"], attempt["why"] = ended.status, ended.why
        attempt["iterations"] = _reached(log)
        attempt["seconds"] = record.seconds_of(log)
        if ended.status == "done" and solver != plan.prototxt.last_solver:
            attempt["status"] = "running"  # the next solver goes on
        self._save_state()
        if ended.status == "failed":
            raise DriverError(plan.path(log_path), f"the engine failed: {ended.why}")
        if ended.status == "done" and solver == plan.prototxt.last_solver:
            self._final_test(log)
        return ended.status

    def _follow(self, command: list[str], log: LogParser, first_iter: int, session: dict[str, Any]) -> process.Ended:
        """Start the engine and watch it to its end; ``session`` gets its seconds."""
        plan, log_path = self.plan, self.folder / LOG
        begin = time.monotonic()
        watch = DeadWatch(
            DeadRule(
                classes=plan.data.classes,
                n_test=plan.data.n_test,
                epoch_iters=plan.epoch_iters,
                max_iter=plan.max_iter,
                patience_epochs=plan.settings.patience_epochs,
            )
        )
        for row in log.train:
            if row.iteration < first_iter:
                watch.train(row)
        try:
            estimate = self._estimate(log, first_iter)
        except probe.Stopped:
            log_path.touch()
            return process.Ended("interrupted")
        for line in filter(None, (estimate.line(), course.of(plan).note)):
            self._say(line)
        progress = Progress(plan.max_iter, first_iter, plan.batch_size, plan.epoch_iters, self._say, estimate)
        events = Events(self.folder / "events", log, first_iter, record.hparams(plan, self._attempts[-1]["seed"]))
        points = Points(self.folder, log, plan.epoch_iters)
        on_course = course.CourseWatch(course.of(plan), log, progress.write)
        follower = Follower(log, (events, progress, points, on_course, *self._listeners, watch), progress.write)
        try:
            offset = log_path.stat().st_size if log_path.exists() else 0
            engine = process.start(plan.engine, command, log_path, plan.root, self._lease)
            return process.follow(engine, log_path, offset, follower, plan.settings.stop_dead)
        finally:
            progress.close()
            events.close()
            session["seconds"] = round(time.monotonic() - begin, 1)
            points.write()

    def _estimate(self, log: LogParser, first_iter: int) -> Estimate:
        """How long it will take, with what is known before it starts: the pace of its last session, or of one image."""
        times = self.plan.prototxt.timetable
        work = Work(
            max_iter=self.plan.max_iter,
            batch_size=self.plan.batch_size,
            display=times.display,
            test_interval=times.test_interval,
            test_images=times.test_iter * times.test_batch_size,
        )
        if first_iter == 0:
            pace = probe.pace(self.plan, work, self._lease, self._say)
        else:
            last = log.train[-1].session if log.train else 0
            pace = measured(
                [row for row in log.train if row.session == last], [row for row in log.test if row.session == last]
            )
            pace = pace and replace(pace, measured=f"{pace.measured} of the session before")
        return Estimate(work, pace, first_iter)

    def _final_test(self, log: LogParser) -> None:
        """Test the final weights where the training's own log has no test of the last iteration."""
        plan = self.plan
        if any(row.iteration == plan.max_iter and row.outputs for row in log.test):
            return
        model = plan.path(plan.last_model)
        self._say(f"testing {model}")
        log_path = self.folder / TEST_LOG
        log_path.unlink(missing_ok=True)
        words = ["test", "-model", plan.path(self.folder / TRAIN_VAL), "-weights", model]
        words += ["-iterations", str(plan.prototxt.timetable.test_iter)]
        command = process.command_of(plan.engine, words, plan.settings.caffe_flags)
        status = process.wait(process.start(plan.engine, command, log_path, plan.root, self._lease), self._say)
        if status or process.test_scores(log_path).get("accuracy") is None:
            why = process.failure(log_path, LogParser(), status)
            raise DriverError(plan.path(log_path), f"the test failed: {why}")


def _reached(log: LogParser) -> int:
    """The last iteration that is known of: displayed, tested, or in a snapshot."""
    found = [rows[-1].iteration for rows in (log.train, log.test) if rows]
    for name in log.snapshots[-1:]:
        if match := re.search(r"_iter_(\d+)\.", name):
            found.append(int(match[1]))
    return max(found, default=0)

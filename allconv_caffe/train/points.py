"""Every point of a run's curves, as CSV and as TensorBoard events."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from allconv_caffe import files
from allconv_caffe.report.log import Column, LogParser, TestRow, TrainRow, to_csv


def _error(row: TestRow) -> str | None:
    return None if row.error_percent is None else f"{row.error_percent:.6g}"


class Points:
    """train.csv (iteration, epoch, seconds, lr, loss, ...) and test.csv (error_percent), anew at every test."""

    def __init__(self, folder: Path, log: LogParser, epoch_iters: float) -> None:
        self._folder, self._log, self._epoch_iters = folder, log, epoch_iters

    def train(self, row: TrainRow) -> None:
        """The next test writes it."""

    def test(self, row: TestRow) -> None:
        """Write every point so far."""
        self.write()

    def write(self) -> None:
        """Write every point of the log so far."""
        first: list[Column] = [
            ("iteration", lambda row: row.iteration),
            ("epoch", lambda row: f"{row.iteration / self._epoch_iters:.6g}"),
            ("seconds", lambda row: row.seconds),
            ("lr", lambda row: row.lr),
        ]
        last: Column = ("session", lambda row: row.session)
        tests = [row for row in self._log.test if row.net == 0]
        files.write(self._folder / "train.csv", to_csv(self._log.train, [*first, ("loss", lambda row: row.loss), last]))
        files.write(self._folder / "test.csv", to_csv(tests, [*first, ("error_percent", _error), last]))


class Events:
    """TensorBoard events of one run: its history again, then each point as it comes.

    Args:
        first_iter: where the session begins: a killed one may have gone further, and those points will come again.
        hparams: what the run was started with, by which TensorBoard's table of runs (HPARAMS) sorts and filters.
    """

    def __init__(
        self, folder: Path, log: LogParser, first_iter: int, hparams: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        folder.mkdir(exist_ok=True)
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer = EventFileWriter(str(folder))
        last = max((rows[-1].seconds or 0.0 for rows in (log.train, log.test) if rows), default=0.0)
        start = time.time() - last
        self._begin(hparams, start)
        for train in log.train:
            if train.iteration < first_iter:
                self._train(train, start + (train.seconds or 0.0))
        for test in log.test:
            if test.iteration < first_iter:
                self._test(test, start + (test.seconds or 0.0))

    def _begin(self, hparams: Mapping[str, Any], wall_time: float) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
        from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionStartInfo

        info = SessionStartInfo(start_time_secs=wall_time)
        for name, value in hparams.items():
            kind = "bool_value" if isinstance(value, bool) else "number_value"
            if isinstance(value, (bool, int, float)):
                setattr(info.hparams[name], kind, value)
            else:
                info.hparams[name].string_value = str(value)
        content = HParamsPluginData(session_start_info=info).SerializeToString()
        data = SummaryMetadata.PluginData(plugin_name="hparams", content=content)
        value = Summary.Value(tag="_hparams_/session_start_info", metadata=SummaryMetadata(plugin_data=data))
        self._write(Summary(value=[value]), 0, wall_time)

    def train(self, row: TrainRow) -> None:
        """Tags ``train/loss`` and, where it is known, ``train/lr``."""
        self._train(row, time.time())

    def test(self, row: TestRow) -> None:
        """Tags ``test/error_percent`` and one for each output; a running TensorBoard sees every point so far."""
        self._test(row, time.time())
        self._writer.flush()

    def _train(self, row: TrainRow, wall_time: float) -> None:
        values = {"train/loss": row.loss}
        if row.lr is not None:
            values["train/lr"] = row.lr
        self._add(values, row.iteration, wall_time)

    def _test(self, row: TestRow, wall_time: float) -> None:
        values = {f"test/{name}": value for name, value in row.outputs.items()}
        if row.error_percent is not None:
            values["test/error_percent"] = row.error_percent
        self._add(values, row.iteration, wall_time)

    def _add(self, values: dict[str, float], step: int, wall_time: float) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        points = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._write(Summary(value=points), step, wall_time)

    def _write(self, summary: Any, step: int, wall_time: float) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._writer.add_event(Event(wall_time=wall_time, step=step, summary=summary))

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()

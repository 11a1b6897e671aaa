"""The driver: what a run leaves behind, what finds it again, crashes, dead trainings and retries."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.driver import Bench

from allconv_caffe import proto
from allconv_caffe.paper import experiments
from allconv_caffe.paper.errors import TableError
from allconv_caffe.report import plots, record as record_file
from allconv_caffe.report.log import parse_log
from allconv_caffe.train import data as driver_data, record, run as driver
from allconv_caffe.train.settings import DriverError, RunSettings


def test_a_run_leaves_everything_that_reproduces_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finished run's directory holds prototxt, settings, log, points, curves, events, snapshots and the result."""
    monkeypatch.setattr(plots, "curves", bench.curves)
    ended = bench.run()
    folder = ended.directory
    assert ended.status == "done"
    assert folder == bench.home / "runs/cifar10-allcnn-c/seed1-epochs4-caffe-cifar-10-jpeg"
    for name in ("solver.prototxt", "train_val.prototxt", "deploy.prototxt", "log", "train.csv", "test.csv"):
        assert (folder / name).stat().st_size > 0, name
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list((folder / "events").glob("events.out.tfevents.*"))
    result = json.loads((folder / "result.json").read_text())
    assert record_file.read(folder / "result.json") == ended.record
    # 40 iterations of 128 images are 4 epochs of 1280; the last test sees accuracy 0.9
    expected = {
        "test_error_percent": 10.0,
        "test_iteration": 40,
        "parameters": 8,
        "seed": 1,
        "epochs": 4.0,
        "engine": "caffe",
        "dataset": "CIFAR-10 (JPEG)",
        "published_error_percent": 9.08,
        "status": "done",
        "max_iter": 40,
        "batch_size": 128,
        "device": "CPU",
    }
    assert {key: result[key] for key in expected} == expected
    assert result["seconds"] >= 0 and result["images_per_second"] > 0
    assert any(line.startswith("batch_size: 128") for line in result["assumptions"])
    settings = json.loads((folder / "settings.json").read_text())
    assert settings["data"]["sha256"] == {"train": "1f", "test": "2e"}
    assert settings["settings"]["lr"] == 0.05 and settings["versions"]["python"]
    assert len((folder / "train.csv").read_text().splitlines()) == 1 + 5  # iterations 0, 10, 20, 30 and 40
    assert len((folder / "test.csv").read_text().splitlines()) == 1 + 5


def test_paths_in_a_run_begin_at_the_root(bench: Bench) -> None:
    """Prototxt in a run directory names data and snapshots relative to the project's root."""
    folder = bench.run().directory
    for name in ("solver.prototxt", "train_val.prototxt"):
        assert str(bench.home) not in (folder / name).read_text()
    solver = proto.read_solver(folder / "solver.prototxt")
    assert solver.snapshot_prefix == str(folder.relative_to(bench.home) / "snapshots/cifar10-allcnn-c")
    assert solver.solver_mode == proto.SolverParameter.CPU and solver.random_seed == 1


def test_a_done_run_is_not_trained_again(bench: Bench) -> None:
    """The same settings after a finished run give its result and start no engine."""
    first = bench.run()
    again = bench.run()
    assert again.record == first.record and again.directory == first.directory
    assert len(bench.calls()) == 1 and "already done" in bench.said


def test_looking_at_a_done_run_changes_nothing_of_its_record(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finished run's settings, versions and commit stay those it was trained with, whoever looks later."""
    folder = bench.run().directory
    before = {
        path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and not path.name.startswith(".l")
    }
    monkeypatch.setattr(record, "versions", lambda: {"torch": "another"})
    monkeypatch.setattr(record, "git_state", lambda folder: {"commit": "another"})
    bench.run(command="another")
    assert {name: (folder / name).read_bytes() for name in before} == before


def test_rate_epochs_and_batch_given_as_options_are_settings(bench: Bench) -> None:
    """`--set lr=0.01` is `--lr 0.01`: the same run, and a record that says it."""
    ended = bench.run(options={"lr": 0.01, "batch_size": 64})
    assert (ended.record.lr, ended.record.batch_size, ended.record.options) == (0.01, 64, {})
    assert bench.run(lr=0.01, batch_size=64).directory == ended.directory and "already done" in bench.said


def test_what_cannot_be_run_is_said_before_the_data_are_prepared(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong option and a file in the place of the runs are found first, not after a download."""
    monkeypatch.setattr(driver_data, "ensure", lambda *_, **__: pytest.fail("data came first"))
    with pytest.raises(TableError, match="settings: option filler: found 'he', expected one of the choices"):
        bench.run(options={"filler": "he"})
    (bench.home / "runs").write_text("")
    with pytest.raises(DriverError, match="runs: found a file, expected a folder for the runs"):
        bench.run()


OF_NO_SOLVER = '{"attempts": [{"attempt": 1, "seed": 1, "status": "", "why": "", "sessions": [{"solver": []}]}]}'


@pytest.mark.parametrize("text", ["[]", "{}", '{"attempts": [3]}', '{"attempts": [{"attempt": 1}]}', OF_NO_SOLVER])
def test_a_damaged_state_is_one_line(bench: Bench, text: str) -> None:
    """state.json of another form stops the run before an engine is started."""
    folder = bench.run().directory
    (folder / "state.json").write_text(text)
    with pytest.raises(
        DriverError, match=r"state\.json: found (a list|no record|attempt 1 with (seed null|a session))"
    ):
        bench.run()
    (folder / "state.json").unlink()
    assert bench.run().status == "done" and "-snapshot" in bench.calls()[-1]


def test_other_settings_get_another_directory(bench: Bench) -> None:
    """Rate, seed, epochs, batch and data each make another run; the directory's name says which."""
    names = [bench.run(**changed).directory.name for changed in ({}, {"lr": 0.01}, {"seed": 7}, {"batch_size": 64})]
    assert names == [
        "seed1-epochs4-caffe-cifar-10-jpeg",
        "seed1-epochs4-caffe-lr0.01-cifar-10-jpeg",
        "seed7-epochs4-caffe-cifar-10-jpeg",
        "seed1-epochs4-caffe-batch64-cifar-10-jpeg",
    ]
    bench.data = driver_data.PreparedData(**{**vars(bench.data), "checksums": {"train": "other"}})
    other = bench.run().directory.name
    assert other.startswith(names[0] + "-") and other not in names
    assert bench.run().directory.name == other


def test_raw_bytes_are_trained_with_their_mean_file(bench: Bench) -> None:
    """A set of raw bytes gives the data layers its mean file; GCN alone needs none; both are named in every record."""
    mean = bench.data.folder / "mean.binaryproto"
    bench.data = dataclasses.replace(bench.data, preprocessing="raw", mean_file=mean)
    ended = bench.run()
    assert "raw bytes minus the mean image" in bench.said and "--set scale=" in bench.said
    net = proto.read_net(ended.directory / "train_val.prototxt")
    found = [layer.transform_param.mean_file for layer in net.layer if layer.type == "Data"]
    assert found == ["data/cifar10/mean.binaryproto"] * 2
    assert ended.directory.name.endswith("-raw") and ended.record.preprocessing == "raw"
    scaled = bench.run(options={"scale": 0.0078125})
    assert (
        "scale: 0.0078125" in (scaled.directory / "train_val.prototxt").read_text() and "--set scale=" not in bench.said
    )
    channels = bench.run(options={"mean_value": (104.0, 117.0, 123.0)})
    assert "mean_file" not in (channels.directory / "train_val.prototxt").read_text()
    bench.data = dataclasses.replace(bench.data, preprocessing="gcn", mean_file=None)
    plain = bench.run()
    assert "mean" not in (plain.directory / "train_val.prototxt").read_text()
    assert plain.directory.name.endswith("-gcn") and plain.record.preprocessing == "gcn"


def test_a_crash_is_told_in_the_engines_words_and_the_next_run_goes_on(bench: Bench) -> None:
    """After an engine's fatal error the same command continues from the last snapshot and appends to the log."""
    bench.behave(**{"1": {"crash_at": 25}})
    with pytest.raises(DriverError, match="the engine failed: Check failed: error == cudaSuccess"):
        bench.run()
    ended = bench.run()
    assert ended.status == "done" and ended.record.resumed == 1
    call = bench.calls()[1]
    assert call[call.index("-snapshot") + 1].endswith("_iter_20.solverstate")
    log = parse_log(ended.directory / "log")
    assert log.sessions == 2
    assert [row.iteration for row in log.train] == [0, 10, 20, 30, 40]
    assert [row.session for row in log.train] == [1, 1, 2, 2, 2]


def test_what_a_killed_engine_left_half_written_goes_with_the_next_run(bench: Bench) -> None:
    """A temporary of a snapshot, its writer dead, is gone after the next run of the folder, engine or no engine."""
    directory = bench.run(epochs=4).directory
    left = directory / "snapshots" / ".cifar10-allcnn-c_iter_5.solverstate.c400953a.tmp"
    left.touch()
    os.utime(left, (0, 0))
    bench.run(epochs=4)
    assert not left.exists()


def test_a_broken_newest_snapshot_is_passed_over(bench: Bench) -> None:
    """Resuming takes the newest state that is whole and whose caffemodel exists, and says which it passed over."""
    bench.behave(**{"1": {"crash_at": 35}})
    with pytest.raises(DriverError):
        bench.run()
    folder = bench.home / "runs/cifar10-allcnn-c/seed1-epochs4-caffe-cifar-10-jpeg/snapshots"
    newest = folder / "cifar10-allcnn-c_iter_30.solverstate"
    newest.write_bytes(newest.read_bytes()[:-3])
    bench.run()
    assert bench.calls()[1][-1].endswith("_iter_20.solverstate")
    assert f"snapshot {newest} is passed over" in bench.said


@pytest.mark.parametrize("how", [shutil.copytree, shutil.move])
def test_a_copied_or_moved_run_goes_on_with_its_own_weights(bench: Bench, how: Callable[..., object]) -> None:
    """A state names its weights by their path; in another folder of runs those beside it are the ones."""
    bench.behave(**{"1": {"crash_at": 25}})
    with pytest.raises(DriverError):
        bench.run()
    how(bench.home / "runs", bench.home / "other")
    ended = bench.run(runs_dir=Path("other"))
    assert ended.status == "done"
    call = bench.calls()[1]
    state = bench.home / call[call.index("-snapshot") + 1]
    assert state.parent == ended.directory / "snapshots" and state.name.endswith("_iter_20.solverstate")
    named = proto.read_binary(state, proto.SolverState).learned_net
    assert bench.home / named == state.with_suffix(".caffemodel")


def test_tensorboard_has_each_point_once_after_a_crash(bench: Bench) -> None:
    """Points that a crashed session made beyond its last snapshot come again, and stand there once."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    bench.behave(**{"1": {"crash_at": 39}})  # displayed and tested at 30; the snapshot of 30 goes
    with pytest.raises(DriverError):
        bench.run()
    (broken,) = bench.home.glob("runs/*/*/snapshots/*_iter_30.solverstate")
    broken.unlink()
    events = EventAccumulator(str(bench.run().directory / "events"))
    events.Reload()
    for tag in ("train/loss", "test/error_percent"):
        assert [event.step for event in events.Scalars(tag)] == [0, 10, 20, 30, 40], tag


def test_tensorboard_has_the_settings_of_each_run(bench: Bench) -> None:
    """Its table of runs gets its settings, options, and the seed of the attempt; the driver says how to look."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    bench.behave(**{"1": {"dead_from": 0}, "sleep": 0.005})
    ended = bench.run(retries=1, patience_epochs=1.0, options={"weight_decay": 0.002, "filler": "msra"})
    events = EventAccumulator(str(ended.directory / "events"))
    events.Reload()
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    found = HParamsPluginData.FromString(content).session_start_info.hparams
    numbers = {name: value.number_value for name, value in found.items() if value.HasField("number_value")}
    texts = {name: value.string_value for name, value in found.items() if value.HasField("string_value")}
    expected = {
        "lr": 0.05,
        "epochs": 4,
        "seed": ended.record.seed,
        "batch_size": 128,
        "max_iter": 40,
        "weight_decay": 0.002,
    }
    assert expected.items() <= numbers.items()
    assert {"experiment": "cifar10-allcnn-c", "data set": "CIFAR-10 (JPEG)", "filler": "msra"}.items() <= texts.items()
    (directory,) = {line.split(": ")[1] for line in bench.lines if line.startswith("run directory: ")}
    assert f"curves as they come: tensorboard --logdir {directory}/events" in bench.lines


def test_a_run_of_many_settings_has_a_name_that_a_file_system_takes(bench: Bench) -> None:
    """A name over 255 bytes is cut, with the digest that tells it from its like; the same settings find it again."""
    channels = tuple(0.123456789 + place for place in range(3))
    options = {"mean_value": channels, "weight_decay": 0.000123456789, "momentum": 0.912345678, "filler": "gaussian"}
    options |= {
        "filler_std": 0.0512345678,
        "bias_lr_mult": 2.12345678,
        "bias_decay_mult": 0.12345678,
        "scale": 0.0078125,
    }
    options |= {"clip_gradients": 35.1234567, "dropout_ratio": 0.51234567, "input_dropout": 0.212345678}
    first = bench.run(options=options)
    name = first.directory.name
    assert first.status == "done" and 200 < len(name) <= 220 and name[-9] == "-"
    assert bench.run(options=options).directory == first.directory and "already done" in bench.said
    assert bench.run(options={**options, "input_dropout": 0.25}).directory != first.directory


def test_a_missing_last_test_is_made_up_for(bench: Bench) -> None:
    """Where the log has no test of the last iteration, `caffe test` tests the final weights on all images."""
    bench.behave(**{"1": {"no_last_test": True}})
    ended = bench.run()
    (call,) = bench.calls("test")
    assert call[call.index("-iterations") + 1] == "4"  # 4 x 100 = 400 test images
    assert call[call.index("-weights") + 1].endswith("_iter_40.caffemodel")
    assert ended.record.test_error_percent == 12.5 and ended.record.test_iteration == 40


def test_a_dead_training_begins_again_with_the_next_seed(bench: Bench) -> None:
    """With retries left, a dead attempt is kept under attempt-1/ and the next seed is trained; both stay on record."""
    bench.behave(**{"1": {"dead_from": 0}, "2": {"nan_from": 12}, "sleep": 0.005})
    ended = bench.run(retries=2, epochs=16)
    assert ended.status == "done" and ended.record.seed == 3
    assert [(entry["seed"], entry["status"]) for entry in ended.record.attempts] == [
        (1, "dead"),
        (2, "dead"),
        (3, "done"),
    ]
    first, second = (entry["why"] for entry in ended.record.attempts[:2])
    assert "still at ln(10) = 2.30259" in first
    assert "not a number" in second
    for number in (1, 2):
        assert (ended.directory / f"attempt-{number}" / "log").exists()
    assert "2.30258" not in (ended.directory / "log").read_text()
    assert "DEAD: " in bench.said and "beginning again, seed 2" in bench.said


def test_a_dead_training_without_retries_ends_and_says_so(bench: Bench) -> None:
    """Without retries a dead training is ended early, and running it again says how to go on instead of training."""
    bench.behave(**{"1": {"nan_from": 5}, "sleep": 0.005})
    ended = bench.run(epochs=16)
    assert ended.status == "dead"
    assert ended.record.test_error_percent is None or ended.record.test_error_percent > 80
    assert "RETRIES=1 begins again with seed 2" in bench.said
    assert bench.run(epochs=16).status == "dead" and len(bench.calls()) == 1
    assert bench.run(epochs=16, retries=1).record.seed == 2


def test_nan_is_never_reported_as_a_perfect_result(bench: Bench) -> None:
    """Caffe logs accuracy 1 on NaN outputs; a training let run to its end on NaN has no test error."""
    bench.behave(**{"1": {"nan_from": 5}})
    ended = bench.run(stop_dead=False)
    assert ended.status == "done"
    assert parse_log(ended.directory / "log").test[-1].outputs["accuracy"] == 1
    assert ended.record.test_error_percent is None
    assert ended.record.best_on_test["iteration"] == 0


def test_without_data_and_network_one_line_names_the_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No data and no way to get any: one line that names CIFAR10= and make quickstart."""
    from data_prep import download
    from data_prep.errors import PrepError

    def no_network(name: str, *_: object, **__: object) -> Path:
        raise PrepError(name, "no connection", "a network, or a local copy")

    monkeypatch.setattr(download, "download", no_network)
    settings = RunSettings(engine="torch", gpu="none", root=tmp_path)
    with pytest.raises(DriverError) as caught:
        driver.run("cifar10-allcnn-c", settings, lambda _: None)
    text = str(caught.value)
    assert "CIFAR10=path" in text and "`make quickstart`" in text and "\n" not in text


def test_a_missing_local_archive_is_named(tmp_path: Path) -> None:
    """CIFAR100=path that does not exist is an error that repeats the path."""
    settings = RunSettings(engine="torch", gpu="none", root=tmp_path, data=tmp_path / "none.tar.gz")
    with pytest.raises(DriverError, match=r"^CIFAR100=.*none\.tar\.gz: found nothing there"):
        driver.run("cifar100-allcnn-c", settings, lambda _: None)


def test_a_home_folder_is_found_as_make_hands_it_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`make cifar10-model-a CIFAR10=~/x.tar.gz` means the home folder in every shell."""
    monkeypatch.setenv("HOME", str(tmp_path))
    chosen = experiments.experiment("cifar10-model-a")
    (tmp_path / "x.tar.gz").write_bytes(b"none")
    with pytest.raises(DriverError, match=f"{tmp_path}/x.tar.gz: found no readable archive"):
        driver_data.ensure(chosen, Path("~/x.tar.gz"), tmp_path, lambda line: None)
    for path in ("~/y.tar.gz", "~nobody-of-that-name/y"):
        with pytest.raises(DriverError, match="found nothing there, expected an archive"):
            driver_data.ensure(chosen, Path(path), tmp_path, lambda line: None)


def large(bench: Bench, **settings: object) -> driver.RunResult:
    """4.1 of 410 epochs of 1280 images by 50: 105 iterations, the last 3 of them plain."""
    return bench.run("cifar10-large-allcnn", epochs=4.1, **settings)


def test_two_solvers_are_run_one_after_the_other(bench: Bench) -> None:
    """Large-All-CNN's plain epochs have a solver of their own, which goes on from the last snapshot of the first."""
    ended = large(bench)
    calls = [dict(zip(call[1::2], call[2::2], strict=True)) for call in bench.calls()]
    assert [Path(call["-solver"]).name for call in calls] == ["solver.prototxt", "solver_plain.prototxt"]
    assert "-snapshot" not in calls[0] and calls[1]["-snapshot"].endswith("_iter_102.solverstate")
    plain = proto.read_solver(ended.directory / "solver_plain.prototxt")
    assert plain.max_iter == 105 and list(plain.train_state.stage) == ["plain"]
    assert plain.solver_mode == proto.SolverParameter.CPU and plain.net.startswith("runs/")
    assert (ended.status, ended.record.resumed, ended.record.iterations) == ("done", 0, 105)
    sources = [
        json.loads(layer.python_param.param_str)["source"]
        for layer in proto.read_net(ended.directory / "train_val.prototxt").layer
        if layer.type == "Python"
    ]
    assert sources == ["data/cifar10/train_lmdb"] * 2 + ["data/cifar10/test_lmdb"]
    assert large(bench).record == ended.record and len(bench.calls()) == 2


@pytest.mark.parametrize(("crash_at", "solvers"), [(60, [0, 0, 1]), (103, [0, 1, 1])])
def test_two_solvers_are_resumed_anywhere(bench: Bench, crash_at: int, solvers: list[int]) -> None:
    """After a crash within either solver the same command goes on with that one."""
    bench.behave(**{"1": {"crash_at": crash_at}})
    with pytest.raises(DriverError, match="the engine failed"):
        large(bench)
    ended = large(bench)
    assert ended.status == "done" and ended.record.resumed == 1
    names = ["solver.prototxt", "solver_plain.prototxt"]
    assert [names.index(Path(call[2]).name) for call in bench.calls()] == solvers


def test_the_batch_of_a_python_layer_is_divided_among_gpus(bench: Bench) -> None:
    """Two GPUs read 25 of 50 images each: the distorted and the plain layer; the test reads as many as on one."""
    bench.behave(gpu=True)
    ended = large(bench, gpu="0,1")
    layers = proto.read_net(ended.directory / "train_val.prototxt").layer
    found = [json.loads(layer.python_param.param_str)["batch_size"] for layer in layers if layer.type == "Python"]
    assert found == [25, 25, 50]

"""Each setting of a run is declared once: what the command line, make, the documentation and old records say of it."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest

from allconv_caffe.cli import train as cli_train
from allconv_caffe.paper import experiments
from allconv_caffe.train import data as driver_data, engine as driver_engine, settings
from allconv_caffe.train.data import PreparedData
from allconv_caffe.train.engine import Engine
from allconv_caffe.train.plan import Plan, plan
from allconv_caffe.train.settings import SETTINGS, DriverError, RunSettings

ROOT = Path(__file__).resolve().parents[2]
OLD = sorted(
    path.parent
    for path in (ROOT / "results").glob("*/settings.json")
    if json.loads(path.read_text())["experiment"] in experiments.EXPERIMENTS
)

SHAPES = {"cifar10-pad5": (3, 42, 42), "imagenette-224": (3, 256, 256)}
"""Of data sets that runs in results/ had and that are not of CIFAR's shape."""


def planned(record: Path, root: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Plan:
    """What the settings that an old run recorded make today, on the data and the engine that it had."""
    kept = json.loads((record / "settings.json").read_text())
    asked, of_data = kept["settings"], kept["data"]
    folder = Path(of_data["folder"])
    data = PreparedData(
        folder=folder,
        train_lmdb=folder / "train_lmdb",
        test_lmdb=folder / "test_lmdb",
        display_name=of_data["dataset"],
        classes=of_data["classes"],
        n_train=of_data["n_train"],
        n_test=of_data["n_test"],
        shape=SHAPES.get(folder.name, (3, 32, 32)),
        checksums=of_data["sha256"],
        official=of_data["official"],
        preprocessing=of_data.get("preprocessing", "gcn-zca"),
        mean_file=folder / "mean.binaryproto" if of_data.get("preprocessing") == "raw" else None,
    )
    engine = Engine(
        name=asked["engine"], command=("caffe-torch",), gpus=tuple(asked["gpus"]), version="", origin="", reason=""
    )
    monkeypatch.setattr(driver_data, "ensure", lambda *_, **__: data)
    monkeypatch.setattr(driver_engine, "choose", lambda _: engine)
    given = RunSettings(
        engine=asked["engine_asked_for"],
        lr=asked["lr"],
        epochs=asked["epochs"],
        seed=asked["seed"],
        batch_size=asked["batch_size"],
        precision=asked["precision"],
        rng=asked.get("rng", "torch"),
        options=asked["options"],
        root=root,
        **changes,
    )
    return plan(experiments.experiment(kept["experiment"]), given, lambda line: None)


@pytest.mark.parametrize("record", OLD, ids=lambda path: path.name)
def test_an_old_run_has_the_identity_that_it_had(record: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The digest in the settings.json of every run in results/ is what its settings give today: it is found again."""
    found = planned(record, tmp_path, monkeypatch)
    assert found.identity == json.loads((record / "settings.json").read_text())["identity"]


@pytest.mark.parametrize("record", OLD, ids=lambda path: path.name)
def test_an_old_run_is_found_under_whatever_name_it_has(
    record: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run directory named when the experiment had another rate is still the run's: its identity counts, not its name."""
    name = json.loads((record / "settings.json").read_text())["experiment"]
    folder = tmp_path / "runs" / name / "seed1-of-another-time"
    folder.mkdir(parents=True)
    (folder / "settings.json").write_bytes((record / "settings.json").read_bytes())
    (tmp_path / "runs" / name / "damaged").mkdir()
    (tmp_path / "runs" / name / "damaged" / "settings.json").write_text("{")
    assert planned(record, tmp_path, monkeypatch).folder == folder
    assert planned(record, tmp_path, monkeypatch, threads=3, retries=2).folder == folder
    assert planned(record, tmp_path, monkeypatch, caffe_flags=("-x",)).folder != folder


def test_the_directory_has_the_name_that_it_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The words of a run directory's name, and their order, are those of the runs that lie in results/."""
    record = ROOT / "results/cifar10-allcnn-c-jpeg-350-epochs-seed-2"
    name = "seed2-epochs350-torch-bf16-cifar-10-jpeg-display1000-test_batch_size1000"
    assert planned(record, tmp_path, monkeypatch).folder == tmp_path / "runs" / "cifar10-allcnn-c" / name


def test_the_page_of_settings_is_made_from_them() -> None:
    """docs/settings.md is what `python -m allconv_caffe.train.settings` writes."""
    assert (ROOT / "docs/settings.md").read_text(encoding="utf-8") == settings.page()


def test_make_has_a_variable_for_each_setting() -> None:
    """The Makefile hands on every setting that has a name in make, and each arrives as the option of that name."""
    made = [setting for setting in SETTINGS.values() if setting.variable]
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    (line,) = [line for line in text.splitlines() if line.startswith("SETTINGS :=")]
    assert line.split()[2:] == [setting.variable for setting in made]
    given = [f"{setting.variable}=7,8" for setting in made]
    shown = subprocess.run(
        ["make", "--no-print-directory", "-n", "-o", "setup", "cifar10-model-a", *given],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    words = shlex.split(shown.stdout.splitlines()[-1])
    assert words[1:] == ["run", "cifar10-model-a", *[word for setting in made for word in (setting.flag, "7,8")]]


def test_every_setting_of_a_type_is_an_option_of_run() -> None:
    """`allconv run` offers each setting that has a help, with that help, and beside them what it says, and in which form."""
    offered = {option.name: option for option in cli_train.run.params if isinstance(option, click.Option)}
    assert offered.pop("quiet") and offered.pop("json_")
    assert set(offered) == {name for name, setting in SETTINGS.items() if setting.flag}
    assert all(option.help == SETTINGS[name].help for name, option in offered.items())


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("lr", ".25", 0.25),
        ("seed", "3", 3),
        ("engine", "torch", "torch"),
        ("gpu", "0,1", "0,1"),
        ("data", "x", Path("x")),
    ],
)
def test_a_setting_is_read_from_a_text(name: str, text: str, value: object) -> None:
    """The text of a command line becomes the value of the setting's own type."""
    assert settings.from_text(name, text) == value


def test_a_text_that_is_no_value_is_refused() -> None:
    """A word in the place of a number is named with what was expected."""
    with pytest.raises(DriverError, match="^LR=fast: expected a number$"):
        settings.from_text("lr", "fast")

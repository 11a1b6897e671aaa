"""doctor: which `caffe` answers, what set-up places, what is said about what is missing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from allconv_caffe import doctor


def script(folder: Path, name: str, text: str = "#!/bin/sh\necho caffe version 1.0.0\n") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    """A folder of commands with a caffe-torch in it, as in .venv/bin."""
    script(tmp_path / "venv" / "bin", "caffe-torch", "#!/usr/bin/python3\nfrom allconv_caffe.caffe_torch import main\n")
    return tmp_path / "venv" / "bin"


def test_caffe_becomes_ours_where_there_is_no_other(ours: Path) -> None:
    """Where no `caffe` is on the PATH, set-up makes one that runs caffe-torch; a second set-up changes nothing."""
    for _ in range(2):
        said = doctor.place_caffe(ours, path=str(ours))
        assert (ours / "caffe").resolve() == (ours / "caffe-torch").resolve()
        assert said == f"caffe: {ours}/caffe runs caffe-torch, this project's engine (with {ours} on the PATH)"


@pytest.mark.parametrize("order", ["behind", "before"])
def test_a_real_caffe_is_never_shadowed(ours: Path, tmp_path: Path, order: str) -> None:
    """Where another `caffe` is on the PATH, set-up makes none, and takes away the one it made earlier."""
    doctor.place_caffe(ours, path=str(ours))
    real = script(tmp_path / "real", "caffe")
    path = f"{ours}:{tmp_path}/real" if order == "behind" else f"{tmp_path}/real:{ours}"
    assert doctor.place_caffe(ours, path=path) == f"caffe: {real}"
    assert not (ours / "caffe").exists()
    assert doctor.answering_caffe(path) == real


def test_our_own_command_elsewhere_counts_as_no_other(ours: Path, tmp_path: Path) -> None:
    """The caffe-torch of another environment on the PATH does not keep ours away."""
    other = tmp_path / "other"
    script(other, "caffe-torch", "#!/usr/bin/python3\nfrom allconv_caffe.caffe_torch import main\n")
    (other / "caffe").symlink_to("caffe-torch")
    doctor.place_caffe(ours, path=str(other))
    assert (ours / "caffe").is_symlink()


def test_a_file_that_set_up_did_not_make_stays(ours: Path) -> None:
    """A `caffe` in the same folder that is not set-up's own link is left as it is."""
    mine = script(ours, "caffe", "#!/bin/sh\nexit 3\n")
    assert doctor.place_caffe(ours, path="") == f"caffe: {mine}, which set-up did not make and leaves alone"
    assert mine.read_text() == "#!/bin/sh\nexit 3\n"


def test_without_caffe_torch_the_place_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Placing fails in one line where caffe-torch is not installed."""
    assert doctor.main(["place-caffe", str(tmp_path)]) == 1
    message = f"place-caffe: {tmp_path}/caffe-torch: found no such command; `make setup` installs it\n"
    assert capsys.readouterr().err == message


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project on a machine whose PATH and variables name no Caffe and no compiler."""
    root = tmp_path / "project"
    root.mkdir()
    monkeypatch.chdir(root)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    for name in ("CAFFE", "CAFFE_ROOT", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(doctor.bvlc, "find_caffe", lambda *_, **__: None)
    return root


def test_what_is_missing_comes_with_what_to_do(bare: Path) -> None:
    """Without Caffe, compiler and data, doctor names `make caffe`, g++ and `allconv prep cifar10`, and still can run."""
    found = doctor.examine(bare)
    advice = "\n".join(found["advice"])
    assert "make caffe" in advice and "install g++" in advice and "allconv prep cifar10 --source" in advice
    assert found["can_run"] and found["engines"]["torch"]["found"] and not found["engines"]["caffe"]["found"]
    assert found["caffe_command"] == {"path": None, "is": None}
    assert found["data"] == []
    for sentence in found["advice"]:
        assert f"  * {sentence}" in doctor.text(found)


def test_without_any_engine_nothing_can_run(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where neither PyTorch nor Caffe is found, `can_run` is false and the first advice is set-up."""
    monkeypatch.setitem(sys.modules, "torch", None)
    found = doctor.examine(bare)
    assert not found["can_run"]
    assert found["advice"][0].startswith("nothing can train here: run `make setup`")
    assert "engine torch  not found" in doctor.text(found)


def test_the_facts_are_json(bare: Path) -> None:
    """What doctor finds survives JSON unchanged."""
    found = doctor.examine(bare)
    assert json.loads(json.dumps(found)) == found


def test_the_caffe_that_answers_is_said(bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """doctor says whether `caffe` starts this project's engine or another Caffe."""
    other = script(tmp_path / "bin", "caffe")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert doctor.examine(bare)["caffe_command"] == {"path": str(other), "is": "another Caffe"}
    script(tmp_path / "bin", "caffe", "#!/usr/bin/python3\nfrom allconv_caffe.caffe_torch import main\n")
    assert doctor.examine(bare)["caffe_command"]["is"] == "caffe-torch, this project's engine"


def test_other_versions_than_pinned_are_named(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package whose version differs from constraints.txt is named, with the way back."""
    (bare / "constraints.txt").write_text("click==0.0.1\ntorch==2.13.0\nnumpy==0.1; python_version < '3'\n")
    monkeypatch.setattr(doctor.metadata, "requires", lambda _: ["click>=8", "torch>=2.11", "numpy>=1.24"])
    monkeypatch.setattr(doctor.metadata, "version", {"click": "8.5.1", "torch": "2.13.0+cpu", "numpy": "2.4.6"}.get)
    found = doctor.examine(bare)
    assert [name for name, facts in found["versions"].items() if not facts["as_pinned"]] == ["click"]
    assert "other versions than constraints.txt pins: click; `rm -r .venv; make setup` restores them" in found["advice"]
    assert "click 8.5.1 (pinned: 0.0.1)" in doctor.text(found)


def test_who_installed_a_wheel_is_not_told_to_use_make(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no Makefile lies beside the package, advice is in the words of pip and of our own commands."""
    monkeypatch.setattr(doctor, "_HERE", bare)
    monkeypatch.setattr(doctor.bvlc, "find_caffe", lambda *_, **__: None)
    monkeypatch.setitem(sys.modules, "torch", None)
    advice = "\n".join(doctor.examine(bare)["advice"])
    assert "make " not in advice
    assert "`pip install --upgrade allconv-caffe`" in advice and "`python -m allconv_caffe.bvlc install" in advice


def test_an_unreadable_data_set_is_advice_not_a_crash(bare: Path) -> None:
    """A damaged manifest is reported with its path."""
    folder = bare / "data" / "cifar10"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{")
    assert any("data/cifar10" in sentence for sentence in doctor.examine(bare)["advice"])

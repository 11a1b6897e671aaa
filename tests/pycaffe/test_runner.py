"""`python -m allconv_caffe.pycaffe`: an untouched script runs as under Python, with this package for `caffe`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from allconv_caffe import pycaffe
from allconv_caffe.pycaffe import __main__ as runner

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import sys
import caffe
from caffe import layers as L, params as P
from caffe._caffe import RawBlobVec
from caffe.pycaffe import Net
from caffe.proto import caffe_pb2
import beside

if __name__ == "__main__":
    print(sys.argv, __file__, beside.WORD, caffe.__name__, Net is caffe.Net, caffe.io.resize.__name__)
    sys.exit(int(sys.argv[1]))
"""


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "allconv_caffe.pycaffe", *words]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=100)


def test_a_script_sees_its_arguments_and_what_lies_beside_it(tmp_path: Path) -> None:
    """Its own folder comes first on the path, its status is the command's; `caffe` and its modules are ours."""
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "script.py").write_text(SCRIPT)
    (tmp_path / "tools" / "beside.py").write_text("WORD = 'found'\n")
    done = run(tmp_path, "tools/script.py", "7", "--flag")
    assert (done.returncode, done.stderr) == (7, "")
    expected = "['tools/script.py', '7', '--flag'] tools/script.py found allconv_caffe.pycaffe True resize\n"
    assert done.stdout == expected


def test_modules_and_code_run_too(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import sys, caffe; print(sys.argv[1:], caffe.__version__, __name__)")
    assert run(tmp_path, "-m", "mine", "a").stdout == "['a'] 1.0.0 __main__\n"
    assert run(tmp_path, "-c", "import caffe, sys; print(sys.argv, len(caffe.layer_type_list()) > 55)", "b").stdout == (
        "['-c', 'b'] True\n"
    )


def test_what_is_no_script_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(pycaffe, "install", lambda: None)  # it would stay
    assert runner.main(["gone.py"]) == 2
    assert capsys.readouterr() == ("", "gone.py: No such file or directory\n")
    assert (
        runner.main([]) == 2
        and "usage: python -m allconv_caffe.pycaffe [--seed-exact] SCRIPT.py" in capsys.readouterr().err
    )


def test_a_script_may_be_run_seed_exact(tmp_path: Path) -> None:
    """Its nets sum in Caffe's order with --seed-exact, else as fast as can be; its own arguments stay."""
    (tmp_path / "script.py").write_text(
        "import sys, caffe\n"
        'net = caffe.Net.from_text(\'layer { name: "x" type: "Input" top: "x" }\', caffe.TEST)\n'
        "print(sys.argv, net._net.ctx.fast)\n"
    )
    assert run(tmp_path, "--seed-exact", "script.py", "--seed-exact").stdout == "['script.py', '--seed-exact'] False\n"
    assert run(tmp_path, "script.py", "2").stdout == "['script.py', '2'] True\n"

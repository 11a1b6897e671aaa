"""C++ compiled on this machine: once for one source, and a complaint that helps where it cannot be."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from allconv_caffe.caffe_torch.compute import compiler

pytestmark = pytest.mark.skipif(not compiler.compiler(), reason="no C++ compiler on this machine")


@pytest.fixture
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of kernels with one in it, `seven`, and an empty cache."""
    (tmp_path / "seven.cpp").write_text('extern "C" int seven() { return SEVEN; }\n')
    monkeypatch.setattr(compiler, "KERNELS", tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def test_one_source_with_the_same_flags_is_compiled_once(kernels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other flags and another text make another library; what was compiled before is only loaded."""
    assert compiler.load("seven", ["-DSEVEN=7"]).seven() == 7
    assert compiler.load("seven", ["-DSEVEN=14/2"]).seven() == 7
    cache = kernels / "cache" / "allconv-caffe"
    assert len(list(cache.iterdir())) == 2
    run = subprocess.run

    def asked_only(command: list[str], **how: Any) -> Any:
        assert "-shared" not in command, "compiled again"
        return run(command, **how)

    monkeypatch.setattr(subprocess, "run", asked_only)
    assert compiler.load("seven", ["-DSEVEN=7"]).seven() == 7
    (kernels / "seven.cpp").write_text('extern "C" int seven() { return SEVEN + 0; }\n')
    with pytest.raises(AssertionError, match="compiled again"):
        compiler.load("seven", ["-DSEVEN=7"])


def test_another_header_makes_another_library(kernels: Path) -> None:
    """What a kernel includes is part of its text."""
    (kernels / "seven.cpp").write_text('#include "number.h"\nextern "C" int seven() { return NUMBER; }\n')
    for number in (7, 8):
        (kernels / "number.h").write_text(f"#define NUMBER {number}\n")
        assert compiler.load("seven", []).seven() == number


def test_the_compilers_first_complaint_is_told(kernels: Path) -> None:
    """With the file and the line; and nothing stays in the cache."""
    with pytest.raises(compiler.BuildError, match=r"seven\.cpp:1:\d+: .*SEVEN"):
        compiler.load("seven", [])
    assert not list((kernels / "cache" / "allconv-caffe").iterdir())


def test_without_a_compiler_the_reason_says_what_to_install(kernels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CXX decides before what is in the PATH."""
    assert compiler.compiler() == shutil.which("g++") or compiler.compiler() == shutil.which("clang++")
    monkeypatch.setenv("CXX", str(kernels / "none"))
    with pytest.raises(compiler.BuildError) as caught:
        compiler.load("seven", ["-DSEVEN=7"])
    assert str(caught.value) == "no C++ compiler found; install g++ (or set CXX)"


def test_the_kernels_lie_beside_their_callers() -> None:
    """Each file of C++ is compiled by somebody: its name stands in a `load` of the folder above."""
    callers = "".join(path.read_text(encoding="utf-8") for path in compiler.KERNELS.parent.glob("*.py"))
    names = {path.stem for path in compiler.KERNELS.glob("*.cpp")}
    assert len(names) > 1 and not [name for name in names if f'load("{name}"' not in callers]


def test_a_damaged_library_is_compiled_again(kernels: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Cut, overwritten or a folder's content lost: one line, and the same function."""
    assert compiler.load("seven", ["-DSEVEN=7"]).seven() == 7
    library = next((kernels / "cache" / "allconv-caffe").iterdir())
    whole = library.read_bytes()
    for spoilt in (whole[:3000], b"", bytes(len(whole)), whole[:2000] + b"x" + whole[2001:]):
        library.unlink()  # what is loaded stays as it is
        library.write_bytes(spoilt)
        built = compiler.build(str(compiler.compiler()), "seven", ["-DSEVEN=7"])
        assert built == library
        lines = capfd.readouterr().err.splitlines()
        assert len(lines) == 1 and lines[0].endswith(f"{library} is damaged: compiled again")
        code = f"import ctypes; print(ctypes.CDLL({str(library)!r}).seven())"
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "7\n"
    compiler.build(str(compiler.compiler()), "seven", ["-DSEVEN=7"])
    assert not capfd.readouterr().err

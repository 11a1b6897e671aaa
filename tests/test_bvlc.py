"""Finding, checking, driving and fetching a real Caffe, with scripts in the place of its binary and of apt."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from allconv_caffe import files
from allconv_caffe.bvlc import find as bvlc, install as bvlc_install
from allconv_caffe.bvlc.find import BvlcError, find_caffe, is_own_engine
from allconv_caffe.bvlc.install import InstallError, Mirror, machine_mirror, mirrors


def script(path: Path, body: str) -> Path:
    """An executable shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def caffe(path: Path, version: str = "1.0.0", rest: str = "exit 0") -> Path:
    """A script that answers ``--version`` as Caffe does."""
    return script(path, f'[ "$1" = --version ] && {{ echo "caffe version {version}"; exit 0; }}\n{rest}')


@pytest.fixture(autouse=True)
def nothing_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No CAFFE, no CAFFE_ROOT, and a PATH with a shell's own tools alone."""
    monkeypatch.delenv("CAFFE", raising=False)
    monkeypatch.delenv("CAFFE_ROOT", raising=False)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)


def test_the_order_is_caffe_then_caffe_root_then_make_caffe_then_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is taken only where nothing before it is named."""
    assert find_caffe(tmp_path) is None
    monkeypatch.setenv("PATH", f"{tmp_path}/on-path:/usr/bin:/bin")
    caffe(tmp_path / "on-path" / "caffe", "0.1")
    found = find_caffe(tmp_path)
    assert found is not None and (found.origin, found.version) == ("PATH", "0.1")
    caffe(tmp_path / ".caffe" / "bin" / "caffe", "0.2")
    found = find_caffe(tmp_path)
    assert found is not None and (found.origin, found.version) == ("make caffe", "0.2")
    assert found.python == tmp_path / ".caffe" / "bin" / "python"
    caffe(tmp_path / "tree" / "build" / "tools" / "caffe", "0.3")
    (tmp_path / "tree" / "python" / "caffe").mkdir(parents=True)
    monkeypatch.setenv("CAFFE_ROOT", str(tmp_path / "tree"))
    found = find_caffe(tmp_path)
    assert found is not None and (found.origin, found.version) == ("CAFFE_ROOT", "0.3")
    monkeypatch.setenv("PYTHONPATH", "a::b")
    assert found.environment()["PYTHONPATH"].split(os.pathsep) == [str(tmp_path / "tree" / "python"), "a", "b"]
    monkeypatch.setenv("CAFFE", str(caffe(tmp_path / "own" / "caffe.bin", "0.4")))
    found = find_caffe(tmp_path)
    assert found is not None and (found.origin, found.version) == ("CAFFE", "0.4")


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (
            "echo hello",
            "CAFFE={path}: answered 'hello' with status 0, expected a BVLC Caffe binary that answers --version",
        ),
        (
            "echo broken >&2; exit 127",
            "CAFFE={path}: answered 'broken' with status 127, expected a BVLC Caffe binary that answers --version",
        ),
        (
            "# allconv_caffe",
            "CAFFE={path}: found this project's own engine, expected a BVLC Caffe binary that answers --version",
        ),
    ],
)
def test_a_named_caffe_that_is_none_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, sentence: str
) -> None:
    """What was named is said, and what it answered; nothing else is taken in its place."""
    caffe(tmp_path / ".caffe" / "bin" / "caffe")
    path = script(tmp_path / "x" / "caffe", body)
    monkeypatch.setenv("CAFFE", str(path))
    with pytest.raises(BvlcError) as caught:
        find_caffe(tmp_path)
    assert str(caught.value) == sentence.format(path=path)


def test_a_name_without_a_file_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CAFFE and CAFFE_ROOT alike; the second says where it looked."""
    monkeypatch.setenv("CAFFE_ROOT", str(tmp_path))
    with pytest.raises(BvlcError, match="found no caffe binary, expected build/tools/caffe or build/tools/caffe.bin"):
        find_caffe()
    monkeypatch.setenv("CAFFE", "no-such-caffe")
    with pytest.raises(BvlcError, match="CAFFE=no-such-caffe: found no such executable file"):
        find_caffe()


def test_a_caffe_in_whatever_folder_one_stands_in_is_not_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An archive from anywhere may hold one: it is told of, and taken where it is named."""
    script(tmp_path / ".caffe" / "bin" / "caffe", f"touch {tmp_path}/STARTED; echo caffe version 9")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bvlc, "_ROOT", tmp_path / "elsewhere")
    told: list[str] = []
    assert find_caffe(on_skip=told.append) is None and not (tmp_path / "STARTED").exists()
    assert told == [
        "./.caffe/bin/caffe: in the current folder, which is not this project's; CAFFE=.caffe/bin/caffe takes it"
    ]
    monkeypatch.setenv("CAFFE", ".caffe/bin/caffe")
    found = find_caffe()
    assert found is not None and found.version == "9"


def test_the_own_engine_and_broken_ones_on_the_path_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first real one counts; why the others do not is told."""
    monkeypatch.setenv("PATH", ":".join(f"{tmp_path}/{name}" for name in ("link", "broken", "real")) + ":/usr/bin:/bin")
    script(tmp_path / "venv" / "caffe-torch", "exit 0")
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "caffe").symlink_to(tmp_path / "venv" / "caffe-torch")
    script(tmp_path / "broken" / "caffe", "exit 3")
    caffe(tmp_path / "real" / "caffe", "9")
    told: list[str] = []
    found = find_caffe(tmp_path, told.append)
    assert found is not None and found.binary == tmp_path / "real" / "caffe"
    assert told == [
        f"{tmp_path}/link/caffe: this project's own engine",
        f"{tmp_path}/broken/caffe: answered 'nothing' with status 3, expected a BVLC Caffe binary that answers --version",
    ]
    assert is_own_engine(tmp_path / "link" / "caffe") and not is_own_engine(tmp_path / "nothing")


def test_a_gpu_works_where_device_query_says_so(tmp_path: Path) -> None:
    """The question is ``caffe device_query -gpu N``, asked in a folder of its own."""
    rest = f'echo "$@" >> {tmp_path}/asked; pwd >> {tmp_path}/asked; [ "$3" = 1 ]'
    real = bvlc.BvlcCaffe(binary=caffe(tmp_path / "caffe", rest=rest), version="1", origin="CAFFE")
    assert real.has_working_gpu(1) and not real.has_working_gpu(0)
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked[0::2] == ["device_query -gpu 1", "device_query -gpu 0"]
    assert str(tmp_path) not in asked[1]


def test_the_kernels_of_its_openblas_are_what_it_says_they_are(tmp_path: Path) -> None:
    """OpenBLAS names them on standard error where OPENBLAS_VERBOSE is 2; another BLAS says nothing, nor does what fails."""
    says = bvlc.BvlcCaffe(
        binary=script(tmp_path / "a", 'echo "Core: $OPENBLAS_VERBOSE"Prescott >&2'), version="1", origin="CAFFE"
    )
    silent = bvlc.BvlcCaffe(binary=script(tmp_path / "b", "echo Core: Haswell"), version="1", origin="CAFFE")
    gone = bvlc.BvlcCaffe(binary=tmp_path / "c", version="1", origin="CAFFE")
    assert (says.blas_core(), silent.blas_core(), gone.blas_core()) == ("2Prescott", None, None)


def test_mirrors_are_read_from_both_forms_of_apts_sources() -> None:
    """One-line entries and stanzas; security archives, other distributions, disabled entries and sources do not count."""
    lists = [
        "# deb http://commented.example/debian bookworm main\n"
        "deb [arch=amd64 signed-by=/k.gpg] http://one.example/debian bookworm main contrib\n"
        "deb-src http://src.example/debian bookworm main\n"
        "deb http://security.example/debian-security bookworm-security main\n"
        "deb http://ubuntu.example/ubuntu noble main\n"
    ]
    stanzas = [
        "Types: deb deb-src\nURIs: http://two.example/debian/\nSuites: trixie trixie-updates\nComponents: main\n"
        "Signed-By: /two.gpg\n\nTypes: deb\nEnabled: no\nURIs: http://off.example/debian\nSuites: trixie\nComponents: main\n"
    ]
    assert mirrors(lists, stanzas) == [
        Mirror("http://one.example/debian", "/k.gpg"),
        Mirror("http://two.example/debian", "/two.gpg"),
    ]


def test_a_machine_without_a_debian_mirror_is_told_what_to_do(tmp_path: Path) -> None:
    """The way out is named: an own build."""
    with pytest.raises(InstallError, match=r"name no Debian mirror .*CAFFE"):
        machine_mirror(tmp_path)


APT = r"""
case "$*" in
*update*) {update} ;;
*--print-uris*) echo "'http://m/caffe_1_amd64.deb' caffe_1_amd64.deb 1000 SHA256:0" ;;
*--download-only*) . "$APT_CONFIG.sh"; cp {deb} "$STORE/caffe_1_amd64.deb" ;;
*-s*) echo "Inst caffe (1 Debian:11/bullseye [amd64])" ;;
esac
"""


def fake_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, update: str = ":", unpack: str = ":") -> Path:
    """apt-get, apt-config and dpkg-deb as scripts, and a sources list; returns the log of their calls."""
    tools, etc, log = tmp_path / "tools", tmp_path / "etc", tmp_path / "calls"
    etc.mkdir()
    (etc / "sources.list").write_text("deb http://mirror.example/debian bookworm main\n")
    deb = tmp_path / "a.deb"
    deb.write_bytes(b"deb")
    note = f'echo "$(basename $0) $*" >> {log}\n'
    body = APT.format(update=update, deb=deb).replace(
        '. "$APT_CONFIG.sh"', 'STORE=$(sed -n \'s/^Dir::Cache::archives "\\(.*\\)";/\\1/p\' "$APT_CONFIG")'
    )
    script(tools / "apt-get", note + body)
    script(tools / "apt-config", f"echo \"DIR='{etc}'\"")
    script(tools / "dpkg-deb", note + unpack)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    return log


LOADER = """\
root="$3"; lib="$root/lib/x86_64-linux-gnu"
mkdir -p "$lib" "$root/usr/bin" "$root/usr/lib/python3.9" "$root/usr/lib/x86_64-linux-gnu/openblas-pthread"
printf '#!/bin/sh\\nshift 2; p=$1; shift; exec "$p" "$@"\\n' > "$lib/ld-linux-x86-64.so.2"
touch "$root/usr/lib/x86_64-linux-gnu/openblas-pthread/libblas.so.3"
printf '#!/bin/sh\\necho caffe version 1.2.3\\n' > "$root/usr/bin/caffe"
printf '#!/bin/sh\\nexit 0\\n' > "$root/usr/bin/python3.9"
chmod +x "$lib"/* "$root"/usr/bin/*
"""


def test_an_installation_is_whole_started_once_and_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Downloaded by apt with a state of its own, unpacked, wrapped; `find_caffe` takes it; a second call has nothing to do."""
    log = fake_apt(tmp_path, monkeypatch, unpack=LOADER)
    prefix = tmp_path / "project" / ".caffe"
    assert bvlc_install.main(prefix) == 0
    manifest = json.loads((prefix / "manifest.json").read_text())
    assert manifest == {"version": "1.2.3", "suite": "bullseye", "packages": ["caffe_1_amd64.deb"]}
    found = find_caffe(tmp_path / "project")
    assert found is not None and (found.version, found.origin) == ("1.2.3", "make caffe")
    assert sorted(os.listdir(prefix)) == ["bin", "manifest.json", "root"]
    calls = log.read_text().count("\n")
    assert bvlc_install.main(prefix) == 0 and log.read_text().count("\n") == calls
    assert "is already installed" in capsys.readouterr().out
    moved = prefix.rename(tmp_path / "elsewhere")
    answer = subprocess.run([moved / "bin" / "caffe", "--version"], capture_output=True, text=True)
    assert answer.stdout == "caffe version 1.2.3\n"


def test_another_python_is_unpacked_and_knows_its_wrapper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the suite that has it, its loader where newer releases have it; a second call has nothing to do."""
    body = LOADER.replace("$root/lib/x86", "$root/usr/lib/x86").replace("python3.9", "python3.13")
    shown = 'printf \'#!/bin/sh\\necho "$ALLCONV_CAFFE_PYTHON"\\n\' > "$root/usr/bin/python3.13"\n'
    log = fake_apt(tmp_path, monkeypatch, unpack=body + shown)
    for _ in range(2):
        wrapper = bvlc_install.python(tmp_path / "other", "3.13", "trixie", lambda _: None)
        assert subprocess.run([wrapper], capture_output=True, text=True).stdout == f"{wrapper}\n"
    assert (tmp_path / "other/root/usr/lib/python3.13/sitecustomize.py").is_file()
    assert log.read_text().count("apt-get update") == 1 and "python3.13 libstdc++6" in log.read_text()


@pytest.mark.parametrize(
    ("update", "unpack", "sentence"),
    [
        (
            "echo 'E: no route' >&2; exit 100",
            ":",
            "apt-get update failed; is there a network, and does the mirror "
            "http://mirror.example/debian still hold Debian bullseye?",
        ),
        (
            ":",
            "echo 'dpkg-deb: error: bad' >&2; exit 2",
            "dpkg-deb could not unpack caffe_1_amd64.deb (dpkg-deb: error: bad)",
        ),
        (":", "mkdir -p $3", "the unpacked packages hold no dynamic loader under lib/"),
        (
            ":",
            LOADER + "\nprintf '#!/bin/sh\\nexit 1\\n' > \"$root/usr/bin/caffe\"",
            "the unpacked Caffe does not start",
        ),
    ],
)
def test_an_installation_that_fails_leaves_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    update: str,
    unpack: str,
    sentence: str,
) -> None:
    """One line, status 1, no folder."""
    fake_apt(tmp_path, monkeypatch, update, unpack)
    assert bvlc.main(["install", "--prefix", str(tmp_path / "p" / ".caffe")]) == 1
    said = capsys.readouterr().err
    assert said.startswith("make caffe: ") and sentence in said and said.count("\n") == 1
    assert os.listdir(tmp_path / "p") == []


def test_one_installation_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second one for the same folder is refused while the first is at work, and takes nothing from it."""
    fake_apt(tmp_path, monkeypatch, unpack=LOADER)
    with files.building(tmp_path / "p") as part:
        (Path(part) / "file").touch()
        assert bvlc.main(["install", "--prefix", str(tmp_path / "p")]) == 1
        assert capsys.readouterr().err == f"make caffe: {tmp_path / 'p'}: another installation is running\n"
        assert os.listdir(part) == ["file"]


def test_a_folder_of_somebody_elses_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is no finished installation is not replaced."""
    fake_apt(tmp_path, monkeypatch, unpack=LOADER)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    assert bvlc.main(["install", "--prefix", str(tmp_path / "mine")]) == 1
    assert "found something that is no finished installation of Caffe" in capsys.readouterr().err
    assert os.listdir(tmp_path / "mine") == ["file"]


def test_the_source_is_unpacked_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """apt's archive becomes a tree with pycaffe's tests; one without them is refused and leaves nothing."""
    fake_apt(tmp_path, monkeypatch)
    for name, inside in (("good", "caffe-1/python/caffe/test/test_net.py"), ("bad", "caffe-1/readme")):
        file = tmp_path / "file"
        file.write_text("x")
        archive = tmp_path / f"{name}.tar.gz"
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(file, inside)
        body = f'case "$*" in *source*) cp {archive} caffe_1.orig.tar.gz ;; esac'
        script(tmp_path / "tools" / "apt-get", body)
        status = bvlc.main(["source", "--prefix", str(tmp_path / name)])
        assert status == (0 if name == "good" else 1)
    assert (tmp_path / "good" / "python" / "caffe" / "test" / "test_net.py").is_file()
    assert not (tmp_path / "bad").exists()
    assert "found no python/caffe/test in it" in capsys.readouterr().err


def test_find_says_which_caffe_would_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``python -m allconv_caffe.bvlc find``: binary, version, origin, GPU; status 1 where a named one is none."""
    monkeypatch.setenv("CAFFE", str(caffe(tmp_path / "caffe", "5", rest="exit 1")))
    assert bvlc.main(["find"]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/caffe version 5 (from CAFFE), CPU only\n"
    monkeypatch.setenv("CAFFE", sys.executable)
    assert bvlc.main(["find"]) == 1
    assert capsys.readouterr().err.startswith(f"find: CAFFE={sys.executable}: answered 'Python 3.")

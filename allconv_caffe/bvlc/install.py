"""Debian 11's BVLC Caffe (CPU build, with pycaffe for Python 3.9) unpacked into a folder: no root, no system package.

apt with a private state and an empty status file resolves and downloads the whole closure from the Debian mirror that
the machine's own apt already uses; `dpkg-deb -x` unpacks it; two wrappers start it through its own loader and libraries.

Layout under the prefix (which may be moved as a whole)::

    bin/caffe  bin/python     the wrappers
    root/                     the unpacked packages
    manifest.json             what was installed, from which suite
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from allconv_caffe import files
from allconv_caffe.errors import FoundError, PlacedError

SUITE = "bullseye"
PACKAGES = ("caffe", "python3-caffe", "libopenblas0-pthread")  # without the last, the slow reference BLAS is taken
_DEBIAN_SUITES = {
    "bullseye",
    "bookworm",
    "trixie",
    "forky",
    "duke",
    "sid",
    "stable",
    "oldstable",
    "oldoldstable",
    "testing",
    "unstable",
}
_KEYRINGS = ("debian-archive-keyring.gpg", "debian-archive-keyring.pgp", "debian-archive-bullseye-stable.gpg")
_OWN = "name an own build instead: CAFFE_ROOT=<build tree> or CAFFE=<path of the caffe binary>"
_OWN_SOURCE = "name a source tree of Caffe instead: CAFFE_SRC=<folder>"
TESTS = "python/caffe/test"  # in a source tree: pycaffe's own tests
_WORK = ".work"  # of what is being built: the folder for what is fetched


class InstallError(PlacedError):
    """Caffe could not be installed; `str()` is one line: what was found, what was expected, what to do."""


class Wanted(NamedTuple):
    """Packages of a Debian suite; with all that they need."""

    suite: str
    packages: tuple[str, ...]


class Mirror(NamedTuple):
    """One Debian archive of the machine's apt: its URI, and the keyring it is signed by ('' for apt's default)."""

    uri: str
    signed_by: str


def mirrors(one_line: Iterable[str], deb822: Iterable[str]) -> list[Mirror]:
    """The Debian mirrors that apt source files name, in order, without doubles and without security archives.

    Args:
        one_line: contents of files in the ``deb [options] URI suite component...`` form (``*.list``).
        deb822: contents of files in the stanza form (``*.sources``).
    """
    entries: list[tuple[str, list[str], list[str], str]] = []
    for text in one_line:
        for line in text.splitlines():
            match = re.match(
                r"\s*deb\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<uri>\S+)\s+(?P<rest>.+)", line.partition("#")[0]
            )
            if match:
                options = dict(option.partition("=")[::2] for option in (match["options"] or "").split())
                suite, *components = match["rest"].split()
                entries.append((match["uri"], [suite], components, options.get("signed-by", "")))
    for text in deb822:
        for stanza in re.split(r"\n\s*\n", text):
            fields: dict[str, str] = {}
            key = ""
            for line in stanza.splitlines():
                if line.startswith("#") or not line.strip():
                    continue
                if line[0] in " \t":
                    fields[key] = fields.get(key, "") + "\n" + line.strip()
                else:
                    key, _, value = line.partition(":")
                    key = key.strip().lower()
                    fields[key] = value.strip()
            if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in ("no", "false"):
                continue
            for uri in fields.get("uris", "").split():
                entries.append(
                    (
                        uri,
                        fields.get("suites", "").split(),
                        fields.get("components", "").split(),
                        fields.get("signed-by", ""),
                    )
                )
    found: dict[str, Mirror] = {}
    for uri, suites, components, signed_by in entries:
        if uri.split(":")[0] not in ("http", "https", "file", "copy") or "security" in uri or "main" not in components:
            continue
        if any(re.sub(r"-(updates|backports|proposed-updates)$", "", suite) in _DEBIAN_SUITES for suite in suites):
            found.setdefault(uri.rstrip("/"), Mirror(uri.rstrip("/"), signed_by))
    return list(found.values())


def machine_mirror(etc: Path | None = None) -> Mirror:
    """The first Debian mirror of this machine's apt, with a keyring that exists.

    Raises: InstallError if apt's sources name none (another distribution, or a machine without apt sources).
    """
    if etc is None:
        answer = subprocess.run(["apt-config", "shell", "DIR", "Dir::Etc/d"], capture_output=True, text=True)
        match = re.search(r"DIR='(.*)'", answer.stdout)
        etc = Path(match[1] if match else "/etc/apt")
    parts = etc / "sources.list.d"
    lists = [etc / "sources.list", *sorted(parts.glob("*.list"))]
    stanzas = sorted(parts.glob("*.sources"))
    known = mirrors(
        *([path.read_text(errors="replace") for path in paths if path.is_file()] for paths in (lists, stanzas))
    )
    if not known:
        raise InstallError(
            "",
            f"apt's sources under {etc} name no Debian mirror (expected a deb line or stanza with a Debian "
            f"suite and component main); {_OWN}",
        )
    mirror = known[0]
    if not Path(mirror.signed_by or "-").is_file():  # not said, or a key written into the stanza itself
        rings = (Path("/usr/share/keyrings") / name for name in _KEYRINGS)
        mirror = mirror._replace(signed_by=next((str(ring) for ring in rings if ring.is_file()), ""))
    return mirror


def installed(prefix: Path) -> dict[str, Any] | None:
    """The manifest of a finished installation under `prefix`, or None."""
    try:
        manifest = files.read_json(prefix / "manifest.json", "the manifest of an installation")
    except FoundError:
        return None
    return manifest if (prefix / "bin" / "caffe").is_file() else None


def install(prefix: Path, archives: Path | None = None, say: Callable[[str], None] = print) -> bool:
    """Install Caffe under `prefix`, whole or not at all; returns False if it already stands there.

    Args:
        prefix: folder to create.
        archives: a folder of .deb files to use and to fill, for a second machine or a second try; else thrown away.
        say: takes each line of progress.
    Raises: InstallError: no apt or dpkg-deb, no Debian mirror, no network, disk full, or a result that does not start.
    """
    prefix = Path(os.path.abspath(prefix))
    if done := installed(prefix):
        say(f"Caffe {done.get('version')} is already installed in {prefix}")
        return False
    mirror = _begin(prefix, "no finished installation", ("apt-get", "apt-config", "dpkg-deb"), "caffe", _OWN)
    with _building(prefix, "no finished installation") as part:
        names = _unpack(part, Wanted(SUITE, PACKAGES), mirror, archives, say)
        version = _wrap(part)
        files.write_json(part / "manifest.json", {"version": version, "suite": SUITE, "packages": names}, indent=1)
        shutil.rmtree(part / _WORK)
    say(f"Caffe {version} is installed: {prefix / 'bin' / 'caffe'}, {prefix / 'bin' / 'python'}")
    return True


def python(prefix: Path, version: str, suite: str, say: Callable[[str], None] = print) -> Path:
    """The wrapper of Python `version` as Debian `suite` has it, unpacked under `prefix` unless it stands there; for tests.

    Raises: InstallError, as `install` does.
    """
    prefix = Path(os.path.abspath(prefix))
    wrapper = prefix / "bin" / "python"
    if not wrapper.is_file():
        wanted = Wanted(suite, (f"python{version}", "libstdc++6", "zlib1g"))
        with _building(prefix, "no Python") as part:
            _unpack(part, wanted, machine_mirror(), None, say)
            _wrap_python(part, version, [f"usr/lib/{_loader(part / 'root').parts[-2]}"])
            shutil.rmtree(part / _WORK)
    return wrapper


def source(prefix: Path, say: Callable[[str], None] = print) -> bool:
    """Unpack the source of the same Caffe (8.5 MB, with pycaffe's tests) into `prefix`, whole or not at all.

    Returns: False if it already stands there. Raises: InstallError, as `install` does.
    """
    prefix = Path(os.path.abspath(prefix))
    if (prefix / TESTS).is_dir():
        say(f"Caffe's source is already in {prefix}")
        return False
    mirror = _begin(prefix, "no source", ("apt-get", "apt-config"), "caffe-source", _OWN_SOURCE)
    with _building(prefix, "no source") as part:
        archive = _download_source(part / _WORK, mirror, say)
        unpacked = part / _WORK / "tree"
        try:
            with tarfile.open(archive) as tar:
                tar.extractall(unpacked, filter="data")
        except tarfile.TarError as error:
            raise InstallError("", f"the downloaded source cannot be unpacked ({error}); try again") from None
        tree = next((folder for folder in (unpacked, *unpacked.iterdir()) if (folder / TESTS).is_dir()), None)
        if tree is None:
            raise InstallError(archive.name, f"found no {TESTS} in it; {_OWN_SOURCE}")
        for entry in tree.iterdir():
            entry.rename(part / entry.name)
        shutil.rmtree(part / _WORK)
    say(f"Caffe's source is in {prefix}, pycaffe's tests in {prefix / TESTS}")
    return True


def _begin(prefix: Path, what: str, tools: Sequence[str], target: str, way_out: str) -> Mirror:
    """The mirror to fetch from. Raises: InstallError: `prefix` is taken, a tool is missing, no mirror."""
    _check_free(prefix, what)
    for tool in tools:
        if shutil.which(tool) is None:
            raise InstallError("", f"{tool} not found: `make {target}` needs a Debian-like machine; {way_out}")
    return machine_mirror()


def _check_free(prefix: Path, what: str) -> None:
    if prefix.exists() and (not prefix.is_dir() or any(prefix.iterdir())):
        raise InstallError(prefix, f"found something that is {what} of Caffe; remove it, or give another --prefix")


@contextmanager
def _building(prefix: Path, what: str) -> Iterator[Path]:
    """The folder that becomes `prefix`. Raises: InstallError for what the system refuses."""
    try:
        prefix.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InstallError(prefix, f"{error.strerror}; give another --prefix") from None
    try:
        with files.building(prefix, lambda: _check_free(prefix, what), sync=False) as part:
            yield Path(part)
    except files.Held:
        raise InstallError(prefix, "another installation is running") from None
    except OSError as error:
        raise InstallError(error.filename or prefix, str(error.strerror or error)) from None


def _download_source(work: Path, mirror: Mirror, say: Callable[[str], None]) -> Path:
    """The archive of the unchanged source."""
    environment, reach = _prepare_apt(work, mirror, work / "archives", "deb-src", SUITE)
    say(f"Asking {mirror.uri} for the source of Debian {SUITE}'s caffe ...")
    _call(["apt-get", "update", "-q"], f"apt-get update failed; {reach}", environment)
    _call(["apt-get", "source", "-q", "--download-only", "caffe"], f"apt-get source failed; {reach}", environment, work)
    found = sorted(work.glob("caffe_*.orig.tar.*"))
    archives = [path for path in found if path.suffix != ".asc"]
    if not archives:
        raise InstallError("", f"apt fetched no caffe_*.orig.tar.*; {reach}")
    return archives[0]


def _prepare_apt(work: Path, mirror: Mirror, store: Path, kind: str, suite: str) -> tuple[dict[str, str], str]:
    """Settings for an apt of our own under `work`: the environment that names them, and what to say if it fails."""
    for folder in (work / "state/lists/partial", work / "cache", store / "partial"):
        folder.mkdir(parents=True, exist_ok=True)
    (work / "status").touch()
    signed = f"[signed-by={mirror.signed_by}] " if mirror.signed_by else ""
    (work / "sources.list").write_text(f"{kind} {signed}{mirror.uri} {suite} main\n")
    (work / "apt.conf").write_text(f"""
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
Dir::State "{work}/state";
Dir::State::status "{work}/status";
Dir::Cache "{work}/cache";
Dir::Cache::archives "{store}";
Dir::Etc::sourcelist "{work}/sources.list";
Dir::Etc::sourceparts "-";
Dir::Etc::preferences "-";
Dir::Etc::preferencesparts "-";
APT::Install-Recommends "false";
APT::Keep-Downloaded-Packages "true";
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
Acquire::Retries "3";
Acquire::Languages "none";
""")
    environment = {**os.environ, "APT_CONFIG": str(work / "apt.conf"), "LC_ALL": "C"}
    own = _OWN if kind == "deb" else _OWN_SOURCE
    return environment, f"is there a network, and does the mirror {mirror.uri} still hold Debian {suite}? Else {own}"


def _unpack(part: Path, wanted: Wanted, mirror: Mirror, archives: Path | None, say: Callable[[str], None]) -> list[str]:
    """The packages and all that they need, unpacked into `part`/root; the names of their files."""
    debs = _download(part / _WORK, wanted, mirror, archives, say)
    say(f"Unpacking {len(debs)} packages ...")
    for deb in debs:
        _call(["dpkg-deb", "-x", str(deb), str(part / "root")], f"dpkg-deb could not unpack {deb.name}")
    return [deb.name for deb in debs]


def _download(
    work: Path, wanted: Wanted, mirror: Mirror, archives: Path | None, say: Callable[[str], None]
) -> list[Path]:
    suite, packages = wanted
    store = Path(os.path.abspath(archives)) if archives else work / "archives"
    environment, reach = _prepare_apt(work, mirror, store, "deb", suite)
    say(f"Asking {mirror.uri} for Debian {suite} ...")
    _call(["apt-get", "update", "-q"], f"apt-get update failed; {reach}", environment)
    plan = _call(
        ["apt-get", "install", "-q", "-y", "--print-uris", *packages], f"apt found no way to {packages}", environment
    )
    sizes = re.findall(r"^'\S+' (\S+\.deb) (\d+) ", plan, re.MULTILINE)
    if not sizes and not any(store.glob("*.deb")):
        raise InstallError("", f"apt answered no packages to fetch; {reach}")
    say(f"Fetching {len(sizes)} packages, {sum(int(size) for _, size in sizes) / 1e6:.0f} MB ...")
    _call(
        ["apt-get", "install", "-q", "-y", "--download-only", *packages],
        f"apt-get download failed; {reach}",
        environment,
    )
    simulated = _call(
        ["apt-get", "install", "-q", "-y", "-s", *packages], "apt could not list the packages", environment
    )
    names = set(re.findall(r"^Inst (\S+)", simulated, re.MULTILINE))
    debs = [deb for deb in sorted(store.glob("*.deb")) if deb.name.split("_")[0] in names]
    if len(debs) < len(names):
        raise InstallError("", f"found {len(debs)} downloaded packages, expected {len(names)}; {reach}")
    return debs


def _call(
    command: list[str], failure: str, environment: dict[str, str] | None = None, folder: Path | None = None
) -> str:
    answer = subprocess.run(
        command, capture_output=True, text=True, errors="replace", env=environment, cwd=folder, stdin=subprocess.DEVNULL
    )
    if answer.returncode != 0:
        errors = [line for line in (answer.stderr + answer.stdout).splitlines() if line.startswith(("E:", "dpkg"))]
        detail = errors[0] if errors else (answer.stderr.strip().splitlines() or [f"exit {answer.returncode}"])[-1]
        raise InstallError("", f"{failure} ({detail})")
    return answer.stdout


_WRAPPER = """\
#!/bin/sh
# Starts Debian's {what} with its own loader and libraries; the folder above this one may be moved.
self=$(readlink -f "$0")
root=${{self%/bin/*}}/root
export PYTHONHOME="$root/usr" PYTHONNOUSERSITE=1 ALLCONV_CAFFE_PYTHON="${{self%/*}}/python"
[ -z "$MATPLOTLIBRC" ] && export MATPLOTLIBRC="$root/etc/matplotlibrc"
unset LD_LIBRARY_PATH LD_PRELOAD
exec "$root/{loader}" --library-path "{path}" "$root/{program}" "$@"
"""

_SITE = """\
# The loader hides the wrapper from Python; child processes must start through it too.
import os, sys
sys.executable = os.environ.get("ALLCONV_CAFFE_PYTHON", sys.executable)
"""


def _wrap(part: Path) -> str:
    """Write the wrappers into `part` and start both once; returns Caffe's version."""
    root = part / "root"
    triplet = _loader(root).parts[-2]
    folders = [
        f"usr/lib/{triplet}/openblas-pthread",
        f"usr/lib/{triplet}/blas",
        f"usr/lib/{triplet}/lapack",
        f"lib/{triplet}",
        f"usr/lib/{triplet}",
        "usr/lib",
    ]
    if not (root / folders[0] / "libblas.so.3").exists():
        raise InstallError("", f"the unpacked packages hold no {folders[0]}/libblas.so.3 (OpenBLAS); {_OWN}")
    _write_wrapper(part, "caffe", "BVLC Caffe", "usr/bin/caffe", folders)
    _wrap_python(part, "3.9", folders)
    plots = root / "usr/lib/python3/dist-packages/matplotlib/__init__.py"
    if plots.is_file():  # Debian's matplotlib looks for its fonts in the machine's own /usr
        text = plots.read_text()
        plots.write_text(text.replace("'/usr/share/matplotlib/", "sys.prefix + '/share/matplotlib/"))
    start = "the unpacked Caffe does not start on this machine"
    version = re.search(r"version (\S+)", _call([str(part / "bin/caffe"), "--version"], start))
    probe = "import caffe, sys; sys.stdout.write(caffe.__version__)"
    _call([str(part / "bin/python"), "-c", probe], start, {**os.environ, "GLOG_minloglevel": "2"})
    return version[1] if version else "unknown"


def _loader(root: Path) -> Path:
    """The dynamic loader, below `root`, in a folder of the machine's triplet."""
    loaders = [path for lib in ("lib", "usr/lib") for path in root.glob(f"{lib}/*-linux-gnu*/ld-*.so*")]
    loader = next((path for path in loaders if path.is_file()), None)
    if loader is None:
        raise InstallError("", f"the unpacked packages hold no dynamic loader under lib/; {_OWN}")
    return loader.relative_to(root)


def _wrap_python(part: Path, version: str, folders: Iterable[str]) -> None:
    _write_wrapper(part, "python", f"Python {version}", f"usr/bin/python{version}", folders)
    site = part / "root" / f"usr/lib/python{version}/sitecustomize.py"
    if site.is_symlink():  # it points into the machine's /etc
        site.unlink()
    site.write_text(_SITE)


def _write_wrapper(part: Path, name: str, what: str, program: str, folders: Iterable[str]) -> None:
    """bin/`name`: `program` through the loader, with the libraries of those `folders` that there are."""
    root, wrapper = part / "root", part / "bin" / name
    path = ":".join(f"$root/{folder}" for folder in folders if (root / folder).is_dir())
    wrapper.parent.mkdir(exist_ok=True)
    wrapper.write_text(_WRAPPER.format(what=what, loader=_loader(root), path=path, program=program))
    wrapper.chmod(0o755)


def main(prefix: Path, archives: Path | None = None, what: str = "caffe") -> int:
    """`install` (or for `what` "caffe-source", `source`), with its error as one line on stderr and as exit status 1."""
    try:
        if what == "caffe-source":
            source(prefix)
        else:
            install(prefix, archives)
    except InstallError as error:
        print(f"make {what}: {error}", file=sys.stderr)
        return 1
    return 0

"""Examines a machine: engines, GPUs, data sets, versions, and what to do about what is missing.

``examine`` collects facts, ``text`` lays them out for people. ``place_caffe`` is what set-up calls: it lets the command
`caffe` be this project's engine where no other Caffe answers to it.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

from allconv_caffe.bvlc import find as bvlc

__all__ = ["answering_caffe", "brief", "examine", "place_caffe", "text"]

PACKAGE = "allconv-caffe"
_HERE = Path(__file__).resolve().parents[1]
_OURS = "caffe-torch, this project's engine"


# ---------------------------------------------------------------------------------------------------------------------
# The command `caffe`


def answering_caffe(path: str | None = None, without: Path | None = None) -> Path | None:
    """The `caffe` that a shell would start.

    Args:
        path: a search path; None: that of this process.
        without: a folder of it to pass over.
    """
    for entry in (os.environ.get("PATH", "") if path is None else path).split(os.pathsep):
        if not entry or (without is not None and Path(entry).resolve() == without.resolve()):
            continue
        found = shutil.which("caffe", path=entry)
        if found is not None:
            return Path(found)
    return None


def place_caffe(folder: str | Path, path: str | None = None) -> str:
    """Let ``folder/caffe`` run caffe-torch where no other `caffe` is on the search path; take it away where one is.

    Args:
        folder: where caffe-torch lies, e.g. ``.venv/bin``.
        path: the search path; None: that of this process.

    Returns:
        One line that says which Caffe answers now.

    Raises:
        FileNotFoundError: no caffe-torch in the folder.
    """
    folder = Path(folder)
    link = folder / "caffe"
    ours = link.is_symlink() and os.readlink(link) == "caffe-torch"
    other = answering_caffe(path, without=folder)
    if other is not None and not bvlc.is_own_engine(other):
        if ours:
            link.unlink()
        return f"caffe: {other}"
    if not (folder / "caffe-torch").exists():
        raise FileNotFoundError(2, "found no such command; `make setup` installs it", f"{folder}/caffe-torch")
    if not ours:
        if link.exists() or link.is_symlink():
            return f"caffe: {link}, which set-up did not make and leaves alone"
        link.symlink_to("caffe-torch")
    return f"caffe: {link} runs {_OURS} (with {folder} on the PATH)"


# ---------------------------------------------------------------------------------------------------------------------
# Facts


def examine(root: str | Path = ".") -> dict[str, Any]:
    """Everything `allconv doctor` knows, ready for JSON.

    Args:
        root: the project's root, where data/ and constraints.txt are looked for.

    Returns:
        ``can_run`` (is there an engine), ``machine``, ``engines`` (``caffe``, ``torch``), ``caffe_command``, ``compiled``
        (what is kept on disk; None without PyTorch), ``data``, ``versions`` and ``advice``, a list of sentences.
    """
    root = Path(root)
    advice: list[str] = []
    engines = {"caffe": _bvlc(advice), "torch": _torch(advice)}
    can_run = any(engine["found"] for engine in engines.values())
    if not can_run:
        advice.insert(0, f"nothing can train here: run {_by_make('setup')}, or name a Caffe with CAFFE=<binary>")
    return {
        "can_run": can_run,
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "python": platform.python_version(),
            "interpreter": sys.executable,
            "cpus": os.cpu_count(),
        },
        "engines": engines,
        "caffe_command": _caffe_command(advice),
        "compiled": _compiled(),
        "data": _data(root, advice),
        "versions": _versions(root, advice),
        "advice": advice,
    }


def _by_make(target: str) -> str:
    """The command for what make does in a checkout; who installed a wheel has no Makefile."""
    if (_HERE / "Makefile").is_file():
        return f"`make {target}`"
    return {
        "setup": "`pip install --upgrade allconv-caffe`",
        "caffe": "`python -m allconv_caffe.bvlc install --prefix .caffe`",
    }[target]


def _bvlc(advice: list[str]) -> dict[str, Any]:
    passed_over: list[str] = []
    try:
        caffe = bvlc.find_caffe(on_skip=passed_over.append)
    except bvlc.BvlcError as error:
        advice.append(f"the Caffe that was named does not run: {error}")
        return {"found": False, "problem": str(error)}
    if caffe is None:
        advice.append(
            f"no BVLC Caffe: not needed; {_by_make('caffe')} installs one (CPU) for comparisons, "
            "CAFFE=<binary> or CAFFE_ROOT=<build tree> names your own"
        )
        return {"found": False, "passed_over": passed_over}
    from allconv_caffe.caffe_torch.compute import cpuinfo, openblas

    core = caffe.blas_core()
    better = openblas.better_core(core, cpuinfo.text())
    if better:
        advice.append(
            f"{caffe.binary} computes slowly: its OpenBLAS does not know this processor and takes the kernels of {core}; "
            f"export OPENBLAS_CORETYPE={better}"
        )
    return {
        "found": True,
        "blas_core": core,
        "path": str(caffe.binary),
        "version": caffe.version,
        "origin": caffe.origin,
        "gpu_works": caffe.has_working_gpu(),
        "passed_over": passed_over,
    }


def _torch(advice: list[str]) -> dict[str, Any]:
    try:
        import torch

        from allconv_caffe.caffe_torch.compute.bf16 import cpu_multiplies_bf16
        from allconv_caffe.caffe_torch.compute.compiler import compiler
    except ImportError as error:
        advice.append(f"caffe-torch needs PyTorch: run {_by_make('setup')} ({error})")
        return {"found": False, "problem": str(error)}
    devices = []
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(number)
            devices.append(
                {"number": number, "name": properties.name, "memory_gib": round(properties.total_memory / 2**30, 1)}
            )
    elif shutil.which("nvidia-smi") and _answers(["nvidia-smi", "-L"]):
        advice.append(
            f"there is an NVIDIA GPU, but PyTorch {torch.__version__} cannot use it: "
            "install a CUDA build of the same version into .venv, or a newer driver"
        )
    cxx = compiler()
    if cxx is None:
        advice.append("no C++ compiler: training on the CPU runs uncompiled and slower; install g++ (or set CXX)")
    return {
        "found": True,
        "version": torch.__version__,
        "cuda_devices": devices,
        "cpu_threads": torch.get_num_threads(),
        "cpu_vectors": torch.backends.cpu.get_cpu_capability(),
        "cpu_multiplies_bf16": cpu_multiplies_bf16(),
        "compiler": cxx,
        "compiled_execution": cxx is not None or bool(devices),
    }


def _answers(command: Sequence[str]) -> bool:
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=20).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _caffe_command(advice: list[str]) -> dict[str, Any]:
    found = answering_caffe()
    if found is None:
        beside = Path(sys.executable).parent
        if (beside / "caffe").exists():
            advice.append(f'`caffe` is not on the PATH; to type `caffe train ...`: export PATH="{beside}:$PATH"')
        return {"path": None, "is": None}
    return {"path": str(found), "is": _OURS if bvlc.is_own_engine(found) else "another Caffe"}


def _compiled() -> dict[str, Any] | None:
    try:
        from allconv_caffe.caffe_torch.compute.compiler import cache
        from allconv_caffe.caffe_torch.executor import shelf
    except ImportError:
        return None
    folder = cache()
    plans = shelf.kept(folder / "plans")
    kernels = [path.stat().st_size for path in folder.glob("*.so")] if folder.is_dir() else []
    return {
        "path": str(folder),
        "plans": len(plans),
        "bytes": sum(kernels) + sum(plan.bytes for plan in plans),
        "most_plan_bytes": shelf.MOST_BYTES,
        "most_unused_days": shelf.MOST_DAYS,
    }


def _data(root: Path, advice: list[str]) -> list[dict[str, Any]]:
    from data_prep.errors import PrepError
    from data_prep.manifest import Manifest

    found: list[dict[str, Any]] = []
    for path in sorted((root / "data").glob("*/manifest.json")):
        folder = path.parent
        try:
            manifest = Manifest.load(folder)
        except PrepError as error:
            advice.append(f"a data set cannot be read: {error}")
            continue
        found.append(
            {
                "path": str(folder.relative_to(root)),
                "name": manifest.display_name,
                "n_train": manifest.n_train,
                "n_test": manifest.n_test,
                "preprocessing": manifest.preprocessing,
            }
        )
    for path in sorted((root / "data").glob("*.tar.*")):
        if path.suffix == ".part" or not path.is_file():  # a download under way, a link to nothing
            continue
        found.append({"path": str(path.relative_to(root)), "name": "archive", "bytes": path.stat().st_size})
    if not any(entry.get("preprocessing") for entry in found):
        advice.append(
            "no data set is prepared: `allconv prep cifar10 --source <archive or image folder>` (without --source it "
            "downloads 170 MB); `allconv quickstart` needs none"
        )
    return found


def _versions(root: Path, advice: list[str]) -> dict[str, dict[str, Any]]:
    """Each package that ours needs: what is installed, and what constraints.txt pins."""
    pins = _pins(next((file for file in (root / "constraints.txt", _HERE / "constraints.txt") if file.is_file()), None))
    try:
        needed = metadata.requires(PACKAGE) or []
    except metadata.PackageNotFoundError:
        advice.append(f"{PACKAGE} is not installed: run {_by_make('setup')}")
        needed = []
    found: dict[str, dict[str, Any]] = {}
    for requirement in map(Requirement, needed):
        extra = requirement.marker is not None and not requirement.marker.evaluate({"extra": ""})
        if extra and requirement.marker is not None and not requirement.marker.evaluate({"extra": "dev"}):
            continue
        name = requirement.name.lower()
        pin = pins.get(name)
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            if not extra:
                advice.append(f"{name} is missing: run {_by_make('setup')}")
                found[name] = {"installed": None, "pinned": str(pin.specifier) if pin else None, "as_pinned": False}
            continue
        as_pinned = pin is None or pin.specifier.contains(version, prereleases=True)
        found[name] = {
            "installed": version,
            "pinned": str(pin.specifier).removeprefix("==") if pin else None,
            "as_pinned": as_pinned,
        }
        if not requirement.specifier.contains(version, prereleases=True):
            advice.append(f"{name} {version} is installed, expected {requirement.specifier}: run {_by_make('setup')}")
    others = [name for name, facts in found.items() if facts["installed"] and not facts["as_pinned"]]
    if others:
        advice.append(
            f"other versions than constraints.txt pins: {', '.join(others)}; `rm -r .venv; make setup` restores them"
        )
    return found


def _pins(file: Path | None) -> dict[str, Requirement]:
    pins: dict[str, Requirement] = {}
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if file else []:
        try:
            requirement = Requirement(line.partition("#")[0].strip())
        except InvalidRequirement:
            continue
        if requirement.marker is None or requirement.marker.evaluate():
            pins[requirement.name.lower()] = requirement
    return pins


# ---------------------------------------------------------------------------------------------------------------------
# Text


def brief(found: dict[str, Any]) -> str:
    """The same in a line: which engines there are."""
    engines = [name for name, engine in found["engines"].items() if engine["found"]]
    advice = len(found["advice"])
    can = f"can train: {', '.join(engines)}" if engines else "nothing can train here"
    return f"{can}; {advice} {'piece' if advice == 1 else 'pieces'} of advice" if advice else can


def text(found: dict[str, Any]) -> str:
    """What ``examine`` found, for people."""
    machine, caffe, torch = found["machine"], found["engines"]["caffe"], found["engines"]["torch"]
    lines = [f"machine       {machine['system']}, {machine['cpus']} CPUs, Python {machine['python']}"]
    if torch["found"]:
        gpus = [f"GPU {gpu['number']} {gpu['name']} ({gpu['memory_gib']} GiB)" for gpu in torch["cuda_devices"]]
        device = ", ".join(gpus) or "no GPU"
        lines.append(f"engine torch  PyTorch {torch['version']}, {device}, {torch['cpu_threads']} CPU threads")
        how = f"compiled with {torch['compiler']}" if torch["compiler"] else "plain (no C++ compiler)"
        lines.append(f"              execution on the CPU: {how}")
        bf16 = "in the processor" if torch["cpu_multiplies_bf16"] else "as float32 products of rounded factors"
        lines.append(f"              the processor: {torch['cpu_vectors']}; bf16 {bf16}")
    else:
        lines.append("engine torch  not found")
    if caffe["found"]:
        gpu = "GPU 0 works" if caffe["gpu_works"] else "CPU only"
        lines.append(f"engine caffe  BVLC Caffe {caffe['version']}, {caffe['path']} (from {caffe['origin']}), {gpu}")
        if caffe["blas_core"]:
            lines.append(f"              its OpenBLAS computes as on {caffe['blas_core']}")
    else:
        lines.append("engine caffe  not found")
    command = found["caffe_command"]
    answer = f"{command['path']}: {command['is']}" if command["path"] else "not on the PATH"
    lines.append(f"`caffe` is    {answer}")
    if (compiled := found["compiled"]) is not None:
        plans = f"{compiled['plans']} training plan{'' if compiled['plans'] == 1 else 's'}"
        lines.append(
            f"compiled      {compiled['bytes'] / 1e6:.1f} MB in {compiled['path']}, {plans} (at most "
            f"{compiled['most_plan_bytes'] / 1e6:.0f} MB of them; unused, {compiled['most_unused_days']} days)"
        )
    for number, entry in enumerate(found["data"]):
        label = "data" if number == 0 else ""
        if "n_train" in entry:
            what = f"{entry['name']}, {entry['n_train']} + {entry['n_test']} images, {entry['preprocessing']}"
        else:
            what = f"{entry['bytes'] / 1e6:.1f} MB"
        lines.append(f"{label:<14}{entry['path']}: {what}")
    if not found["data"]:
        lines.append("data          none")
    versions = []
    for name, facts in found["versions"].items():
        pinned = "" if facts["as_pinned"] else f" (pinned: {facts['pinned']})"
        versions.append(f"{name} {facts['installed'] or 'missing'}{pinned}")
    for start in range(0, len(versions), 6):
        lines.append(f"{'versions' if start == 0 else '':<14}{', '.join(versions[start : start + 6])}")
    if found["advice"]:
        lines += ["", "What to do:", *(f"  * {sentence}" for sentence in found["advice"])]
    else:
        lines += ["", "Nothing is missing."]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """``place-caffe FOLDER``, for set-up."""
    words = list(sys.argv[1:] if argv is None else argv)
    if len(words) != 2 or words[0] != "place-caffe":
        print("usage: python -m allconv_caffe.doctor place-caffe FOLDER", file=sys.stderr)
        return 2
    try:
        print(place_caffe(words[1]))
    except OSError as error:
        print(f"place-caffe: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

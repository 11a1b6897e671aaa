"""The fuzzer: random nets through real pycaffe and through ours, and what differs.

By hand: ``python tests/parity/fuzz.py net 0 500`` runs the seeds 0 to 499 of a kind and prints every disagreement with
its net. test_fuzz.py runs a few of them.
"""

from __future__ import annotations

import contextlib
import difflib
import gc
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fuzz_data
import fuzz_nets
import fuzz_side
import fuzz_solvers
import fuzz_special
import fuzz_weights
import h5py
import numpy as np

import allconv_caffe.pycaffe as ours
from allconv_caffe.caffe_torch import glog
from allconv_caffe.caffe_torch.layers import data_hdf5
from allconv_caffe.proto import NetParameter, SolverState, read_binary, to_text

HERE = Path(__file__).resolve().parent
PYTHON = HERE.parents[1] / ".caffe" / "bin" / "python"
TOLERANCE = 2e-5
FLOOR = 1e-2  # below this, differences count as they are: sums that are 0 but for rounding
JITTER = 3e-7  # about two roundings of float32
MAKERS: dict[str, Callable[[int], dict[str, Any]]] = {
    "net": fuzz_nets.net_job,
    "solver": fuzz_solvers.solver_job,
    "special": fuzz_special.special_job,
    "data": fuzz_data.data_job,
    "weights": fuzz_weights.weights_job,
    "python": lambda seed: {"kind": "python", "id": f"python{seed}", "seed": seed},
}
LOGGED = ("solver", "data")  # kinds whose log is compared, too

Results = dict[str, np.ndarray]


@dataclass
class Outcome:
    """What a side made of a job: results, or the text with which it failed."""

    results: Results | None
    error: str = ""
    status: int = 0


def run_real(jobs: Sequence[dict[str, Any]], folder: Path) -> list[Outcome]:
    """Every job in a fork of one process of real Caffe."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "jobs.json").write_text(json.dumps(list(jobs)))
    for job in jobs:
        (folder / job["id"]).mkdir(exist_ok=True)
        fuzz_data.write_files(job.get("recipes", []), folder / job["id"])
    level = "0" if jobs[0]["kind"] in LOGGED else "2"
    env = {
        "GLOG_minloglevel": level,
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "PATH": "/usr/bin:/bin",
        "GLOG_log_dir": str(folder),
    }
    command = [str(PYTHON), str(HERE / "fuzz_side.py"), str(folder / "jobs.json"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=1800)
    if done.returncode:
        raise RuntimeError(f"real Caffe does not start: {done.stderr[-3000:]}")
    out = []
    for job in jobs:
        own = folder / job["id"]
        if (own / "error.npz").exists():
            with np.load(own / "error.npz") as file:
                status, text = file["error"]
            out.append(Outcome(None, str(text), int(status)))
        else:
            with np.load(own / "real.npz") as file:
                out.append(Outcome(dict(file)))
    return out


def run_ours(job: dict[str, Any], folder: Path, jitter: float = 0.0) -> Outcome:
    """The job on the drop-in, in this process."""
    own = folder / (job["id"] + ("-shaken" if jitter else "-ours"))
    own.mkdir(parents=True, exist_ok=True)
    fuzz_data.write_files(job.get("recipes", []), own)
    before = os.getcwd()
    os.chdir(own)
    glog._written_once.clear()  # real Caffe's process is a new one
    data_hdf5.RAND.__init__()  # type: ignore[misc]
    try:
        with (own / "stderr").open("w") as log, contextlib.redirect_stderr(log):
            with glog.quiet(glog.INFO if job["kind"] in LOGGED else glog.FATAL):
                return Outcome(fuzz_side.KINDS[job["kind"]](ours, job, jitter))
    except Exception as error:
        expected = isinstance(error, (ours.CaffeError, RuntimeError, ValueError, TypeError, SystemError, OverflowError))
        trace = io.StringIO()
        traceback.print_exc(file=trace)
        return Outcome(
            None, str(error) if expected else trace.getvalue(), 0 if expected and type(error) is ours.CaffeError else 1
        )
    finally:
        gc.collect()
        for thread in threading.enumerate():  # what still reads ahead, here
            if thread.name == "data prefetch":
                thread.join(5)
        os.chdir(before)


def difference(mine: np.ndarray, real: np.ndarray) -> float:
    """Largest difference over the largest finite value; inf where shape, nan or inf disagree."""
    if mine.shape != real.shape:
        return float("inf")
    finite = np.isfinite(real) & (np.abs(real) < 3e38)
    if not np.array_equal(mine[~finite], real[~finite], equal_nan=True) or not np.isfinite(mine[finite]).all():
        return float("inf")
    if not finite.any():
        return 0.0
    a, b = mine[finite].astype(np.float64), real[finite].astype(np.float64)
    return float(np.abs(a - b).max() / max(np.abs(b).max(), FLOOR))


FATAL = re.compile(r"^F\d{4}.*? [\w./]+:\d+\] (.*)$", re.MULTILINE)


IN_THREAD = re.compile(
    r"Could not load|_ == data_mean_|Specify either 1 mean_value|<= (img|datum)_|>= crop_size|(img|datum)_\w+ == "
)
EMPTY = "Check failed: n > 0 (0 vs. 0)"  # from MKL's stand-ins; ours carries on


def sentence(text: str) -> str:
    """What Caffe said: the message of its F line, or the last line of a Python traceback."""
    found = FATAL.search(text)
    return found[1].strip() if found else (text.strip().splitlines() or [""])[-1].strip()


def same_words(mine: str, real: str) -> bool:
    """Whether ours is Caffe's sentence behind a place: all of it, or what stands behind the failed comparison."""
    words, own = " ".join(sentence(real).split()).removeprefix("Check failed: false "), " ".join(mine.split())
    starts = [0, *(found.end() for found in re.finditer(": ", own))]
    return (
        words in own
        or words.split(") ", 1)[-1] in own
        or any(len(own) - at > 11 and words.endswith(own[at:]) for at in starts)
    )


def compare(job: dict[str, Any], real: Outcome, folder: Path) -> list[str]:
    """What differs, in words; empty where both sides agree."""
    mine = run_ours(job, folder)
    if real.results is None:
        signal = real.status & 127
        if (signal and not FATAL.search(real.error)) or sentence(real.error) == EMPTY:
            return []  # real Caffe read or wrote memory that is not its own, or met an empty blob
        if job["kind"] == "data" and IN_THREAD.search(mine.error) and job["net"].count("layer {") > 1:
            return []  # ours says so where the layer is set up, before what comes next
        if (
            job["kind"] == "data"
            and IN_THREAD.search(sentence(real.error))
            and job["net"].count("layer {") > (mine.results is None)
        ):
            return []  # its prefetch thread fails at a batch that is not asked for, or while the next layers are set up
        if mine.results is not None:
            return [f"real Caffe fails: {sentence(real.error)} | ours does not"]
        if not same_words(mine.error, real.error):
            return [f"real Caffe says: {sentence(real.error)} | ours: {mine.error[-600:]}"]
        return []
    if mine.results is None:
        return [f"ours fails, real Caffe does not: {mine.error[-1500:]}"]
    wrong = compare_results(job, mine.results, real.results, folder)
    if job["kind"] in LOGGED and not wrong:
        sides = [folder / (job["id"] + end) for end in ("", "-ours")]
        wrong = compare_files(*sides) + compare_logs(*sides)
        if wrong and job["kind"] == "solver":  # as far as rounding carries?
            run_ours(job, folder, JITTER)
            shaken = folder / (job["id"] + "-shaken")
            wrong = compare_files(*sides, shaken) + compare_logs(*sides, shaken)
    return wrong


def compare_results(job: dict[str, Any], mine: Results, real: Results, folder: Path) -> list[str]:
    wrong = []
    if mine.keys() != real.keys():
        wrong.append(
            f"results: only real {sorted(real.keys() - mine.keys())}, only ours {sorted(mine.keys() - real.keys())}"
        )
    shaken: list[Results] = []
    for key in real:
        if key not in mine:
            continue
        if real[key].dtype.kind in "US":
            if str(real[key]) != str(mine[key]):
                wrong.append(f"{key}:\n  real {real[key]}\n  ours {mine[key]}")
            continue
        if key.startswith("filled"):
            if not np.array_equal(real[key], mine[key], equal_nan=True):
                wrong.append(f"{key}: {difference(mine[key], real[key]):.1e}")
            continue
        error = difference(mine[key], real[key])
        if error <= TOLERANCE:
            continue
        if not shaken:
            shaken = [run_ours(job, folder, sign * JITTER).results or {} for sign in (1, -1)]
        moved = max(difference(results[key], mine[key]) if key in results else 0.0 for results in shaken)
        if error <= 20 * moved:
            continue
        wrong.append(
            f"{key}: {error:.1e} (rounding carries {moved:.1e}) real {real[key].ravel()[:6]} ours {mine[key].ravel()[:6]}"
        )
        if len(wrong) > 5:
            break
    return wrong


# snapshots
def compare_files(real: Path, mine: Path, shaken: Path | None = None) -> list[str]:
    """The same snapshots, with the same content to a rounding, or to 20 times of what shaking changed."""
    names, own = ({p.name for p in folder.glob("*_iter_*")} for folder in (real, mine))
    if names != own:
        return [f"snapshots: only real {sorted(names - own)}, only ours {sorted(own - names)}"]
    wrong = []
    for name in sorted(names):
        (text, a), (own_text, b) = (contents(folder / name) for folder in (real, mine))
        other = contents(shaken / name)[1] if shaken else b
        if text != own_text:
            wrong.append(f"{name}:\n" + "\n".join(difflib.unified_diff(text.splitlines(), own_text.splitlines(), n=1)))
        for key in a.keys() | b.keys():
            if key not in a or key not in b:
                wrong.append(f"{name} {key}: only one side")
            elif not difference(b[key], a[key]) <= max(1e-3, 20 * difference(other[key], b[key])):
                wrong.append(f"{name} {key}: {difference(b[key], a[key]):.1e}")
    return wrong


def contents(path: Path) -> tuple[str, Results]:
    """A snapshot as text without numbers, and its arrays."""
    arrays: Results = {}
    if path.suffix == ".h5":
        with h5py.File(path) as file:
            names: list[str] = []
            file.visititems(
                lambda name, item: names.append(f"{name} {getattr(item, 'dtype', '')} {getattr(item, 'shape', '')}")
            )
            file.visititems(
                lambda name, item: arrays.update({name: np.asarray(item)}) if hasattr(item, "dtype") else None
            )
        for key in [key for key, value in arrays.items() if value.dtype.kind not in "fi"]:
            names.append(str(arrays.pop(key)[()]))
            if "learned_net" in file:  # Caffe reads on until it meets a NUL
                kind = file["learned_net"].id.get_type()
                names.append(f"learned_net {kind.get_size()} {kind.get_strpad()}")
        return "\n".join(names), arrays
    proto = read_binary(path, NetParameter if "caffemodel" in path.name else SolverState)
    blobs = proto.history if isinstance(proto, SolverState) else [blob for layer in proto.layer for blob in layer.blobs]
    for i, blob in enumerate(blobs):
        for word in ("data", "diff"):
            values = np.array(getattr(blob, word), np.float32)
            if values.size:
                arrays[f"{word} {i}"] = values
            blob.ClearField(word)
    return to_text(proto), arrays


# logs
PREFIX = re.compile(r"^([IWEF])\d{4} \S+ +\d+ ([\w./]+:\d+)\] ?")
NUMBER = re.compile(r"-?\b(?:\d+\.?\d*(?:e[+-]?\d+)?|nan\b|inf\b)")
# what real Caffe says before its log begins; what prefetch threads say whenever they come to it
NOT_COMPARED = re.compile(
    "Logging before InitGoogleLogging|Restarting data prefetching|Waiting for data|Could not open or find"
)
PASSED = re.compile(r"Iteration (\d+) \([^)]*\)")  # what time took


def messages(folder: Path) -> list[str]:
    """The lines without time and thread: level, place in Caffe's sources, text."""
    lines = [PREFIX.sub(r"\1 \2] ", line) for line in (folder / "stderr").read_text(errors="replace").splitlines()]
    return [PASSED.sub(r"Iteration \1", line).rstrip() for line in lines if not NOT_COMPARED.search(line)]


def compare_logs(real: Path, mine: Path, shaken: Path | None = None) -> list[str]:
    """The same lines in the same order, numbers to a thousandth of what they are, or to 20 times of what shaking changed."""
    a, b = messages(real), messages(mine)
    other = messages(shaken) if shaken else b
    shown = [[NUMBER.sub("#", line) for line in lines] for lines in (a, b)]
    if shown[0] != shown[1]:
        return ["log:\n" + "\n".join([*difflib.unified_diff(*shown, "real", "ours", n=1, lineterm="")][:30])]
    for theirs, own, moved in zip(a, b, other if len(other) == len(b) else b, strict=True):
        for x, y, z in zip(*(map(float, NUMBER.findall(line)) for line in (theirs, own, moved)), strict=True):
            if not (
                abs(x - y) <= max(1e-3 * abs(x) + 1e-5, 20 * abs(y - z)) or x == y or (np.isnan(x) and np.isnan(y))
            ):
                return [f"log: {theirs} | {own}"]
    return []


def main(kind: str, first: str, last: str) -> None:
    with glog.quiet():
        jobs = [MAKERS[kind](seed) for seed in range(int(first), int(last))]
    refused = bad = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for job, real in zip(jobs, run_real(jobs, folder), strict=True):
            refused += real.results is None
            wrong = compare(job, real, folder)
            if wrong:
                bad += 1
                print(
                    f"=== {job['id']} { ({k: v for k, v in job.items() if k not in ('net', 'id', 'solver')}) }\n{job.get('net', '')}"
                )
                print("\n".join(wrong), flush=True)
    print(f"{len(jobs)} jobs, {refused} refused by real Caffe, {bad} disagree")


if __name__ == "__main__":
    main(*sys.argv[1:])

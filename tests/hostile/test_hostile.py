"""Damaged files and wrong arguments: one clear sentence and status 1, or success; never a trace, a crash, a hang.

The mutations are seeded, thus always the same. They run one after the other in a process of their own, whose memory is
bounded and whose every job has a time limit; if it dies, the job it was at is named.
"""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import command_line_files as files
import command_line_golden as golden
import cv2
import hostile_files as hostile
import numpy as np
import pytest

HERE = Path(__file__).resolve().parent

Job = dict[str, Any]
OURS = (sys.executable, "-m", "allconv_caffe.caffe_torch")


def run_all(folder: Path, jobs: list[Job]) -> dict[str, Job]:
    """Every job's answer by its name; fails, with that name, where the process did not survive one."""
    (folder / "jobs.json").write_text(json.dumps(jobs))
    command = [sys.executable, str(HERE / "hostile_worker.py"), "jobs.json", "answers.jsonl"]
    env = {**golden.environment(), **hostile.BOUNDED}
    result = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    lines = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    assert result.returncode == 0, f"died with {result.returncode} at {lines[-1]['name']}\n{result.stderr[-3000:]}"
    answers = {line["name"]: line for line in lines if "seconds" in line}
    assert len(answers) == len(jobs)
    return answers


def sentence(answer: Job) -> str:
    """What a user is told: the one F line's message, or the exception's text. Fails on anything else."""
    assert not answer["trace"], answer["trace"]
    if answer["name"].startswith("pycaffe "):
        lines = answer["err"].splitlines()
        return lines[-1] if answer["status"] else ""
    found = golden.fatal(answer["err"])
    assert (answer["status"], len(found)) in ((0, 0), (1, 1)), (answer["status"], answer["err"][-2000:])
    assert not any("Traceback" in line for line in answer["err"].splitlines())
    assert not found or not found[0].startswith("Unexpected "), found[0]
    return found[0] if found else ""


def in_pycaffe(arguments: str) -> str | None:
    """What a script would do for a command line; None where there is nothing of the kind."""
    if arguments in golden.OF_FLAGS:
        return None
    match = re.fullmatch(r"time -iterations 1 -model (\S+)( -phase TEST)?", arguments)
    if match:
        return f"net = caffe.Net({match[1]!r}, caffe.{'TEST' if match[2] else 'TRAIN'}); net.forward(); net.forward()"
    match = re.fullmatch(r"test -model (\S+) -iterations 1 -weights (\S+)", arguments)
    if match:
        return f"net = caffe.Net({match[1]!r}, caffe.TEST); net.copy_from({match[2]!r}); net.forward()"
    match = re.fullmatch(r"train -solver (\S+)(?: -snapshot (\S+))?", arguments)
    if match:
        restore = f"solver.restore({match[2]!r}); " if match[2] else ""
        return f"solver = caffe.get_solver({match[1]!r}); {restore}solver.solve()"
    return None


def test_every_recorded_command_line_ends_as_in_caffe(tmp_path: Path) -> None:
    """Flags, nets, solvers, data sets, weights and states, good and bad: the outcome that the real `caffe` had.

    Status 0 where it has 0; where it aborts, 1 and one F line that holds its sentence (and its parser's); where gflags
    refuses, its lines. What is known to differ says what `DIFFERENT` says. The same through pycaffe, as an exception.
    """
    golden.prepare(tmp_path, OURS)
    recorded = json.loads(golden.GOLDEN.read_text())
    names = golden.cases(tmp_path)
    assert set(names) == set(recorded)
    scripts = {name: script for name in names if (script := in_pycaffe(name)) is not None}
    jobs = [{"name": name, "folder": str(tmp_path), "argv": name.split()} for name in names]
    jobs += [{"name": f"pycaffe {name}", "folder": str(tmp_path), "code": code} for name, code in scripts.items()]
    answers = run_all(tmp_path, jobs)
    wrong = {}
    for name, expected in recorded.items():
        for answer in filter(None, (answers[name], answers.get(f"pycaffe {name}"))):
            problem = difference(name, expected, answer)
            if problem:
                wrong[answer["name"]] = problem
    assert not wrong, "\n".join(f"{name}: {problem}" for name, problem in wrong.items())


def difference(name: str, expected: Job, answer: Job) -> str:
    """What is wrong with an answer, in words."""
    if expected["status"] == 1 or "errors" in expected:
        errors = [line for line in answer["err"].splitlines() if line.startswith("ERROR: ")]
        found = (answer["status"], errors)
        return "" if found == (1, expected.get("errors", [])) else f"found {found}, expected {expected}"
    try:
        found = sentence(answer)
    except AssertionError as error:
        return str(error)
    if name in golden.DIFFERENT:
        wanted = [golden.DIFFERENT[name]]
    elif expected["status"] == 0:
        wanted = []
    else:
        wanted = [expected["said"]] if "said" in expected else []
        wanted += [expected["parser"]] if "parser" in expected else []
        if not wanted:
            return f"real Caffe crashed; DIFFERENT should say what is said here: {found}"
    if answer["status"] != bool(wanted):
        return f"status {answer['status']} ({found}), expected {expected}"
    missing = [words for words in wanted if words not in found]
    return f"{found} lacks {missing}" if missing else ""


def outcomes(answers: Iterable[Job], memory: bool = True) -> Counter[str]:
    """Counts successes and refusals; fails with all that were neither, or that took more memory than there was."""
    count: Counter[str] = Counter()
    wrong = []
    for answer in answers:
        try:
            said = sentence(answer)
            assert not memory or not re.search(r"MemoryError|out of memory", said), said
        except AssertionError as error:
            wrong.append(f"{answer['name']}: {str(error)[-1500:]}")
        count["refused" if answer["status"] else "taken"] += 1
    assert not wrong, "\n".join(wrong[:20]) + f"\n{len(wrong)} in all"
    return count


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of bytes, floats, images and one long record, nets, solvers of two iterations, their snapshots."""
    path = tmp_path_factory.mktemp("hostile")
    rs = np.random.RandomState(0)
    short = files.SOLVER.replace("max_iter: 8", "max_iter: 2").replace("snapshot: 4", "snapshot: 2")
    short = short.replace("test_iter: 2", "test_iter: 1").replace("test_interval: 4", "test_interval: 2")
    (path / "net.prototxt").write_text(files.NET)
    (path / "solver.prototxt").write_text(short)
    (path / "h5.prototxt").write_text(short.replace('"x"', '"h"') + "snapshot_format: HDF5\n")
    image = cv2.imencode(".jpg", rs.randint(0, 256, (8, 8, 3)).astype(np.uint8))[1].tobytes()
    values = [files.datum(rs, label=i % 3) for i in range(30)]
    values += [files.datum(rs, label=1, float_data=rs.randn(192).tolist()) for _ in range(8)]
    values += [files.datum(rs, label=2, data=image, encoded=True) for _ in range(2)]
    values.append(files.datum(rs, label=1) + b"\xf2\x7f\x80\x40" + bytes(8192))  # a long unknown field
    files.write_lmdb(path / "db", values)
    for name in ("solver", "h5"):
        subprocess.run(
            [*OURS, "train", "-solver", f"{name}.prototxt"],
            cwd=path,
            env=golden.environment(),
            check=True,
            capture_output=True,
        )
    (path / "m").mkdir()
    return path


def job(folder: Path, kind: str, i: int, mutant: tuple[str, bytes], ending: str, command: str) -> Job:
    """Writes a mutant to a file and says how to use it; in `command`, FILE stands for its name."""
    said, raw = mutant
    name = f"m/{kind}{i}{ending}"
    (folder / name).write_bytes(raw)
    if command.startswith("caffe."):
        return {
            "name": f"pycaffe {kind} {i}: {said}",
            "folder": str(folder),
            "code": command.replace("FILE", repr(name)),
        }
    return {"name": f"{kind} {i}: {said}", "folder": str(folder), "argv": command.replace("FILE", name).split()}


def some(mutants: Iterable[Any], rng: random.Random, count: int) -> list[Any]:
    found = list(mutants)
    return rng.sample(found, min(count, len(found)))


MODEL = "test -model net.prototxt -iterations 1 -weights FILE"


@pytest.mark.parametrize(
    "seed", [pytest.param(1), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 12))]
)
def test_damaged_weights_states_and_databases(folder: Path, seed: int) -> None:
    """Mutations of a caffemodel, a solverstate, their HDF5 forms and an LMDB: refused or taken, nothing else."""
    rng = random.Random(seed)
    jobs: list[Job] = []
    model = (folder / "x_iter_2.caffemodel").read_bytes()
    for i, mutant in enumerate(some(hostile.wire_mutants(model, hostile.NETS, rng, 300), rng, 150)):
        jobs.append(job(folder, "model", i, mutant, ".caffemodel", MODEL))
        if i % 3 == 0:
            jobs.append(job(folder, "model", i, mutant, ".caffemodel", "caffe.Net('net.prototxt', 1).copy_from(FILE)"))
    state = (folder / "x_iter_2.solverstate").read_bytes()
    for i, mutant in enumerate(some(hostile.wire_mutants(state, hostile.STATES, rng, 300), rng, 60)):
        command = (
            "train -solver solver.prototxt -snapshot FILE"
            if i % 3
            else "caffe.get_solver('solver.prototxt').restore(FILE)"
        )
        jobs.append(job(folder, "state", i, mutant, ".solverstate", command))
    model, state = ((folder / f"h_iter_2.{kind}.h5").read_bytes() for kind in ("caffemodel", "solverstate"))
    for i, mutant in enumerate(hostile.byte_mutants(model, rng, 60)):
        jobs.append(job(folder, "hdf5model", i, mutant, ".caffemodel.h5", MODEL))
    for i, mutant in enumerate(hostile.byte_mutants(state, rng, 40)):
        jobs.append(job(folder, "hdf5state", i, mutant, ".solverstate.h5", "train -solver h5.prototxt -snapshot FILE"))
    database = (folder / "db" / "data.mdb").read_bytes()
    for i, (said, raw) in enumerate(hostile.byte_mutants(database, rng, 120, page=512)):
        home = folder / "m" / f"db{seed}_{i}"
        home.mkdir()
        (home / "data.mdb").write_bytes(raw)
        net = files.NET.replace('"db"', f'"m/{home.name}"').replace("batch_size: 4", "batch_size: 45").encode()
        command = "time -iterations 1 -model FILE" if i % 3 else "caffe.Net(FILE, 0).forward()"
        jobs.append(job(folder, "database", i, (said, net), ".prototxt", command))
    count = outcomes(run_all(folder, jobs).values())
    assert count["refused"] > len(jobs) / 4 and count["taken"] > len(jobs) / 10, count  # both have been tried


@pytest.mark.parametrize(
    "seed", [pytest.param(1), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 12))]
)
def test_mutilated_prototxts_and_mean_files(folder: Path, seed: int) -> None:
    """Mutations of a net, a solver and a mean file: refused or taken, nothing else."""
    rng = random.Random(seed)
    jobs: list[Job] = []
    for i, mutant in enumerate(hostile.text_mutants(files.NET, rng, 250)):
        command = "time -iterations 1 -model FILE" if i % 4 else "caffe.Net(FILE, 0).forward()"
        jobs.append(job(folder, "net", i, mutant, ".prototxt", command))
    solver = (folder / "solver.prototxt").read_text()
    for i, mutant in enumerate(hostile.text_mutants(solver, rng, 150, hostile.SMALL_NUMBERS)):
        command = "train -solver FILE" if i % 4 else "caffe.get_solver(FILE).step(1)"
        jobs.append(job(folder, "solver", i, mutant, ".prototxt", command))
    mean = files.BlobProto(num=1, channels=3, height=8, width=8, data=[1.0] * 192).SerializeToString()
    for i, (said, raw) in enumerate(some(hostile.wire_mutants(mean, {}, rng, 50), rng, 60)):
        (folder / "m" / f"mean{i}.binaryproto").write_bytes(raw)
        net = files.NET.replace("mean_value: 128", f'mean_file: "m/mean{i}.binaryproto"').encode()
        jobs.append(job(folder, "mean", i, (said, net), ".prototxt", "time -iterations 1 -model FILE"))
    count = outcomes(run_all(folder, jobs).values(), memory=False)
    assert count["refused"] > len(jobs) / 2 and count["taken"] > len(jobs) / 20, count

"""Random command lines: `caffe` beside `caffe-torch` in two folders, snapshots handed from one to the other in between.

Kinds: "resume" (a training broken off in one and gone on with in the other), "rules" (levels, stages, phases, several test
nets, solvers with mistakes), "sharing" (parameters with one name), "time" (the
nets of fuzz_nets.py, whose layers all go backward there). By hand: ``python tests/parity/fuzz_commands.py resume 0 40``.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import fuzz
import h5py
import numpy as np
from fuzz_weights import DATA, LOSS, dense, sharing_net
from support.prototxt import layer_of as layer

from allconv_caffe.caffe_torch import glog
from allconv_caffe.caffe_torch.layers import data_hdf5
from allconv_caffe.caffe_torch.tools import caffe as caffe_torch

CAFFE = fuzz.HERE.parents[1] / ".caffe" / "bin" / "caffe"
SIDES = ("real", "ours")
RATES = {"AdaDelta": 1.0, "Adam": 0.01, "RMSProp": 0.01}


@dataclass
class Job:
    """Text files, and what is done: a command line, or "swap NAMES" (a glob), or "keep FROM TO" (in both folders)."""

    id: str
    files: dict[str, str]
    actions: list[str]
    same: list[tuple[str, str]] = field(default_factory=list)  # files with the same content in the end


def policy(rng: random.Random) -> str:
    return rng.choice(
        [
            'lr_policy: "fixed"',
            f'lr_policy: "step" gamma: 0.5 stepsize: {rng.randint(1, 4)}',
            'lr_policy: "inv" gamma: 0.1 power: 0.75',
            'lr_policy: "exp" gamma: 0.9',
            'lr_policy: "poly" power: 2',
            'lr_policy: "multistep" gamma: 0.5 '
            + " ".join(f"stepvalue: {v}" for v in sorted(rng.sample(range(7), rng.randint(0, 4)))),
        ]
    )


def solver(rng: random.Random, more: str) -> str:
    type_ = rng.choice(["SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam"])
    words = [
        f'type: "{type_}" base_lr: {RATES.get(type_, 0.1)} solver_mode: CPU display: 1 random_seed: {rng.randint(0, 99)}'
    ]
    words.append(policy(rng))
    if type_ not in ("AdaGrad", "RMSProp"):
        words.append(f"momentum: {rng.choice([0.9, 0.5])}")
    for chance, text in (
        (0.5, "iter_size: 2"),
        (0.5, f"clip_gradients: {rng.choice([0.05, 0.5])}"),
        (0.6, f"weight_decay: {rng.choice([0.01, 0.1])}"),
        (0.3, 'regularization_type: "L1"'),
        (0.5, "snapshot_format: HDF5"),
        (0.2, "snapshot_diff: true"),
        (0.2, "average_loss: 3"),
    ):
        if rng.random() < chance:
            words.append(text)
    return "\n".join([*words, more]) + "\n"


# training broken off
def resume_net(rng: random.Random) -> str:
    text = f'name: "{rng.choice(["", "a net"])}"\n' + DATA
    normed = rng.random() < 0.3  # under it a bias learns from rounding alone
    specs = rng.choice(
        ["", "param { lr_mult: 1 decay_mult: 2 }" + " param { lr_mult: 2 decay_mult: 0 }" * (not normed)]
    )
    text += layer(
        "one",
        "Convolution",
        'bottom: "data" top: "one"',
        specs + " convolution_param { num_output: 4 kernel_size: 2 "
        f'weight_filler {{ type: "xavier" }} bias_term: {str(not normed).lower()} }}',
    )
    if normed:
        text += layer("norm", "BatchNorm", 'bottom: "one" top: "one"') + layer(
            "scale", "Scale", 'bottom: "one" top: "one"'
        )
    text += layer("bend", "TanH", 'bottom: "one" top: "one"')
    shared = rng.random() < 0.4
    for name in ("two", "three") if shared else ("two",):
        text += dense(name, "one", 3, 'param { name: "w" } param { name: "b" lr_mult: 2 }' if shared else "")
        text += layer(f"loss_{name}", "SoftmaxWithLoss", LOSS.format(name))
    if rng.random() < 0.4:
        text += layer("right", "Accuracy", 'bottom: "two" bottom: "label" top: "right"', "include { phase: TEST }")
    return text


def resume_job(seed: int) -> Job:
    rng = random.Random(f"resume {seed}")
    net, at = resume_net(rng), rng.randint(1, 5)
    tests = rng.choice(
        ["", "", f"test_iter: 1 test_interval: {rng.randint(1, 4)} " + rng.choice(["", "test_initialization: false"])]
    )
    text = solver(rng, f'net: "net.prototxt" max_iter: 6 snapshot: {at} snapshot_prefix: "x" {tests}')
    end = ".h5" if "HDF5" in text else ""
    files = {"net.prototxt": net, "solver.prototxt": text}
    actions = [
        "train -solver solver.prototxt",
        f"keep x_iter_6.caffemodel{end} whole_iter_6.caffemodel{end}",
        f"keep x_iter_6.solverstate{end} whole_iter_6.solverstate{end}",
        f"swap x_iter_{at}.*",
        f"train -solver solver.prototxt -snapshot x_iter_{at}.solverstate{end}",
    ]
    same = [(f"whole_iter_6.{word}{end}", f"x_iter_6.{word}{end}") for word in ("caffemodel", "solverstate")]
    if "average_loss" not in text and rng.random() < 0.3:  # another format reads what this one's ending says
        other = text.replace("snapshot_format: HDF5", "") if end else text + "snapshot_format: HDF5\n"
        files["other.prototxt"] = other.replace('"x"', '"y"')
        actions.append(f"train -solver other.prototxt -snapshot x_iter_{at}.solverstate{end}")
    if rng.random() < 0.5:
        partly = net.replace('"two"', '"deux"') if rng.random() < 0.7 else net.replace("num_output: 3", "num_output: 5")
        files["partly.prototxt"] = partly.replace('type: "xavier"', "value: 0.1")  # test draws without a seed
        files["tune.prototxt"] = text.replace("net.prototxt", "partly.prototxt").replace('"x"', '"z"')
        weights = [f"x_iter_{rng.choice([at, 6])}.caffemodel{end}" for _ in range(rng.randint(1, 3))]
        if rng.random() < 0.15:
            weights.insert(rng.randint(0, len(weights)), rng.choice(["gone.caffemodel", f"x_iter_6.solverstate{end}"]))
        actions += [
            "swap x_iter_*",
            f"train -solver tune.prototxt -weights {','.join(weights)}",
            f"test -model partly.prototxt -weights {weights[0]} -iterations 2",
        ]
        if rng.random() < 0.2:
            actions.append(f"train -solver tune.prototxt -snapshot x_iter_{at}.solverstate{end}")
    return Job(f"resume{seed}", files, actions, same)


# rules
def rule(rng: random.Random) -> str:
    words = [
        "phase: TRAIN",
        "phase: TEST",
        "min_level: 1",
        "max_level: 0",
        "min_level: -1 max_level: 2",
        "stage: 'deep'",
        "stage: ''",
        "stage: 'deep' stage: 'wide'",
        "not_stage: 'deep'",
        "not_stage: ''",
        "not_stage: 'wide' not_stage: 'deep'",
        "",
    ]
    rules = [" ".join(rng.sample(words, rng.choice([1, 1, 2]))) for _ in range(rng.choice([1, 1, 2]))]
    rules = [text if text.count("phase") < 2 and text.count("level:") < 3 else "phase: TRAIN" for text in rules]
    kind = rng.choice(["include", "include", "exclude"])
    if rng.random() < 0.03:
        return f"include {{ {rules[0]} }} exclude {{ phase: TEST }}"
    return " ".join(f"{kind} {{ {text} }}" for text in rules)


def rules_net(rng: random.Random) -> str:
    text = f'name: "{rng.choice(["ruled", ""])}"\n'
    if rng.random() < 0.2:
        text += "state { " + rng.choice(["level: 1", "phase: TEST", "phase: TRAIN", "stage: 'deep'", ""]) + " }\n"
    text += layer(
        "data",
        "DummyData",
        'top: "data" top: "label"',
        "dummy_data_param { shape { dim: 2 dim: 3 } shape { dim: 2 } "
        "data_filler { value: 0.5 } data_filler { value: 1 } }" + (rule(rng) if rng.random() < 0.1 else ""),
    )
    below = "data"
    for name in rng.sample(["a", "b", "c", "d"], rng.randint(1, 4)):
        place = rule(rng) if rng.random() < 0.5 else ""
        kind = rng.choice(["dense", "dense", "TanH", "inner", "Reduction", "Silence"])
        if kind == "dense":
            text += dense(name, below, 3, place, "").replace(
                'type: "xavier"', f'type: "constant" value: {rng.choice([0.1, 0.3])}'
            )
            below = name if not place else below
        elif kind == "Reduction":
            text += layer(name, kind, f'bottom: "{below}" top: "{name}"', place + rng.choice([" loss_weight: 0.5", ""]))
        elif kind == "Silence":
            text += layer(name, kind, f'bottom: "{below}"', place)
        else:
            text += layer(name, "TanH", f'bottom: "{below}" top: "{below if kind == "TanH" else name}"', place)
    text += dense("top", below, 3).replace('type: "xavier"', 'type: "constant" value: 0.2')
    text += layer(
        "loss", "SoftmaxWithLoss", 'bottom: "top" bottom: "label" top: "loss"', rule(rng) if rng.random() < 0.3 else ""
    )
    if rng.random() < 0.6:
        text += layer("right", "Accuracy", 'bottom: "top" bottom: "label" top: "right"', rule(rng))
    return text


def rules_job(seed: int) -> Job:
    rng = random.Random(f"rules {seed}")
    files = {"net.prototxt": rules_net(rng), "other.prototxt": rules_net(rng)}
    bare = rules_net(rng).replace("\n", " ")
    fields = ['train_net: "net.prototxt"', f"net_param {{ {bare} }}", f"train_net_param {{ {bare} }}"]
    nets = rng.choice(['net: "net.prototxt"'] * 3 + fields)
    if rng.random() < 0.04:
        nets += rng.choice([' train_net: "other.prototxt"', f" net_param {{ {bare} }}"])
    own = rng.choice([0, 0, 0, 1, 2])
    fields = ['test_net: "other.prototxt"', 'test_net: "net.prototxt"', f"test_net_param {{ {bare} }}"]
    given = [rng.choice(fields) for _ in range(own)]
    generic = rng.choice([0, 1, 2]) if nets.startswith("net") else 0
    tests = own + generic
    wrong = rng.random() < 0.3
    iters = max(0, tests + (rng.choice([-1, 1, 0]) if wrong else 0))
    words = [
        nets,
        *given,
        *(f"test_iter: {rng.choice([1, 1, 2, 3, 0, -1] if wrong else [1, 2, 3])}" for _ in range(iters)),
    ]
    if tests and not (wrong and rng.random() < 0.3):
        words.append(f"test_interval: {rng.choice([0, -1, 1, 2] if wrong else [1, 2])}")
    states = [
        "test_state { stage: 'deep' }",
        "test_state { }",
        "test_state { level: 1 stage: 'wide' }",
        "test_state { phase: TRAIN }",
    ]
    if rng.random() < 0.4:
        words += [rng.choice(states) for _ in range(max(0, tests + (rng.choice([-1, 1]) if wrong else 0)))]
    if rng.random() < 0.4:
        words.append("train_state { " + rng.choice(["stage: 'deep'", "level: 2", "phase: TEST", ""]) + " }")
    for chance, text in (
        (0.2, "test_compute_loss: true"),
        (0.2, "test_initialization: false"),
        (0.1, "debug_info: true"),
        (0.05, "max_iter: 0"),
        (0.03, "snapshot: 1"),
    ):
        if rng.random() < chance:
            words.append(text)
    prefix = rng.choice(['snapshot_prefix: "x"'] * 4 + ["", 'snapshot_prefix: "."', 'snapshot_prefix: "no/such"'])
    if "max_iter: 0" not in words:
        words.append("max_iter: 2")
    words += ['base_lr: 0.1 lr_policy: "fixed" display: 1', prefix, "random_seed: 1"]
    files["solver.prototxt"] = "\n".join(words) + "\n"
    names = {"": "solver", 'snapshot_prefix: "."': "./solver"}.get(prefix, "x")

    def flags() -> str:
        found = ""
        if rng.random() < 0.5:
            found += f" -level {rng.choice([-2, -1, 0, 1, 2])}".replace(" -level -", " -level=-")
        if rng.random() < 0.6:
            found += (
                f" -stage={rng.choice(['deep', 'wide', 'deep,wide', 'wide,deep', '', ',', 'x', 'deep,,wide', 'deep,'])}"
            )
        return found

    def times() -> str:
        return (
            f" -iterations {rng.choice([1, 2, 3])}"
            if rng.random() < 0.8
            else rng.choice([" -iterations=0", " -iterations=-1", ""])
        )

    actions = ["train -solver solver.prototxt" + flags()]
    for _ in range(2):
        model = rng.choice(["net", "net", "other"])
        actions.append(
            f"test -model {model}.prototxt -weights {names}_iter_2.caffemodel{flags()}{times()}"
            + rng.choice(["", "", " -phase TRAIN"])
        )
        phase = rng.choice(["", " -phase TRAIN", " -phase TEST", " -phase TEST", " -phase=", " -phase test"])
        actions.append(f"time -model {rng.choice(['net', 'other'])}.prototxt{flags()}{times()}{phase}")
    return Job(f"rules{seed}", files, actions)


# one parameter, several layers
def sharing_job(seed: int) -> Job:
    rng = random.Random(f"sharing {seed}")
    net = sharing_net(rng)
    text = solver(
        rng,
        'net: "net.prototxt" max_iter: 4 snapshot: 2 snapshot_prefix: "x" '
        + rng.choice(["", "test_iter: 1 test_interval: 2", "debug_info: true"]),
    )
    end = ".h5" if "HDF5" in text else ""
    apart = re.sub(r'name: "(w|b|c)"', "", net) if rng.random() < 0.5 else net.replace('"s1"', '"t1"')
    apart = apart.replace('type: "xavier"', "value: 0.1")  # test draws without a seed
    files = {
        "net.prototxt": net,
        "solver.prototxt": text,
        "apart.prototxt": apart,
        "tune.prototxt": text.replace('"net.prototxt"', '"apart.prototxt"').replace('"x"', '"z"'),
    }
    actions = [
        "train -solver solver.prototxt",
        "swap x_iter_2.*",
        f"train -solver solver.prototxt -snapshot x_iter_2.solverstate{end}",
        f"test -model net.prototxt -weights x_iter_4.caffemodel{end} -iterations 2",
        f"train -solver tune.prototxt -weights x_iter_2.caffemodel{end}",
        f"train -solver tune.prototxt -snapshot x_iter_2.solverstate{end}",
        f"test -model apart.prototxt -weights x_iter_4.caffemodel{end} -iterations 1",
    ]
    return Job(f"sharing{seed}", files, actions)


# every layer type
def time_job(seed: int) -> Job:
    with glog.quiet():
        job = fuzz.MAKERS["net"](seed)
    flags = " ".join(
        [f"-level={job['level']}", "-stage=" + ",".join(job["stages"]), f"-phase {'TEST' if job['phase'] else 'TRAIN'}"]
    )
    return Job(f"time{seed}", {"net.prototxt": job["net"]}, [f"time -model net.prototxt -iterations 1 {flags}"])


MAKERS = {"time": time_job, "resume": resume_job, "rules": rules_job, "sharing": sharing_job}


# both sides
def prepare(job: Job, folder: Path) -> None:
    folder.mkdir(parents=True)
    for name, text in job.files.items():
        (folder / name).write_text(text)
    state = np.random.RandomState(5)
    with h5py.File(folder / "data.h5", "w") as file:
        file["data"] = state.standard_normal((6, 3, 3, 3)).astype(np.float32)
        file["label"] = np.array([0, 1, 2, 2, 1, 0], np.float32)
    (folder / "list.txt").write_text("data.h5\n")


def run(side: str, folder: Path, arguments: list[str]) -> int:
    """One command; its log in `folder`/stderr. Returns its status."""
    with (folder / "stderr").open("w") as log:
        if side == "real":
            env = {
                "GLOG_logtostderr": "1",
                "OPENBLAS_NUM_THREADS": "1",
                "OMP_NUM_THREADS": "1",
                "PATH": "/usr/bin:/bin",
            }
            return subprocess.run(
                [str(CAFFE), *arguments], cwd=folder, env=env, stderr=log, stdout=subprocess.DEVNULL, timeout=120
            ).returncode
        before = os.getcwd()
        os.chdir(folder)
        glog._written_once.clear()
        data_hdf5.RAND.__init__()  # type: ignore[misc]
        try:
            with contextlib.redirect_stderr(log), contextlib.redirect_stdout(io.StringIO()):
                return caffe_torch.main([*arguments, "-seed_exact"])
        finally:
            os.chdir(before)
            glog.init()


def swap(folders: dict[str, Path], pattern: str) -> None:
    real, mine = (folders[side] for side in SIDES)
    for path in sorted(real.glob(pattern)):
        other = mine / path.name
        if other.exists():
            theirs, own = path.read_bytes(), other.read_bytes()
            path.write_bytes(own)
            other.write_bytes(theirs)


ONE_SIDE = re.compile(r"compiled\.py:1\]| caffe\.py:1\]|^WARNING: |^\[libprotobuf ERROR")
DIAGNOSIS = re.compile(
    r"^(HDF5-DIAG| +#\d{3}: | +m(aj|in)or: |, name = ').*\n", re.MULTILINE
)  # HDF5's own words on stderr
TIMES = re.compile(r"Initial loss: \S+|[\d.e+-]+ ms\.|\([-\w.+]+ iter/s, [-\w.+]+s/")


def log_of(folder: Path) -> tuple[list[str], str]:
    """What was said before the end, and the F line's message."""
    text = (folder / "stderr").read_text(errors="replace")
    (folder / "stderr").write_text(DIAGNOSIS.sub("", text))
    lines = [TIMES.sub("T", line) for line in fuzz.messages(folder) if not ONE_SIDE.search(line)]
    end = next((i for i, line in enumerate(lines) if line.startswith("F ")), len(lines))
    found = fuzz.FATAL.search(text)
    return lines[:end], found[1] if found else ""


def compare_logs(folders: dict[str, Path]) -> list[str]:
    (a, words), (b, own) = (log_of(folders[side]) for side in SIDES)
    if bool(words) != bool(own) or (words and not fuzz.same_words(own, words)):
        return [f"real: {words or 'no mistake'} | ours: {own or 'no mistake'}"]
    return compare_lines(a, b)


def compare_lines(a: list[str], b: list[str]) -> list[str]:
    shown = [[fuzz.NUMBER.sub("#", line) for line in lines] for lines in (a, b)]
    if shown[0] != shown[1]:
        return ["log:\n" + "\n".join([*fuzz.difflib.unified_diff(*shown, "real", "ours", n=1, lineterm="")][:30])]
    for theirs, mine in zip(a, b, strict=True):
        for x, y in zip(*(map(float, fuzz.NUMBER.findall(line)) for line in (theirs, mine)), strict=True):
            if not (abs(x - y) <= 1e-3 * abs(x) + 1e-5 or x == y or (np.isnan(x) and np.isnan(y))):
                return [f"log: {theirs} | {mine}"]
    return []


def compare(job: Job, folder: Path) -> list[str]:
    """Runs a job on both sides. Returns what differs, in words."""
    folders = {side: folder / job.id / side for side in SIDES}
    for own in folders.values():
        prepare(job, own)
    wrong = []
    for action in job.actions:
        first, *rest = action.split(" ")
        if first == "swap":
            swap(folders, rest[0])
        elif first == "keep":
            for own in folders.values():
                if (own / rest[0]).exists():
                    (own / rest[1]).write_bytes((own / rest[0]).read_bytes())
        else:
            status = {side: run(side, folders[side], action.split(" ")) for side in SIDES}
            if (status["real"] < 0 and status["real"] != -6) or log_of(folders["real"])[1].strip() == fuzz.EMPTY:
                continue  # it read or wrote memory that is not its own, or met an empty blob
            wrong += [f"{action}: {text}" for text in compare_logs(folders)]
            if (status["real"] == -6) != (status["ours"] == 1 and "F " in "".join(fuzz.messages(folders["ours"]))):
                wrong.append(f"{action}: status {status}")
    wrong += fuzz.compare_files(folders["real"], folders["ours"])
    for before, after in job.same:
        for side in SIDES:
            if not all((folders[side] / name).exists() for name in (before, after)):
                wrong += [f"{side}: no {before} or {after}"] * (not wrong)
                continue
            (_, a), (_, b) = (fuzz.contents(folders[side] / name) for name in (before, after))
            wrong += [
                f"{side}: {after} {key} is not as unbroken: {fuzz.difference(b[key], a[key]):.1e}"
                for key in a
                if not fuzz.difference(b[key], a[key]) <= 1e-3
            ]
    return wrong


def main(kind: str, first: str, last: str) -> None:
    bad = 0
    with tempfile.TemporaryDirectory() as name:
        for seed in range(int(first), int(last)):
            job = MAKERS[kind](seed)
            wrong = compare(job, Path(name))
            if wrong:
                bad += 1
                print(f"=== {job.id} {job.actions}\n" + "\n".join(f"--- {k}\n{v}" for k, v in job.files.items()))
                print("\n".join(wrong), flush=True)
    print(f"{int(last) - int(first)} jobs of {kind}, {bad} disagree")


if __name__ == "__main__":
    main(*sys.argv[1:])

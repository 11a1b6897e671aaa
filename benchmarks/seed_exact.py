"""BVLC Caffe and this engine with one seed: the same weights, masks and batches, and what that does to the loss curve.

    make seed-exact                                        All-CNN-C on data/cifar10, 200 iterations
    python benchmarks/seed_exact.py --data data/cifar10 --iterations 50 --batch 32
    python benchmarks/seed_exact.py --solver my_solver.prototxt --iterations 20

Three parts, each kept in --work once it is done, so that the same command goes on where it was stopped:

masks   both engines run only the Dropout layers, on ones: every mask of every iteration, bit by bit.
steps   both engines train. Before each iteration ours takes Caffe's weights and history, so that each of our updates is
        compared with Caffe's from the same start; batches, and what dropout let through, are compared on the way.
free    ours trains alone; Caffe trains alone with two BLAS threads. (With one thread it did so in `steps`.)

Ours sums in the order of Caffe's BLAS (allconv_caffe/caffe_torch/compute/openblas.py), so updates should be identical;
the values that are not are counted, and every update is held to 1e-5. Where this machine lacks that order, or Caffe's BLAS
takes other kernels than ours expects, the table says so: sums in another order round otherwise, so now and then an input of
a ReLU lies above zero in one engine alone, and its whole gradient is in one update alone. Such inputs are counted, and only
updates of iterations without any are held to 1e-5.

Writes table.md, iterations.csv, tests.csv, curves.png and numbers.json to --out; prints the table. Exit status 1 where
something that must be identical is not, or an update departs by more than it may.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
os.environ.setdefault("ALLCONV_DATA_MEMORY_MB", "0")  # a few hundred batches: read them, not the whole data set

from allconv_caffe.bvlc import find as bvlc  # noqa: E402
from allconv_caffe.caffe_torch import glog  # noqa: E402
from allconv_caffe.caffe_torch.compute import caffe_math, openblas  # noqa: E402
from allconv_caffe.caffe_torch.compute.rng import CaffeGenerator  # noqa: E402
from allconv_caffe.caffe_torch.errors import CaffeError  # noqa: E402
from allconv_caffe.caffe_torch.layer import Context  # noqa: E402
from allconv_caffe.caffe_torch.solver import Solver  # noqa: E402
from allconv_caffe.caffe_torch.solver_factory import create_solver  # noqa: E402
from allconv_caffe.proto import (  # noqa: E402
    TRAIN,
    DataParameter,
    NetParameter,
    ProtoError,
    SolverParameter,
    SolverState,
    read_binary,
    read_net,
    read_solver,
    to_text,
)
from allconv_caffe.report.log import parse_log  # noqa: E402

TOLERANCE = 1e-5  # of an update, relative to its largest element in the same parameter
HELPER = ROOT / "benchmarks" / "seed_exact_caffe.py"
BLAS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
DEFAULT_SOLVER = ROOT / "solvers" / "cifar10-allcnn-c" / "solver.prototxt"


class UserError(Exception):
    """A setting that does not serve; one line."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One comparison: the files it runs and where it keeps what is done."""

    work: Path  # where it keeps what is done
    solver: Path  # solver.prototxt, as both engines read it
    train: SolverParameter  # the same, parsed
    iterations: int
    caffe: bvlc.BvlcCaffe  # the real one

    def caffe_env(self, threads: int) -> dict[str, str]:
        env = self.caffe.environment()
        env.update({name: str(threads) for name in BLAS})
        env.pop("GLOG_minloglevel", None)
        env["GLOG_logtostderr"] = "1"
        return env


# the files
def prepare(options: argparse.Namespace) -> Run:
    """Writes solver and net with the settings into the work folder. Raises UserError, ProtoError."""
    caffe = bvlc.find_caffe(ROOT)
    if caffe is None or caffe.python is None:
        raise UserError("found no BVLC Caffe with Python; expected .caffe (make caffe), or CAFFE_ROOT=build/tree")
    solver = read_solver(options.solver)
    if not solver.HasField("net"):
        raise UserError(f"{options.solver}: found no `net`, expected the path of one prototxt for both phases")
    net = read_net(_below(options.solver, solver.net))
    if options.data is not None:
        use_data(net, options.data.resolve())
    for layer in net.layer:
        if layer.type == "Data":
            if options.batch and _in_train(layer):
                layer.data_param.batch_size = options.batch
            source = Path(layer.data_param.source)
            layer.data_param.source = str(source if source.is_absolute() else ROOT / source)
            if not Path(layer.data_param.source).is_dir():
                raise UserError(f"{layer.data_param.source}: found nothing, expected an LMDB (--data names its folder)")
    solver.random_seed = options.seed
    if options.lr is not None:
        solver.base_lr = options.lr
    solver.max_iter = options.iterations
    solver.display = 1
    solver.average_loss = 1
    solver.snapshot = 0
    solver.snapshot_after_train = False
    solver.solver_mode = SolverParameter.CPU
    solver.test_interval = max(1, options.iterations // 4)
    del solver.test_iter[:]
    solver.test_iter.append(options.test_iters)
    work = options.work.resolve()
    files = (to_text(net), options.iterations, os.environ.get("OPENBLAS_CORETYPE"), engine_digest())
    solver.net, solver.snapshot_prefix = "", ""
    digest = hashlib.sha256(repr((to_text(solver), *files)).encode()).hexdigest()[:12]
    work = work / digest
    work.mkdir(parents=True, exist_ok=True)
    solver.net, solver.snapshot_prefix = str(work / "train_val.prototxt"), str(work / "snapshot")
    (work / "train_val.prototxt").write_text(to_text(net), encoding="utf-8")
    (work / "solver.prototxt").write_text(to_text(solver), encoding="utf-8")
    return Run(
        work=work,
        solver=work / "solver.prototxt",
        train=solver,
        iterations=options.iterations,
        caffe=caffe,
    )


def engine_digest() -> str:
    """Changes with every line of the engine: what another engine found is not kept."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / "allconv_caffe" / "engine").rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def use_data(net: NetParameter, folder: Path) -> None:
    """Points the Data layers of both phases to `folder`/train_lmdb and test_lmdb."""
    for layer in net.layer:
        if layer.type == "Data":
            layer.data_param.source = str(folder / ("train_lmdb" if _in_train(layer) else "test_lmdb"))
            layer.data_param.backend = DataParameter.LMDB


def _in_train(layer: Any) -> bool:
    return any(rule.HasField("phase") and rule.phase == TRAIN for rule in layer.include)


def _below(solver: Path, net: str) -> Path:
    """The net of a solver: as the working directory says, from the project's root, or beside the solver."""
    for path in (Path(net), ROOT / net, solver.parent / net):
        if path.is_file():
            return path
    raise UserError(f"{solver}: net {net}: found no such file")


def our_solver(run: Run, tests: bool) -> Solver:
    """Ours, seed-exact. `tests` False: the test nets are built (they draw) but never run."""
    param = SolverParameter()
    param.CopyFrom(run.train)
    if not tests:
        param.test_interval = run.iterations + 1
        param.test_initialization = False
    context = Context(phase=TRAIN, rng=CaffeGenerator(param.random_seed))
    return create_solver(param, context=context, where=str(run.solver))


# part one: masks
def masks(run: Run) -> dict[str, Any]:
    """Every element of every mask of every iteration."""
    solver = our_solver(run, tests=False)
    net = solver.net
    layers = [i for i, layer in enumerate(net.layers) if layer.type == "Dropout"]
    counts = [net.top_vecs[i][0].count for i in layers]
    result = {"layers": [net.layer_names[i] for i in layers], "elements": 0, "different": 0, "iterations": 0}
    if not layers:
        return result
    command = [*_python(run), "masks", str(run.solver), str(run.iterations)]
    with open(run.work / "masks.log", "wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=run.caffe_env(1))
        assert process.stdout is not None
        try:
            for iteration in range(run.iterations):
                for i, count in zip(layers, counts, strict=True):
                    packed = process.stdout.read((count + 7) // 8)
                    if len(packed) < (count + 7) // 8:
                        raise UserError(f"Caffe ended early: see {run.work / 'masks.log'}")
                    theirs = np.unpackbits(np.frombuffer(packed, np.uint8), count=count).astype(bool)
                    bottom, top = net.bottom_vecs[i][0], net.top_vecs[i][0]
                    bottom.data.fill_(1)
                    net.forward_layer(i)
                    ours = top.data.reshape(-1).numpy() != 0
                    result["elements"] += count
                    result["different"] += int((ours != theirs).sum())
                result["iterations"] = iteration + 1
                _progress("masks", iteration + 1, run.iterations)
        finally:
            process.kill() if process.poll() is None and result["iterations"] < run.iterations else None
            process.wait()
    return result


# part two: one update after the other, each from Caffe's state
def steps(run: Run) -> dict[str, Any]:
    """Initial weights, every batch, what dropout let through, and every update."""
    ours = our_solver(run, tests=False)
    command = [*_python(run), "train", str(run.solver), str(run.work)]
    rows: list[dict[str, Any]] = []
    log_path = run.work / "caffe-1.log"
    with open(log_path, "wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=run.caffe_env(1), text=True
        )
        assert process.stdin is not None and process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def ask(line: str) -> str:
            if line:
                stdin.write(line + "\n")
                stdin.flush()
            answer = stdout.readline().strip()
            if not answer:
                raise UserError(f"Caffe ended early: see {log_path}")
            return answer

        try:
            kernels = ask("").removeprefix("ready").strip()
            initial = compare_initial(run, ours)
            before: Path | None = None
            for iteration in range(run.iterations):
                if before is not None:
                    ours.restore(str(before))
                ours.step(1)
                ask("step")
                after = run.work / f"snapshot_iter_{iteration + 1}.solverstate"
                rows.append({"iteration": iteration, **compare_step(run, ours, after)})
                if before is not None:
                    _remove(before)
                before = after
                _progress("steps", iteration + 1, run.iterations)
            ask("end")
            if before is not None:
                _remove(before)
        finally:
            stdin.close()
            if process.poll() is None and len(rows) < run.iterations:
                process.kill()
            process.wait()
    return {"initial": initial, "kernels": kernels, "rows": rows}


def compare_initial(run: Run, ours: Solver) -> dict[str, int]:
    """Initial weights of the train net and, before they share, of each test net."""
    nets = {"train": ours.net, **{f"test{i}": net for i, net in enumerate(ours.test_nets)}}
    found: dict[str, np.ndarray] = {}
    for word, net in nets.items():
        for layer in net.layers:
            for j, blob in enumerate(layer.blobs):
                found[f"{word} {layer.name}[{j}]"] = blob.data.numpy()
    result = {"values": 0, "different": 0}
    with np.load(run.work / "initial.npz") as real:
        if sorted(real.files) != sorted(found):
            raise UserError(
                f"the parameters of the two engines have other names: {sorted(set(real.files) ^ set(found))}"
            )
        for key in real.files:
            result["values"] += real[key].size
            result["different"] += int((_bits(real[key]) != _bits(found[key])).sum())
    return result


def compare_step(run: Run, ours: Solver, state: Path) -> dict[str, Any]:
    """One iteration of both engines from the same weights and history."""
    row: dict[str, Any] = {"values": 0, "data_different": 0, "mask_contradictions": 0}
    with np.load(run.work / "step.npz") as real:
        for layer, tops, bottoms in zip(ours.net.layers, ours.net.top_vecs, ours.net.bottom_vecs, strict=True):
            if layer.type not in ("Data", "ImageData", "Dropout"):
                continue
            for name, top in zip(layer.param.top, tops, strict=True):
                theirs, mine = real[f"blob {name}"], top.data.numpy()
                exact = layer.type != "Dropout" or _only_data_below(ours, bottoms[0])
                if exact:
                    row["values"] += mine.size
                    row["data_different"] += int((_bits(theirs) != _bits(mine)).sum())
                else:
                    row["mask_contradictions"] += int((theirs.reshape(mine.shape)[layer.mask.numpy() == 0] != 0).sum())
        row.update(compare_relus(ours, {key[5:]: real[key] for key in real.files if key.startswith("relu ")}))
    snapshot = read_binary(str(state), SolverState)
    n = len(ours.net.learnable_params)
    error, worst = 0.0, ""
    weight_error = 0.0
    values, different = 0, 0
    weights = read_binary(snapshot.learned_net, NetParameter)
    by_name = {layer.name: layer for layer in weights.layer}
    for i, blob in enumerate(ours.net.learnable_params):
        layer_id, j = ours.net.param_layer_indices[ours.net.params.index(blob)]
        name = ours.net.layer_names[layer_id]
        theirs, their_weights = (np.array(a.data, np.float32) for a in (snapshot.history[i], by_name[name].blobs[j]))
        mine, our_weights = ours.history[i].data.numpy().reshape(-1), blob.data.numpy().reshape(-1)
        pairs = [(our_weights, their_weights)]
        for k in range(i, len(ours.history), n):
            pairs.append((ours.history[k].data.numpy(), np.array(snapshot.history[k].data, np.float32)))
        values += sum(one.size for one, _ in pairs)
        different += sum(int((_bits(one) != _bits(two)).sum()) for one, two in pairs)
        departure = _departure(mine, theirs)
        if departure > error:
            error, worst = departure, f"{name}[{j}]"
        weight_error = max(weight_error, _departure(our_weights, their_weights))
    if len(ours.history) != len(snapshot.history) or n == 0:
        raise UserError(f"{state}: found {len(snapshot.history)} histories, expected {len(ours.history)}")
    row.update(update_error=error, update_worst=worst, weight_error=weight_error)
    row.update(update_values=values, update_different=different)
    return row


def compare_relus(ours: Solver, real: dict[str, np.ndarray]) -> dict[str, Any]:
    """How many inputs of ReLUs were above zero in one engine alone, and how far at most, relative to the blob's largest.

    Sums in another order differ in their last bits, so an input within them of zero passes here and not there; its whole
    gradient is then in one update alone.
    """
    flips, farthest = 0, 0.0
    for name, bits in real.items():
        mine = ours.net.blobs[name].data.numpy().reshape(-1)
        different = (mine > 0) != np.unpackbits(bits, count=mine.size).astype(bool)
        flips += int(different.sum())
        if different.any():
            farthest = max(farthest, float(np.abs(mine[different]).max() / np.abs(mine).max()))
    return {"relu_flips": flips, "relu_farthest": farthest}


def _only_data_below(ours: Solver, bottom: Any) -> bool:
    """`bottom` came from a data layer, untouched by arithmetic that rounds."""
    for layer, tops in zip(ours.net.layers, ours.net.top_vecs, strict=True):
        if any(top is bottom for top in tops):
            return layer.type in ("Data", "ImageData")
    return False


def _departure(mine: np.ndarray, theirs: np.ndarray) -> float:
    """Largest difference, relative to the largest element."""
    largest = float(np.abs(theirs).max())
    return float(np.abs(mine - theirs).max()) / largest if largest else float(np.abs(mine).max() > 0)


def _bits(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, np.float32).reshape(-1).view(np.uint32)


def _remove(state: Path) -> None:
    state.unlink()
    state.with_suffix(".caffemodel").unlink()


# part three: alone
def free_ours(run: Run) -> dict[str, Any]:
    """`caffe-torch train -seed_exact`, alone."""
    command = [sys.executable, "-m", "allconv_caffe.caffe_torch", "train", "-solver", str(run.solver), "-seed_exact"]
    path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH", "")) if p)
    return _log_of(command, run.work / "ours.log", {**os.environ, "PYTHONPATH": path})


def free_caffe(run: Run) -> dict[str, Any]:
    """`caffe train` with two BLAS threads."""
    command = [str(run.caffe.binary), "train", "-solver", str(run.solver)]
    return _log_of(command, run.work / "caffe-2.log", run.caffe_env(2))


def _log_of(command: Sequence[str], log_path: Path, env: dict[str, str]) -> dict[str, Any]:
    _say(f"running {' '.join(command[-4:])}")
    with open(log_path, "wb") as log:
        status = subprocess.run(command, stderr=log, stdout=subprocess.DEVNULL, env=env).returncode
    if status:
        raise UserError(f"{command[0]} ended with status {status}: see {log_path}")
    return curves(log_path)


def curves(log_path: Path) -> dict[str, Any]:
    """Losses by iteration, and test outputs by iteration, from a log."""
    log = parse_log(log_path)
    return {
        "train": {str(row.iteration): row.loss for row in log.train},
        "test": {str(row.iteration): row.outputs for row in log.test if row.net == 0},
    }


def _python(run: Run) -> list[str]:
    return [str(run.caffe.python), str(HELPER)]


def _progress(part: str, done: int, total: int) -> None:
    if done == total or done % max(1, total // 20) == 0:
        _say(f"{part}: {done} of {total} iterations")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def kept(run: Run, name: str, part: Callable[[Run], dict[str, Any]]) -> dict[str, Any]:
    """What `part` found, from the work folder where it was done before."""
    path = run.work / f"{name}.json"
    if not path.is_file():
        result = part(run)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(result), encoding="utf-8")
        temporary.replace(path)
    return dict(json.loads(path.read_text(encoding="utf-8")))


# the report
def summary(
    run: Run,
    mask: dict[str, Any],
    step: dict[str, Any],
    ours: dict[str, Any],
    two: dict[str, Any],
    one: dict[str, Any],
    title: str,
) -> dict[str, Any]:
    """The numbers of the table."""
    rows = step["rows"]
    errors = np.array([row["update_error"] for row in rows])
    worst = max(rows, key=lambda row: row["update_error"])
    steady = [row for row in rows if not row["relu_flips"]]
    result: dict[str, Any] = {
        "title": title,
        "iterations": run.iterations,
        "seed": run.train.random_seed,
        "initial_values": step["initial"]["values"],
        "initial_different": step["initial"]["different"],
        "mask_elements": mask["elements"],
        "mask_different": mask["different"],
        "data_values": sum(row["values"] for row in rows),
        "data_different": sum(row["data_different"] for row in rows),
        "mask_contradictions": sum(row["mask_contradictions"] for row in rows),
        "update_error_median": float(np.median(errors)),
        "update_error_worst": float(errors.max()),
        "update_error_worst_at": f"iteration {worst['iteration']}, {worst['update_worst']}",
        "caffe_kernels": step["kernels"],
        "our_order": our_order(),
        "update_values": sum(row["update_values"] for row in rows),
        "update_different": sum(row["update_different"] for row in rows),
        "updates_identical": sum(not row["update_different"] for row in rows),
        "updates_within_tolerance": int((errors <= TOLERANCE).sum()),
        "relu_flips": sum(row["relu_flips"] for row in rows),
        "relu_farthest": max(row["relu_farthest"] for row in rows),
        "iterations_without_flips": len(steady),
        "update_error_without_flips": max((row["update_error"] for row in steady), default=None),
        "weight_error_worst": max(row["weight_error"] for row in rows),
    }
    for key, other in (("ours", ours), ("caffe_two_threads", two)):
        train = np.array([abs(one["train"][i] - other["train"][i]) for i in one["train"] if i in other["train"]])
        test = [
            abs(one["test"][i]["loss"] - other["test"][i]["loss"])
            for i in one["test"]
            if i in other["test"] and "loss" in one["test"][i] and "loss" in other["test"][i]
        ]
        result[key] = {
            "train_loss_largest": float(train.max()),
            "train_loss_median": float(np.median(train)),
            "test_loss_largest": max(test) if test else None,
        }
    result["identical"] = not any(
        result[k] for k in ("initial_different", "mask_different", "data_different", "mask_contradictions")
    )
    return result


def our_order() -> str | None:
    """The kernels of OpenBLAS in whose order this engine sums; None: in PyTorch's order."""
    math = caffe_math.find()
    return None if math is None else math.order.name


def same_order(result: dict[str, Any]) -> bool:
    """Both engines sum in the order of the same kernels."""
    theirs = openblas.CORE_TYPES.get(result["caffe_kernels"].lower())
    return theirs is not None and theirs.name == result["our_order"]


def passed(result: dict[str, Any]) -> bool:
    """What must be identical is, and the updates that both engines can agree on do."""
    error = result["update_error_worst" if same_order(result) else "update_error_without_flips"]
    return bool(result["identical"]) and error is not None and error <= TOLERANCE


def table(r: dict[str, Any]) -> str:
    """The result in Markdown."""

    def test_loss(key: str) -> str:
        value = r[key]["test_loss_largest"]
        return "-" if value is None else f"{value:.2g}"

    at = f" ({r['update_error_worst_at']})" if r["update_error_worst"] else ""
    without = "-" if r["update_error_without_flips"] is None else f"{r['update_error_without_flips']:.2g}"
    lines = [
        f"# Seed-exact: {r['title']}",
        "",
        f"{r['iterations']} iterations, `random_seed: {r['seed']}`, BVLC Caffe 99bd997 on the CPU beside this engine.",
        f"Caffe's OpenBLAS takes its kernels for {r['caffe_kernels'] or 'a processor that it does not name'}; this engine sums "
        f"in {'the order of those for ' + r['our_order'] if r['our_order'] else 'the order of PyTorch'}.",
        "",
        "| with the same seed | compared | different |",
        "| --- | ---: | ---: |",
        f"| initial weights, train and test nets | {r['initial_values']:,} values | {r['initial_different']:,} |",
        f"| dropout masks | {r['mask_elements']:,} elements | {r['mask_different']:,} |",
        f"| batches as they enter the net | {r['data_values']:,} values | {r['data_different']:,} |",
        f"| values that Caffe let through and our mask stops | all, while training | {r['mask_contradictions']:,} |",
        f"| weights and history after our next update from Caffe's | {r['update_values']:,} values "
        f"| {r['update_different']:,} |",
        "",
        "| our next update from Caffe's weights and history | departure, relative to the parameter's largest |",
        "| --- | ---: |",
        f"| iterations without any difference | {r['updates_identical']} of {r['iterations']} |",
        f"| median over the iterations, worst parameter | {r['update_error_median']:.2g} |",
        f"| largest{at} | {r['update_error_worst']:.2g} |",
        f"| iterations within {TOLERANCE:g} | {r['updates_within_tolerance']} of {r['iterations']} |",
        f"| iterations in which every ReLU passed the same inputs | {r['iterations_without_flips']} of {r['iterations']} |",
        f"| largest departure in those | {without} |",
        f"| inputs of ReLUs above zero in one engine alone, all iterations | {r['relu_flips']} |",
        f"| the farthest of them from zero here, relative to its blob's largest value | {r['relu_farthest']:.2g} |",
        f"| largest departure of a weight after the update | {r['weight_error_worst']:.2g} |",
        "",
        "| running free, beside Caffe with one BLAS thread | this engine | Caffe, two BLAS threads |",
        "| --- | ---: | ---: |",
        f"| training loss, median departure | {r['ours']['train_loss_median']:.2g} "
        f"| {r['caffe_two_threads']['train_loss_median']:.2g} |",
        f"| training loss, largest departure | {r['ours']['train_loss_largest']:.2g} "
        f"| {r['caffe_two_threads']['train_loss_largest']:.2g} |",
        f"| test loss, largest departure | {test_loss('ours')} | {test_loss('caffe_two_threads')} |",
    ]
    return "\n".join(lines) + "\n"


def write_csv(out: Path, step: dict[str, Any], one: dict[str, Any], two: dict[str, Any], ours: dict[str, Any]) -> None:
    with open(out / "iterations.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            [
                "iteration",
                "loss_caffe_1_thread",
                "loss_caffe_2_threads",
                "loss_ours",
                "update_error",
                "update_worst",
                "update_different",
                "relu_flips",
            ]
        )
        for row in step["rows"]:
            i = str(row["iteration"])
            losses = [run["train"].get(i, "") for run in (one, two, ours)]
            writer.writerow(
                [
                    i,
                    *losses,
                    f"{row['update_error']:.3g}",
                    row["update_worst"],
                    row["update_different"],
                    row["relu_flips"],
                ]
            )
    with open(out / "tests.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["iteration", "output", "caffe_1_thread", "caffe_2_threads", "ours"])
        for i, outputs in one["test"].items():
            for name, value in outputs.items():
                writer.writerow([i, name, value, *(run["test"].get(i, {}).get(name, "") for run in (two, ours))])


def draw(path: Path, title: str, one: dict[str, Any], two: dict[str, Any], ours: dict[str, Any]) -> None:
    """Left: the three curves, one over the other. Right: how far each departs from Caffe with one thread."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for run, label, style in (
        (one, "Caffe, one BLAS thread", "k-"),
        (two, "Caffe, two BLAS threads", "C0--"),
        (ours, "this engine, seed-exact", "C1:"),
    ):
        left.plot([int(i) for i in run["train"]], list(run["train"].values()), style, label=label, linewidth=1.4)
        if run is not one:
            pairs = [(int(i), abs(run["train"][i] - v)) for i, v in one["train"].items() if i in run["train"]]
            right.plot([i for i, _ in pairs], [max(d, 1e-7) for _, d in pairs], style, label=label, linewidth=1.2)
    left.set(title=title, xlabel="iteration", ylabel="training loss")
    right.set(
        title="departure from Caffe, one thread",
        xlabel="iteration",
        ylabel="|difference|; 1e-7 stands for none",
        yscale="log",
    )
    left.legend()
    right.legend()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--solver", type=Path, default=DEFAULT_SOLVER, help="default: All-CNN-C on CIFAR-10")
    parser.add_argument("--data", type=Path, help="folder with train_lmdb and test_lmdb; default: what the net says")
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--batch", type=int, default=0, help="training images of one iteration; default: the net's")
    parser.add_argument("--lr", type=float, help="base_lr; default: the solver's")
    parser.add_argument("--test-iters", type=int, default=5, help="test batches, four times in the run (default 5)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--title", default="All-CNN-C")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "seed-exact", help="what is done stays here")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "seed-exact")
    options = parser.parse_args(argv)
    if options.iterations < 1 or options.batch < 0 or options.test_iters < 1 or options.seed < 0:
        print(
            "seed_exact.py: expected --iterations, --test-iters of at least 1, --batch, --seed of at least 0",
            file=sys.stderr,
        )
        return 1
    glog.init("seed_exact", 2, None, True)
    try:
        run = prepare(options)
        mask = kept(run, "masks", masks)
        step = kept(run, "steps", steps)
        one = curves(run.work / "caffe-1.log")
        ours = kept(run, "ours", free_ours)
        two = kept(run, "caffe-2", free_caffe)
    except (UserError, ProtoError, CaffeError, bvlc.BvlcError) as error:
        print(f"seed_exact.py: {error}", file=sys.stderr)
        return 1
    result = summary(run, mask, step, ours, two, one, options.title)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "numbers.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (options.out / "table.md").write_text(table(result), encoding="utf-8")
    write_csv(options.out, step, one, two, ours)
    draw(options.out / "curves.png", options.title, one, two, ours)
    print(table(result), end="")
    return 0 if passed(result) else 1


if __name__ == "__main__":
    sys.exit(main())

"""A stand-in for the ``caffe`` binary: trains nothing, but writes a log and snapshots that look like Caffe's.

Called as ``caffe_stand_in.py HOME VERB FLAGS...``. HOME/behaviour is a JSON object: ``sleep`` seconds an iteration,
``deaf`` to signals, ``gpu``, ``time_ms`` (forward, forward and backward); and by seed an object
with ``dead_from``, ``nan_from``, ``crash_at`` (once), ``no_last_test``.
Each call is a line of HOME/calls.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from allconv_caffe import proto


def log(text: str, level: str = "I", place: str = "solver.cpp:239") -> None:
    """A line in glog's form."""
    now = time.time()
    stamp = time.strftime("%m%d %H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1e6):06d}"
    sys.stderr.write(f"{level}{stamp}  4242 {place}] {text}\n")
    sys.stderr.flush()


def test() -> None:
    """``caffe test``: 87.5 % right."""
    log("Batch 0, accuracy = 0.5")
    log("Batch 0, loss = 9")
    log("Loss: 0.7")
    log("accuracy = 0.875")
    log("loss = 0.7 (* 1 = 0.7 loss)")


def time_(milliseconds: list[float] | None) -> None:
    """``caffe time``: as long as it is told to say."""
    if milliseconds is None:
        log("Check failed: out of memory", "F", "syncedmem.cpp:71")
        os.abort()
    log(f"Average Forward pass: {milliseconds[0]:g} ms.", place="caffe.cpp:408")
    log(f"Average Backward pass: {milliseconds[1] - milliseconds[0]:g} ms.", place="caffe.cpp:410")
    log(f"Average Forward-Backward: {milliseconds[1]:g} ms.", place="caffe.cpp:412")


class Training:
    """``caffe train``: the loss falls from 2.3 as 1 / (1 + iteration / 5), the accuracy rises to 0.9."""

    def __init__(self, home: Path, flags: dict[str, str], behaviour: dict[str, Any]) -> None:
        self.home, self.flags, self.behaviour = home, flags, behaviour
        self.solver = proto.read_solver(flags["-solver"])
        self.net = proto.read_net(self.solver.net)
        self.mine = behaviour.get(str(self.solver.random_seed), {})
        self.stopped = False
        signal.signal(signal.SIGINT, signal.SIG_IGN if behaviour.get("deaf") else self._stop)

    def _stop(self, *_: object) -> None:
        self.stopped = True

    def snapshot(self, iteration: int) -> None:
        name = f"{self.solver.snapshot_prefix}_iter_{iteration}"
        model = proto.NetParameter(name=self.net.name)
        layer = model.layer.add(name="conv1", type="Convolution")
        for shape in ([2, 3], [2]):
            blob = layer.blobs.add()
            blob.shape.dim.extend(shape)
            blob.data.extend([0.5] * math.prod(shape))
        state = proto.SolverState(iter=iteration, learned_net=name + ".caffemodel", current_step=0)
        state.history.extend(layer.blobs)
        log(f"Snapshotting to binary proto file {name}.caffemodel")
        proto.write_binary(name + ".caffemodel", model)
        log(f"Snapshotting solver state to binary proto file {name}.solverstate")
        proto.write_binary(name + ".solverstate", state)

    def loss_at(self, iteration: int) -> float:
        if (nan_from := self.mine.get("nan_from")) is not None and iteration >= nan_from:
            return -math.nan
        if (dead_from := self.mine.get("dead_from")) is not None and iteration >= dead_from:
            return 2.302585
        return 2.3 / (1 + iteration / 5)

    def test(self, iteration: int) -> None:
        if not self.solver.test_interval or iteration % self.solver.test_interval:
            return
        loss = self.loss_at(iteration)
        log(f"Iteration {iteration}, Testing net (#0)")
        accuracy = 1.0 if loss != loss else 0.1 if abs(loss - 2.302585) < 1e-4 else min(0.9, 0.1 + iteration / 50)
        log(f"    Test net output #0: accuracy = {accuracy:g}")
        log(f"    Test net output #1: loss = {loss:g} (* 1 = {loss:g} loss)")

    def display(self, iteration: int) -> None:
        loss = self.loss_at(iteration)
        log(f"Iteration {iteration} (5 iter/s, 1s/1 iters), loss = {loss:g}")
        log(f"    Train net output #0: loss = {loss:g} (* 1 = {loss:g} loss)")
        log(f"Iteration {iteration}, lr = 0.05", place="sgd_solver.cpp:112")

    def crash_once(self) -> None:
        if (self.home / "crashed").exists():
            return
        (self.home / "crashed").touch()
        log("Check failed: error == cudaSuccess (2 vs. 0)  out of memory", "F", "syncedmem.cpp:71")
        os.abort()

    def solve(self) -> None:
        solver = self.solver
        log("Solving x")
        iteration = 0
        if "-snapshot" in self.flags:
            log(f"Resuming from {self.flags['-snapshot']}")
            iteration = proto.read_binary(self.flags["-snapshot"], proto.SolverState).iter
        while iteration < solver.max_iter:
            self.test(iteration)
            if iteration % solver.display == 0:
                self.display(iteration)
            time.sleep(self.behaviour.get("sleep", 0.001))
            if self.mine.get("crash_at") == iteration:
                self.crash_once()
            iteration += 1
            if self.stopped:
                self.snapshot(iteration)
                log("Optimization stopped early.")
                log("Optimization Done.", place="caffe.cpp:250")
                return
            if solver.snapshot and iteration % solver.snapshot == 0 and iteration < solver.max_iter:
                self.snapshot(iteration)
        self.snapshot(iteration)
        log(f"Iteration {iteration}, loss = {self.loss_at(iteration):g}")
        if not self.mine.get("no_last_test"):
            self.test(iteration)
        log("Optimization Done.")
        log("Optimization Done.", place="caffe.cpp:250")


def main(home: Path, words: list[str]) -> None:
    with open(home / "calls", "a") as calls:
        calls.write(json.dumps(words) + "\n")
    behaviour = json.loads((home / "behaviour").read_text())
    if words[0] == "test":
        test()
    elif words[0] == "time":
        time_(behaviour.get("time_ms"))
    else:
        Training(home, dict(zip(words[1::2], words[2::2], strict=False)), behaviour).solve()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])

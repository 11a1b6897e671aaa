"""OpenMP: waiting threads sleep, whichever way the engine is entered, and a forked child does without them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

#: Runs a program and notes what OpenMP's settings are at the moment when PyTorch begins to load.
WATCH = """
import importlib.abc, os, sys
class Watch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("torch is loaded under", os.environ.get("OMP_WAIT_POLICY"), os.environ.get("GOMP_SPINCOUNT"), flush=True)
            os._exit(0)
sys.meta_path.insert(0, Watch())
{}
"""
ENTRANCES = [
    "import allconv_caffe.pycaffe",
    "import allconv_caffe.pycaffe.net",
    "import allconv_caffe.caffe_torch.net",
    "import allconv_caffe.visualize.figures, allconv_caffe.visualize.nets.native",
    "import runpy; sys.argv = ['caffe', 'device_query']; runpy.run_module('allconv_caffe.caffe_torch', run_name='__main__')",
]


def _loaded_under(entrance: str, **settings: str) -> list[str]:
    environment = {
        k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
    }
    out = subprocess.run(
        [sys.executable, "-c", WATCH.format(entrance)], env=environment | settings, capture_output=True, text=True
    ).stdout
    return [line for line in out.splitlines() if line.startswith("torch is loaded")]


@pytest.mark.parametrize("entrance", ENTRANCES)
def test_waiting_threads_sleep(entrance: str) -> None:
    """Each way into the engine sets the policy before PyTorch reads it."""
    assert _loaded_under(entrance) == ["torch is loaded under PASSIVE None"]


def test_the_users_setting_stands() -> None:
    """A policy or a spin count that is set already is left alone."""
    entrance = ENTRANCES[0]
    assert _loaded_under(entrance, OMP_WAIT_POLICY="ACTIVE") == ["torch is loaded under ACTIVE None"]
    assert _loaded_under(entrance, GOMP_SPINCOUNT="1000") == ["torch is loaded under None 1000"]


#: Runs a net on two threads, forks, and lets the child run it and step a solver; an alarm ends a child that waits for ever.
FORK = """
import os, signal, sys
import allconv_caffe.pycaffe as caffe, torch
torch.set_num_threads(2)
net = caffe.Net("net.prototxt", caffe.TRAIN)
net.blobs["data"].data[...] = 1
loss = net.forward()["sum"].copy()
net.backward()
pid = os.fork()
if pid == 0:
    signal.alarm(60)
    assert (net.forward()["sum"] == loss).all()
    net.backward()
    os._exit(7)
print("child:", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), "parent:", (net.forward()["sum"] == loss).all())
"""
NET = """
force_backward: true
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 32 dim: 3 dim: 32 dim: 32 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 32 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "sum" type: "Reduction" bottom: "pool" top: "sum" reduction_param { axis: 1 } loss_weight: 1 }
"""


def test_a_forked_child_answers(tmp_path: Path) -> None:
    """After a forward pass on two threads a child of fork runs the same net, as real Caffe's does."""
    (tmp_path / "net.prototxt").write_text(NET)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", FORK], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["child: 7 parent: True"], done.stderr[-2000:]

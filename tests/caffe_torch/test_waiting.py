"""OpenMP's waiting threads sleep: set before PyTorch is loaded, whichever way the engine is entered."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

#: Runs a program and notes what OpenMP's settings are at the moment when PyTorch begins to load.
WATCH = """
import importlib.abc, os, sys
class Watch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("torch is loaded under", os.environ.get("OMP_WAIT_POLICY"), os.environ.get("GOMP_SPINCOUNT"))
            sys.meta_path.remove(self)
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

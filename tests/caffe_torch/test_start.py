"""What a start waits for: nothing that it has no use for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("cv2", "h5py", "torch._dynamo", "torch._inductor", "matplotlib", "scipy")
TRAIN = """
from allconv_caffe.caffe_torch.__main__ import main
assert main(["train", "-solver", "solver.prototxt"]) == 0
"""
SOLVER = """
net_param {
  layer { name: "x" type: "DummyData" top: "x" dummy_data_param { shape { dim: 4 dim: 3 } } }
  layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip" inner_product_param { num_output: 2 } }
  layer { name: "loss" type: "Reduction" bottom: "ip" top: "loss" loss_weight: 1 }
}
base_lr: 0.1 lr_policy: "fixed" max_iter: 3 snapshot_prefix: "s"
"""


@pytest.mark.parametrize("code", ["import allconv_caffe.pycaffe", TRAIN], ids=["pycaffe", "train"])
def test_a_start_loads_no_package_that_it_does_not_use(code: str, tmp_path: Path) -> None:
    """Images, HDF5 files and compilers are loaded where there is one: the drop-in, and a short training, need PyTorch alone."""
    (tmp_path / "solver.prototxt").write_text(SOLVER)
    code += f"\nimport sys\nprint([name for name in {HEAVY} if name in sys.modules])"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr[-2000:]

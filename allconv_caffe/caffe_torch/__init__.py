"""Caffe on PyTorch: the same prototxt, blobs, layers, nets and solvers, with explicit forward and backward.

Whatever imports PyTorch here imports this package first: OpenMP reads its settings once, when PyTorch is loaded.
"""

import os
import sys

# Idle OpenMP threads sleep. By default they spin, and where another process has taken their core the working one waits
# for the scheduler at the end of each parallel loop; what the user has set stands.
if not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"}:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def _work_alone() -> None:
    """OpenMP's threads do not come along into a forked child, which would wait for them for ever."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


os.register_at_fork(after_in_child=_work_alone)

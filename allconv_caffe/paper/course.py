"""Where a training should stand on its way: check-points of a training that ended where it should.

Source: the log of the one public Caffe training of All-CNN-C that kept one (M. Buda, ALL-CNN, 2016; 358 epochs of CIFAR-10 without
augmentation, batch 256, base_lr 0.05, drops after epochs 204.8, 256 and 307.2), which ends at 9.87 %. Its tests: 43.7 % at epoch 10,
16.6 % at 50, 13.8 % at 100 and 13.7 % at 200 with 1.7 points of noise, 11.0 % an epoch after the first drop, 9.8 % after the second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

EXPERIMENT = "cifar10-allcnn-c"
EPOCHS = 350.0
BASE_LR = 0.05
BATCH_SIZE = 256
CONFIRMED = f"batch {BATCH_SIZE} and base_lr {BASE_LR:g} on CIFAR-10's own pixels"
"""For which recipe the check-points are known to hold: of other batches there is no log."""
WITHOUT_EFFECT = frozenset({"display", "test_interval", "test_batch_size", "snapshot"})
"""Options that leave the training as it is."""


@dataclass(frozen=True, kw_only=True)
class CheckPoint:
    """A bound that the tests of some epochs should keep."""

    output: str  # of the test: loss, or error in percent
    epochs: tuple[float, float]  # first and last; after a drop, from there
    below: float
    above: float = 0.0
    drop: int = 0  # 1: after the first drop of the rate; 0: after the start
    which: str = "first"  # test of those epochs that counts: first, lowest, or the mean of all


ALL_CNN_C: tuple[CheckPoint, ...] = (
    CheckPoint(output="loss", epochs=(1, 2.5), below=2.30),
    CheckPoint(output="error", epochs=(10, 11.5), below=55),
    CheckPoint(output="error", epochs=(50, 51.5), below=19),
    CheckPoint(output="error", epochs=(100, 200), above=12.5, below=16, which="mean"),
    CheckPoint(output="error", epochs=(0, 2.5), drop=1, below=11.5, which="lowest"),
    CheckPoint(output="error", epochs=(0, 2.5), drop=2, below=10.3, which="lowest"),
)
"""The mean from epoch 100 to 200, for single tests there lie 1.7 points about it; within two epochs of a drop the lowest."""


def check_points(experiment: str, epochs: float, lr: float, options: Mapping[str, Any]) -> tuple[CheckPoint, ...]:
    """Those that hold for a training on CIFAR-10 as the recipe prepares it; none where nothing is known.

    A shorter schedule drops its rate before the plateau that these describe is reached; other nets have no log.
    """
    known = (experiment, epochs, lr) == (EXPERIMENT, EPOCHS, BASE_LR) and options.keys() <= WITHOUT_EFFECT
    return ALL_CNN_C if known else ()

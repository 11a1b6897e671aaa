"""Layers of `type: "Python"`, by the names that stand in prototxt: they run unchanged in any pycaffe, and in our engine.

    python_param { module: "allconv_caffe.python_layers" layer: "GuidedReLU" }

GuidedReLU, DeconvReLU: ReLU with the paper's backward rules, see `relu`. AugmentedData: Large-All-CNN's images, see
`augmented_data`; our engine has a form of its own for it.
"""

from __future__ import annotations

from allconv_caffe.python_layers.augmented_data import AugmentedData
from allconv_caffe.python_layers.relu import DeconvReLU, GuidedReLU

__all__ = ["AugmentedData", "DeconvReLU", "GuidedReLU"]

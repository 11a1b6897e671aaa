"""ReLU with the paper's two backward rules, as ``type: "Python"`` layers: the forward is ReLU's own.

    layer { name: "relu1" type: "Python" bottom: "conv1" top: "conv1"
            python_param { module: "allconv_caffe.python_layers" layer: "GuidedReLU" } }

With g the gradient at the top and f the bottom's data (figure 1c of the paper):

    rule        backward                 layer
    backprop    g * (f > 0)              ReLU
    deconvnet   max(g, 0)                DeconvReLU
    guided      max(g, 0) * (f > 0)      GuidedReLU

They run unchanged in stock pycaffe (Python 3.9, numpy 1.19 is the oldest tried) and in our engine, in place or not.
In place, f has become max(f, 0) by then, and f > 0 is still the same. The net needs ``force_backward: true``.

Source: relu_layer.cpp. Paper: section 4, figure 1.
"""

from __future__ import annotations

import json
from typing import Any

import caffe
import numpy as np


class _RuleReLU(caffe.Layer):
    """bottom[0], top[0]: any one shape, may be one blob. `rule` may be set anew between two backward passes."""

    rule = "backprop"

    def setup(self, bottom: Any, top: Any) -> None:
        kind = type(self).__name__
        if len(bottom) != 1 or len(top) != 1:
            raise ValueError(f"{kind}: found {len(bottom)} bottoms and {len(top)} tops, expected one of each")
        text = getattr(self, "param_str", "") or "{}"
        try:
            settings = json.loads(text)
        except ValueError:
            settings = None
        if not isinstance(settings, dict) or set(settings) - {"negative_slope"}:
            raise ValueError(f"{kind}: found param_str {text!r}, expected none, or JSON with negative_slope 0")
        if settings.get("negative_slope", 0) != 0:
            raise ValueError(
                f"{kind}: found negative_slope {settings['negative_slope']}, expected 0: the rule has no other meaning"
            )

    def reshape(self, bottom: Any, top: Any) -> None:
        top[0].reshape(*bottom[0].data.shape)

    def forward(self, bottom: Any, top: Any) -> None:
        top[0].data[...] = np.maximum(bottom[0].data, 0)

    def backward(self, top: Any, propagate_down: Any, bottom: Any) -> None:
        if not propagate_down[0]:
            return
        g = top[0].diff
        if self.rule != "backprop":
            g = np.maximum(g, 0)
        if self.rule != "deconvnet":
            g = g * (bottom[0].data > 0)
        bottom[0].diff[...] = g


class GuidedReLU(_RuleReLU):
    """top = max(bottom, 0); bottom.diff = max(top.diff, 0) * (bottom > 0)."""

    rule = "guided"


class DeconvReLU(_RuleReLU):
    """top = max(bottom, 0); bottom.diff = max(top.diff, 0), whatever the bottom was."""

    rule = "deconvnet"

"""By what a loss is divided. Source: softmax_loss_layer.cpp, sigmoid_cross_entropy_loss_layer.cpp (get_normalizer)."""

from __future__ import annotations

from typing import Any

import torch

from allconv_caffe.proto import LossParameter


def loss_normalization(param: Any, default: int | None = None) -> int:
    """The mode a LossParameter asks for.

    The legacy `normalize` (true: VALID, false: BATCH_SIZE) counts only where `normalization` is unset. `default` is the
    mode when both are unset; None: the schema's (VALID).
    """
    if param.HasField("normalization"):
        return int(param.normalization)
    if param.HasField("normalize"):
        return LossParameter.VALID if param.normalize else LossParameter.BATCH_SIZE
    return int(param.normalization) if default is None else default


def fixed_normalizer(mode: int, outer_num: int, inner_num: int, ignores: bool) -> float:
    """`normalizer` where no label has to be looked at for it; else 0. `ignores`: some labels may not count."""
    if mode == LossParameter.VALID and ignores:
        return 0.0
    counts = {LossParameter.BATCH_SIZE: outer_num, LossParameter.NONE: 1}
    return float(max(1, counts.get(mode, outer_num * inner_num)))


def normalizer(mode: int, outer_num: int, inner_num: int, ignored: torch.Tensor | None) -> torch.Tensor | float:
    """max(1, n), n as `mode` counts. `ignored` marks the labels that do not count (None: all count)."""
    fixed = fixed_normalizer(mode, outer_num, inner_num, ignored is not None)
    return fixed if fixed or ignored is None else (~ignored).sum().to(torch.float32).clamp(min=1)

"""What tests of both executors share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiled executor runs what it has captured as it is, without a compiler."""

    def as_it_is(graph: Callable[..., Any], **_: Any) -> Callable[..., Any]:
        return graph

    monkeypatch.setattr("allconv_caffe.caffe_torch.executor.compiled.compiler", lambda: "none is called")
    monkeypatch.setattr("allconv_caffe.caffe_torch.executor.builder.get", lambda *_: None)
    monkeypatch.setattr(torch, "compile", as_it_is)

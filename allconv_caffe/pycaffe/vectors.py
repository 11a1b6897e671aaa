"""The other vectors of pycaffe's compiled module, for scripts that make one. Source: _caffe.cpp."""

from __future__ import annotations

from allconv_caffe.caffe_torch.pyblob import PyLayer, Vec
from allconv_caffe.pycaffe.net import Net


class IntVec(Vec[int]):
    _kind = int


class StringVec(Vec[str]):
    _kind = str


class DtypeVec(Vec[float]):
    _kind = float


class BoolVec(Vec[bool]):
    _kind = bool


class LayerVec(Vec[PyLayer]):
    _kind = PyLayer


class NetVec(Vec[Net]):
    _kind = Net


__all__ = ["BoolVec", "DtypeVec", "IntVec", "LayerVec", "NetVec", "StringVec"]

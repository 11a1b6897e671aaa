"""From a CIFAR archive or a tree of images to Caffe LMDBs: archive -> GCN -> ZCA -> LMDB of Datum."""

from data_prep.errors import PrepError

__all__ = ["PrepError"]

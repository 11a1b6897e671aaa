"""As in pycaffe: holds `caffe_pb2`."""

from allconv_caffe.pycaffe.proto import caffe_pb2

__all__ = ["caffe_pb2"]

"""Python: a layer written by the user."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from types import TracebackType

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.import_caffe import provide_caffe
from allconv_caffe.caffe_torch.layer import Layer, register
from allconv_caffe.caffe_torch.pyblob import PyBlob, PyLayer, PythonLayerError


@register("Python")
class PythonLayer(Layer):
    """Runs the class `layer` of the module `module`: its setup, reshape, forward, backward; numpy in, numpy out.

    bottom, top: any number, as the class takes them. The module is found as Python finds modules (sys.path, PYTHONPATH);
    in it ``import caffe`` gives the drop-in (see import_caffe), unless a module of that name is loaded already. The object
    has `param_str` and `phase` before setup; reshape runs before every forward. `share_in_parallel` means nothing on one
    device.
    Source: python_layer.hpp, layer_factory.cpp.
    """

    traceable = False

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        param = self.param.python_param
        self.self_: PyLayer = load(self)
        self.self_.param_str = param.param_str
        self.self_.phase = self.phase
        self.call("setup", faces(bottom), faces(top))

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.call("reshape", faces(bottom), faces(top))

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.call("forward", faces(bottom), faces(top))

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        self.call("backward", faces(top), list(propagate_down), faces(bottom))

    def call(self, method: str, *args: list[PyBlob] | list[bool]) -> None:
        """Calls a method of the user's object. Raises PythonLayerError where that raises, or is not there."""
        if getattr(type(self.self_), method, None) in (None, getattr(PyLayer, method, None)):
            param = self.param.python_param
            sentence = f"'{param.layer}' object has no attribute '{method}'"
            raise PythonLayerError(
                f"{param.module}.{param.layer}: class {param.layer} lacks the method {method}", AttributeError(sentence)
            )
        try:
            getattr(self.self_, method)(*args)
        except Exception as error:
            param = self.param.python_param
            raise wrap(error, f"{param.module}.{param.layer}.{method}: {describe(error)}") from None


def faces(blobs: Sequence[Blob]) -> list[PyBlob]:
    return [PyBlob(blob) for blob in blobs]


def load(layer: Layer) -> PyLayer:
    """The user's object for `layer`. Raises PythonLayerError where module or class is missing, or is no caffe.Layer."""
    param = layer.param.python_param
    provide_caffe()
    try:
        module = importlib.import_module(param.module)
        cls = getattr(module, param.layer)
        if not (isinstance(cls, type) and issubclass(cls, PyLayer)):
            raise TypeError(
                f"{param.module}.{param.layer} is not a subclass of caffe.Layer as allconv_caffe.pycaffe has it"
            )
        return cls.bind(layer)
    except Exception as error:
        raise wrap(
            error,
            f"python_param {{ module: '{param.module}' layer: '{param.layer}' }}: {describe(error)}",
            loading=True,
        ) from None


def describe(error: BaseException) -> str:
    said = f"{type(error).__name__}: {error}"
    if isinstance(error, ModuleNotFoundError) and error.name == "caffe":
        said += " (import allconv_caffe.pycaffe before the net is built: it answers to that name)"
    return said


def wrap(error: Exception, message: str, loading: bool = False) -> PythonLayerError:
    """The error as Caffe's, its traceback beginning in the user's code where that was reached."""
    frames = error.__traceback__
    first: TracebackType | None = frames
    while first is not None and (
        first.tb_frame.f_globals.get("__name__") == __name__ or "importlib" in first.tb_frame.f_code.co_filename
    ):
        first = first.tb_next
    return PythonLayerError(message, error.with_traceback(first or frames), loading)

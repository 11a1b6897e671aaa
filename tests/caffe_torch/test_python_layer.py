"""type: "Python": pycaffe's user layers on our engine, and the faces they see."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import allconv_caffe.pycaffe  # answers to `import caffe` in the users' module
from allconv_caffe.caffe_torch.__main__ import main as caffe_torch
from allconv_caffe.caffe_torch.blob import Blob, Memory
from allconv_caffe.caffe_torch.errors import CaffeError
from allconv_caffe.caffe_torch.layer import Context
from allconv_caffe.caffe_torch.net import Net
from allconv_caffe.caffe_torch.pyblob import PyBlob, PythonLayerError
from allconv_caffe.proto import TEST, TRAIN, NetParameter, parse_text

MODULE = '''
import caffe


class Scaled(caffe.Layer):
    """top = k * bottom + w, w a parameter of one value; counts how often reshape ran."""

    def setup(self, bottom, top):
        self.k = float(self.param_str)
        self.reshapes = 0
        self.blobs.add_blob(1)
        self.blobs[0].data[0] = 10

    def reshape(self, bottom, top):
        self.reshapes += 1
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        top[0].data[...] = self.k * bottom[0].data + self.blobs[0].data[0]

    def backward(self, top, propagate_down, bottom):
        self.blobs[0].diff[0] += top[0].diff.sum()
        if propagate_down[0]:
            bottom[0].diff[...] = self.k * top[0].diff


class Phase(caffe.Layer):
    def setup(self, bottom, top):
        pass

    def reshape(self, bottom, top):
        top[0].reshape(1)

    def forward(self, bottom, top):
        top[0].data[0] = self.phase


class Empty(caffe.Layer):
    pass


class OnlySetup(caffe.Layer):
    def setup(self, bottom, top):
        pass


class Failing(Scaled):
    def forward(self, bottom, top):
        raise RuntimeError("out of coffee")


not_a_layer = 3
'''
NET = """force_backward: true
layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ dim: 2 dim: 3 }} }} }}
layer {{ name: "user" type: "Python" bottom: "x" top: "y"
  python_param {{ module: "{module}" layer: "{layer}" param_str: "{text}" }} }}
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module on sys.path that holds MODULE."""
    (tmp_path / "layers_of_a_user.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "layers_of_a_user"
    sys.modules.pop("layers_of_a_user", None)


def build(module: str, layer: str, text: str = "2", phase: int = TRAIN) -> Net:
    param = parse_text(NET.format(module=module, layer=layer, text=text), NetParameter)
    return Net(param, Context(phase=phase), where="net.prototxt")


def test_a_user_layer_computes_forward_and_backward(module: str) -> None:
    """y = 2 x + 10; dx = 2 dy; the gradient of its parameter, the sum of dy, adds up."""
    net = build(module, "Scaled")
    net.blobs["x"].data = torch.tensor([[1.0, 2, 3], [4, 5, 6]])
    net.forward()
    assert net.blobs["y"].data.tolist() == [[12, 14, 16], [18, 20, 22]]
    net.blobs["y"].diff = torch.ones(2, 3)
    net.backward()
    net.backward()
    assert net.blobs["x"].diff.tolist() == [[2, 2, 2], [2, 2, 2]]
    assert net.params[0].diff.tolist() == [12]


def test_reshape_runs_at_set_up_and_before_every_forward(module: str) -> None:
    """Once when the net is built, then once for each forward; the top follows the bottom's shape."""
    net = build(module, "Scaled")
    net.blobs["x"].reshape(4, 1)
    net.forward()
    net.forward()
    assert net.layers[1].self_.reshapes == 3  # type: ignore[attr-defined]
    assert net.blobs["y"].shape == (4, 1)


@pytest.mark.parametrize("phase", [TRAIN, TEST])
def test_a_user_layer_knows_its_phase(module: str, phase: int) -> None:
    """self.phase is 0 in TRAIN and 1 in TEST."""
    net = build(module, "Phase", phase=phase)
    net.forward()
    assert net.blobs["y"].data.tolist() == [phase]


def test_what_a_user_layer_raises_is_kept_with_the_users_traceback(module: str) -> None:
    """The message names file, layer, class and method; the traceback begins in the user's code."""
    with pytest.raises(PythonLayerError) as caught:
        build(module, "Scaled", text="two")
    error = caught.value
    assert str(error) == (
        "net.prototxt: layer 'user': layers_of_a_user.Scaled.setup: ValueError: could not convert string to float: 'two'"
    )
    assert isinstance(error.original, ValueError) and not error.loading
    lines = error.details.splitlines()
    assert (
        lines[0] == "Traceback (most recent call last):" and "layers_of_a_user.py" in lines[1] and "setup" in lines[1]
    )


def test_an_error_in_forward_names_the_layer(module: str) -> None:
    """Errors after set-up come out the same way."""
    net = build(module, "Failing")
    with pytest.raises(
        PythonLayerError, match=r"layer 'user': layers_of_a_user.Failing.forward: RuntimeError: out of coffee"
    ):
        net.forward()


def test_a_missing_module_class_or_a_wrong_one_is_refused(module: str) -> None:
    """Each message says what was asked for and what is wrong with it."""
    for name, layer, reason in (
        ("no_such_module", "L", "ModuleNotFoundError: No module named 'no_such_module'"),
        (module, "Missing", "AttributeError: module 'layers_of_a_user' has no attribute 'Missing'"),
        (module, "not_a_layer", "TypeError: layers_of_a_user.not_a_layer is not a subclass of caffe.Layer"),
    ):
        with pytest.raises(PythonLayerError) as caught:
            build(name, layer)
        assert caught.value.loading
        place = f"net.prototxt: layer 'user': python_param {{ module: '{name}' layer: '{layer}' }}: {reason}"
        assert str(caught.value).startswith(place)


def test_the_command_line_shows_the_users_traceback_then_one_line(
    module: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """`caffe-torch time` on a failing user layer: the traceback, an F line, status 1."""
    path = tmp_path / "net.prototxt"
    path.write_text(NET.format(module=module, layer="Failing", text="1"))
    assert caffe_torch(["time", "-model", str(path), "-iterations", "1"]) == 1
    shown = capfd.readouterr().err
    before, _, last = shown.partition("RuntimeError: out of coffee\n")
    assert "Traceback (most recent call last):" in before and 'raise RuntimeError("out of coffee")' in before
    assert last.startswith("F") and "layers_of_a_user.Failing.forward: RuntimeError: out of coffee" in last


def test_the_command_imports_the_drop_in_for_a_net_with_a_python_layer_alone(module: str, tmp_path: Path) -> None:
    """Nobody answers to `import caffe` by himself: an error says who does. The command sees to it, when it is asked for."""
    (tmp_path / "user.prototxt").write_text(NET.format(module=module, layer="Scaled", text="1"))
    (tmp_path / "plain.prototxt").write_text(NET.split("\n")[1].format())
    script = """if True:
        import sys
        from allconv_caffe.caffe_torch.__main__ import main
        from allconv_caffe.caffe_torch.layer import Context
        from allconv_caffe.caffe_torch.net import load_net
        sys.modules["caffe"] = None  # no real one, either
        try:
            load_net("user.prototxt", Context())
        except Exception as error:
            assert "import allconv_caffe.pycaffe before the net is built" in str(error), error
        del sys.modules["caffe"]
        assert main(["time", "-model", "plain.prototxt", "-iterations", "1"]) == 0
        assert "allconv_caffe.pycaffe" not in sys.modules
        assert main(["time", "-model", "user.prototxt", "-iterations", "1"]) == 0
        assert "allconv_caffe.pycaffe" in sys.modules
        """
    run = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_arrays_of_a_blob_are_live_both_ways() -> None:
    """A write through .data or .diff reaches the tensor, and the other way round; they cannot be assigned."""
    blob = Blob((2, 2))
    face = PyBlob(blob)
    data = face.data
    data[0, 1] = 5
    blob.data = blob.data + 1
    assert data.tolist() == [[1, 6], [1, 1]] and data.dtype == np.float32 and data.flags.c_contiguous
    face.diff[...] = 3
    assert blob.diff.tolist() == [[3, 3], [3, 3]]
    with pytest.raises(AttributeError):
        face.data = data  # type: ignore[misc]


def test_a_blob_shows_its_shape_as_pycaffe_does() -> None:
    """num, channels, height, width of a blob of fewer axes count missing ones as 1; reshape takes integers only."""
    face = PyBlob(Blob((2, 3)))
    assert (face.num, face.channels, face.height, face.width, face.count) == (2, 3, 1, 1, 6)
    face.reshape(np.int64(4), 5)
    assert face.shape == (4, 5) and face.data.shape == (4, 5)
    with pytest.raises(TypeError):
        face.reshape(2.5)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="Blob.reshape takes no kwargs"):
        face.reshape(2, num=3)
    with pytest.raises(CaffeError, match="Cannot use legacy accessors on Blobs with > 4 axes."):
        _ = PyBlob(Blob((1, 1, 1, 1, 1))).num


def test_memory_on_another_device_is_synchronised_on_access() -> None:
    """After `array` the array is the newer face until `tensor` is asked for; then the tensor is."""
    memory = Memory(3, torch.device("cpu"))
    memory.on_cpu = False  # what a GPU's memory says
    memory.tensor().fill_(2)
    array = memory.array()
    assert array.tolist() == [2, 2, 2]
    array[1] = 7
    assert memory.flat is not None and memory.flat.tolist() == [2, 2, 2]
    assert memory.tensor().tolist() == [2, 7, 2]
    memory.tensor().mul_(10)
    assert array[0] == 2 and memory.array() is array and array.tolist() == [20, 70, 20]


@pytest.mark.parametrize(("name", "method"), [("Empty", "setup"), ("OnlySetup", "reshape")])
def test_a_class_without_its_methods_is_told_which_is_missing(module: str, name: str, method: str) -> None:
    """In one sentence, without a trace of ours; pycaffe's callers get Python's own exception."""
    param = parse_text(NET.format(module=module, layer=name, text=""), NetParameter)
    with pytest.raises(PythonLayerError) as raised:
        Net(param, Context(phase=TEST))
    sentence = f"layer 'user': {module}.{name}: class {name} lacks the method {method}"
    assert (str(raised.value), raised.value.details) == (sentence, "")
    with pytest.raises(AttributeError, match=f"'{name}' object has no attribute '{method}'"):
        allconv_caffe.pycaffe.Net.from_proto(param, TEST)

"""A net as an ONNX file, with what makes its input of pixels inside; checked against the engine before it is written.

written = export(net, "allcnn.onnx", preparation)
session.run(None, {"pixels": pixels})     # uint8 (N, 3, H, W), planes R, G, B; probabilities (N, classes)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from allconv_caffe import files
from allconv_caffe.caffe_torch.net import Net
from allconv_caffe.export import whole
from allconv_caffe.export.errors import needed
from allconv_caffe.export.layers import Graph
from allconv_caffe.export.pixels import Preparation
from allconv_caffe.export.whole import Written

OPSET = 18
IR_VERSION = 8
"""The first that has opset 18: what the most readers take."""


class OnnxGraph(Graph):
    """Collects the nodes and constants of one ONNX graph."""

    def __init__(self) -> None:
        super().__init__()
        self.helper = needed("onnx.helper")
        self.from_array = needed("onnx.numpy_helper").from_array
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, values: Any, hint: str, dtype: Any = np.float32) -> str:
        name = self.name(hint)
        self.constants.append(self.from_array(np.ascontiguousarray(values, dtype).reshape(np.shape(values)), name))
        return name

    def add(self, op: str, *inputs: str, output: str | None = None, hint: str = "", **attributes: Any) -> str:
        output = output if output is not None else self.name(f"{hint or inputs[0]}:{op}")
        self.nodes.append(self.helper.make_node(op, list(inputs), [output], name=output, **attributes))
        return output

    def shaped(self, x: str, shape: Sequence[int], output: str | None = None) -> str:
        constant = self.constant([0, *shape], f"{output or x}:shape", np.int64)
        return self.add("Reshape", x, constant, output=output)


def export(net: Net, path: Path, preparation: Preparation, *, pixels: bool = True) -> Written:
    """Writes `net` with its weights to `path`, whole or not at all.

    Args:
        pixels: uint8 pixels in, probabilities out; else the bare net, input blob in, output blobs out.

    Raises: ExportError: a package that is not there, a layer that cannot be written, no one score for each class to make
        probabilities of, an answer of onnxruntime's that is another than the engine's.
    """
    for module in ("onnx", "onnxruntime"):
        needed(module)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.check_writable(path)
    model = build(net, preparation, pixels=pixels)
    content = model.SerializeToString()
    needed("onnx.checker").check_model(content, full_check=True)
    session = needed("onnxruntime").InferenceSession(content, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def answer(batch: np.ndarray) -> Sequence[np.ndarray]:
        return list(session.run(None, {name: batch}))

    found = [whole.difference(answer, net, preparation, pixels=pixels, batch=batch) for batch in whole.BATCHES]
    largest = whole.check(path, "onnxruntime", found)
    files.write(path, content)
    return Written(
        path=path,
        inputs=_words(model.graph.input),
        outputs=_words(model.graph.output),
        checked="onnxruntime",
        difference=largest,
    )


def build(net: Net, preparation: Preparation, *, pixels: bool) -> Any:
    """The ModelProto. Raises: ExportError: see `export`."""
    onnx = needed("onnx")
    helper, kinds = onnx.helper, onnx.TensorProto
    graph = OnnxGraph()
    ends = whole.emit(graph, net, preparation, pixels=pixels)
    kind = kinds.UINT8 if pixels else kinds.FLOAT
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            net.name or "net",
            [helper.make_tensor_value_info(ends.input, kind, ["N", *ends.input_shape])],
            [helper.make_tensor_value_info(name, kinds.FLOAT, size) for name, size in ends.outputs.items()],
            graph.constants,
        ),
        producer_name="allconv-caffe",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    helper.set_model_props(model, whole.description(preparation, pixels, ends.input_shape))
    return model


def _words(infos: Any) -> str:
    """``pixels uint8 (N, 3, 32, 32)``, of each value."""
    helper = needed("onnx.helper")
    return ", ".join(
        f"{info.name} {np.dtype(helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type))} "
        f"({', '.join(str(dim.dim_param or dim.dim_value) for dim in info.type.tensor_type.shape.dim)})"
        for info in infos
    )

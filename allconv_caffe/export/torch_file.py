"""A net as a Python file with one `torch.nn.Module`, its weights as safetensors beside it; checked before both are written.

written = export(net, "allcnn.py", preparation)
allcnn.load()(pixels)     # uint8 (N, 3, H, W), planes R, G, B; probabilities (N, classes)
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import tempfile
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from allconv_caffe import files
from allconv_caffe.caffe_torch.compute import compiler
from allconv_caffe.caffe_torch.net import Net
from allconv_caffe.export import whole
from allconv_caffe.export.errors import ExportError, needed
from allconv_caffe.export.pixels import Preparation
from allconv_caffe.export.torch_graph import TorchGraph
from allconv_caffe.export.torch_ops import WORDS, identifier
from allconv_caffe.export.whole import Ends, Written

WEIGHTS = ".safetensors"
LOADER = '''
def load(path=None):
    """The net in evaluation mode, with the weights of a .safetensors file: of any that is named, else of the very file that was
    written with this one.
    """
    if path is None:
        found = hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()
        if found != WEIGHTS_SHA256:
            raise ValueError(
                f"{{WEIGHTS}}: found SHA-256 {{found}}, expected {{WEIGHTS_SHA256}}, of the weights that were written with "
                f"this file; `allconv export` writes both again, load(path) takes any weights of these shapes"
            )
    with torch.device("meta"):
        net = {name}()
    net.load_state_dict(read_safetensors(WEIGHTS if path is None else path), assign=True)
    return net.eval()


def read_safetensors(path):
    """A file's tensors by name. It holds the length of a JSON header (8 bytes, the lowest first), the header, the values."""
    content = bytearray(Path(path).read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    tensors = {{}}
    for name, entry in json.loads(content[8:start]).items():
        if name != "__metadata__":
            dtype = {{"F32": torch.float32, "I64": torch.int64}}[entry["dtype"]]
            values = torch.frombuffer(
                content, dtype=dtype, count=math.prod(entry["shape"]), offset=start + entry["data_offsets"][0]
            )
            tensors[name] = values.reshape(entry["shape"]).clone()
    return tensors
'''


@dataclass(frozen=True, kw_only=True)
class Model:
    """A net as text and tensors."""

    # the Python file
    source: str
    # its state dict, as a .safetensors file
    content: bytes
    ends: Ends


def export(
    net: Net, path: Path, preparation: Preparation, *, pixels: bool = True, backend: str | None = None
) -> Written:
    """Writes `net` to `path`, and its weights to the file of that name that ends in .safetensors; each whole or not at all.

    The weights come first, and the Python file names their SHA-256: where it was stopped between the two, what lies there loads
    nothing, rather than one net's weights into another.

    Args:
        pixels: uint8 pixels in, probabilities out; else the bare net, input blob in, output blobs out.
        backend: of torch.compile; None: inductor, or aot_eager where no C++ compiler is.

    Raises: ExportError: safetensors is not there, another ending than .py, a layer that cannot be written, no one score for
        each class to make probabilities of, an answer that is another than the engine's.
    """
    needed("safetensors")
    if path.suffix != ".py":
        raise ExportError("--output", path, "a name that ends in .py; the weights lie beside it")
    weights = path.with_suffix(WEIGHTS)
    _writable(path, weights)
    model = build(net, preparation, pixels=pixels)
    backend = backend or ("inductor" if compiler.compiler() else "aot_eager")
    plain, compiled = _differences(net, preparation, model, pixels=pixels, backend=backend)
    whole.check(path, "the module", plain)
    largest = whole.check(path, f"torch.compile ({backend})", [*plain, compiled])
    files.write(weights, model.content)
    files.write(path, model.source)
    return _written(path, model, f"the module and torch.compile ({backend})", largest, pixels)


def export_weights(net: Net, path: Path, preparation: Preparation) -> Written:
    """Writes the weights alone to `path`, under the names that `export` gives them. Raises: ExportError: as `export`."""
    needed("safetensors")
    _writable(path)
    model = build(net, preparation, pixels=False)
    plain, _ = _differences(net, preparation, model, pixels=False, backend=None)
    largest = whole.check(path, "a module with these weights", plain)
    files.write(path, model.content)
    return _written(path, model, "a module with these weights", largest, False)


def _writable(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.check_writable(path)


def _written(path: Path, model: Model, checked: str, largest: float, pixels: bool) -> Written:
    def words(kind: str, values: dict[str, tuple[int | str, ...]]) -> str:
        return ", ".join(f"{name} {kind} ({', '.join(map(str, size))})" for name, size in values.items())

    return Written(
        path=path,
        inputs=words("uint8" if pixels else "float32", {model.ends.input: ("N", *model.ends.input_shape)}),
        outputs=words("float32", model.ends.outputs),
        checked=checked,
        difference=largest,
    )


def _differences(
    net: Net, preparation: Preparation, model: Model, *, pixels: bool, backend: str | None
) -> tuple[list[float], float]:
    """How far the module lies from the engine for each batch, and compiled for the last; see `whole.difference`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "written.py"
        path.write_text(model.source, encoding="utf-8")
        path.with_suffix(WEIGHTS).write_bytes(model.content)
        module = read(path).load()
        found = [
            whole.difference(_answer(module), net, preparation, pixels=pixels, batch=batch) for batch in whole.BATCHES
        ]
        if backend is None:
            return found, 0.0
        torch.compiler.reset()
        compiled = _answer(torch.compile(module, backend=backend, fullgraph=True))
        return found, whole.difference(compiled, net, preparation, pixels=pixels, batch=whole.BATCHES[-1])


def _answer(module: Callable[..., Any]) -> whole.Answer:
    def answer(batch: np.ndarray) -> Sequence[np.ndarray]:
        with torch.inference_mode():
            found = module(torch.from_numpy(np.ascontiguousarray(batch)))
        return [each.numpy() for each in (found if isinstance(found, tuple) else (found,))]

    return answer


def read(path: Path) -> Any:
    """The Python file as a module, without a trace in sys.modules."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build(net: Net, preparation: Preparation, *, pixels: bool) -> Model:
    """The file's text and weights. Raises: ExportError: see `export`."""
    graph = TorchGraph()
    ends = whole.emit(graph, net, preparation, pixels=pixels)
    words = whole.description(preparation, pixels, ends.input_shape)
    content = bytes(needed("safetensors.numpy").save(graph.module.tensors, metadata={"format": "pt", **words}))
    source = _source(net, graph, ends, words, preparation.class_names, hashlib.sha256(content).hexdigest())
    return Model(source=source, content=content, ends=ends)


def _source(
    net: Net, graph: TorchGraph, ends: Ends, words: dict[str, str], class_names: Sequence[str], sha256: str
) -> str:
    title = net.name or "net"
    name = identifier("".join(word[:1].upper() + word[1:] for word in re.split(r"\W", title)) or "Net", WORDS)
    variable = identifier(ends.input, WORDS)
    lines = [
        f'"""{_said(title)} as a PyTorch module, made of a Caffe net by `allconv export`; it needs torch alone.',
        "",
        f"    net = load()             # weights: the {WEIGHTS} file beside this one",
        f"    answers = net({variable})",
        "",
        f"{variable}: {_said(words['input'])}.",
        '"""',
        "",
        "import hashlib",
        "import json",
        "import math",
        "from pathlib import Path",
        "",
        "import torch",
        "from torch import nn",
        "from torch.nn import functional as F",
        "",
        f'WEIGHTS = Path(__file__).with_suffix("{WEIGHTS}")',
        f'WEIGHTS_SHA256 = "{sha256}"',
        *_names(class_names),
        "",
        "",
        f"class {name}(nn.Module):",
    ]
    methods = [*_init(graph), *_forward(net, graph, ends)]
    return "\n".join([*lines, *(f"    {line}" if line else "" for line in methods), "", LOADER.format(name=name)])


def _said(text: str) -> str:
    """For a docstring, which no name may end: what stands behind it would be run."""
    return text.encode("unicode_escape").decode().replace('"', "'")


def _names(class_names: Sequence[str]) -> list[str]:
    if not class_names:
        return []
    rows = textwrap.wrap(", ".join(map(ascii, class_names)) + ",", 110, break_long_words=False)
    return ["CLASS_NAMES = (", *(f"    {row}" for row in rows), ")"]


def _init(graph: TorchGraph) -> list[str]:
    parts = graph.module.parts
    lines = ["def __init__(self):", "    super().__init__()"]
    for name, text in parts.items():
        buffer = name in graph.module.buffers
        lines.append(f'    self.register_buffer("{name}", {text})' if buffer else f"    self.{name} = {text}")
    return [*lines, ""]


def _forward(net: Net, graph: TorchGraph, ends: Ends) -> list[str]:
    """The methods `prepare`, where pixels go in, and `forward`."""
    found, given = graph.statements(ends.input, list(ends.outputs))
    shapes = ", ".join(str(size).replace("'", "") for size in ends.outputs.values())
    variable, lines = identifier(ends.input, WORDS), []
    head = [f"def forward(self, {variable}):"]
    if ends.input == "pixels":
        count = 1 + [each.value for each in found].index(net.inputs[0])
        inner, found = found[:count], found[count:]
        lines += [
            "def prepare(self, pixels):",
            f'    """{_shape(net.inputs[0], ends.input_shape)}: what the layers take."""',
            *(f"    {each.variable} = {each.text}" for each in inner),
            f"    return {inner[-1].variable}",
            "",
        ]
        head.append(f'    """Probabilities, {shapes}."""')
        head.append(f"    {inner[-1].variable} = self.prepare(pixels)")
    else:
        names = ", ".join(f"'{_said(each)}'" for each in ends.outputs)
        head.append(f'    """{names}: {shapes}."""')
    lines += [*head, *(f"    {each.variable} = {each.text}" for each in found)]
    return [*lines, f"    return {', '.join(given)}"]


def _shape(name: str, shape: Sequence[int]) -> str:
    return f"'{_said(name)}', ({', '.join(map(str, ('N', *shape)))})"

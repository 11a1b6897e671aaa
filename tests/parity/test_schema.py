"""The schema beside real Caffe's descriptor: every message, field, default and enum value, in both directions."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import allconv_caffe.proto as proto

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".caffe" / "bin" / "python"

# runs in both interpreters: {full name: {field: [number, type, label, default, packed, type name]} or {value: number}}
DUMP = """
def dump(file):
    out = {}
    def enum(e):
        out[e.full_name] = dict((v.name, v.number) for v in e.values)
    def message(m):
        fields = {}
        for f in m.fields:
            named = f.message_type or f.enum_type
            default = repr(f.default_value) if f.has_default_value else None
            packed = f.GetOptions().packed
            fields[f.name] = [f.number, f.type, LABEL(f), default, packed, named.full_name if named else None]
        out[m.full_name] = fields
        for e in m.enum_types: enum(e)
        for n in m.nested_types: message(n)
    for m in file.message_types_by_name.values(): message(m)
    for e in file.enum_types_by_name.values(): enum(e)
    return out
"""


def label(field: Any) -> int:
    """1 optional, 2 required, 3 repeated, as descriptor.proto numbers them."""
    return 3 if field.is_repeated else 2 if field.is_required else 1


def ours() -> dict[str, Any]:
    space: dict[str, Any] = {"LABEL": label}
    exec(DUMP, space)
    return json.loads(json.dumps(space["dump"](proto.NetParameter.DESCRIPTOR.file)))


def theirs() -> dict[str, Any]:
    script = DUMP + (
        "\nimport json, caffe\nfrom caffe.proto import caffe_pb2\n"
        "LABEL = lambda f: f.label\nprint(json.dumps(dump(caffe_pb2.DESCRIPTOR)))"
    )
    done = subprocess.run([str(PYTHON), "-c", script], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_the_schema_equals_real_caffes() -> None:
    """Same messages and enums; in each the same names, numbers, types, labels, defaults and packing."""
    mine, real = ours(), theirs()
    assert len(real) > 80
    assert sorted(mine) == sorted(real)
    assert {k: v for k, v in mine.items() if v != real[k]} == {}


def test_the_proto_package_loads_in_real_pycaffes_interpreter() -> None:
    """On its older Python and protobuf our classes parse, beside caffe_pb2 in one process."""
    script = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "import caffe\nfrom caffe.proto import caffe_pb2\nfrom allconv_caffe import proto\n"
        'n = proto.parse_text(\'name: "x" layer { name: "a" type: "ReLU" }\', proto.NetParameter)\n'
        "m = caffe_pb2.NetParameter.FromString(n.SerializeToString())\n"
        "print(m.layer[0].type, type(n) is type(m))"
    )
    done = subprocess.run([str(PYTHON), "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["ReLU", "False"]

"""Whatever pycaffe has under a name, ours has: modules, classes, objects, functions and their arguments, by pycaffe's own lists."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from test_pycaffe_script import both as both_answers

pytestmark = pytest.mark.caffe
SCRIPT = Path(__file__).resolve().parent / "pycaffe_names_script.py"
NOT_OURS = {
    "* __instance_size__": "how much Boost adds to an object",
    "* __dict__": "CPython's, of classes written in C++: of ours, where attributes can be set",
    "* __weakref__": "CPython's",
    "* __module__": "CPython's: ours are plain lists here, which have every method of Boost's vectors",
    "_blobs add_blob": "a net's list of blobs is a plain list: a blob added there belongs to no layer",
    "caffe.draw pydot": "a module that it imports; ours draws without",
    "caffe.coord_map division": "from __future__, of Python 2",
    "caffe.detector caffe": "a module that it imports",
    "caffe.classifier caffe": "a module that it imports",
    "caffe.net_spec OrderedDict": "a module that it imports",
    "caffe.net_spec protobuf": "a module that it imports",
    "caffe.net_spec six": "a module that it imports",
    "caffe.pycaffe OrderedDict": "a module that it imports",
    "caffe.pycaffe caffe": "a module that it imports",
    "caffe.pycaffe izip_longest": "a module that it imports",
    "caffe.pycaffe np": "a module that it imports",
    "caffe.pycaffe six": "a module that it imports",
    "caffe.pycaffe _Net_get_id_name": "makes top_names and bottom_names, and nothing else",
    "caffe.proto.caffe_pb2 _descriptor": "protobuf's modules, for code that protoc has made",
    "caffe.proto.caffe_pb2 _message": "protobuf's modules, for code that protoc has made",
    "caffe.proto.caffe_pb2 _reflection": "protobuf's modules, for code that protoc has made",
    "caffe.proto.caffe_pb2 _sym_db": "protobuf's modules, for code that protoc has made",
    "caffe.proto.caffe_pb2 _symbol_database": "protobuf's modules, for code that protoc has made",
    "caffe.proto.caffe_pb2 enum_type_wrapper": "protobuf's modules, for code that protoc has made",
    "* RegisterExtension": "protobuf's of that time; Caffe's schema has no extensions",
    "* Extensions": "protobuf's of that time; Caffe's schema has no extensions",
    "* _extensions_by_*": "protobuf's of that time; Caffe's schema has no extensions",
    "class LayerParameter [a-z]*": "a class of today's protobuf has no attribute for a field; its objects have",
    "*.SolverParameter base_lr": "ours is the message, whose objects have its fields",
    "*.SolverParameter display": "ours is the message, whose objects have its fields",
    "*.SolverParameter layer_wise_reduce": "ours is the message, whose objects have its fields",
    "*.SolverParameter max_iter": "ours is the message, whose objects have its fields",
}
"""Place and name -> why ours has nothing there."""
OTHER_ARGUMENTS = {
    "caffe.io.resize": "scikit-image's",
    "caffe.io.zoom": "SciPy's",
    "caffe.pycaffe._Net_get_id_name": NOT_OURS["caffe.pycaffe _Net_get_id_name"],
}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    return both_answers(SCRIPT, tmp_path_factory.mktemp("names"))


def test_every_name_of_pycaffe_is_there(both: tuple[Any, Any]) -> None:
    """But for those above; each of which real pycaffe has and ours has not."""
    real, ours = (side["names"] for side in both)
    assert len(real) > 60 and "zoom" in real["caffe.io"]
    missing = [f"{place} {name}" for place in real for name in real[place] if name not in ours.get(place, [])]
    assert not [each for each in missing if not any(fnmatchcase(each, known) for known in NOT_OURS)]
    assert not [known for known in NOT_OURS if not any(fnmatchcase(each, known) for each in missing)]


def test_functions_take_pycaffes_arguments(both: tuple[Any, Any]) -> None:
    """Names, kinds and defaults, in their order."""
    real, ours = (side["arguments"] for side in both)
    assert len(real) > 60
    wrong = [name for name in real if ours.get(name) != real[name]]
    assert wrong == [name for name in wrong if name in OTHER_ARGUMENTS]
    for name in ("caffe.io.resize", "caffe.io.zoom"):
        assert [each[0] for each in ours[name]] == [each[0] for each in real[name]]


def test_losses_without_tops_are_no_outputs(both: tuple[Any, Any]) -> None:
    """One or more: blobs, ids, weights, what forward and backward return, what is saved."""
    real, ours = (side["outputs"] for side in both)
    assert len(real) == 6 and ours == real

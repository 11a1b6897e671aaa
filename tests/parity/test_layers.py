"""Every layer type in real Caffe and in ours: same parameters, same inputs, same numbers, forward and backward."""

from __future__ import annotations

import importlib
import subprocess
from pathlib import Path
from typing import Any

import h5py
import layer_harness as harness
import numpy as np
import pytest

from allconv_caffe.caffe_torch.errors import CaffeError
from allconv_caffe.caffe_torch.layer import REGISTRY

HERE = Path(__file__).resolve().parent
CASES, ERRORS = harness.collect(), harness.collect_errors()


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Real Caffe's results of all cases, from one process."""
    return harness.run_real_once(CASES, ERRORS, tmp_path_factory.getbasetemp().parent)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_layer_computes_what_caffe_computes(case: Any, real: Any) -> None:
    """Tops, bottom diffs, parameters and their diffs agree within the case's tolerance of the blob's largest value."""
    assert case.id in real.results, f"real Caffe aborts: {case.text}\n{real.errors[case.id][1]}"
    expected = real.results[case.id]
    errors = harness.compare(harness.run_ours(case, expected), expected, case.ignore)
    wrong = {name: error for name, error in errors.items() if not error <= case.tolerance}
    assert not wrong, f"{case.text}\n{wrong}"


@pytest.mark.parametrize("case", ERRORS, ids=lambda case: case.id)
def test_a_wrong_layer_is_refused_in_caffes_words(case: Any, real: Any) -> None:
    """Where real Caffe aborts with a sentence, ours raises CaffeError with the same one."""
    status, text = real.errors[case.id]
    assert status != 0 and case.sentence in text, f"{case.text}\n{text}"
    with pytest.raises(CaffeError) as caught:
        harness.run_ours(case)
    assert case.sentence in str(caught.value)


@pytest.mark.parametrize("type_", sorted(REGISTRY))
def test_every_registered_type_has_a_case(type_: str) -> None:
    """Whatever is registered is compared with real Caffe, here or in the module that ELSEWHERE names for it."""
    module = harness.elsewhere().get(type_)
    if module is None:
        assert any(case.type == type_ for case in CASES), f"no case for {type_}: see layer_harness.py"
    else:
        assert f'"{type_}"' in (HERE / module).read_text(encoding="utf-8")


def test_hdf5_output_writes_what_caffe_writes(tmp_path: Path) -> None:
    """The file of an "HDF5Output" layer holds the same data sets: names, shapes, types and values."""
    data, label = harness.normal((3, 2, 4, 1), 1), harness.normal((3, 1), 2)
    param = 'hdf5_output_param {{ file_name: "{}" }}'
    files = [tmp_path / "real.h5", tmp_path / "ours.h5"]
    real, ours = (
        harness.Case("HDF5Output", param.format(file), [data, label], tops=0, backward=False, force=False)
        for file in files
    )
    assert real.id in harness.run_real([real], [], tmp_path / "job").results
    harness.run_ours(ours)
    with h5py.File(files[0]) as theirs, h5py.File(files[1]) as mine:
        assert sorted(theirs) == sorted(mine) == ["data", "label"]
        for name in theirs:
            assert theirs[name].dtype == mine[name].dtype and theirs[name].shape == mine[name].shape
            assert np.array_equal(theirs[name], mine[name])


MEMORY = """
import numpy as np
def feed(net):
    out = []
    for n in (6, 4):
        data = np.arange(n * 2 * 3, dtype=np.float32).reshape(n, 2, 3, 1)
        labels = np.arange(n, dtype=np.float32) + 10 * n
        net.set_input_arrays(data, labels)
        for _ in range(5):
            net.forward()
            out += [net.blobs[name].data.copy() for name in ("data", "label")]
    return out
"""
RUN_MEMORY = (
    MEMORY
    + """
import caffe, sys
np.savez(sys.argv[2], *feed(caffe.Net(sys.argv[1], caffe.TEST)))
"""
)


def test_memory_data_gives_the_batches_that_caffe_gives(tmp_path: Path) -> None:
    """ "MemoryData" fed twice by set_input_arrays: five batches of two each, round and round; shapes and values agree."""
    net = tmp_path / "net.prototxt"
    net.write_text(
        'layer { name: "d" type: "MemoryData" top: "data" top: "label" '
        "memory_data_param { batch_size: 2 channels: 2 height: 3 width: 1 } }"
    )
    command = [str(harness.PYTHON), "-c", RUN_MEMORY, str(net), str(tmp_path / "real.npz")]
    subprocess.run(command, check=True, capture_output=True, timeout=200)
    caffe = importlib.import_module("allconv_caffe.pycaffe")
    script: dict[str, Any] = {}
    exec(MEMORY, script)
    ours = script["feed"](caffe.Net(str(net), caffe.TEST))
    with np.load(tmp_path / "real.npz") as real:
        assert len(real.files) == len(ours) == 20
        for mine, name in zip(ours, real.files, strict=True):
            assert mine.shape == real[name].shape and np.array_equal(mine, real[name])


def test_there_are_cases_enough() -> None:
    """At least 300 cases, no two alike."""
    assert len({case.id for case in CASES}) == len(CASES) >= 300

"""pycaffe's own tests, run on the drop-in, in place: in the source tree that CAFFE_SRC names or `make caffe-source` got."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TESTS = Path(os.environ.get("CAFFE_SRC") or ROOT / ".caffe-source") / "python" / "caffe" / "test"

# Names that unittest lost in Python 3.12; the tests still use them.
RUN = """
import os, sys, unittest
import allconv_caffe.pycaffe
allconv_caffe.pycaffe.install()
for old, new in (("assertEquals", "assertEqual"), ("assertRaisesRegexp", "assertRaisesRegex")):
    if not hasattr(unittest.TestCase, old):
        setattr(unittest.TestCase, old, getattr(unittest.TestCase, new))
sys.path.insert(0, sys.argv[1])
sys.dont_write_bytecode = True
result = unittest.TextTestRunner(verbosity=2).run(unittest.defaultTestLoader.discover(sys.argv[1]))
print("ran", result.testsRun, "skipped", len(result.skipped))
sys.exit(not result.wasSuccessful())
"""


@pytest.mark.caffe
@pytest.mark.skipif(not TESTS.is_dir(), reason="no source of Caffe: make caffe-source, or CAFFE_SRC=<folder>")
def test_pycaffes_own_tests_pass(tmp_path: Path) -> None:
    """All 52 tests of pycaffe pass under the name `caffe`, none is skipped."""
    answer = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RUN, str(TESTS.resolve())],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "PYTHONPATH": str(ROOT), "GLOG_minloglevel": "2"},
    )
    assert answer.returncode == 0, answer.stderr[-4000:]
    assert re.search(r"^ran 52 skipped 0$", answer.stdout, re.MULTILINE), answer.stdout

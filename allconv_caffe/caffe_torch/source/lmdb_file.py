"""The reader of LMDB files, saying in Caffe's words what is wrong with one.

Source: db_lmdb.cpp, db_lmdb.hpp (MDB_CHECK).
"""

from __future__ import annotations

from allconv_caffe.caffe_torch.errors import CaffeError
from allconv_caffe.proto import lmdb_file


def status(code: int, reason: str, detail: str = "") -> CaffeError:
    """Caffe's sentence for a status of LMDB's."""
    return CaffeError(f"Check failed: mdb_status == 0 ({code} vs. 0) {reason}" + (f" ({detail})" if detail else ""))


class LmdbFile(lmdb_file.LmdbFile):
    """See there. Raises: CaffeError."""

    status = staticmethod(status)

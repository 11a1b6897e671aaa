"""The one exception that every mistake in data preparation becomes, and the one warning."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb

from allconv_caffe import files
from allconv_caffe.errors import FoundError


class PrepError(FoundError, ValueError):
    """One line: where (the file, archive member or option the mistake is in), what was found, what was expected."""

    sentence = "found {found}; expected {expected}"


class PrepWarning(UserWarning):
    """A preparation that goes on, though its outcome may not be what was wanted."""


@contextmanager
def writing(where: str | Path) -> Iterator[None]:
    """Turn what the system says about a failed write into a PrepError that names the place.

    Raises:
        PrepError: disk full (ENOSPC, EDQUOT), LMDB map full, no permission, no locks, or any other failure of the write.
    """
    try:
        yield
    except lmdb.MapFullError as error:
        raise PrepError(
            where, "a full LMDB map", "a map_size that holds all records (a defect: please report it)"
        ) from error
    except lmdb.DiskError as error:
        raise PrepError(where, "a full disk", "room for the data set; free some space and run again") from error
    except lmdb.Error as error:
        if "No space left" in str(error):
            raise PrepError(where, "a full disk", "room for the data set; free some space and run again") from error
        if "Input/output error" in str(error):  # LMDB's word for a write that the system cut short
            raise PrepError(
                where,
                f"a full disk, or a failing one ({error})",
                "room for the data set; free some space and run again",
            ) from error
        raise PrepError(where, f"an LMDB failure ({error})", "a file system on which LMDB can write") from error
    except files.NoLocks as error:
        raise PrepError(where, error.strerror, "one with flock, a local disk for instance") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise PrepError(where, "a full disk", "room for the data set; free some space and run again") from error
        raise PrepError(where, f"a failed write ({error.strerror or error})", "a folder that can be written") from error

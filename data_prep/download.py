"""Fetch an official archive: resumed where it stopped, retried when the line breaks, accepted only if size and MD5
fit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests
import urllib3
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential
from tqdm import tqdm

from allconv_caffe import files
from data_prep import archive as archive_
from data_prep.cifar import ARCHIVES, Archive
from data_prep.errors import PrepError, writing

_TIMEOUT_SECONDS = (10, 60)  # to connect, between two reads
_BLOCK = 1 << 18


class _Interrupted(Exception):
    """The transfer ended early, or the server is briefly unable: worth another try."""


def download(
    name: str,
    directory: str | Path,
    url: str | None = None,
    *,
    archive: Archive | None = None,
    attempts: int = 5,
    wait_seconds: float = 1.0,
    progress: bool = True,
) -> Path:
    """Put the archive `name` into `directory`, under its final name only when it is complete and right.

    What has arrived so far is kept in `<name>.part`, and the next attempt (or the next call) asks the server for the
    rest.

    Args:
        name: A key of `cifar.ARCHIVES`, as "cifar-10-python.tar.gz".
        directory: Created if need be.
        url: Another place to fetch the same file from.
        archive: Size, MD5 and URL to use instead of the official ones.
        attempts: How often a broken transfer is taken up again.
        wait_seconds: Before the second attempt; doubled before each later one, at most 30.
        progress: Show a bar on standard error.

    Returns:
        The archive's path; if a right one is there already, nothing is fetched.

    Raises:
        PrepError: unknown name, the server refuses or stays unreachable, wrong size, wrong MD5, disk full.
    """
    archive = archive or ARCHIVES.get(name)
    if archive is None:
        raise PrepError("archive", repr(name), " or ".join(ARCHIVES))
    wanted = _Wanted(url=url or archive.url, bytes=archive.bytes, algorithm="md5", digest=archive.md5)
    return _get(Path(directory) / name, wanted, attempts, wait_seconds, progress)


def fetch(
    url: str,
    target: Path,
    size: int,
    sha1: str,
    *,
    attempts: int = 5,
    wait_seconds: float = 1.0,
    progress: bool = True,
) -> Path:
    """Put any file of `size` bytes whose SHA-1 is known at `target`, as `download` does. Raises: PrepError."""
    wanted = _Wanted(url=url, bytes=size, algorithm="sha1", digest=sha1)
    return _get(target, wanted, attempts, wait_seconds, progress)


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """A file: where it lies, its size, its digest."""

    url: str
    bytes: int
    algorithm: str  # md5 or sha1
    digest: str

    def differs(self, path: Path) -> str:
        """What `path` has for a digest where it is another, in words; "" where it is this file."""
        found = archive_.file_checksums(path).md5 if self.algorithm == "md5" else files.digest(path, self.algorithm)
        return "" if found == self.digest else f"{'MD5' if self.algorithm == 'md5' else 'SHA-1'} {found}"


def _get(target: Path, wanted: _Wanted, attempts: int, wait_seconds: float, progress: bool) -> Path:
    part = target.with_name(target.name + ".part")
    if target.exists():
        if found := wanted.differs(target):
            raise PrepError(target, found, f"{wanted.digest}; remove or rename that file")
        return target
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    with _alone(part):
        return target if target.exists() else _complete(target, part, wanted, attempts, wait_seconds, progress)


@contextmanager
def _alone(part: Path) -> Iterator[None]:
    """Hold the part of a file: two writers would mix their bytes. An empty one is removed at the end."""
    with writing(part):
        try:
            with files.locked(part):
                try:
                    yield
                finally:
                    if part.exists() and not part.stat().st_size:
                        part.unlink()
        except files.Held:
            raise PrepError(part, "another download at work", "one at a time; wait for it and run again") from None


def _complete(target: Path, part: Path, wanted: _Wanted, attempts: int, wait_seconds: float, progress: bool) -> Path:
    retrying = Retrying(
        stop=stop_after_attempt(attempts),
        wait=wait_exponential(multiplier=wait_seconds, max=30),
        retry=retry_if_exception_type(_Interrupted),
        reraise=True,
    )
    with (
        tqdm(
            total=wanted.bytes,
            desc=target.name,
            unit="B",
            unit_scale=True,
            disable=None if progress else True,
            leave=False,
        ) as bar,
        requests.Session() as session,
    ):
        try:
            for attempt in retrying:
                with attempt:
                    _fetch(session, wanted.url, part, wanted.bytes, bar)
        except _Interrupted as error:
            raise PrepError(wanted.url, str(error), f"{wanted.bytes} bytes; run again to go on from there") from error
    if found := wanted.differs(part):
        os.truncate(part, 0)
        raise PrepError(wanted.url, found, f"{wanted.digest}; the file was removed, run again")
    with writing(target):
        part.replace(target)
    return target


def _fetch(session: requests.Session, url: str, part: Path, size: int, bar: tqdm) -> None:
    """One attempt: append to `part` what it lacks. Raises _Interrupted if it is still too short afterwards."""
    have = part.stat().st_size if part.exists() else 0
    if have > size:
        os.truncate(part, 0)
        have = 0
    if have == size:
        return
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        response = session.get(url, headers=headers, stream=True, timeout=_TIMEOUT_SECONDS)
    except (requests.ConnectionError, requests.Timeout) as error:
        raise _Interrupted(f"no connection after {have} bytes") from error
    except requests.RequestException as error:
        raise PrepError(url, f"an address that cannot be asked ({error})", "an http or https URL") from error
    with response:
        status = response.status_code
        if status == 416:  # our part does not fit this file: begin again
            os.truncate(part, 0)
            raise _Interrupted(f"HTTP status 416 for the rest after {have} bytes")
        if status >= 500 or status in (408, 429):
            raise _Interrupted(f"HTTP status {status} after {have} bytes")
        if status not in (200, 206):
            raise PrepError(url, f"HTTP status {status}", "200; give another url or a local archive")
        if status == 206 and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            os.truncate(part, 0)
            raise _Interrupted(f"another range than asked for after {have} bytes")
        if status == 200:
            have = 0  # the server sends everything again
        bar.n = have
        bar.refresh()
        with writing(part), open(part, "ab" if have else "wb") as file:
            while True:
                try:
                    block = response.raw.read(_BLOCK, decode_content=False)
                except (urllib3.exceptions.HTTPError, ConnectionError, TimeoutError) as error:
                    file.flush()
                    raise _Interrupted(f"a connection cut after {have} bytes") from error
                if not block:
                    break
                have += len(block)
                if have > size:
                    break
                file.write(block)
                bar.update(len(block))
    if have > size:
        os.truncate(part, 0)
        raise PrepError(url, f"more than {size} bytes", f"{size} bytes")
    if have < size:
        raise _Interrupted(f"a connection cut after {have} bytes")

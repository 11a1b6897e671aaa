"""Read the members of a folder, tar or zip one after another, in memory: nothing is ever unpacked to disk."""

from __future__ import annotations

import io
import lzma
import os
import posixpath
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from tqdm import tqdm

from allconv_caffe import files
from data_prep.errors import PrepError

MAX_MEMBER_BYTES = 1 << 30  # CIFAR-100's train file, the largest we know, has 155 MB; a bomb has more
_MAX_HEADER_BYTES = 1 << 14  # what a tar says of one member: its name, its attributes
_MAX_GLOBAL_HEADERS = 16
_BLOCK = 1 << 20
_UNSPEAKABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")  # a byte that is no UTF-8 arrives as a lone surrogate
_MAGIC = (b"BZh", b"PK\x03\x04")  # bz2 and zip, of which tarfile does not say that they end too early


@dataclass(frozen=True)
class Checksums:
    """bytes: size; md5, sha256: hexadecimal digests of a file's bytes (of a folder: see `folder_checksums`)."""

    bytes: int
    md5: str
    sha256: str


def file_checksums(path: Path) -> Checksums:
    """MD5 (which the CIFAR page publishes) and SHA-256 of one file, read once.

    Raises:
        PrepError: the file cannot be read, or is a pipe, socket or device.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise PrepError(path, "a pipe, socket or device", "an archive or a folder of images")
    md5, sha256 = files.hasher("md5"), files.hasher("sha256")
    try:
        with files.open_file(path) as file:
            size = files.feed(file, md5, sha256)
    except OSError as error:
        raise PrepError(path, f"an unreadable file ({error.strerror})", "an archive or a folder of images") from error
    return Checksums(size, md5.hexdigest(), sha256.hexdigest())


def folder_checksums(path: Path) -> Checksums:
    """Digests over `<relative name>\\0<size>\\0<bytes>` of all files in name order: two folders can be compared.

    Raises:
        PrepError: a file cannot be read, is a pipe, socket or device, or has a name that is not UTF-8.
    """
    md5, sha256, total = files.hasher("md5"), files.hasher("sha256"), 0
    for name, full, size in _folder_files(path):
        head = f"{name}\0{size}\0".encode()
        md5.update(head)
        sha256.update(head)
        with _reading(full), files.open_file(full) as file:
            files.feed(file, md5, sha256)
        total += size
    return Checksums(total, md5.hexdigest(), sha256.hexdigest())


def members(
    path: Path,
    wanted: Callable[[str], bool],
    *,
    folder: Callable[[str], object] = lambda name: None,
    progress: tqdm | None = None,
) -> Iterator[tuple[str, bytes]]:
    """Yield `(name, bytes)` of every regular file whose name is wanted, in the order in which it is stored.

    Args:
        path: A folder, or a tar (plain, gz, bz2, xz) or zip file.
        wanted: Called with the member's name, components joined by "/".
        folder: Called with the name of every folder that is stored as such, also an empty one.
        progress: A bar whose total is the file's size in bytes (for a folder: unknown).

    Raises:
        PrepError: the path is missing, no known archive, truncated or damaged, a bomb (see `files.most_unpacked`), or a member has
            a name that leads out of the archive or that another has, is a link or a device, or is larger than
            MAX_MEMBER_BYTES.
    """
    if path.is_dir():
        yield from _folder_members(path, wanted, folder, progress)
        return
    if not path.exists():
        raise PrepError(path, "nothing", "an archive (tar, tar.gz, tar.xz, zip) or a folder")
    if not path.is_file():
        raise PrepError(path, "a pipe, socket or device", "an archive (tar, tar.gz, tar.xz, zip) or a folder")
    with Damage(path):
        is_zip = zipfile.is_zipfile(path)
        seen: set[str] = set()
        for name, data in (_zip_members if is_zip else _tar_members)(path, wanted, folder, progress):
            if name in seen:
                raise PrepError(f"{path}: {name}", "a second member of this name", "each name once")
            seen.add(name)
            yield name, data


class Refused(tarfile.TarError):
    """A tar that no tool of good will writes."""

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(found)
        self.found, self.expected = found, expected


class Header(tarfile.TarInfo):
    """A tar's header, of which tarfile would otherwise read names of any length, and pass over what it cannot read."""

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> Header:  # type: ignore[override]
        try:
            made = super().frombuf(buf, encoding, errors)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError(f"{error}") from None  # else the rest of the archive would be missing in silence
        if made.type in _LONG and made.size > _MAX_HEADER_BYTES:
            raise Refused(f"a header of {made.size} bytes", f"at most {_MAX_HEADER_BYTES}")
        if made.type == tarfile.GNUTYPE_SPARSE:
            raise Refused("a sparse file", "whole ones")
        return cast(Header, made)


_LONG = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


def tar_headers(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Every member of a tar that was opened with `tarinfo=Header`; none of them is kept.

    Raises:
        Refused, tarfile.TarError, and whatever else tarfile makes of damaged headers.
    """
    while (member := tar.next()) is not None:
        tar.members = []  # type: ignore[attr-defined]  # tarfile keeps every header: 60 MB for 60,000 files
        if member.size < 0:  # the next header would lie before this one
            raise Refused(f"a member of {member.size} bytes", "0 or more")
        if len(tar.pax_headers) > _MAX_GLOBAL_HEADERS:  # each member gets a copy
            raise Refused(f"{len(tar.pax_headers)} entries for all members", f"at most {_MAX_GLOBAL_HEADERS}")
        yield member


class _Budget:
    """How much may come out of an archive. Raises: PrepError."""

    def __init__(self, path: Path) -> None:
        self.path, self.size = path, path.stat().st_size
        self.most = files.most_unpacked(self.size)
        self.taken = 0

    def take(self, count: int) -> None:
        self.taken += count
        if self.taken > self.most:
            raise PrepError(
                self.path, f"more than {self.most} bytes packed into {self.size}", "an archive that is no bomb"
            )


class Damage:
    """What the decompressors say about a damaged file, as a PrepError."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, PrepError):
            return
        size = self.path.stat().st_size if self.path.exists() else 0
        if isinstance(error, Refused):
            raise PrepError(self.path, error.found, error.expected) from error
        if isinstance(error, EOFError) or (isinstance(error, tarfile.ReadError) and "unexpected end" in str(error)):
            raise PrepError(
                self.path, f"a truncated archive ({size} bytes)", "a complete one; download it again"
            ) from error
        if isinstance(error, tarfile.ReadError):
            with open(self.path, "rb") as file:
                begun = file.read(8).startswith(_MAGIC)
            if begun:
                raise PrepError(
                    self.path, f"a truncated or damaged archive ({size} bytes)", "a complete one; download it again"
                ) from error
            raise PrepError(
                self.path, f"no readable archive ({size} bytes)", "tar, tar.gz, tar.bz2, tar.xz or zip"
            ) from error
        if isinstance(error, (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error)):
            raise PrepError(self.path, f"a damaged archive ({error})", "an intact one; download it again") from error
        if isinstance(error, ODD):  # what tarfile and zipfile make of numbers and names that no tool writes
            said = f"{type(error).__name__}: {error}"[:200]
            raise PrepError(self.path, f"a damaged archive ({said})", "an intact one; download it again") from error
        if isinstance(error, (NotImplementedError, RuntimeError)):  # zipfile's words for a method it lacks, a password
            raise PrepError(
                self.path, f"a zip file that cannot be read ({error})", "one stored or deflated, without encryption"
            ) from error
        if isinstance(error, OSError):
            raise PrepError(self.path, f"a damaged or unreadable archive ({error})", "an intact one") from error


ODD = (ValueError, IndexError, KeyError, OverflowError, RecursionError, struct.error)


def _checked_letters(path: Path, name: str) -> None:
    if _UNSPEAKABLE.search(name):
        raise PrepError(path, f"a file named {name!r}", "a name in UTF-8 without control characters")


def _checked_name(path: Path, name: str) -> str:
    _checked_letters(path, name)
    if not name:
        raise PrepError(path, "a member without a name", "names that stay inside the archive")
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or ".." in parts or (len(name) > 1 and name[1] == ":"):
        raise PrepError(path, f"a member named {name!r}", "names that stay inside the archive")
    return posixpath.normpath("/".join(parts))


def _checked_size(path: Path, name: str, size: int) -> None:
    if size > MAX_MEMBER_BYTES:
        raise PrepError(f"{path}: {name}", f"{size} bytes", f"at most {MAX_MEMBER_BYTES}")


class _CountingFile(io.RawIOBase):
    """A file that tells a progress bar how much of it has been read."""

    def __init__(self, path: Path, progress: tqdm | None) -> None:
        self._file = open(path, "rb")  # noqa: SIM115 - closed in close()
        self._progress = progress

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = self._file.readinto(buffer)
        if self._progress is not None and count:
            self._progress.update(min(count, max(0, (self._progress.total or count) - self._progress.n)))
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def _tar_members(
    path: Path, wanted: Callable[[str], bool], folder: Callable[[str], object], progress: tqdm | None
) -> Iterator[tuple[str, bytes]]:
    with (
        io.BufferedReader(_CountingFile(path, progress), _BLOCK) as raw,
        tarfile.open(fileobj=raw, mode="r:*", tarinfo=Header) as tar,
    ):
        budget = _Budget(path)
        for member in tar_headers(tar):
            name = _checked_name(path, member.name)
            budget.take(member.size)
            if member.isdir():
                folder(name)
                continue
            if not member.isreg():
                raise PrepError(f"{path}: {name}", "a link or device", "regular files and folders only")
            if not wanted(name):
                continue
            _checked_size(path, name, member.size)
            file = tar.extractfile(member)
            assert file is not None
            data = file.read()
            if len(data) != member.size:
                raise EOFError("member ends early")
            yield name, data
        while block := tar.fileobj.read(_BLOCK):  # the compressor's checksum comes last
            budget.take(len(block))


def _zip_members(
    path: Path, wanted: Callable[[str], bool], folder: Callable[[str], object], progress: tqdm | None
) -> Iterator[tuple[str, bytes]]:
    budget = _Budget(path)
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            name = _checked_name(path, info.filename)
            if progress is not None:
                progress.update(info.compress_size)
            if info.is_dir():
                folder(name)
            if info.is_dir() or not wanted(name):
                continue
            if (info.external_attr >> 16) & 0o170000 == 0o120000:
                raise PrepError(f"{path}: {name}", "a link", "regular files and folders only")
            _checked_size(path, name, info.file_size)
            budget.take(info.file_size)
            yield name, zip_member(archive, info)


def zip_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """A member's bytes, as many as it says it has.

    Raises: NotImplementedError: a method whose output has no bound; what zipfile raises.
    """
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise NotImplementedError(f"compression method {info.compress_type}, neither stored nor deflated")
    with archive.open(info) as file:
        return file.read(info.file_size)  # read() alone unpacks all before it counts


def _folder_members(
    path: Path, wanted: Callable[[str], bool], folder: Callable[[str], object], progress: tqdm | None
) -> Iterator[tuple[str, bytes]]:
    for name, full, size in _folder_files(path, folder):
        if not wanted(name):
            continue
        _checked_size(path, name, size)
        with _reading(full):
            data = full.read_bytes()
        if progress is not None:
            progress.update(len(data))
        yield name, data


def _folder_files(path: Path, folder: Callable[[str], object] = lambda name: None) -> Iterator[tuple[str, Path, int]]:
    """Name, place and size of every file below a folder, in name order. Links are followed; the system ends circles."""

    def refuse(error: OSError) -> None:
        raise error

    with _reading(path):
        for place, subfolders, files in os.walk(path, onerror=refuse, followlinks=True):
            subfolders.sort()
            for subfolder in subfolders:
                folder((Path(place) / subfolder).relative_to(path).as_posix())
            for file in sorted(files):
                full = Path(place) / file
                name = full.relative_to(path).as_posix()
                _checked_letters(path, name)
                with _reading(full):
                    status = full.stat()
                if not stat.S_ISREG(status.st_mode):
                    raise PrepError(full, "a pipe, socket or device", "regular files and folders only")
                yield name, full, status.st_size


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        place = error.filename or path
        raise PrepError(place, f"an unreadable file ({error.strerror or error})", "a readable one") from error

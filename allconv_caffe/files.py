"""Files and folders that are whole or absent, digests, JSON with kinds, locks: one owner for each.

What the system refuses stays an `OSError`, which the caller puts into the words of its own room; `Held`, `NoLocks` and
`Planted` are OSErrors, too, and their `strerror` is a sentence.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import io
import json
import math
import os
import re
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import IO, Any, Union, get_args, get_origin

from allconv_caffe.errors import FoundError

Path = Union[str, "os.PathLike[str]"]
_BLOCK = 1 << 20
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp", re.DOTALL)
_TOKEN = ".token"
_HERE, _EXCHANGE = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
_YOUNG_SECONDS = 60  # a temporary of this age may be one that its writer has not locked yet


class Held(OSError):
    """Another process holds the lock."""


class NoLocks(OSError):
    """The file system has no locks, so what must be one at a time is refused there."""


class Planted(OSError):
    """Where a file or folder of our own would lie, somebody else has put a link or a folder: writing there is refused."""


# reading, without waiting for anybody
class NotAFile(OSError):
    """A device or a pipe, `found`, where a file was expected."""

    def __init__(self, found: str) -> None:
        super().__init__(errno.EINVAL, f"Found {found}, expected a file")
        self.found = found.split()[1]


def open_file(path: Path, pipes: bool = False) -> IO[bytes]:
    """`path` opened for reading, without waiting for anybody: /dev/zero has no end, and a pipe that nobody writes to no
    beginning.

    Args:
        pipes: read a pipe that somebody writes to, to its end, as ``<(command)`` of a shell makes one.
    Raises: OSError, NotAFile among them; ValueError: a NUL in the name.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            raise NotAFile("a device")
        if stat.S_ISFIFO(mode):
            return io.BytesIO(_drain(handle, pipes))
        os.set_blocking(handle, True)
        kept, handle = handle, -1
        return os.fdopen(kept, "rb")
    finally:
        if handle >= 0:
            os.close(handle)


def _drain(handle: int, pipes: bool) -> bytes:
    """All that comes out of a pipe. Raises: NotAFile."""
    if not pipes:
        raise NotAFile("a pipe")
    try:
        first = os.read(handle, 1)
        if not first:
            raise NotAFile("a pipe that nobody writes to")
    except BlockingIOError:  # somebody will
        first = b""
    os.set_blocking(handle, True)
    with os.fdopen(os.dup(handle), "rb") as file:
        return first + file.read()


def check_file(path: Path) -> None:
    """For readers that open a file themselves. Raises: NotAFile, where they would wait for ever."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return  # they have their own words for it
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        raise NotAFile("a device")
    if stat.S_ISFIFO(mode):
        raise NotAFile("a pipe")


def absent(path: Path) -> str:
    """What is found where a file should be and is none, in words."""
    return "a folder" if os.path.isdir(path) else "no such file"


def check_regular(path: Path) -> None:
    """For readers that seek. Raises: ValueError for what is there and is no file."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError("a folder, a device or a pipe")


def most_unpacked(size: int) -> int:
    """How many bytes may come out of a packed file of `size` bytes: beyond that it is a bomb, and not data."""
    return (64 << 20) + 50 * size  # pictures of one colour only are packed tighter


# files, whole or not at all
def write(path: Path, content: Union[str, bytes, Iterable[Any]], *, sync: bool = True) -> None:
    """Write `path`, whole or not at all: a text, bytes, or bytes-like pieces one after the other.

    Args:
        sync: force it to disk before it gets its name. False: whole also after the process is killed, not after the
            machine is; for files by the thousand that a command makes again.
    Raises: OSError; ValueError: a NUL in the name.
    """
    pieces: Any = content
    if isinstance(content, (str, bytes)):
        pieces = [content.encode() if isinstance(content, str) else content]
    with writing(path, sync=sync) as file:
        file.writelines(pieces)


@contextmanager
def writing(path: Path, *, sync: bool = True) -> Iterator[IO[bytes]]:
    """A file to write to, which gets its name at the end; after any failure nothing is left, and what was there stays.

    Raises: OSError; ValueError: a NUL in the name.
    """
    with replacing(path, sync=sync) as temporary, os.fdopen(open_own(temporary, os.O_RDWR), "w+b") as file:
        yield file


@contextmanager
def replacing(path: Path, *, sync: bool = True) -> Iterator[str]:
    """As `writing`, for writers that open a file themselves: the temporary name beside `path`; fsync and rename follow."""
    handle, temporary = _temporary(path)
    try:
        yield temporary
        if sync:
            _sync_one(temporary)
        os.replace(temporary, path)  # while the lock is held, which tells it from a left-over
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    finally:
        os.close(handle)


def _temporary(path: Path) -> tuple[int, str]:
    """A new file beside `path`, its mode as the umask has it, locked as long as it is open."""
    folder, name = os.path.split(os.path.abspath(path))
    while True:
        temporary = os.path.join(folder, f".{shortened(name)}.{os.urandom(4).hex()}.tmp")
        with suppress(FileExistsError):
            handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
            with suppress(Held, NoLocks):
                hold(handle)
            return handle, temporary


def check_writable(path: Path) -> None:
    """Fails now where `path` could not be written later. Raises: OSError; ValueError: a NUL in the name."""
    with suppress(FileNotFoundError):
        os.lstat(path)  # the name may be too long
    handle, temporary = _temporary(path)
    os.close(handle)
    os.unlink(temporary)


def shortened(name: str) -> str:
    """The beginning of a file's name, so that what is added to it makes no name too long: 255 bytes are the most."""
    return os.fsencode(name)[:200].decode("utf-8", "ignore")


def sweep(folder: Path) -> None:
    """Remove the temporaries that killed processes of ours left in `folder`; one whose writer lives is locked, and stays."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if _TEMPORARY.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                with suppress(OSError):
                    _sweep(entry.path)


def _sweep(path: str) -> None:
    handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if time.time() - os.fstat(handle).st_mtime > _YOUNG_SECONDS:
            hold(handle)
            os.unlink(path)
    finally:
        os.close(handle)


def open_own(path: Path, flags: int) -> int:
    """A descriptor of a file whose name is ours to choose, made if `flags` say so. Raises: Planted for a link; OSError."""
    try:
        return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if os.path.islink(path):
            raise Planted(
                errno.ELOOP, "a link in the place of a file of our own; remove it", os.fspath(path)
            ) from error
        raise


# folders, complete or absent
@contextmanager
def building(
    out: Path, check: Callable[[], None] = lambda: None, *, sync: bool = True, token: str = ""
) -> Iterator[str]:
    """An empty folder, which becomes `out` at the end; after any failure it is removed, and what was there stays.

    It lies beside `out` as ``.<name>.partial``, and its lock ends with the process, however that ends: so a left-over,
    which is cleared, is told from a builder at work. A folder that it replaces changes names with it in one step, where the
    system can, and is ``.<name>.replaced`` for a moment.

    Args:
        check: called with the lock held, before and after; raises where what lies at `out` must stay.
        sync: force files and names to disk first, so that the name never outlives what it promises.
        token: what decides the folder's contents, as a text: a left-over of a builder with the same is not cleared but
            gone on with, and stays after a failure. It lies in the file ``.token`` until the end.
    Raises: Held: another process builds it; NoLocks; Planted: a link, or another user's folder, in the place of ours; OSError.
    """
    parent, name = os.path.split(os.path.abspath(out))
    partial, retired = (os.path.join(parent, f".{shortened(name)}.{word}") for word in ("partial", "replaced"))
    lock = _own_folder(partial)
    try:
        try:
            _begin(partial, token)
            if os.path.lexists(retired):  # a replacement was killed between its two renames, or after them
                if os.path.lexists(out) or os.path.islink(retired):
                    _remove(retired)
                else:
                    os.rename(retired, out)
            check()
            yield partial
            check()
            if token:
                os.unlink(os.path.join(partial, _TOKEN))
            if sync:
                _sync(partial)
            if os.path.isdir(out) and not os.path.islink(out) and not os.listdir(out):
                os.rmdir(out)
            if not (os.path.lexists(out) and _swapped(partial, out, retired)):
                if os.path.lexists(out):
                    os.rename(out, retired)
                os.rename(partial, out)
            _sync_one(parent)
            with suppress(OSError):
                _remove(retired)
        except BaseException:
            if not token or not os.path.lexists(os.path.join(partial, _TOKEN)):
                shutil.rmtree(partial, ignore_errors=True)
            if os.path.lexists(retired) and not os.path.lexists(out):
                os.rename(retired, out)
            raise
    finally:
        os.close(lock)


def _swapped(partial: str, out: Path, retired: str) -> bool:
    """Whether the new folder and the old one have changed names in one step, so that one lies at `out` at any moment.

    Linux can, on most file systems. The old one is locked until it is out of the place where others build.
    """
    libc = ctypes.CDLL(None)
    if os.path.islink(out) or not os.path.isdir(out) or not hasattr(libc, "renameat2"):
        return False
    handle = os.open(out, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        hold(handle)
        if libc.renameat2(_HERE, os.fsencode(partial), _HERE, os.fsencode(os.path.abspath(out)), _EXCHANGE) != 0:
            return False
        os.rename(partial, retired)
        return True
    finally:
        os.close(handle)


def _own_folder(path: str) -> int:
    """The folder `path`, made or found, and held."""
    while True:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        made = False
        with suppress(FileExistsError):
            os.mkdir(path)
            made = True
        found = os.lstat(path)
        if not stat.S_ISDIR(found.st_mode) or not (made or found.st_uid == os.geteuid()):
            kind = "another user's folder" if stat.S_ISDIR(found.st_mode) else "something else"
            raise Planted(errno.EEXIST, f"{kind} in the place of a folder of our own; remove it", path)
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            try:
                hold(handle, path)
            except NoLocks:
                if made:
                    os.rmdir(path)
                raise
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), os.lstat(path)):
                    kept, handle = handle, -1
                    return kept  # else its builder renamed it while it was opened here: once more
        finally:
            if handle >= 0:
                os.close(handle)


def _begin(partial: str, token: str) -> None:
    """Clears a left-over, unless it was begun with this very token."""
    path = os.path.join(partial, _TOKEN)
    if token and os.path.isfile(path) and not os.path.islink(path):
        with open_file(path) as file:
            same = file.read() == token.encode()
        if same:
            for folder, _, names in os.walk(partial):
                for name in filter(_TEMPORARY.fullmatch, names):  # of the builder that is gone
                    os.unlink(os.path.join(folder, name))
            return
    _clear(partial)
    if token:
        write(path, token)


def _clear(folder: str) -> None:
    for entry in list(os.scandir(folder)):
        _remove(entry.path)


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        os.unlink(path)


def _sync(folder: str) -> None:
    for place, _, files in os.walk(folder, topdown=False):
        for name in files:
            if stat.S_ISREG(os.lstat(path := os.path.join(place, name)).st_mode):
                _sync_one(path)
        _sync_one(place)


def _sync_one(path: str) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# locks
def hold(handle: int, path: Path | None = None) -> None:
    """Lock what `handle` has open, as long as it is open. Raises: Held: another process has; NoLocks.

    Args:
        path: for an error to name.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise Held(error.errno, "another process at work") from None
        raise NoLocks(error.errno, f"a file system without locks ({error.strerror})", path) from None


@contextmanager
def locked(path: Path) -> Iterator[int]:
    """Hold the file `path` of our own, made where it is missing; a process that inherits the descriptor holds it, too.

    Raises: Held; NoLocks: nothing is made then; Planted; OSError.
    """
    handle = open_own(path, os.O_RDWR | os.O_CREAT)
    try:
        try:
            hold(handle, path)
        except NoLocks:
            if not os.fstat(handle).st_size:
                os.unlink(path)
            raise
        yield handle
    finally:
        os.close(handle)


# digests
def hasher(algorithm: str) -> Any:
    """A new digest, of "md5", "sha1" or "sha256"; none of them guards a secret here."""
    return hashlib.new(algorithm, usedforsecurity=False)


def feed(file: IO[bytes], *hashers: Any) -> int:
    """Give what is left of `file` to each digest; returns the number of bytes."""
    count = 0
    while block := file.read(_BLOCK):
        for each in hashers:
            each.update(block)
        count += len(block)
    return count


def digest(path: Path, algorithm: str = "sha256") -> str:
    """Of a file's bytes, in hexadecimal."""
    found = hasher(algorithm)
    with open_file(path) as file:
        feed(file, found)
    return str(found.hexdigest())


# JSON
def read_json(path: Path, expected: str, error: type[FoundError] = FoundError) -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        expected: what the file is for: "the record of a run".
        error: what is raised: where, what was found, `expected`.
    """
    where = os.fspath(path)
    try:
        with open_file(where) as file:
            content = file.read()
    except OSError as failure:
        raise error(where, f"nothing ({failure.strerror})", expected) from None
    return parse_json(content, where, expected, error)


def parse_json(content: bytes, where: str, expected: str, error: type[FoundError] = FoundError) -> dict[str, Any]:
    """The JSON object in what was read from `where`; the rest as for `read_json`."""
    try:
        found = json.loads(content.decode())
        json.dumps(found, ensure_ascii=False).encode()  # half of a pair of surrogates is no text
    except (ValueError, RecursionError) as failure:
        raise error(where, f"no JSON ({failure})", expected) from None
    if not isinstance(found, dict):
        raise error(where, kind_of(type(found)), expected)
    return found


def write_json(path: Path, content: Any, indent: int = 2) -> None:
    """Write `json_text`. Raises: OSError."""
    write(path, json_text(content, indent))


def json_text(content: Any, indent: int = 2) -> str:
    """JSON that any reader accepts, keys as they come: numbers that are not finite become null, paths texts."""
    return json.dumps(_plain(content), indent=indent, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return value


def check_kinds(
    where: object, facts: Mapping[str, Any], kinds: Mapping[str, Any], error: type[FoundError] = FoundError
) -> None:
    """Raises `error` for the first entry of `facts` that is not of its kind; what is in only one of the two is not looked at.

    Args:
        kinds: annotations by key, as `typing.get_type_hints` gives them: ``{"seed": int, "lr": Optional[float]}``.
    """
    for key, kind in kinds.items():
        if key in facts and not fits(facts[key], kind):
            raise error(where, f"{key} {json.dumps(facts[key])[:60]}", kind_of(kind))


def fits(value: Any, kind: Any) -> bool:
    """Whether a value out of JSON is of an annotated kind.

    A list stands for a tuple; a number is finite, a whole number one of 64 bits.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if kind is None or kind is type(None):
        return value is None
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**64
    if origin is dict:
        return isinstance(value, dict) and all(fits(entry, inner[1]) for entry in value.values())
    if origin is tuple and inner[-1] is not ...:
        return isinstance(value, list) and len(value) == len(inner) and all(map(fits, value, inner))
    if origin in (list, tuple):
        return isinstance(value, list) and all(fits(entry, inner[0]) for entry in value)
    if origin is not None:  # a union
        return any(fits(value, each) for each in inner)
    return isinstance(value, kind)


_WORDS = {
    str: ("a text", "texts"),
    float: ("a number", "numbers"),
    int: ("a whole number", "whole numbers"),
    bool: ("true or false", "truths"),
    dict: ("an object", "objects"),
    list: ("a list", "lists"),
    type(None): ("null", "nulls"),
    Any: ("anything", "anything"),
}


def kind_of(kind: Any, several: bool = False) -> str:
    """An annotated kind in words: "a number or null", "a list of texts"."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (list, tuple):
        many = f"{len(inner)} " if origin is tuple and inner[-1] is not ... else ""
        return f"{'lists' if several else 'a list'} of {many}{kind_of(inner[0], several=True)}"
    if origin is dict:
        return f"{'objects' if several else 'an object'} of {kind_of(inner[1], several=True)}"
    if origin is not None:
        return " or ".join(kind_of(each, several) for each in inner)
    return _WORDS[kind][several]

"""Downloads from a server in this process: resumed, retried, checked."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from data_prep import cifar, download
from data_prep.cifar import Archive
from data_prep.errors import PrepError

CONTENT = bytes(range(256)) * 4000  # 1,024,000 bytes
NAME = "cifar-10-python.tar.gz"


class Server:
    """Serves CONTENT; `ranges`: answers 206 to Range; `cuts`: after how many bytes to hang up, one for each request;
    `statuses`: error codes to give before that."""

    def __init__(self) -> None:
        self.content, self.ranges = CONTENT, True
        self.cuts: list[int] = []
        self.statuses: list[int] = []
        self.asked: list[str | None] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                asked = self.headers.get("Range")
                outer.asked.append(asked)
                if outer.statuses:
                    self.send_error(outer.statuses.pop(0))
                    return
                start = int(asked.split("=")[1].rstrip("-")) if asked and outer.ranges else 0
                body = outer.content[start:]
                self.send_response(206 if start else 200)
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{len(outer.content) - 1}/{len(outer.content)}")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                with suppress(BrokenPipeError, ConnectionResetError):  # a client that has seen enough
                    self.wfile.write(body[: outer.cuts.pop(0)] if outer.cuts else body)
                self.close_connection = True

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/{NAME}"
        self.thread = threading.Thread(target=lambda: self.http.serve_forever(poll_interval=0.01), daemon=True)
        self.thread.start()

    def archive(self, **changes: Any) -> Archive:
        official = Archive(
            name=NAME,
            dataset="cifar10",
            display_name="CIFAR-10",
            bytes=len(CONTENT),
            md5=hashlib.md5(CONTENT).hexdigest(),
            url=self.url,
        )
        return replace(official, **changes)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()
    made.thread.join()


def fetch(server: Server, folder: Path, attempts: int = 3, **changes: Any) -> Path:
    return download.download(
        NAME, folder, archive=server.archive(**changes), attempts=attempts, wait_seconds=0, progress=False
    )


def message(server: Server, folder: Path, **keywords: Any) -> str:
    with pytest.raises(PrepError) as caught:
        fetch(server, folder, **keywords)
    assert not (folder / NAME).exists()
    return str(caught.value).replace(server.url, "URL")


def test_a_whole_file_arrives_under_its_name(server: Server, tmp_path: Path) -> None:
    """The file lies there complete, with nothing beside it, and a second call asks the server for nothing."""
    assert fetch(server, tmp_path / "new").read_bytes() == CONTENT
    assert [p.name for p in (tmp_path / "new").iterdir()] == [NAME]
    fetch(server, tmp_path / "new")
    assert server.asked == [None]


def test_a_cut_connection_is_resumed_where_it_stopped(server: Server, tmp_path: Path) -> None:
    """After a cut only the rest is asked for."""
    server.cuts = [300_000, 100_000]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=300000-", "bytes=400000-"]


def test_a_later_call_goes_on_from_what_an_earlier_one_left(server: Server, tmp_path: Path) -> None:
    """What arrived before a failure is kept and used by the next call."""
    server.cuts = [10_000]
    assert message(server, tmp_path, attempts=1).startswith(
        "URL: found a connection cut after 10000 bytes; expected 10"
    )
    assert (tmp_path / f"{NAME}.part").read_bytes() == CONTENT[:10_000]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.asked[1] == "bytes=10000-"


def test_a_server_without_ranges_begins_again(server: Server, tmp_path: Path) -> None:
    """A server that ignores Range sends everything; the file is still right."""
    server.ranges, server.cuts = False, [300_000]
    assert fetch(server, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("status", [500, 503, 429, 408])
def test_a_busy_server_is_asked_again(status: int, server: Server, tmp_path: Path) -> None:
    """Errors that pass are retried."""
    server.statuses = [status, status]
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_a_part_that_does_not_fit_is_dropped(server: Server, tmp_path: Path) -> None:
    """A server that refuses the range (416) is asked for the whole file."""
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT[:50])
    server.statuses = [416]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.asked == ["bytes=50-", None]


def test_an_absent_file_is_not_retried(server: Server, tmp_path: Path) -> None:
    """404 is final, and said at once."""
    server.statuses = [404, 404, 404]
    assert message(server, tmp_path) == "URL: found HTTP status 404; expected 200; give another url or a local archive"
    assert len(server.asked) == 1


def test_a_file_that_stays_short_is_an_error_with_both_sizes(server: Server, tmp_path: Path) -> None:
    """A server whose file is truncated is given up after the last attempt."""
    server.content, server.ranges = CONTENT[:5000], False
    assert message(server, tmp_path) == (
        "URL: found a connection cut after 5000 bytes; expected 1024000 bytes; run again to go on from there"
    )


def test_a_longer_file_is_an_error(server: Server, tmp_path: Path) -> None:
    """More bytes than the archive has are refused."""
    server.content = CONTENT + b"x"
    assert message(server, tmp_path) == "URL: found more than 1024000 bytes; expected 1024000 bytes"
    assert not list(tmp_path.iterdir())


def test_a_wrong_md5_leaves_nothing_behind(server: Server, tmp_path: Path) -> None:
    """A complete file with another MD5 never gets the final name, and the next call starts afresh."""
    found = message(server, tmp_path, md5="0" * 32)
    md5 = hashlib.md5(CONTENT).hexdigest()
    assert found == f"URL: found MD5 {md5}; expected {'0' * 32}; the file was removed, run again"
    assert not list(tmp_path.iterdir())


def test_a_wrong_file_of_the_users_is_not_overwritten(server: Server, tmp_path: Path) -> None:
    """A file of that name with another MD5 stays as it is."""
    (tmp_path / NAME).write_bytes(b"mine")
    with pytest.raises(PrepError, match="remove or rename that file"):
        fetch(server, tmp_path)
    assert (tmp_path / NAME).read_bytes() == b"mine" and not server.asked


def test_two_downloads_do_not_share_a_part(server: Server, tmp_path: Path) -> None:
    """A second download of the same file is refused while the first is at work, and takes nothing from it."""
    part = tmp_path / f"{NAME}.part"
    with open(part, "ab") as other:
        other.write(CONTENT[:1000])
        other.flush()
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(PrepError, match=r"\.part: found another download at work; expected one at a time"):
            download.download(NAME, tmp_path, archive=server.archive(), progress=False)
        assert part.read_bytes() == CONTENT[:1000] and server.asked == []
    assert download.download(NAME, tmp_path, archive=server.archive(), progress=False).read_bytes() == CONTENT
    assert server.asked == ["bytes=1000-"] and [path.name for path in tmp_path.iterdir()] == [NAME]


def test_an_unreachable_server_is_one_clear_line(server: Server, tmp_path: Path) -> None:
    """Without a connection the error names the URL."""
    server.http.shutdown()
    server.http.server_close()
    assert message(server, tmp_path, attempts=2) == (
        "URL: found no connection after 0 bytes; expected 1024000 bytes; run again to go on from there"
    )


def test_no_web_address_is_refused(server: Server, tmp_path: Path) -> None:
    """Something else than a web address is named as such."""
    with pytest.raises(PrepError, match="expected an http or https URL"):
        download.download(NAME, tmp_path, "ftp://127.0.0.1/x", archive=server.archive(), progress=False)


def test_an_unknown_archive_gets_the_list() -> None:
    """The known archives are listed for a wrong name."""
    with pytest.raises(PrepError) as caught:
        download.download("mnist.tar.gz", ".")
    assert str(caught.value) == f"archive: found 'mnist.tar.gz'; expected {' or '.join(cifar.ARCHIVES)}"


def test_a_full_disk_is_said(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A download for which there is no room says so."""
    import builtins

    real = builtins.open

    def full(file: Any, mode: str = "r", *rest: Any, **more: Any) -> Any:
        if str(file).endswith(".part") and mode in ("ab", "wb"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, mode, *rest, **more)

    monkeypatch.setattr(builtins, "open", full)
    with pytest.raises(PrepError, match="found a full disk; expected room for the data set"):
        fetch(server, tmp_path)


def test_the_official_table_is_the_published_one() -> None:
    """Names, sizes and MD5 sums are those of the CIFAR page and its downloads."""
    assert {(a.name, a.bytes, a.md5) for a in cifar.ARCHIVES.values()} == {
        ("cifar-10-python.tar.gz", 170498071, "c58f30108f718f92721af3b95e74349a"),
        ("cifar-10-binary.tar.gz", 170052171, "c32a1d4ab5d03f1284b67883e8d87530"),
        ("cifar-100-python.tar.gz", 169001437, "eb9058c3a382ffc7106e4002c42a8d85"),
        ("cifar-100-binary.tar.gz", 168513733, "03b5dce01913d631647c71ecec9e9cb8"),
    }
    assert all(a.url == f"https://www.cs.toronto.edu/~kriz/{a.name}" for a in cifar.ARCHIVES.values())

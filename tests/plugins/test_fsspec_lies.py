"""File systems that lie, fail in all ways, or are silent, and what fsspec's plugin makes of it."""

import asyncio
import errno
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from nbdfork.plugin import Export
from tests.support.fsspec_far import opened
from tests.support.harness import Server, eventually, need_modules, refused
from tests.support.libnbd import connected
from tests.support.told import check_told

need_modules("fsspec")

import fsspec  # noqa: E402  # it may not be installed
from fsspec.spec import AbstractFileSystem  # noqa: E402

SIZE = 1 << 20
CONTENT = bytes(range(256)) * (SIZE // 256)

NONSENSE = "the far end says nonsense: "


class File:
    """The open file of a file system that may lie; *content* returns what it reads."""

    def __init__(self, content: Callable[[int, int], Any]) -> None:
        self._content = content
        self._at = 0

    def seek(self, at: int) -> None:
        self._at = at

    def read(self, count: int) -> Any:
        data = self._content(self._at, count)
        self._at += len(data) if isinstance(data, bytes) else 0
        return data

    def close(self) -> None:
        pass


class Lying(AbstractFileSystem):  # type: ignore[misc]
    """Does what it has been told to; otherwise it has the file that the tests expect."""

    protocol = "lying"
    cachable = False
    facts: Callable[[], Any]
    content: Callable[[int, int], Any]

    def info(self, path: str, **options: object) -> Any:
        return type(self).facts()

    def open(self, path: str, mode: str = "rb", **options: object) -> Any:
        return File(type(self).content)


def good_facts() -> dict[str, object]:
    return {"name": "disk", "type": "file", "size": SIZE, "mtime": 1}


def good_content(at: int, count: int) -> bytes:
    return CONTENT[at : at + count]


fsspec.register_implementation("lying", Lying, clobber=True)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nbdfork.plugins.fsspec.export._PAUSES", (0.0,))
    monkeypatch.setattr("nbdfork.plugins.fsspec.export._PAUSES_AT_OPEN", (0.0,))


@contextmanager
def lying(
    facts: Callable[[], Any] = good_facts, content: Callable[[int, int], Any] = good_content
) -> Iterator[None]:
    """Let the file system tell these facts and have this content."""
    Lying.facts, Lying.content = staticmethod(facts), staticmethod(content)
    yield


def raising(error: BaseException) -> Callable[..., Any]:
    def call(*arguments: object) -> Any:
        raise error

    return call


@contextmanager
def disk(*words: str) -> Iterator[Export]:
    with opened("lying://disk", *words) as export:
        yield export


def test_the_truth() -> None:
    with lying(), disk() as export:
        assert bytes(export.pread(4096, 512)) == CONTENT[512:4608]


FACTS: dict[str, tuple[object, int, str]] = {
    "no size": ({"type": "file"}, errno.EIO, "does not tell the file's size"),
    "a negative size": ({"size": -1}, errno.EIO, NONSENSE + "a size of -0x1 bytes"),
    "a size of 2^63": ({"size": 2**63}, errno.EIO, NONSENSE + "a size of 0x8000"),
    "a size of 5,000 digits": ({"size": 10**5000}, errno.EIO, NONSENSE + "a size of 0x"),
    "a size in words": ({"size": "many\n\x1b[2J"}, errno.EIO, NONSENSE + "a size of many"),
    "a size with a fraction": ({"size": 1.5}, errno.EIO, NONSENSE + r"a size of 1\.5"),
    "no facts": (None, errno.EIO, NONSENSE + "NoneType for the facts"),
    "a list of facts": ([good_facts()], errno.EIO, NONSENSE + "list for the facts"),
    "a directory": ({"type": "directory"}, errno.EISDIR, "it is a directory"),
    "only the whole": ({"size": 1, "partial": False}, errno.EOPNOTSUPP, "only the whole file"),
}
"""What is told of the file, the errno, and what is said about it."""


@pytest.mark.parametrize("lie", FACTS)
def test_facts_that_cannot_be_served(lie: str) -> None:
    facts, number, said = FACTS[lie]
    with lying(lambda: facts), refused(number, f"^.*lying://disk: .*{said}"), disk():
        pass


class Odd(Exception):
    """One that nobody knows."""


RAISED: dict[str, tuple[BaseException, int, str]] = {
    "no such file": (FileNotFoundError(2, "no"), errno.ENOENT, "there is no such file"),
    "not allowed": (PermissionError("secret"), errno.EACCES, "PermissionError"),
    "too slow": (TimeoutError(), errno.ETIMEDOUT, "TimeoutError"),
    "refused": (ConnectionRefusedError(111, "no"), errno.ECONNREFUSED, "ConnectionRefusedError"),
    "reset": (ConnectionResetError(), errno.EIO, "ConnectionResetError"),
    "an errno": (OSError(errno.ENOSPC, "full"), errno.EIO, "full"),
    "one that nobody knows": (Odd("a\nb\0c\x1b[2J" + "d" * 5000), errno.EIO, r"Odd: a b\\x00c"),
    "a wrong type": (TypeError("x"), errno.EIO, "TypeError: x"),
    "a missing key": (KeyError("x"), errno.EIO, "KeyError: 'x'"),
    "no memory": (MemoryError(), errno.EIO, "MemoryError"),
    "no end": (RecursionError("deep"), errno.EIO, "RecursionError: deep"),
    "cancelled": (asyncio.CancelledError(), errno.EIO, "CancelledError"),
}
"""What is raised, and what becomes of it."""


@pytest.mark.parametrize("kind", RAISED)
def test_what_is_raised_when_it_is_opened(kind: str) -> None:
    error, number, said = RAISED[kind]
    with lying(raising(error)), pytest.raises(OSError, match=said) as caught, disk():
        pass
    check(caught.value, number)


@pytest.mark.parametrize("kind", RAISED)
def test_what_is_raised_when_it_is_read(kind: str) -> None:
    error, number, said = RAISED[kind]
    with lying(content=raising(error)), disk() as export:
        with pytest.raises(OSError, match=said) as caught:
            export.pread(512, 0)
    check(caught.value, number)


def check(error: OSError, number: int) -> None:
    check_told(error, "lying://disk: ", number)


CONTENTS: dict[str, tuple[Callable[[int, int], Any], str]] = {
    "nothing": (lambda at, count: b"", "0 bytes came, where 512 bytes at 4096"),
    "too few": (lambda at, count: b"x" if at < 4097 else b"", "1 bytes came, where 512"),
    "too many": (lambda at, count: b"x" * 1000, "1000 bytes came, where 512"),
    "text": (lambda at, count: "x" * count, NONSENSE + "str for what is in the file"),
    "nothing at all": (lambda at, count: None, "0 bytes came"),
}


@pytest.mark.parametrize("lie", CONTENTS)
def test_content_that_is_not_what_was_asked_for(lie: str) -> None:
    content, said = CONTENTS[lie]
    with lying(content=content), disk() as export, refused(errno.EIO, said):
        export.pread(512, 4096)


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"size": SIZE - 1}, "its size was 1048576 bytes and is 1048575"),
        ({"mtime": 2}, "its mtime was 1 and is 2"),
        ({"mtime": None}, "its mtime was 1 and is not told any more"),
        ({"mtime": "\x1b" * 900}, r"its mtime was 1 and is \\x1b"),
    ],
    ids=["another size", "later", "not told", "not for people"],
)
def test_another_file_later(facts: dict[str, object], said: str) -> None:
    with lying(), disk() as export:
        export.pread(512, 0)
        with lying(lambda: good_facts() | facts), refused(errno.EIO, said):
            export.pread(512, 0)


def test_a_change_of_the_size_is_noticed_though_nothing_else_is_told() -> None:
    with lying(lambda: {"size": SIZE}), disk() as export:
        with lying(lambda: {"size": SIZE + 1}), refused(errno.EIO, "its size was"):
            export.pread(512, 0)


# -- silence ----------------------------------------------------------------------------------

SILENT = "no answer for 0.2 s"


def test_a_file_system_that_never_answers() -> None:
    go = threading.Event()
    with lying(lambda: go.wait(60)), refused(errno.ETIMEDOUT, SILENT), disk("timeout=0.2"):
        pass
    asked = 0

    def content(at: int, count: int) -> bytes:
        nonlocal asked
        asked += 1
        if asked == 1:
            assert go.wait(60)
        return good_content(at, count)

    with lying(content=content), disk("timeout=0.2") as export:
        with refused(errno.ETIMEDOUT, SILENT):
            export.pread(512, 0)
        assert bytes(export.pread(512, 512)) == CONTENT[512:1024]
    go.set()


@pytest.mark.parametrize("scheme", ["http", "sftp"])
def test_a_server_that_never_answers(scheme: str) -> None:
    need_modules("aiohttp", "paramiko")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with refused(errno.ETIMEDOUT, SILENT):
            with opened(f"{scheme}://127.0.0.1:{port}/disk", "timeout=0.2"):
                pass


def test_the_log_says_once_that_a_server_never_answers() -> None:
    need_modules("aiohttp")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/disk"
        with Server("-n", "fsspec", url, "timeout=0.2") as server:
            with pytest.raises(Exception, match="nbd_connect_uri"), connected(server.uri):
                pass
            eventually(lambda: SILENT in server.log)
            assert server.log.count(SILENT) == 1
            assert url in server.log

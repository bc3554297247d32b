"""Standard error that nobody reads."""

import fcntl
import os
import socket
import time
from collections.abc import Iterator

import pytest

from nbdfork import console
from nbdfork.console import Console


@pytest.fixture(autouse=True)
def _impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "PATIENCE_SECONDS", 0.05)


def note(count: int) -> str:
    return f"{count} lost"


class End:
    """The other end of a console: a pipe, or a socket as a service manager has it."""

    def __init__(self, kind: str) -> None:
        if kind == "socket":
            ours, theirs = socket.socketpair()
            self.reader, self.writer = ours.detach(), theirs.detach()
        else:
            self.reader, self.writer = os.pipe()
        self.console = Console(self.writer, note)
        if kind == "pipe of another user":  # which cannot be opened once more
            os.close(self.console._own)
            self.console._own = -1

    def fill(self) -> int:
        """Write until there is no room; return how many messages were written."""
        count = 0
        while self.console._put(b"%-99d\n" % count, 0.0):
            count += 1
        return count

    def read(self) -> list[bytes]:
        """Return the lines that are there to be read."""
        os.set_blocking(self.reader, False)
        data = b""
        try:
            while more := os.read(self.reader, 1 << 20):
                data += more
        except BlockingIOError:
            pass
        return data.splitlines()


KINDS = ("pipe", "socket", "pipe of another user")


@pytest.fixture(params=KINDS)
def end(request: pytest.FixtureRequest) -> Iterator[End]:
    made = End(request.param)
    yield made
    made.console.close()
    os.close(made.reader)
    os.close(made.writer)


def test_nobody_waits_for_ever_and_what_is_lost_is_told(end: End) -> None:
    end.fill()
    began = time.monotonic()
    for _ in range(100):
        end.console.write(b"this is lost" * 10 + b"\n")
    assert time.monotonic() - began < 2
    end.read()
    end.console.write(b"this is not\n")
    assert end.read() == [b"100 lost", b"this is not"]
    end.console.write(b"nor this\n")
    assert end.read() == [b"nor this"]


def test_what_is_lost_can_be_told_without_another_message(end: End) -> None:
    end.fill()
    end.console.write(b"this is lost\n" * 10)
    told = end.read()
    end.console.flush()
    assert [*told, *end.read()].count(b"1 lost") == 1


def test_processes_count_together(end: End) -> None:
    end.fill()
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            try:
                end.console.write(b"this is lost\n" * 10)
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
    end.read()
    end.console.flush()
    assert end.read() == [b"3 lost"]


def test_a_line_that_was_cut_off_ends_before_the_next_one() -> None:
    end = End("pipe")
    end.fill()
    os.read(end.reader, 4096)
    end.console.write(b"x" * 8192 + b"\n")  # more than a pipe takes as a whole
    lines = end.read()
    assert set(lines[-1]) == {ord("x")}
    assert len(lines[-1]) < 8192
    end.console.write(b"next\n")
    assert end.read() == [b"", b"1 lost", b"next"]


def test_others_who_have_the_pipe_still_block(end: End) -> None:
    assert not fcntl.fcntl(end.writer, fcntl.F_GETFL) & os.O_NONBLOCK


def test_nobody_is_there_any_more() -> None:
    reader, writer = os.pipe()
    with Console(writer, note) as it:
        os.close(reader)
        assert it.write(b"nobody reads this\n") == 18
    os.close(writer)


def test_a_file_takes_all(tmp_path: object) -> None:
    fd = os.memfd_create("log")
    with Console(fd, note) as it:
        assert it.write(b"x" * 100_000) == 100_000
    assert os.fstat(fd).st_size == 100_000
    os.close(fd)


def test_python_writes_there(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with capfd.disabled():
        pass
    monkeypatch.setattr("sys.stderr", None)
    monkeypatch.setattr("sys.__stderr__", None)
    console.take_stderr(note)
    import sys

    print("one line,", "two parts", file=sys.stderr)
    console.take_stderr(note)  # the descriptor leads elsewhere now
    print("\udcff", file=sys.stderr)
    sys.stderr.close()
    assert capfd.readouterr().err == "one line, two parts\n\\udcff\n"

"""Requests that one thread has under way; what real clients see is in `plugins/test_nbd`."""

import errno
import os
import select
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from nbdfork.backend.gate import LARGE, Gate
from nbdfork.backend.pipelined import pipeline_of
from nbdfork.plugin import Ended, Export, PartialError, Pipeline, Unfinished
from nbdfork.protocol.errors import CutShort, Disconnected, ProtocolError
from nbdfork.protocol.pipelined import PipelinedChannel, PipelinedTransmission
from nbdfork.protocol.transmission import Session
from tests.support.harness import eventually, receive
from tests.support.requests import Counted, request

READ, WRITE, DISC, FLUSH = 0, 1, 2, 3
SIZE = 1 << 20


@dataclass
class Begun:
    """A request at the far end; *answer* is called when it is to be answered."""

    count: int
    offset: int
    ended: Ended
    data: bytes = b""


@dataclass
class FarEnd(Pipeline):
    """Answers when it is told to, in any thread; what it answers is `answers`."""

    begun: list[Begun] = field(default_factory=list)
    takes: bool = True
    bell: int = field(default_factory=lambda: os.eventfd(0, os.EFD_NONBLOCK))
    is_closed: bool = False
    most: int = 0
    due: list[tuple[Begun, bytes | Exception | None]] = field(default_factory=list)

    def _begin(self, request: Begun) -> bool:
        if self.takes:
            self.begun.append(request)
            self.most = max(self.most, len(self.begun))
        return self.takes

    def read(self, count: int, offset: int, ended: Ended) -> bool:
        return self._begin(Begun(count, offset, ended))

    def write(self, data: memoryview, offset: int, flags: int, ended: Ended) -> bool:
        return self._begin(Begun(len(data), offset, ended, bytes(data)))

    def awaits(self) -> Mapping[int, int]:
        return self._awaits

    def __post_init__(self) -> None:
        self._awaits = {self.bell: select.POLLIN}

    def proceed(self, ready: Mapping[int, int]) -> None:
        if self.bell in ready:
            os.eventfd_read(self.bell)
        while self.due:
            begun, result = self.due.pop(0)
            begun.ended(result)

    def close(self) -> None:
        self.is_closed = True

    def answer(self, begun: Begun, result: bytes | Exception | None) -> None:
        self.begun.remove(begun)
        self.due.append((begun, result))
        os.eventfd_write(self.bell, 1)

    def begun_at(self, offset: int) -> Begun:
        eventually(lambda: any(begun.offset == offset for begun in list(self.begun)))
        return next(begun for begun in self.begun if begun.offset == offset)


class Disk(Export):
    """What is not begun at the far end is done at once, and recorded."""

    def __init__(self, far: FarEnd) -> None:
        self.far = far
        self.calls: list[str] = []
        self.flush_may_end = threading.Event()
        self.flush_may_end.set()
        self.flush_ends = False

    def get_size(self) -> int:
        return SIZE

    def pipeline(self) -> Pipeline:
        return self.far

    def pread(self, count: int, offset: int) -> bytes:
        self.calls.append(f"pread {offset}")
        if offset == 8192:
            raise PartialError(errno.EIO, "a bad sector", 5)
        return b"s" * count

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        self.calls.append(f"pwrite {offset}")

    def flush(self) -> None:
        assert self.flush_may_end.wait(30)
        if self.flush_ends:
            raise SystemExit(3)
        self.calls.append("flush")


@dataclass
class Served:
    """A client that is served in a thread of its own."""

    client: socket.socket
    far: FarEnd
    disk: Disk
    counted: Counted
    channel: PipelinedChannel
    errors: list[BaseException]
    thread: threading.Thread

    def reply(self, count: int = 0) -> tuple[int, bytes]:
        """Return the error of the next reply, and its data."""
        head = receive(self.client, 16)
        return int.from_bytes(head[4:8], "big"), receive(self.client, count)

    def end(self) -> None:
        self.thread.join(30)
        assert not self.thread.is_alive()


@contextmanager
def served(
    limit: int = 16, prepare: Callable[[PipelinedChannel], None] | None = None
) -> Iterator[Served]:
    ours, theirs = socket.socketpair()
    theirs.settimeout(30)
    far = FarEnd()
    disk = Disk(far)
    gate = Gate(disk, read_only=False)
    counted = Counted()
    channel = PipelinedChannel(ours)
    if prepare is not None:
        prepare(channel)
    pipeline = pipeline_of(gate)
    assert pipeline is not None
    serving = PipelinedTransmission(channel, Session(gate), counted, limit, pipeline)
    errors: list[BaseException] = []

    def serve() -> None:
        try:
            serving.serve()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    with theirs:
        yield Served(theirs, far, disk, counted, channel, errors, thread)
        theirs.close()
        thread.join(30)
    channel.close()
    assert not thread.is_alive()
    assert far.is_closed
    assert counted.busy_since == 0


def test_requests_are_under_way_together_and_replied_to_as_they_end() -> None:
    with served() as it:
        it.client.sendall(
            request(READ, 0, 4) + request(WRITE, 512, 3, b"abc") + request(READ, 4096, 4)
        )
        for offset in (0, 512, 4096):
            it.far.begun_at(offset)
        eventually(lambda: it.counted.busy_since)
        assert it.far.begun_at(512).data == b"abc"
        it.far.answer(it.far.begun_at(4096), b"last")
        assert it.reply(4) == (0, b"last")
        it.far.answer(it.far.begun_at(512), None)
        assert it.reply() == (0, b"")
        it.far.answer(it.far.begun_at(0), b"1st.")
        assert it.reply(4) == (0, b"1st.")
        it.client.sendall(request(DISC))
        it.end()
        assert it.counted.total() == (3, 8, 3, 0)
        assert it.disk.calls == []
        assert it.errors == []


@pytest.mark.parametrize(
    ("result", "error"),
    [(OSError(errno.ENOSPC, "full"), 28), (b"five!", 5), (None, 5), (ValueError("a bug"), 5)],
    ids=["an error", "too many bytes", "no bytes", "a bug"],
)
def test_what_fails_is_told(result: bytes | Exception | None, error: int) -> None:
    with served() as it:
        it.client.sendall(request(READ, 0, 4))
        it.far.answer(it.far.begun_at(0), result)
        assert it.reply() == (error, b"")
        it.client.sendall(request(DISC))
        it.end()
        assert it.counted.total() == (1, 0, 0, 1)


def test_what_cannot_be_finished_there_is_done_by_the_export() -> None:
    with served() as it:
        it.client.sendall(request(READ, 0, 4) + request(READ, 8192, 16))
        it.far.answer(it.far.begun_at(0), Unfinished())
        assert it.reply(4) == (0, b"ssss")
        it.far.answer(it.far.begun_at(8192), Unfinished())
        assert it.reply() == (5, b"")
        it.far.takes = False
        it.client.sendall(request(WRITE, 512, 3, b"abc"))
        assert it.reply() == (0, b"")
        assert it.disk.calls == ["pread 0", "pread 8192", "pwrite 512"]


def test_others_go_on_while_a_flush_waits() -> None:
    with served() as it:
        it.disk.flush_may_end.clear()
        it.client.sendall(request(FLUSH) + request(READ, 0, 4))
        it.far.answer(it.far.begun_at(0), b"data")
        assert it.reply(4) == (0, b"data")
        it.disk.flush_may_end.set()
        assert it.reply() == (0, b"")
        assert it.disk.calls == ["flush"]


def test_what_the_gate_refuses_never_gets_there() -> None:
    with served() as it:
        it.client.sendall(request(READ, SIZE, 1) + request(WRITE, SIZE - 1, 2, b"ab"))
        assert {it.reply()[0], it.reply()[0]} == {22, 28}
        assert it.far.most == 0


def test_no_more_are_under_way_than_allowed() -> None:
    with served(limit=3) as it:
        it.client.sendall(b"".join(request(READ, 512 * n, 4) for n in range(10)))
        for n in range(10):
            it.far.answer(it.far.begun_at(512 * n), b"%04d" % n)
            assert it.reply(4) == (0, b"%04d" % n)
        assert it.far.most == 3


def test_a_large_one_waits_until_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nbdfork.protocol.pipelined.MOST_HELD", 100_000)
    with served() as it:
        it.client.sendall(request(READ, 0, 60_000) + request(READ, 65536, 60_000))
        it.far.answer(it.far.begun_at(0), bytes(60_000))
        assert it.reply(60_000)[0] == 0
        it.far.answer(it.far.begun_at(65536), bytes(60_000))
        assert it.reply(60_000)[0] == 0
        assert it.far.most == 1


def test_what_was_begun_ends_though_the_client_has_left() -> None:
    with served() as it:
        it.client.sendall(request(READ, 0, 100_000) + request(READ, 4096, 4))
        begun = [it.far.begun_at(offset) for offset in (0, 4096)]
        it.client.close()
        assert it.thread.is_alive()
        for one, data in zip(begun, (bytes(100_000), b"data"), strict=True):
            assert not it.far.is_closed
            it.far.answer(one, data)
        it.end()
        assert all(isinstance(error, CutShort) for error in it.errors)


def test_what_was_begun_is_replied_to_before_nonsense_ends_the_connection() -> None:
    with served() as it:
        it.client.sendall(request(READ, 0, 4) + bytes(28))
        it.far.answer(it.far.begun_at(0), b"data")
        assert it.reply(4) == (0, b"data")
        it.end()
        assert [type(error) for error in it.errors] == [ProtocolError]


def test_a_stop_lets_what_was_received_be_answered() -> None:
    with served() as it:
        it.client.sendall(request(READ, 0, 4))
        begun = it.far.begun_at(0)
        it.channel.stop()
        it.far.answer(begun, b"data")
        assert it.reply(4) == (0, b"data")
        it.end()
        assert it.errors == []


def test_a_client_that_is_silent_for_too_long_is_given_up() -> None:
    with served(prepare=lambda channel: channel.set_idle_limit(0.05)) as it:
        it.end()
        assert [type(error) for error in it.errors] == [Disconnected]


def test_an_end_of_the_interpreter_in_another_thread_ends_the_client() -> None:
    with served() as it:
        it.disk.flush_ends = True
        it.client.sendall(request(FLUSH))
        it.end()
        assert [type(error) for error in it.errors] == [SystemExit]


def test_where_no_thread_can_be_had_the_request_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    with served() as it:

        def start(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", start)
        it.client.sendall(request(FLUSH))
        assert it.reply() == (12, b"")


def test_what_large_ones_hold_is_counted_until_they_are_answered() -> None:
    with served() as it:
        it.client.sendall(request(READ, 0, LARGE) + request(WRITE, LARGE, LARGE, bytes(LARGE)))
        read, written = it.far.begun_at(0), it.far.begun_at(LARGE)
        eventually(lambda: it.counted.held == 2 * LARGE)
        it.far.answer(read, bytes(LARGE))
        assert it.reply(LARGE)[0] == 0
        eventually(lambda: it.counted.held == LARGE)
        it.far.answer(written, Unfinished())
        assert it.reply() == (0, b"")
        eventually(lambda: it.counted.held == 0)
        it.counted.most_held = LARGE - 1
        it.client.sendall(request(READ, 0, LARGE))
        assert it.reply() == (12, b"")
        assert it.counted.held == 0

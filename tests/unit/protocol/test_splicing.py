"""Large payloads through a pipe: whole or not at all, and never lost."""

import fcntl
import os
import random
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nbdfork.backend.gate import LARGE, Gate
from nbdfork.plugin import DescriptorExport
from nbdfork.protocol.errors import CutShort
from nbdfork.protocol.runs import RunChannel, RunTransmission
from nbdfork.protocol.splicing import Pipe, Unmoved
from nbdfork.protocol.transmission import Session
from tests.support.requests import Counted, request
from tests.support.speedups import need_speedups

WRITE, DISC = 1, 2
SIZE = 2 << 20
DATA = random.Random(1).randbytes(LARGE)
Ends = tuple[socket.socket, socket.socket]


@pytest.fixture
def ends() -> Iterator[Ends]:
    ours, theirs = socket.socketpair()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * LARGE)
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def pipe(ends: Ends) -> Iterator[Pipe]:
    found = Pipe(ends[0].fileno())
    yield found
    found.close()


def filled(pipe: Pipe, theirs: socket.socket) -> None:
    sender = threading.Thread(target=theirs.sendall, args=(DATA,))
    sender.start()
    pipe.fill(len(DATA), 10.0)
    sender.join()


def test_what_comes_is_written_where_it_belongs(ends: Ends, pipe: Pipe) -> None:
    filled(pipe, ends[1])
    fd = os.memfd_create("disk")
    assert pipe.write(fd, 4097) == LARGE
    assert pipe.filled == 0
    assert os.pread(fd, LARGE + 4097, 0) == bytes(4097) + DATA
    os.close(fd)


def test_a_client_that_leaves_or_is_silent(ends: Ends, pipe: Pipe) -> None:
    ends[1].sendall(b"abc")
    with pytest.raises(CutShort, match="timed out"):
        pipe.fill(4, 0.01)
    ends[1].close()
    with pytest.raises(CutShort, match="left in the middle"):
        pipe.fill(4, 10.0)
    assert pipe.filled == 3


def test_a_pipe_that_is_full_of_small_pieces(ends: Ends, pipe: Pipe) -> None:
    fcntl.fcntl(pipe._begin, fcntl.F_SETPIPE_SZ, 4096)
    for _ in range(20):
        ends[1].sendall(b"x")
    with pytest.raises(Unmoved):
        pipe.fill(20, 10.0)
    view = memoryview(bytearray(20))
    assert 0 < pipe.read(view) < 20
    assert pipe.filled == 0


def test_a_source_that_cannot_be_moved_from(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:  # nor read from
        pipe = Pipe(file.fileno())
        with pytest.raises((Unmoved, CutShort)):
            pipe.fill(1, 1.0)
        pipe.close()


def test_a_file_that_takes_no_more_leaves_the_rest_in_the_pipe(ends: Ends, pipe: Pipe) -> None:
    filled(pipe, ends[1])
    fd = full_after(100_000)
    written = pipe.write(fd, 0)
    assert written <= 100_000
    assert pipe.filled == LARGE - written
    view = memoryview(bytearray(LARGE))
    assert pipe.read(view) == LARGE - written
    assert os.pread(fd, LARGE, 0)[:written] + bytes(view[: LARGE - written]) == DATA
    os.close(fd)


def full_after(size: int) -> int:
    """Return a file that cannot be made larger."""
    fd = os.memfd_create("disk", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
    return fd


# -- requests -----------------------------------------------------------------------------------


class Played:
    """What became of large writes that a client sent, one after another."""

    def __init__(self, fd: int, *requests: bytes, most: int | None = None) -> None:
        need_speedups()
        gate = Gate(Sized(fd, writable=True), False)
        ours, theirs = socket.socketpair()
        self.counted = Counted()
        self.replies = bytearray()
        with ours:
            channel = RunChannel(ours)
            channel.exactly = True  # as after the first large write
            self.transmission = RunTransmission(channel, Session(gate), self.counted)
            if most is not None:
                self.transmission._most_moved = most
            client = threading.Thread(target=self._speak, args=(theirs, requests))
            client.start()
            self.transmission.serve()
            ours.shutdown(socket.SHUT_WR)
            client.join()
            self.spare = self.transmission._pipe
            gate.close()

    def _speak(self, theirs: socket.socket, requests: tuple[bytes, ...]) -> None:
        with theirs:
            for one in requests:
                theirs.sendall(one)
                self.replies += theirs.recv(16, socket.MSG_WAITALL)
            theirs.sendall(request(DISC))

    @property
    def errors(self) -> list[int]:
        return [self.replies[at + 7] for at in range(0, len(self.replies), 16)]


class Sized(DescriptorExport):
    """A disk of `SIZE` bytes, whatever the file has."""

    def __init__(self, fd: int, *, writable: bool) -> None:
        super().__init__(fd, writable=writable)
        self._size = SIZE


def large(offset: int, flags: int = 0) -> bytes:
    packed = request(WRITE, offset, LARGE, DATA)
    return packed[:4] + flags.to_bytes(2, "big") + packed[6:]


def test_writes_that_are_moved_and_such_as_cannot_be() -> None:
    fd = os.memfd_create("disk")
    os.ftruncate(fd, SIZE)
    moved: list[int] = []
    kept = os.dup(fd)
    real = Pipe.write
    with pytest.MonkeyPatch.context() as patch:

        def write(pipe: Pipe, fd: int, offset: int) -> int:
            moved.append(offset)
            return real(pipe, fd, offset)

        patch.setattr(Pipe, "write", write)
        played = Played(
            fd, large(0), large(LARGE, flags=1), large(2 * LARGE + 1), large(SIZE), large(4 * LARGE)
        )
    assert played.errors == [0, 0, 0, 28, 0]
    assert moved == [0, 2 * LARGE + 1, 4 * LARGE]  # with FUA it is written for good
    assert played.counted.total() == (5, 0, 4 * LARGE, 1)
    whole = os.pread(kept, SIZE, 0)
    for offset in (0, LARGE, 2 * LARGE + 1, 4 * LARGE):
        assert whole[offset : offset + LARGE] == DATA
    assert played.spare is None  # it is closed
    os.close(kept)


def test_a_disk_that_is_full_in_the_middle_fails_one_request_and_serves_the_next() -> None:
    fd = full_after(LARGE + 100_000)
    kept = os.dup(fd)
    played = Played(fd, large(0), large(LARGE), large(0), large(LARGE))
    assert played.errors == [0, 1, 0, 1]
    assert os.pread(kept, LARGE + 4096, 0) == DATA + DATA[:4096]
    os.close(kept)


def test_a_file_that_cannot_be_moved_to_is_written_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    played = Played(fd, large(0), large(0))
    assert played.errors == [0, 0]
    assert played.transmission._most_moved == 0  # it is not tried again
    assert path.read_bytes() == DATA * 2  # as pwrite(2) does, wherever it is told to


def test_payloads_that_do_not_fit_into_the_pipe_are_received() -> None:
    fd = os.memfd_create("disk")
    os.ftruncate(fd, SIZE)
    kept = os.dup(fd)
    with pytest.MonkeyPatch.context() as patch:

        def fail(pipe: Pipe, count: int, timeout: float | None) -> None:
            while pipe.filled < 1000:
                pipe.filled += os.splice(pipe._source, pipe._begin, 1000 - pipe.filled)
            raise Unmoved

        patch.setattr(Pipe, "fill", fail)
        played = Played(fd, large(0), large(LARGE))
    assert played.errors == [0, 0]
    assert played.transmission._most_moved == LARGE - 1  # it is not tried again
    assert os.pread(kept, 2 * LARGE, 0) == DATA * 2
    os.close(kept)


def test_without_memory_to_spare_a_large_write_is_refused() -> None:
    fd = os.memfd_create("disk")
    os.ftruncate(fd, SIZE)
    kept = os.dup(fd)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Counted, "hold", lambda self, count: False)
        played = Played(fd, large(0), large(0))
    assert played.errors == [12, 12]
    assert os.pread(kept, SIZE, 0) == bytes(SIZE)
    os.close(kept)


def test_a_client_that_leaves_in_the_middle_has_written_nothing() -> None:
    need_speedups()
    fd = os.memfd_create("disk")
    os.ftruncate(fd, SIZE)
    gate = Gate(DescriptorExport(fd, writable=True), False)
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            theirs.sendall(large(0)[:100_000])
        channel = RunChannel(ours)
        channel.exactly = True
        with pytest.raises(CutShort, match="in the middle"):
            RunTransmission(channel, Session(gate), Counted()).serve()
    assert os.pread(fd, SIZE, 0) == bytes(SIZE)
    gate.close()

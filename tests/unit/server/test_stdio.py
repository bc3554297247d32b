"""One client on standard input and output: two pipes that look like a socket."""

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from nbdfork.server.errors import StartupError
from nbdfork.server.stdio import PipeStream, is_null, take_over


class Pipes:
    """A stream, and the client's ends of it."""

    def __init__(self) -> None:
        source, self.client_writes = os.pipe()
        self.client_reads, sink = os.pipe()
        self.stream = PipeStream(source, sink)


@pytest.fixture
def pipes() -> Iterator[Pipes]:
    made = Pipes()
    yield made
    made.stream.close()
    for fd in (made.client_reads, made.client_writes):
        try:
            os.close(fd)
        except OSError:
            pass  # the test has done so


def received(stream: PipeStream, flags: int = 0) -> bytes:
    buffer = bytearray(100)
    return bytes(buffer[: stream.recv_into(memoryview(buffer), 0, flags)])


def test_bytes_come_and_go(pipes: Pipes) -> None:
    os.write(pipes.client_writes, b"hello")
    assert received(pipes.stream) == b"hello"
    assert pipes.stream.sendmsg([b"good", memoryview(b"bye")]) == 7
    assert os.read(pipes.client_reads, 100) == b"goodbye"


def test_the_end_is_the_end(pipes: Pipes) -> None:
    os.close(pipes.client_writes)
    assert received(pipes.stream) == b""


def test_nothing_there(pipes: Pipes) -> None:
    with pytest.raises(BlockingIOError):
        received(pipes.stream, socket.MSG_DONTWAIT)
    pipes.stream.settimeout(0.001)
    with pytest.raises(TimeoutError):
        received(pipes.stream)
    with pytest.raises(BlockingIOError):
        received(pipes.stream, socket.MSG_DONTWAIT)


def test_after_a_shutdown_what_has_been_sent_is_read_and_then_the_end(pipes: Pipes) -> None:
    os.write(pipes.client_writes, b"in time")
    pipes.stream.shutdown(socket.SHUT_RD)
    assert received(pipes.stream) == b"in time"
    assert received(pipes.stream) == received(pipes.stream) == b""


def test_a_shutdown_wakes_who_waits(pipes: Pipes) -> None:
    found: list[bytes] = []
    waiter = threading.Thread(target=lambda: found.append(received(pipes.stream)))
    waiter.start()
    pipes.stream.shutdown(socket.SHUT_RD)
    waiter.join(15)
    assert found == [b""]


def test_the_client_sees_the_end_and_nothing_more_is_sent(pipes: Pipes) -> None:
    pipes.stream.shutdown(socket.SHUT_WR)
    assert os.read(pipes.client_reads, 1) == b""
    with pytest.raises(BrokenPipeError):
        pipes.stream.sendmsg([b"late"])


def test_the_descriptor_is_the_one_to_read_from(pipes: Pipes) -> None:
    os.write(pipes.client_writes, b"x")
    assert os.read(pipes.stream.fileno(), 1) == b"x"


@pytest.mark.parametrize("closed", [{0}, {1}, {0, 1, 2}])
def test_without_a_client_there_is_a_message(closed: set[int]) -> None:
    with pytest.raises(StartupError, match="stdin and stdout, but one of them is not open"):
        take_over(closed)


def test_the_null_device() -> None:
    fd = os.open("/dev/null", os.O_RDONLY)
    other = os.open("/dev/zero", os.O_RDONLY)
    assert is_null(fd)
    assert not is_null(other)
    os.close(fd)
    os.close(other)

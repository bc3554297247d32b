"""The request loop, on one end of a pair of sockets."""

import errno
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from nbdfork.backend.gate import LARGE, Gate
from nbdfork.plugin import Export, PartialError
from nbdfork.protocol.channel import Channel
from nbdfork.protocol.errors import ProtocolError
from nbdfork.protocol.parallel import ParallelTransmission, SharedChannel
from nbdfork.protocol.transmission import MAX_DISCARD, MAX_PAYLOAD, Session, Transmission
from tests.support.harness import receive
from tests.support.requests import Counted, request
from tests.support.stream import Recorder

READ, WRITE, DISC = 0, 1, 2
SIZE = 1 << 20


class Disk(Export):
    """Fails where it is told to."""

    def get_size(self) -> int:
        return SIZE

    def pread(self, count: int, offset: int) -> bytes:
        if offset == 4096:
            raise OSError(errno.EIO, "a bad sector")
        return bytes(count)

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        pass


@contextmanager
def transmission(threads: int) -> Iterator[tuple[Transmission, socket.socket, Counted]]:
    ours, theirs = socket.socketpair()
    counted, session = Counted(), Session(Gate(Disk(), read_only=False))
    with ours, theirs:
        if threads > 1:
            channel = SharedChannel(ours)
            yield ParallelTransmission(channel, session, counted, threads), theirs, counted
        else:
            yield Transmission(Channel(ours), session, counted), theirs, counted


BATCH = b"".join(
    [
        request(READ, 0, 512),
        request(READ, 4096, 512),  # the bad sector
        request(WRITE, 512, 3, b"abc"),
        request(READ, SIZE, 1),  # past the end
        request(READ, 8192, 1024),
    ]
)


def test_a_batch_is_counted_once() -> None:
    with transmission(1) as (serving, client, counted):
        client.sendall(BATCH + request(DISC))
        serving.serve()
        assert counted.batches == [(5, 1536, 3, 2)]
        assert all(0 < spent < 60e9 for spent in counted.nanoseconds)


@pytest.mark.parametrize("threads", [2, 8])
def test_threads_count_every_request(threads: int) -> None:
    with transmission(threads) as (serving, client, counted):
        client.sendall(BATCH * 20 + request(DISC))
        serving.serve()
        assert counted.total() == (100, 20 * 1536, 60, 40)


def test_requests_that_came_with_the_handshake_are_counted_from_the_start() -> None:
    with transmission(1) as (serving, client, counted):
        client.sendall(BATCH + request(DISC))
        assert serving._channel.receive(1)
        serving.serve()
        assert counted.busy_since > 0
        assert counted.batches == [(5, 1536, 3, 2)]
        assert all(0 < spent < 60e9 for spent in counted.nanoseconds)


def test_a_client_that_leaves_in_the_middle_has_been_counted() -> None:
    with transmission(1) as (serving, client, counted):
        client.sendall(BATCH)
        client.shutdown(socket.SHUT_WR)
        serving.serve()
        assert counted.total() == (5, 1536, 3, 2)


# -- errors -----------------------------------------------------------------------------------


def answered(*requests: bytes, export: Export | None = None, read_only: bool = False) -> list[int]:
    """Return the errors that the requests are answered with."""
    stream = Recorder(b"".join(requests))
    channel = Channel(stream)
    Transmission(channel, Session(Gate(export or Disk(), read_only=read_only)), Counted()).serve()
    channel.flush()
    assert len(stream.sent) % 16 == 0
    return [
        struct.unpack_from(">I", stream.sent, start + 4)[0]
        for start in range(0, len(stream.sent), 16)
    ]


class Failing(Disk):
    """Fails every write with what it was given."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        raise self.error

    def flush(self) -> None:
        pass


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (OSError(errno.EPERM, "x"), 1),
        (OSError(errno.EROFS, "x"), 1),
        (OSError(errno.EIO, "x"), 5),
        (OSError(errno.ENOSPC, "x"), 28),
        (OSError(errno.EFBIG, "x"), 28),
        (OSError(errno.EDQUOT, "x"), 28),
        (OSError(errno.ESHUTDOWN, "x"), 108),
        (OSError(errno.EAGAIN, "x"), 22),  # which the protocol does not have
        (OSError(errno.EOPNOTSUPP, "x"), 22),  # only a fast zero may hear this
        (OSError("without a number"), 5),
        (MemoryError(), 12),
        (KeyError("a bug"), 5),
        (PartialError(errno.EIO, "x", 1), 5),
    ],
    ids=repr,
)
def test_an_exception_becomes_the_nearest_error_of_the_protocol(
    error: Exception, number: int
) -> None:
    write = request(WRITE, 0, 3, b"abc")
    assert answered(write, write, request(DISC), export=Failing(error)) == [number] * 2


def with_flags(flags: int, packed: bytes) -> bytes:
    return packed[:4] + struct.pack(">H", flags) + packed[6:]


def test_what_a_client_may_not_ask_is_refused_and_the_rest_is_answered() -> None:
    good = request(WRITE, 0, 3, b"abc")
    assert answered(
        request(99, 0, 0),
        with_flags(0x8000, request(READ, 0, 512)),
        with_flags(4, request(READ, 0, 512)),  # DF without structured replies
        request(8, 0, 0),  # RESIZE, which was not offered
        request(7, 0, 512),  # BLOCK_STATUS without a context
        good,
        request(DISC),
        good,  # which nobody reads any more
    ) == [22, 22, 22, 22, 22, 0]


def test_a_read_only_export_refuses_to_be_changed_whatever_the_flags() -> None:
    changes = [request(WRITE, 0, 3, b"abc"), request(4, 0, 512), request(6, 0, 512)]
    asked = [with_flags(flags, change) for change in changes for flags in (0, 0x8000)]
    assert answered(*asked, read_only=True) == [1] * 6


def test_a_payload_that_is_too_large_is_dropped_and_one_that_is_endless_ends_it() -> None:
    large = request(WRITE, 0, MAX_PAYLOAD + 1) + bytes(MAX_PAYLOAD + 1)
    assert answered(large, request(WRITE, 0, 3, b"abc")) == [22, 0]
    with pytest.raises(ProtocolError, match="a payload of"):
        answered(request(WRITE, 0, MAX_DISCARD + 1))


def test_a_request_without_its_magic_ends_it() -> None:
    with pytest.raises(ProtocolError, match="the request magic is 0x"):
        answered(b"x" * 28)


def test_whatever_is_asked_while_the_server_ends_is_refused() -> None:
    stream = Recorder(request(READ, 0, 512) + request(99) + request(DISC))
    channel = Channel(stream)
    Transmission(channel, Session(Gate(Disk(), read_only=False)), Counted()).refuse()
    channel.flush()
    assert [stream.sent[at + 4 : at + 8].hex() for at in (0, 16)] == ["0000006c"] * 2


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("size", [LARGE, SIZE, 3 * SIZE])
def test_large_requests_hold_memory_until_they_are_answered(threads: int, size: int) -> None:
    held: list[int] = []
    with transmission(threads) as (serving, client, counted):

        def pread(count: int, offset: int) -> bytes:
            if count == size:
                held.append(counted.held)
            return bytes(count)

        serving._gate.size = 4 * SIZE
        serving._gate._pread = pread
        serving._gate._pwrite = lambda *_: held.append(counted.held)
        sender = threading.Thread(
            target=client.sendall,
            args=(
                request(READ, 0, size)
                + request(WRITE, 0, size, bytes(size))
                + request(READ, 0, 512)
                + request(DISC),
            ),
        )
        sender.start()
        taker = threading.Thread(target=receive, args=(client, 3 * 16 + size + 512))
        taker.start()
        serving.serve()
        serving._channel.flush()
        sender.join()
        taker.join()
        assert len(held) == 2
        assert all(size <= most <= 2 * size for most in held)
        assert counted.held == 0


@pytest.mark.parametrize("threads", [1, 4])
def test_without_memory_large_requests_fail_and_small_ones_do_not(threads: int) -> None:
    sent = (
        request(WRITE, 0, LARGE, bytes(LARGE))
        + request(WRITE, 0, 2 * SIZE, bytes(2 * SIZE))
        + request(READ, 0, LARGE)
        + request(WRITE, 0, LARGE - 1, bytes(LARGE - 1))
    )
    with transmission(threads) as (serving, client, counted):
        counted.most_held = LARGE - 1
        sender = threading.Thread(target=client.sendall, args=(sent + request(DISC),))
        sender.start()
        serving.serve()
        serving._channel.flush()
        sender.join()
        errors = sorted(struct.unpack(">II8x", receive(client, 16))[1] for _ in range(4))
        assert errors == [0, errno.ENOMEM, errno.ENOMEM, errno.ENOMEM]
        assert counted.held == 0

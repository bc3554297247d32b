"""The request loop, on one end of a pair of sockets."""

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from nbdfork.backend.gate import Gate
from nbdfork.plugin import Export
from nbdfork.protocol.channel import Channel, SharedChannel
from nbdfork.protocol.parallel import ParallelTransmission
from nbdfork.protocol.transmission import Session, Transmission
from tests.support.requests import Counted, request

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


def test_a_client_that_leaves_in_the_middle_has_been_counted() -> None:
    with transmission(1) as (serving, client, counted):
        client.sendall(BATCH)
        client.shutdown(socket.SHUT_WR)
        serving.serve()
        assert counted.total() == (5, 1536, 3, 2)

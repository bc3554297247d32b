"""The extension module: what it is given is checked before it is used."""

import os
import random
import socket
import struct
import threading
from collections.abc import Iterator
from mmap import mmap
from typing import Any

import pytest

from nbdfork import speedups
from tests.support.requests import request
from tests.support.speedups import need_speedups

SIZE = 65536
ROOM = 8192
READ, WRITE = 0, 1
REPLY = struct.pack(">IIQ", 0x67446698, 0, 1)
GOOD: dict[str, Any] = {
    "room": ROOM,
    "most_received": 4096,
    "dialect": 0,
    "fd": 0,
    "start": 0,
    "most_read": 4096,
    "most_written": 4096,
    "misaligned": 0,
    "least_sparse": SIZE,
    "writable": True,
}


@pytest.fixture(autouse=True)
def _needed() -> None:
    need_speedups()


@pytest.fixture
def disk() -> Iterator[int]:
    fd = os.memfd_create("disk")
    os.ftruncate(fd, SIZE)
    yield fd
    os.close(fd)


def made(buffer: Any, **numbers: Any) -> speedups.Exchange:
    return speedups.Exchange(buffer, *{**GOOD, **numbers}.values())


def run(exchange: speedups.Exchange, end: int, **others: int) -> Any:
    usual = {
        "size": SIZE,
        "data": 0,
        "data_end": 0,
        "socket": -1,
        "spin": 0,
        "spin_most": 0,
        "moved": 0,
        "time": 0,
    }
    return exchange.run(others.pop("start", 0), end, *{**usual, **others}.values())


@pytest.mark.parametrize(
    "wrong",
    [
        {"room": 0},
        {"room": 4096},  # no room for a header
        {"room": -1},
        {"most_received": 0},
        {"dialect": -1},
        {"dialect": 3},
        {"start": 1 << 63},
        {"most_read": 1 << 31},
        {"most_written": 1 << 31},
    ],
    ids=str,
)
def test_numbers_that_make_no_sense(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="out of range"):
        made(bytearray(SIZE), **wrong)


def test_what_is_no_buffer_or_cannot_be_written() -> None:
    with pytest.raises(BufferError):
        made(b"constant")
    with pytest.raises(TypeError):
        made(None)
    with pytest.raises(TypeError):
        speedups.Exchange(bytearray(1))  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        speedups.Exchange(bytearray(1), room=1)  # type: ignore[call-arg]


def test_it_is_made_once_and_not_used_before() -> None:
    exchange = made(bytearray(SIZE))
    with pytest.raises(RuntimeError):
        exchange.__init__(bytearray(SIZE), *GOOD.values())  # type: ignore[misc]
    blank = speedups.Exchange.__new__(speedups.Exchange)
    with pytest.raises(RuntimeError):
        run(blank, 0)
    blank.stop()


@pytest.mark.parametrize(
    ("start", "end", "size"),
    [(-1, 0, 1), (2, 1, 1), (0, 4097, 1), (0, 1, 1 << 63), (0, 1, (1 << 64) - 1)],
)
def test_places_that_are_not_in_the_buffer(start: int, end: int, size: int) -> None:
    exchange = made(bytearray(4096), start=4096)
    with pytest.raises(ValueError, match="out of range"):
        run(exchange, end, start=start, size=size)


def test_the_buffer_stays_where_it_is_as_long_as_it_is_used() -> None:
    buffer = mmap(-1, 4096)
    exchange = made(buffer)
    with pytest.raises(BufferError):
        buffer.close()
    del exchange
    buffer.close()


def test_requests_are_consumed_and_answered(disk: int) -> None:
    stream = request(WRITE, 512, 3, b"abc") + request(READ, 512, 3)
    exchange = made(bytearray(stream), fd=disk)
    start, end, *counts, moved, waited, missed, error, lost, unsent = run(exchange, len(stream))
    assert (start, end, counts) == (len(stream), len(stream), [2, 3, 3])
    assert (moved, waited, missed, error, lost) == (0, 0, 0, 0, 0)
    assert bytes(unsent) == REPLY * 2 + b"abc"


def test_one_that_is_not_there_in_whole_is_left(disk: int) -> None:
    stream = request(WRITE, 512, 3, b"abc")
    for end in range(len(stream)):
        exchange = made(bytearray(stream), fd=disk)
        assert run(exchange, end)[:5] == (0, end, 0, 0, 0)
    assert os.pread(disk, 3, 512) == bytes(3)


def test_a_disk_that_fails_leaves_its_request(disk: int) -> None:
    stream = request(READ, 0, 512) + request(READ, SIZE - 512, 512)
    os.ftruncate(disk, SIZE - 1)  # the second will be short
    exchange = made(bytearray(stream), fd=disk)
    assert run(exchange, len(stream))[:3] == (28, 56, 1)
    for fd in (-1, 1 << 20):
        exchange = made(bytearray(stream), fd=fd)
        assert run(exchange, len(stream))[:3] == (0, 56, 0)


def test_a_long_read_is_left_unless_there_are_data(disk: int) -> None:
    stream = request(READ, 8192, 4096)
    exchange = made(bytearray(stream), fd=disk, least_sparse=4096)
    for data, done in (((8192, 12288), 1), ((0, SIZE), 1), ((8193, SIZE), 0), ((0, 12287), 0)):
        assert run(exchange, 28, data=data[0], data_end=data[1])[2] == done
    exchange = made(bytearray(stream), fd=disk, least_sparse=4097)
    assert run(exchange, 28)[2] == 1


def test_replies_that_find_no_room_are_made_later(disk: int) -> None:
    stream = request(READ, 0, 4096) * 3
    exchange = made(bytearray(stream), fd=disk)
    start, _, done, *_, unsent = run(exchange, len(stream))
    assert (start, done, len(unsent)) == (28, 1, 4112)
    assert run(exchange, len(stream), start=start)[:3] == (56, 84, 1)


def test_once_stopped_all_is_left(disk: int) -> None:
    stream = request(READ, 0, 512)
    exchange = made(bytearray(stream), fd=disk)
    exchange.stop()
    assert run(exchange, len(stream))[:3] == (0, 28, 0)


def test_it_runs_in_one_thread_only(disk: int) -> None:
    exchange = made(bytearray(8192), fd=disk)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        endless = {"socket": ours.fileno(), "spin": 1 << 60, "spin_most": 512, "time": 1 << 60}
        busy = threading.Thread(target=run, args=(exchange, 0), kwargs=endless)
        busy.start()
        try:
            theirs.sendall(request(READ, 0, 100))
            assert theirs.recv(200)  # the thread is there, and looks for the next request
            with pytest.raises(RuntimeError):
                run(exchange, 0)
        finally:
            exchange.stop()
            busy.join()


def test_a_client_that_does_not_take_its_data_leaves_them_to_be_sent(disk: int) -> None:
    """They are mapped, and read at last, because nobody else may touch what is mapped."""
    data = random.Random(1).randbytes(SIZE)
    os.pwrite(disk, data, 0)
    stream = request(READ, 100, SIZE - 100)
    exchange = made(bytearray(stream), fd=disk, room=SIZE + 64, most_read=SIZE)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        *_, moved, _, _, _, lost, unsent = run(exchange, len(stream), socket=ours.fileno())
        assert not lost
        assert unsent is not None
        assert 0 < moved < SIZE
        assert theirs.recv(SIZE) + bytes(unsent) == REPLY + data[100:]


def test_time_ends_a_wait(disk: int) -> None:
    exchange = made(bytearray(4096), fd=disk)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        *_, waited, missed, error, _, unsent = run(
            exchange, 0, socket=ours.fileno(), time=20_000_000
        )
        assert 20_000_000 <= waited < 60_000_000_000
        assert (missed, error, unsent) == (0, 0, None)

"""Several requests of one client at the same time."""

import random
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support.harness import Server, nbdfork, receive
from tests.support.libnbd import connected, libnbd
from tests.support.paths import SAMPLES

TOGETHER = SAMPLES / "together.py"


@contextmanager
def greeted(server: Server) -> Iterator[socket.socket]:
    """Connect as an oldstyle client."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        client.connect(str(server.socket))
        receive(client, 152)
        yield client


def read(cookie: bytes, offset: int, length: int = 8) -> bytes:
    """Return a READ."""
    return struct.pack(">IHH8sQI", 0x25609513, 0, 0, cookie, offset, length)


def wait_for(client: Any, cookies: list[int]) -> None:
    while cookies := [cookie for cookie in cookies if not client.aio_command_completed(cookie)]:
        assert client.poll(30_000) == 1


@pytest.mark.parametrize("style", [(), ("-n",)], ids=["oldstyle", "newstyle"])
def test_reads_do_not_wait_for_each_other(style: tuple[str, ...]) -> None:
    with Server(*style, TOGETHER, "readers=16") as server, connected(server.uri) as client:
        buffers = [libnbd().Buffer(512) for _ in range(16)]
        wait_for(client, [client.aio_pread(buffer, 4096) for buffer in buffers])


def test_a_quick_reply_overtakes_a_slow_one() -> None:
    with Server(TOGETHER, "readers=2") as server, greeted(server) as client:
        client.sendall(read(b"slow one", 512) + read(b"quick!!!", 0))
        assert receive(client, 24)[8:16] == b"quick!!!"
        client.sendall(read(b"another!", 512))
        assert len(receive(client, 48)) == 48


@pytest.mark.parametrize(("options", "most"), [(("-t", "1"), 1), (("-t", "3"), 3), ((), 16)])
def test_never_more_at_once_than_allowed(options: tuple[str, ...], most: int) -> None:
    with Server(*options, TOGETHER, f"readers={most}") as server, greeted(server) as client:
        client.sendall(b"".join(read(b"%08d" % n, 512) for n in range(48)))
        replies = receive(client, 48 * 24)
        assert {replies[start : start + 8] for start in range(8, len(replies), 24)} == {
            b"%08d" % n for n in range(48)
        }
        client.sendall(read(b"how many", 0))
        assert receive(client, 24)[16] == most


def test_writes_keep_their_data() -> None:
    """What a WRITE brought is not overwritten by the next one before it is carried out."""
    chance = random.Random(3)
    model = bytearray(1 << 20)
    buffer = libnbd().Buffer.from_bytearray
    with Server("-n", TOGETHER) as server, connected(server.uri) as client:
        for _ in range(10):
            cookies = []
            for place in chance.sample(range(256), 32):
                data = bytearray(chance.randbytes(4096))
                model[place * 4096 : (place + 1) * 4096] = data
                cookies.append(client.aio_pwrite(buffer(data), place * 4096))
            wait_for(client, cookies)
        for start in range(0, 1 << 20, 65536):
            assert client.pread(65536, start) == model[start : start + 65536]


def test_a_client_that_leaves_early_hurts_nobody() -> None:
    with Server(TOGETHER, "readers=2", "--max-clients=1") as server:
        with greeted(server) as client:
            client.sendall(read(b"nonsense", 1 << 20) + read(b"one of 2", 512))
            assert receive(client, 16) == struct.pack(">II8s", 0x67446698, 22, b"nonsense")
            client.sendall(read(b"two of 2", 512))
        with greeted(server) as other:
            other.sendall(read(b"anything", 0))
            assert receive(other, 16) == struct.pack(">II8s", 0x67446698, 0, b"anything")


def test_the_number_is_checked() -> None:
    done = nbdfork("-t", "0", "null")
    assert done.returncode == 1
    assert "-t 0: expected a whole number" in done.stderr


def test_a_script_that_ends_the_interpreter_ends_its_client() -> None:
    with Server(TOGETHER, "exits=true") as server, greeted(server) as client:
        client.sendall(read(b"leave me", 512))
        assert receive(client, 1) == b""

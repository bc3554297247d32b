"""Clients that break the protocol, or do not take part in it: nobody else notices."""

import os
import random
import socket
import struct
from collections.abc import Iterator

import pytest

from tests.support.harness import SECONDS, Server, eventually, receive
from tests.support.raw import Client, trickle

OPTION_MAGIC = 0x49484156454F5054
GREETING = struct.pack(">QQH", 0x4E42444D41474943, OPTION_MAGIC, 3)
GO = struct.pack(">IQII", 3, OPTION_MAGIC, 7, 6) + bytes(6)
SESSION = (
    struct.pack(">IQII", 3, OPTION_MAGIC, 3, 0)  # LIST
    + struct.pack(">QII", OPTION_MAGIC, 6, 6)  # INFO
    + bytes(6)
    + GO[4:]
    + struct.pack(">IHHQQI", 0x25609513, 0, 1, 1, 0, 8)  # WRITE
    + b"12345678"
    + struct.pack(">IHHQQI", 0x25609513, 0, 0, 2, 0, 8)  # READ
    + struct.pack(">IHHQQI", 0x25609513, 0, 2, 0, 0, 0)  # DISC
)
"""A whole newstyle session, as a client sends it."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server("-n", "--handshake-limit", "20", "memory", "1M") as running:
        yield running


def connect(server: Server) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(SECONDS)
    client.connect(str(server.socket))
    return client


def everything(client: socket.socket) -> bytes:
    """Return all the server sends until it closes."""
    data = b""
    try:
        while more := client.recv(65536):
            data += more
    except ConnectionResetError:
        pass
    return data


def witness(server: Server) -> socket.socket:
    """A client in the middle of transmission."""
    client = connect(server)
    client.sendall(GO)
    assert receive(client, 18 + 32 + 20)[:8] == b"NBDMAGIC"
    return client


def still_served(client: socket.socket) -> bool:
    client.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 0, 2, 1024, 8))
    return receive(client, 24)[:8].hex() == "6744669800000000"


def test_a_session_cut_off_after_every_byte(server: Server) -> None:
    with witness(server) as other:
        for length in range(len(SESSION)):
            with connect(server) as client:
                client.sendall(SESSION[:length])
                client.shutdown(socket.SHUT_WR)
                everything(client)
        assert still_served(other)
    assert "Traceback" not in server.log


def test_a_session_left_after_every_byte_without_a_word(server: Server) -> None:
    with witness(server) as other:
        for length in range(len(SESSION)):
            client = connect(server)
            client.sendall(SESSION[:length])
            client.close()
        assert still_served(other)
    assert eventually(lambda: not server.serving())
    assert "Traceback" not in server.log


def test_every_byte_of_a_session_spoiled(server: Server) -> None:
    """Whatever comes of it, the server closes or answers, and goes on with the others."""
    whole = everything_of(server, SESSION)
    assert whole.endswith(b"12345678")
    with witness(server) as other:
        for position in range(len(SESSION)):
            spoiled = bytearray(SESSION)
            spoiled[position] ^= 0xFF
            answer = everything_of(server, bytes(spoiled))
            assert answer[:18] == whole[:18]
        assert still_served(other)
    assert "Traceback" not in server.log


def everything_of(server: Server, sent: bytes) -> bytes:
    with connect(server) as client:
        try:
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, OSError):
            pass  # closed already
        return everything(client)


def test_random_bytes(server: Server) -> None:
    generator = random.Random(1)
    for _ in range(200):
        noise = generator.randbytes(generator.randrange(200))
        start = generator.choice([b"", struct.pack(">I", 3), GO, GO])
        everything_of(server, start + noise)
    assert "Traceback" not in server.log
    with witness(server) as client:
        assert still_served(client)


def test_the_same_answers_byte_by_byte(server: Server) -> None:
    whole = everything_of(server, SESSION)
    with connect(server) as client:
        for byte in SESSION:
            client.sendall(bytes([byte]))
        assert everything(client) == whole


def test_random_requests_cut_at_random_give_the_same_answers(server: Server) -> None:
    generator = random.Random(2)
    for _ in range(20):
        requests = [GO]
        for cookie in range(50):
            command = generator.choice([0, 0, 1, 1, 3, 4, 5, 6, 9])
            offset, length = generator.randrange(1 << 21), generator.choice([0, 1, 512, 5000])
            flags = generator.choice([0, 0, 0, 1, 2, 16, 4])
            header = struct.pack(">IHHQQI", 0x25609513, flags, command, cookie, offset, length)
            payload = bytes([cookie]) * length if command == 1 else b""
            requests.append(header + payload)
        stream = b"".join(requests)
        whole = everything_of(server, stream)
        assert whole == everything_of(server, stream)
        with connect(server) as client:
            position = 0
            while position < len(stream):
                step = generator.choice([1, 27, 28, 29, 4096])
                client.sendall(stream[position : position + step])
                position += step
            client.shutdown(socket.SHUT_WR)
            assert everything(client) == whole


def test_a_probe_of_the_port_is_not_an_error(server: Server) -> None:
    before = server.log
    for _ in range(20):
        connect(server).close()
    with witness(server) as client:
        assert still_served(client)
    assert server.log == before


def test_too_many_options(server: Server) -> None:
    with connect(server) as client:
        option = struct.pack(">QII", OPTION_MAGIC, 99, 0)
        client.sendall(struct.pack(">I", 3) + option * 33)
        answer = everything(client)
        assert answer.count(struct.pack(">II", 99, 0x80000001)) == 32


def test_a_client_that_dawdles_in_the_handshake_is_let_go() -> None:
    with Server("-n", "--handshake-limit", "0.5", "memory", "1M") as server:
        with connect(server) as silent, connect(server) as dawdler:
            assert receive(dawdler, 18) == GREETING
            dawdler.sendall(GO[:4])
            trickle(dawdler, GO[4:5] * 1000, 0.05)  # a byte now and then does not help it
            assert everything(silent) == GREETING
        assert eventually(lambda: not server.serving())


def test_the_limit_of_the_handshake_does_not_concern_transmission() -> None:
    with Server("-n", "--handshake-limit", "0.5", "memory", "1M") as server:
        with witness(server) as client, connect(server) as silent:
            assert everything(silent) == GREETING  # which came later, and was let go
            assert still_served(client)


def test_a_client_that_does_not_read_holds_up_nobody(server: Server) -> None:
    with witness(server) as deaf, witness(server) as other:
        header = struct.pack(">IHHQQI", 0x25609513, 0, 0, 1, 0, 1 << 20)
        deaf.settimeout(0.5)
        with pytest.raises(TimeoutError):
            deaf.sendall(header * 100_000)
        assert still_served(other)


def test_a_write_cut_off_in_its_payload_changes_nothing(server: Server) -> None:
    with witness(server) as client:
        header = struct.pack(">IHHQQI", 0x25609513, 0, 1, 1, 2048, 4096)
        client.sendall(header + b"x" * 4095)
    with witness(server) as client:
        client.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 0, 2, 2048, 8))
        assert receive(client, 24)[16:] == bytes(8)


def test_an_oversized_write_is_dropped_and_refused(server: Server) -> None:
    with witness(server) as client:
        length = (64 << 20) + 512
        client.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 1, 1, 0, length))
        piece = bytes(1 << 20)
        for _ in range(64):
            client.sendall(piece)
        client.sendall(bytes(512))
        assert receive(client, 16)[:8].hex() == "6744669800000016"
        assert still_served(client)


def test_oldstyle_clients_that_break_it() -> None:
    with Server("memory", "1M") as server:
        generator = random.Random(3)
        other = Client(server).greet()
        for _ in range(100):
            client = Client(server)
            client.socket.sendall(generator.randbytes(generator.randrange(100)))
            client.close()
        assert other.read(0, 8) == bytes(8)
        other.close()
        assert "Traceback" not in server.log
        assert os.getpgid(server.pid)

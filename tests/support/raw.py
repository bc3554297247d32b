"""Clients that speak the protocol themselves, byte by byte, where no library lets a test do it."""

import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tests.support.harness import SECONDS, Server, is_readable, receive

GREETING = 152
"""Bytes that an oldstyle server says first."""


def header(command: int, offset: int, length: int) -> bytes:
    return struct.pack(">IHHQQI", 0x25609513, 0, command, 7, offset, length)


class Client:
    """An oldstyle client."""

    def __init__(self, server: Server) -> None:
        if server.uri.startswith("nbd://"):
            self.socket = socket.create_connection(("127.0.0.1", server.port), SECONDS)
        else:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(SECONDS)
            self.socket.connect(str(server.socket))

    def greet(self) -> "Client":
        assert self.receive(GREETING)[:8] == b"NBDMAGIC"
        return self

    def receive(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            if not more:
                raise EOFError(f"{len(data)} of {count} bytes")
            data += more
        return data

    def request(self, command: int, offset: int, length: int, payload: bytes = b"") -> None:
        self.socket.sendall(header(command, offset, length) + payload)

    def reply(self, length: int = 0) -> tuple[int, bytes]:
        magic, error, cookie = struct.unpack(">IIQ", self.receive(16))
        assert (magic, cookie) == (0x67446698, 7)
        return error, self.receive(length) if not error else b""

    def read(self, offset: int = 0, length: int = 512) -> bytes:
        self.request(0, offset, length)
        error, data = self.reply(length)
        assert not error
        return data

    def write(self, data: bytes, offset: int = 0) -> int:
        self.request(1, offset, len(data), data)
        return self.reply()[0]

    def has_been_greeted(self, seconds: float) -> bool:
        self.socket.settimeout(seconds)
        try:
            return bool(self.socket.recv(1, socket.MSG_PEEK))
        except TimeoutError:
            return False
        finally:
            self.socket.settimeout(SECONDS)

    def close(self) -> None:
        self.socket.close()


@contextmanager
def clients(server: Server, count: int) -> Iterator[list[Client]]:
    with ExitStack() as stack:
        made = []
        for _ in range(count):
            client = Client(server)
            stack.callback(client.close)
            made.append(client)
        yield made


def trickle(client: socket.socket, data: bytes, pause: float) -> None:
    """Send a byte of *data* after every *pause* seconds in which the server has been silent.

    Return when it has said something, or has closed the connection; fail if *data* are at an end.
    """
    for byte in data:
        if is_readable(client.fileno(), pause):
            return
        try:
            client.sendall(bytes([byte]))
        except OSError:
            return
    raise AssertionError(f"the server let a client take all its time, for {len(data)} bytes")


def reason(server: Server) -> tuple[int, str]:
    """Return the error and the text that the server has for a READ that fails."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(server.socket))
        options = (struct.pack(">QII", 0x49484156454F5054, number, 0) for number in (8, 1))
        client.sendall(struct.pack(">I", 3) + b"".join(options))
        receive(client, 18 + 20 + 10)
        client.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 0, 1, 0, 512))
        *header, length = struct.unpack(">IHHQI", receive(client, 20))
        assert header == [0x668E33EF, 1, 0x8001, 1]
        error, size = struct.unpack(">IH", receive(client, 6))
        assert size == length - 6
        return error, receive(client, size).decode()

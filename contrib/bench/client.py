"""The smallest client there is: connect, choose the export, read 4 KiB, leave.

Plain blocking calls and prepared bytes, so that connecting costs the client as little as can be.
"""

import contextlib
import socket
import struct
import time
from typing import NamedTuple

from contrib.bench.disks import BLOCK
from contrib.bench.servers import Address
from nbdfork.protocol import wire

LIMIT = struct.pack("ll", 30, 0)
"""SO_RCVTIMEO and SO_SNDTIMEO, as a struct timeval.  A time-out of Python's own would make the
socket non-blocking, and each receive two system calls."""

DISCONNECT = wire.REQUEST.pack(wire.REQUEST_MAGIC, 0, wire.CMD_DISC, bytes(8), 0, 0)
READ = wire.REQUEST.pack(wire.REQUEST_MAGIC, 0, wire.CMD_READ, bytes(8), 0, BLOCK)


class Visits(NamedTuple):
    """How many visits there were, and the seconds and the client's CPU seconds they took."""

    number: int
    elapsed: float
    cpu: float


class Visit:
    """How to connect to an export and read its first 4 KiB."""

    def __init__(self, address: Address, export: str) -> None:
        self._address = address
        name = export.encode()
        flags = wire.FLAG_C_FIXED_NEWSTYLE | wire.FLAG_C_NO_ZEROES
        option = wire.OPTION.pack(wire.OPTION_MAGIC, wire.OPT_EXPORT_NAME, len(name))
        self._hello = wire.CLIENT_FLAGS.pack(flags) + option + name

    def arrive(self) -> socket.socket:
        """Return a connection on which a read has been answered.  Raises OSError."""
        client = self._address.connect()
        try:
            for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                client.setsockopt(socket.SOL_SOCKET, option, LIMIT)
            receive(client, wire.NEWSTYLE_GREETING.size)
            client.sendall(self._hello)
            receive(client, wire.EXPORT_NAME_REPLY.size)
            client.sendall(READ)
            _, error, _ = wire.SIMPLE_REPLY.unpack(receive(client, wire.SIMPLE_REPLY.size))
            if error:
                raise OSError(error, "the read failed")
            receive(client, BLOCK)
        except BaseException:
            client.close()
            raise
        return client

    def leave(self, client: socket.socket) -> None:
        """End a connection as the protocol wants it, unless the server has ended it already."""
        with client, contextlib.suppress(ConnectionError):
            client.sendall(DISCONNECT)

    def repeat(self, seconds: float) -> Visits:
        """Come and go for *seconds*."""
        begun, cpu, count = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() - begun < seconds:
            self.leave(self.arrive())
            count += 1
        return Visits(count, time.perf_counter() - begun, time.process_time() - cpu)


def receive(client: socket.socket, count: int) -> bytes:
    """Return *count* bytes.  Raises OSError if the server closes before, or is silent."""
    data = client.recv(count, socket.MSG_WAITALL)
    if len(data) < count:
        raise ConnectionResetError("the server closed the connection")
    return data

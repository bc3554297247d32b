"""The client that a call to a plugin is for."""

import socket
import struct
import threading
from typing import NamedTuple

_here = threading.local()


class Credentials(NamedTuple):
    """A process at the other end of a Unix domain socket, as it was when it connected."""

    pid: int
    uid: int
    gid: int


def current() -> socket.socket | None:
    """Return the client's socket, to ask it who the client is, and for nothing else.

    It is None where there is no client, and for a client that is on a pair of pipes.
    """
    found: socket.socket | None = getattr(_here, "socket", None)
    return found


def set_current(stream: object) -> None:
    """From now on this thread serves the client on *stream*."""
    _here.socket = stream if isinstance(stream, socket.socket) else None


def credentials() -> Credentials | None:
    """Return who the client is; None unless it is on a Unix domain socket (unix(7))."""
    client = current()
    if client is None or client.family != socket.AF_UNIX:
        return None
    size = struct.calcsize("3i")
    packed = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    return Credentials(*struct.unpack("3i", packed))

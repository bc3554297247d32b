"""Questions about the client that a call to a plugin is for.

They are about the client that the calling thread serves, so a thread that a plugin has started
gets the answers that there are without a client.
"""

import select
import socket
import struct
from typing import NamedTuple

from nbdfork.plugin._serving import Protection, serving


class Credentials(NamedTuple):
    """A process at the other end of a Unix domain socket, as it was when it connected."""

    pid: int
    uid: int
    gid: int


def current() -> socket.socket | None:
    """Return the client's socket, to ask it who the client is, and for nothing else.

    It is None where there is no client, and for a client that is on a pair of pipes.
    """
    client = serving()
    return client.stream if client and isinstance(client.stream, socket.socket) else None


def descriptor() -> int:
    """Return the descriptor that the client is read from, only to see whether it is still there.

    It is -1 where there is no client.
    """
    client = serving()
    return client.stream.fileno() if client else -1


def departure() -> int:
    """Return a descriptor for which poll(2) reports POLLHUP or POLLERR once the client has left.

    Ask for no events of it.  A client that only says that it will send nothing more may still wait
    for its answers: it has not left.  It is -1 where there is no client.
    """
    client = serving()
    if client is None:
        return -1
    sink: int | None = getattr(client.stream, "sink", None)  # of a client on a pair of pipes
    return client.stream.fileno() if sink is None else sink


def has_left() -> bool:
    """Return whether the client has left for good, so that nobody waits for an answer any more.

    It is False where there is no client.
    """
    fd = departure()
    if fd < 0:
        return False
    poll = select.poll()
    poll.register(fd, 0)
    return bool(poll.poll(0))


def protection() -> Protection | None:
    """Return what TLS says of the client; None without TLS, or where there is no client."""
    client = serving()
    return client.protection if client else None


def is_tls() -> bool:
    """Return whether TLS protects what is said with the client."""
    return protection() is not None


def credentials() -> Credentials | None:
    """Return who the client is; None unless it is on a Unix domain socket (unix(7))."""
    client = current()
    if client is None or client.family != socket.AF_UNIX:
        return None
    size = struct.calcsize("3i")
    packed = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    return Credentials(*struct.unpack("3i", packed))


__all__ = [
    "Credentials",
    "Protection",
    "credentials",
    "current",
    "departure",
    "descriptor",
    "has_left",
    "is_tls",
    "protection",
]

"""The client that a call to a plugin is for."""

import socket
import struct
import threading
from typing import NamedTuple, Protocol

_here = threading.local()


class Credentials(NamedTuple):
    """A process at the other end of a Unix domain socket, as it was when it connected."""

    pid: int
    uid: int
    gid: int


class Protection(NamedTuple):
    """What TLS says of a client.

    *subject* and *issuer* are the distinguished names of its certificate, in the form of RFC 4514;
    empty if it was not asked for one.
    """

    subject: str = ""
    issuer: str = ""


class _Stream(Protocol):
    def fileno(self) -> int: ...


class Client:
    """A connected client.  *protection* is None while it speaks in clear."""

    def __init__(self, stream: _Stream) -> None:
        self.stream = stream
        self.protection: Protection | None = None


def serving() -> Client | None:
    """Return the client that this thread serves."""
    found: Client | None = getattr(_here, "client", None)
    return found


def set_serving(client: Client | None) -> None:
    """From now on this thread serves *client*."""
    _here.client = client


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


def protection() -> Protection | None:
    """Return what TLS says of the client; None without TLS, or where there is no client."""
    client = serving()
    return client.protection if client else None


def set_protection(protection: Protection) -> None:
    """From now on TLS protects what is said with the client."""
    if client := serving():
        client.protection = protection


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

"""Which client a thread serves.

Only the server writes this, through `nbdfork.backend.client`; a plugin asks
`nbdfork.plugin.client`.
"""

import threading
from collections.abc import Callable
from typing import NamedTuple, Protocol

_here = threading.local()


class Protection(NamedTuple):
    """What TLS says of a client.

    *subject* and *issuer* are the distinguished names of its certificate, in the form of RFC 4514;
    empty if it was not asked for one.
    """

    subject: str = ""
    issuer: str = ""


class Stream(Protocol):
    """What carries a client's bytes: a socket, or what looks like one."""

    def fileno(self) -> int: ...


class Client:
    """A connected client.

    *protection* is None while it speaks in clear.  *end* closes its connection: with True at once,
    otherwise when it has its answers.  *busy* is told since when the plugin is at work for it, in
    nanoseconds of the monotonic clock, or 0 when it is not.  *peer* is who it is, for messages;
    `export`, the name that it has chosen, or None.
    """

    def __init__(
        self,
        stream: Stream,
        end: Callable[[bool], None],
        busy: Callable[[int], None] = lambda since: None,
        peer: str = "",
    ) -> None:
        self.stream = stream
        self.end = end
        self.busy = busy
        self.peer = peer
        self.export: str | None = None
        self.protection: Protection | None = None


def serving() -> Client | None:
    """Return the client that this thread serves."""
    found: Client | None = getattr(_here, "client", None)
    return found


def set_serving(client: Client | None) -> None:
    """From now on this thread serves *client*."""
    _here.client = client

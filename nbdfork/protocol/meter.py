"""What is counted of one client: its requests, and the memory that the data of large ones take.

Small ones take no memory that is counted: to do so would take longer than it is worth.
"""

import errno
from threading import get_ident
from typing import Protocol

from nbdfork.backend.errors import Refused


class Meter(Protocol):
    """Is told of each batch of requests, those that were received together, and of the memory."""

    @property
    def peer(self) -> str:
        """Who the client is, for people."""

    def set_closing(self) -> None:
        """The connection is over: what the plugin does now is for its disk, not for the client."""

    def set_busy(self, since: int) -> None:
        """A batch came at *since*, in nanoseconds of the monotonic clock."""

    def count(
        self, requests: int, bytes_read: int, bytes_written: int, errors: int, nanoseconds: int
    ) -> None:
        """It has been carried out, in so much time, and some *errors* of its requests failed."""

    def hold(self, count: int) -> bool:
        """Requests hold *count* bytes more; return False, and count nothing, if that is more than
        all clients together may.
        """

    def let_go(self, count: int) -> None:
        """Requests hold *count* bytes less."""


class Holdings:
    """What the large requests of one client hold, each in the thread that carries it out."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._counts: dict[int, int] = {}  # by thread

    def add(self, count: int) -> None:
        """Count *count* bytes more for the request of this thread.

        Raises `Refused` with ENOMEM if the server has no room for them.
        """
        if not self._meter.hold(count):
            raise Refused(errno.ENOMEM, "the server has no memory for so much data at the moment")
        me = get_ident()
        self._counts[me] = self._counts.get(me, 0) + count

    def release(self) -> None:
        """Count nothing any more for the request of this thread: it is over."""
        if count := self._counts.pop(get_ident(), 0):
            self._meter.let_go(count)

    def take_over(self) -> int:
        """Return what is counted for the request of this thread; the caller will let it go."""
        return self._counts.pop(get_ident(), 0)

"""An export of another NBD server, reached through libnbd, for several threads at once.

libnbd's asynchronous API is used, by one thread at a time: a thread holds the lock while it starts
a request or takes what has come, but not while it waits for the socket.
"""

import errno
import logging
import os
import select
import threading
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from nbdfork.plugin import HOLE, ZERO, Extent

from .._link.reconnecting import Link, LinkLost
from .._link.turns import PendingReply, Turns
from .connecting import BASE_ALLOCATION, Facts, connected, facts, notify, poll_events
from .library import as_oserror

log = logging.getLogger(__name__)


class _Request(PendingReply):
    """A request under way.  When it is done, *error* is its errno, or 0."""

    def __init__(self) -> None:
        super().__init__()
        self.error = errno.ENOTCONN


class RemoteExport(Link):
    """A connection to an export of another server.

    *connect* starts to connect the handle that it is given; if *export_name* is None, it has also
    set the name.  Raises `LinkLost` if there is no connection, OSError if the server refuses.
    """

    def __init__(
        self, nbd: ModuleType, connect: Callable[[Any], None], export_name: str | None
    ) -> None:
        super().__init__()
        self._nbd = nbd
        self._lock = threading.Lock()
        self._turns = Turns()
        self._requests: set[_Request] = set()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poller = select.poll()
        self._poller.register(self._wake, select.POLLIN)
        self._awaited = 0
        self._lost = False
        self._handle = connected(nbd, connect, export_name)
        self._fd = self._handle.aio_get_fd()
        self._direction = self._handle.aio_get_direction()  # as it is whenever the lock is free
        self.facts = facts(nbd, self._handle)

    def __del__(self) -> None:
        # Not in close(): another thread may be about to use the number.
        os.close(self._wake)

    def is_lost(self) -> bool:
        return self._lost

    def close(self) -> None:
        """Disconnect from the server, if it is still there."""
        with self._lock:
            self._lost = True
            try:
                self._handle.aio_disconnect(0)
            except self._nbd.Error as error:
                log.debug("nbd: %s", error.string)

    # -- requests -----------------------------------------------------------------------

    def read(self, data: memoryview, offset: int) -> None:
        """Fill *data* from *offset*."""
        self._carry_out(lambda h, done: h.aio_pread(data, offset, done))

    def write(self, data: memoryview, offset: int, flags: int) -> None:
        """Write *data* at *offset*."""
        self._carry_out(lambda h, done: h.aio_pwrite(data, offset, done, flags))

    def flush(self) -> None:
        """Flush."""
        self._carry_out(lambda h, done: h.aio_flush(done))

    def trim(self, count: int, offset: int, flags: int) -> None:
        """Discard a range."""
        self._carry_out(lambda h, done: h.aio_trim(count, offset, done, flags))

    def zero(self, count: int, offset: int, flags: int) -> None:
        """Zero a range."""
        self._carry_out(lambda h, done: h.aio_zero(count, offset, done, flags))

    def cache(self, count: int, offset: int) -> None:
        """Prefetch a range."""
        self._carry_out(lambda h, done: h.aio_cache(count, offset, done))

    def extents(self, count: int, offset: int, flags: int) -> Iterator[Extent]:
        """Return what the server says about the range, from *offset* on."""
        told: list[tuple[int, list[int]]] = []

        def note(context: str, start: int, entries: list[int], error: Any) -> int:
            if context == BASE_ALLOCATION:
                told.append((start, entries))
            return 0

        self._carry_out(lambda h, done: h.aio_block_status(count, offset, note, done, flags))
        return (extent for start, entries in told for extent in _extents(start, entries))

    def _carry_out(self, start: Callable[[Any, Callable[[Any], int]], object]) -> None:
        request = _Request()

        def done(error: Any) -> int:
            request.error = error.value
            self._requests.discard(request)
            self._turns.finish(request)
            return 1  # so libnbd can retire the request

        with self._lock:
            if self._lost:
                raise LinkLost("the connection is lost")
            self._requests.add(request)
            try:
                start(self._handle, done)
            except self._nbd.Error as error:
                self._requests.discard(request)
                self._note_direction(str(error.string))
                if not self._lost:
                    raise as_oserror(error) from error
                raise LinkLost(f"the connection is lost: {error.string}") from error
            self._note_direction("sending failed")
            if self._direction & self._nbd.AIO_DIRECTION_WRITE:
                os.eventfd_write(self._wake, 1)  # there is more to send than the socket takes
        self._turns.wait(request, self._receive)
        if request.error:
            with self._lock:  # the thread that noticed may not have marked it as lost yet
                self._note_direction("the server closed the connection")
                if request.error == errno.ESHUTDOWN and not self._lost:
                    self._lose("the server is shutting down")  # the request was not carried out
            if self._lost:
                raise LinkLost("the connection is lost")
            raise OSError(request.error, f"the server says: {os.strerror(request.error)}")

    # -- receiving ----------------------------------------------------------------------

    def _receive(self) -> None:
        """Wait until the socket is ready for what libnbd wants to do, and let it do that."""
        if not self._lost:
            if self._direction != self._awaited:
                self._awaited = self._direction
                # This replaces what it was registered for before.
                self._poller.register(self._fd, poll_events(self._nbd, self._awaited))
            ready = dict(self._poller.poll())
        with self._lock:
            if self._lost:
                self._end_all()
                return
            if self._wake in ready:
                os.eventfd_read(self._wake)
            if self._fd in ready:
                why = "the server closed the connection"
                try:
                    notify(self._nbd, self._handle, self._direction, ready[self._fd])
                except self._nbd.Error as error:
                    why = str(error.string)
                self._note_direction(why)
            if self._lost:
                self._end_all()

    def _note_direction(self, why: str) -> None:
        """Note what libnbd waits for now; if it waits for nothing, the connection is lost.

        It is asked once, and not whenever somebody wants to know: each call of libnbd releases the
        interpreter lock, which other threads are waiting for.
        """
        self._direction = self._handle.aio_get_direction()
        if not self._direction and not self._lost:
            self._lose(why)

    def _lose(self, why: str) -> None:
        log.info("nbd: the connection is lost: %s", why)
        self._lost = True
        os.eventfd_write(self._wake, 1)  # wake the thread that waits for the socket

    def _end_all(self) -> None:
        """Finish all requests: no replies will come any more."""
        while self._requests:
            self._turns.finish(self._requests.pop())


def _extents(start: int, entries: list[int]) -> Iterator[Extent]:
    """Yield the extents from *start* on; *entries* are their lengths and types by turns."""
    for length, kind in zip(entries[::2], entries[1::2], strict=True):
        yield Extent(start, length, kind & (HOLE | ZERO))
        start += length


class SameExport:
    """Makes connections with *make*, and ensures that all of them are to the same export."""

    def __init__(self, make: Callable[[], RemoteExport]) -> None:
        self._make = make
        self._facts: Facts | None = None

    def __call__(self) -> RemoteExport:
        try:
            export = self._make()
        except LinkLost as error:  # and *make* has tried often enough
            raise OSError(error.errno, error.strerror) from error
        self._facts = self._facts or export.facts
        if other := _difference(self._facts, export.facts):
            export.close()
            raise OSError(errno.EIO, f"the server's export has changed: {other}")
        return export


def _difference(before: Facts, now: Facts) -> str:
    """Return how an export differs from what it was before; "" if it does not."""
    for name, old, new in zip(Facts._fields, before, now, strict=True):
        if old != new:
            return f"its {name.replace('_', ' ')} was {old} and is {new}"
    return ""

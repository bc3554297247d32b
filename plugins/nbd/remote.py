"""An export of another NBD server, reached through libnbd, for several threads at once.

libnbd's asynchronous API is used, by one thread at a time: a thread holds the lock while it starts
a request or takes what has come, but not while it waits for the socket.
"""

import errno
import logging
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any

from nbdfork.plugin import Extent, client

from .._link.reconnecting import Link, LinkLost
from .._link.timeout import Patience
from .._link.turns import PendingReply, Turns
from .connecting import connected, cut, facts, held, notify, poll_events
from .library import as_oserror, why_lost
from .replies import Chunks, Told

log = logging.getLogger(__name__)

MOST_TIMES = 10
"""A reply that comes, but does not end, may take this many times as long as the far end may be
silent."""


_MOST_AT_ONCE = 32
"""So many replies are taken before they are passed on."""

_AWAY_SECONDS = 1.0
"""Who receives may do something else for so long; then the silence of the far end begins anew."""


class _Request(PendingReply):
    """A request under way for *client*.  When it is done, *error* is its errno, or 0."""

    def __init__(self, client: int) -> None:
        super().__init__()
        self.client = client
        self.began = time.monotonic()
        self.error = errno.ENOTCONN


class Begun:
    """A request for which no thread waits: it is among `RemoteExport.ended` when it has ended.

    *check* raises OSError if the reply was wrong.
    """

    __slots__ = ("began", "check", "client", "error")

    def __init__(self, client: int, check: Callable[[], None] | None = None) -> None:
        self.client = client
        self.began = time.monotonic()
        self.error = errno.ENOTCONN
        self.check = check


class RemoteExport(Link):
    """A connection to an export of another server.

    *connect* starts to connect the handle that it is given; if *export_name* is None, it has also
    set the name.  Raises `LinkLost` if there is no connection, OSError if the server refuses.
    """

    def __init__(
        self,
        nbd: ModuleType,
        connect: Callable[[Any], None],
        export_name: str | None,
        patience: Patience,
    ) -> None:
        super().__init__()
        self._nbd = nbd
        self._lock = threading.Lock()
        self._turns = Turns()
        self._is_attended = True  # unless somebody has taken the turn, and does something else
        self._left = 0.0  # when that began
        self._requests: dict[_Request | Begun, None] = {}  # an ordered set: the oldest first
        self._given_up: set[int] = set()  # clients
        self._heard = 0.0  # when something came, or when what was asked first began to wait
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._socket: socket.socket | None = None
        self._poller = select.poll()
        self._poller.register(self._wake, select.POLLIN)
        self._awaited = 0
        self._awaits: dict[int, int] = {self._wake: select.POLLIN}
        self._awaits_direction = 0
        self.ended: deque[Begun] = deque()
        self._lost: LinkLost | None = None
        self._cut: LinkLost | None = None  # why we have ended the connection
        self._handle = connected(nbd, connect, export_name, patience)
        self._fd = self._handle.aio_get_fd()
        self._socket = held(self._fd)
        self._has_chunks = self._handle.get_structured_replies_negotiated()
        self._direction = self._handle.aio_get_direction()  # as it is whenever the lock is free
        self.facts = facts(nbd, self._handle)

    def __del__(self) -> None:
        # Not in close(): another thread may be about to use the numbers.
        os.close(self._wake)
        if self._socket is not None:
            self._socket.close()

    def is_lost(self) -> bool:
        return self._lost is not None

    def close(self) -> None:
        """Disconnect from the server, if it is still there."""
        with self._lock:
            self._lost = self._lost or LinkLost("the connection is closed")
            try:
                self._handle.aio_disconnect(0)
            except self._nbd.Error as error:
                log.debug("nbd: %s", error.string)
        os.eventfd_write(self._wake, 1)  # whoever receives is to look for another connection

    def look(self, timeout: float) -> None:
        """Break the connection off if requests wait, and the far end is silent for *timeout*.

        They fail with ETIMEDOUT.  *timeout* is in seconds.  This never blocks.
        """
        for oldest in list(self._requests)[:1] if self._is_attended else ():
            now = time.monotonic()
            if now - max(oldest.began, self._heard) > timeout:
                self._break_off(f"the far end has been silent for {timeout:g} s", errno.ETIMEDOUT)
            elif now - oldest.began > MOST_TIMES * timeout:
                text = f"a reply has not ended after {MOST_TIMES * timeout:g} s"
                self._break_off(text, errno.ETIMEDOUT)

    def give_up(self, client: int) -> None:
        """Let requests of *client* fail at once with ESHUTDOWN, also those that it still makes.

        *client* is `client.departure()` of the threads that make them.  This never blocks.
        """
        self._given_up.add(client)
        for request in list(self._requests):
            if request.client == client and not isinstance(request, Begun):
                request.error = errno.ESHUTDOWN
                self._turns.finish(request)
        os.eventfd_write(self._wake, 1)  # one of them may have the turn; or some were only begun

    def forget(self, client: int) -> None:
        """Serve *client* again: it is another one by now."""
        self._given_up.discard(client)

    def _break_off(self, why: str, number: int = errno.EIO) -> None:
        """End the connection, from whatever thread."""
        self._cut = self._cut or LinkLost(f"the connection is lost: {why}", number)
        if self._socket is not None:
            cut(self._socket)
        os.eventfd_write(self._wake, 1)

    # -- requests -----------------------------------------------------------------------

    def read(self, data: memoryview, offset: int) -> None:
        """Fill *data* from *offset*."""
        if not self._has_chunks:
            self._carry_out(lambda h, done: h.aio_pread(data, offset, done))
            return
        chunks = Chunks(offset, len(data), self._break_off)
        note = chunks.note
        self._carry_out(lambda h, done: h.aio_pread_structured(data, offset, note, done))
        chunks.check()

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
        told = Told(offset, count, self._break_off)
        note = told.note
        self._carry_out(lambda h, done: h.aio_block_status(count, offset, note, done, flags))
        told.check()
        return iter(told.extents)

    def _carry_out(self, start: Callable[[Any, Callable[[Any], int]], object]) -> None:
        request = _Request(client.departure())

        with self._lock:
            self._begin(request, start)
        self._turns.wait(request, self._receive)
        self.check(request)

    def check(self, request: _Request | Begun) -> None:
        """Raise OSError if *request*, which has ended, has failed."""
        if not request.error:
            return
        self._requests.pop(request, None)
        if request.client in self._given_up:
            raise _nobody_waits()
        with self._lock:  # the thread that noticed may not have marked it as lost yet
            self._note_direction("the server closed the connection")
            if request.error == errno.ESHUTDOWN and self._lost is None:
                self._lose("the server is shutting down")  # the request was not carried out
        if self._lost is not None:
            raise _again(self._lost)
        raise OSError(request.error, f"the server says: {os.strerror(request.error)}")

    def _begin(
        self,
        request: _Request | Begun,
        start: Callable[[Any, Callable[[Any], int]], object],
    ) -> None:
        """Start a request, in a thread that holds the lock."""

        def done(error: Any) -> int:
            if request in self._requests:
                del self._requests[request]
                request.error = error.value
                self._finish(request)
            return 1  # so libnbd can retire the request

        if request.client in self._given_up:
            raise _nobody_waits()
        if self._lost is not None:
            raise _again(self._lost)
        self._requests[request] = None
        try:
            start(self._handle, done)
        except self._nbd.Error as error:
            del self._requests[request]
            self._note_direction(why_lost(error))
            if self._lost is None:
                raise as_oserror(error) from error
            raise _again(self._lost) from error
        self._note_direction("sending failed")
        if self._direction & self._nbd.AIO_DIRECTION_WRITE:
            os.eventfd_write(self._wake, 1)  # there is more to send than the socket takes

    def _finish(self, request: _Request | Begun) -> None:
        if isinstance(request, Begun):
            self.ended.append(request)
        else:
            self._turns.finish(request)

    # -- requests for which no thread waits ---------------------------------------------

    def take_turn(self) -> None:
        """Let this thread receive by `awaits` and `proceed` from now on, and no other."""
        self._turns.take()
        self._is_attended = False

    def leave_turn(self) -> None:
        """Let those receive who wait."""
        self._is_attended = True
        self._turns.pass_on()

    def begin_read(self, data: memoryview, offset: int, client: int) -> Begun | None:
        """Begin what `read` does, for *client*; return None if that is not possible."""
        if not self._has_chunks:
            request = Begun(client)
            return self._begun(request, lambda h, done: h.aio_pread(data, offset, done))
        chunks = Chunks(offset, len(data), self._break_off)
        note = chunks.note
        request = Begun(client, chunks.check)
        return self._begun(
            request, lambda h, done: h.aio_pread_structured(data, offset, note, done)
        )

    def begin_write(self, data: memoryview, offset: int, flags: int, client: int) -> Begun | None:
        """Begin what `write` does, as `begin_read`."""
        request = Begun(client)
        return self._begun(request, lambda h, done: h.aio_pwrite(data, offset, done, flags))

    def _begun(
        self, request: Begun, start: Callable[[Any, Callable[[Any], int]], object]
    ) -> Begun | None:
        try:
            with self._lock:
                self._begin(request, start)
        except OSError:  # who makes the request in another way will see why
            return None
        return request

    def awaits(self) -> dict[int, int]:
        """Return what there is to wait for; the same mapping as long as it is the same."""
        now = time.monotonic()
        if not self._is_attended:
            self._is_attended = True
            if now - self._left > _AWAY_SECONDS:  # it was not the far end that was silent
                self._heard = now
        direction = 0 if self._lost is not None else self._direction
        if direction != self._awaits_direction:
            self._awaits_direction = direction
            self._awaits = {self._wake: select.POLLIN}
            if direction:
                self._awaits[self._fd] = poll_events(self._nbd, direction)
        return self._awaits

    def proceed(self, ready: Mapping[int, int]) -> None:
        """Take what has come; what has ended is among `ended` then."""
        self._is_attended = False
        self._left = time.monotonic()
        if ready or self._lost is not None:
            before = len(self.ended)
            self._take(ready)
            # libnbd takes one reply in one go; those that have come as well are told together.
            while before < len(self.ended) < _MOST_AT_ONCE and self._requests:
                before = len(self.ended)
                if self._lost is not None or self._fd not in (more := self._polled(0)):
                    break
                self._take(more)
            if self._given_up:
                for request in list(self._requests):
                    if isinstance(request, Begun) and request.client in self._given_up:
                        del self._requests[request]
                        self.ended.append(request)

    # -- receiving ----------------------------------------------------------------------

    def _receive(self) -> None:
        """Wait until the socket is ready for what libnbd wants to do, and let it do that."""
        self._take(self._polled(None) if self._lost is None else {})

    def _polled(self, timeout: float | None) -> dict[int, int]:
        """Return what is ready after so many milliseconds at the most."""
        if self._direction != self._awaited:
            self._awaited = self._direction
            # This replaces what it was registered for before.
            self._poller.register(self._fd, poll_events(self._nbd, self._awaited))
        return dict(self._poller.poll(timeout))

    def _take(self, ready: Mapping[int, int]) -> None:
        with self._lock:
            if self._lost is not None:
                self._end_all()
                return
            if self._wake in ready:
                os.eventfd_read(self._wake)
            if self._fd in ready:
                why = "the server closed the connection"
                try:
                    notify(self._nbd, self._handle, self._direction, ready[self._fd])
                except self._nbd.Error as error:
                    why = why_lost(error)
                self._heard = time.monotonic()
                self._note_direction(why)
            if self._lost is None and self._cut is not None:
                self._lose("")
            if self._lost is not None:
                self._end_all()

    def _note_direction(self, why: str) -> None:
        """Note what libnbd waits for now; if it waits for nothing, the connection is lost.

        It is asked once, and not whenever somebody wants to know: each call of libnbd releases the
        interpreter lock, which other threads are waiting for.
        """
        self._direction = self._handle.aio_get_direction()
        if not self._direction and self._lost is None:
            self._lose(why)

    def _lose(self, why: str) -> None:
        self._lost = self._cut or LinkLost(f"the connection is lost: {why}")
        log.info("nbd: %s", self._lost.strerror)
        os.eventfd_write(self._wake, 1)  # wake the thread that waits for the socket

    def _end_all(self) -> None:
        """Finish all requests: no replies will come any more."""
        while self._requests:
            self._finish(self._requests.popitem()[0])


def _again(lost: LinkLost) -> LinkLost:
    """Return the error for one more thread: each has a traceback of its own."""
    return LinkLost(lost.strerror or "", lost.errno or errno.EIO)


def _nobody_waits() -> OSError:
    return OSError(errno.ESHUTDOWN, "nobody waits for this any more")

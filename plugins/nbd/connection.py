"""A connection to an NBD server, by libnbd, for several threads at once.

libnbd is used without blocking, and by one thread at a time: a thread that starts a request, or
sees to what has come, holds the lock; one that waits for the socket does not.
"""

import errno
import logging
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

from nbdfork.plugin import HOLE, ZERO, BlockSize, Extent

from .._link.renewal import Link, Lost
from .._link.turns import Answer, Turns
from .library import as_oserror

log = logging.getLogger(__name__)

BASE_ALLOCATION = "base:allocation"

_MOST_AT_ONCE = 32 * 1024 * 1024
"""What a server must be able to read or write at once, if it does not say (bytes)."""

_IDLE_SECONDS = 30
"""How long a connection by TCP is silent until its other end is probed."""

_PATIENCE = 60.0
"""How long a server may take from the connection to the end of the handshake, in seconds."""


class Facts(NamedTuple):
    """What a server says of an export."""

    size: int
    is_read_only: bool
    can_flush: bool
    can_fua: bool
    can_trim: bool
    can_zero: bool
    can_fast_zero: bool
    can_cache: bool
    can_multi_conn: bool
    can_extents: bool
    is_rotational: bool
    block_size: BlockSize
    description: str


class _Request(Answer):
    """A request under way; then *error* is its errno, or 0."""

    def __init__(self) -> None:
        super().__init__()
        self.error = errno.ENOTCONN


class Connection(Link):
    """An export of a server, opened by *connect*, which starts to connect the handle it is given.

    Making it raises `Lost` if there is no connection, and OSError if the server refuses.
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
        # Not before: a thread may still be about to use the number.
        os.close(self._wake)

    def is_lost(self) -> bool:
        return self._lost

    def close(self) -> None:
        """Take leave of the server, if it is there."""
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

    def send(self, data: memoryview, offset: int, flags: int) -> None:
        """Write *data* at *offset*."""
        self._carry_out(lambda h, done: h.aio_pwrite(data, offset, done, flags))

    def sync(self) -> None:
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
        """Return what the server says of the range, from *offset* on."""
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
            return 1  # libnbd may forget it

        with self._lock:
            if self._lost:
                raise Lost("the connection is lost")
            self._requests.add(request)
            try:
                start(self._handle, done)
            except self._nbd.Error as error:
                self._requests.discard(request)
                self._look(str(error.string))
                if not self._lost:
                    raise as_oserror(error) from error
                raise Lost(f"the connection is lost: {error.string}") from error
            self._look("it could not be sent to")
            if self._direction & self._nbd.AIO_DIRECTION_WRITE:
                os.eventfd_write(self._wake, 1)  # there is more to send than the socket takes
        self._turns.wait(request, self._receive)
        if request.error:
            with self._lock:  # whoever found it lost may not yet have said so
                self._look("the server has ended it")
                if request.error == errno.ESHUTDOWN and not self._lost:
                    self._lose("the server is shutting down")  # it has not done this request
            if self._lost:
                raise Lost("the connection is lost")
            raise OSError(request.error, f"the server says: {os.strerror(request.error)}")

    # -- receiving ----------------------------------------------------------------------

    def _receive(self) -> None:
        """Wait until something can be received, or sent, and do so."""
        if not self._lost:
            if self._direction != self._awaited:
                self._awaited = self._direction
                # In place of what it was registered for:
                self._poller.register(self._fd, _events(self._nbd, self._awaited))
            ready = dict(self._poller.poll())
        with self._lock:
            if self._lost:
                self._end_all()
                return
            if self._wake in ready:
                os.eventfd_read(self._wake)
            if self._fd in ready:
                why = "the server has ended it"
                try:
                    notify(self._nbd, self._handle, self._direction, ready[self._fd])
                except self._nbd.Error as error:
                    why = str(error.string)
                self._look(why)
            if self._lost:
                self._end_all()

    def _look(self, why: str) -> None:
        """See what libnbd waits for now: if for nothing, the connection is lost.

        Each call of libnbd lets go of the interpreter's lock, and others are after it.
        """
        self._direction = self._handle.aio_get_direction()
        if not self._direction and not self._lost:
            self._lose(why)

    def _lose(self, why: str) -> None:
        log.info("nbd: the connection is lost: %s", why)
        self._lost = True
        os.eventfd_write(self._wake, 1)  # who waits for the socket must not go on waiting

    def _end_all(self) -> None:
        """Finish the requests that nothing will come for."""
        while self._requests:
            self._turns.finish(self._requests.pop())


class SameExport:
    """Makes connections by *make*, and sees that all after the first are to the same export."""

    def __init__(self, make: Callable[[], Connection]) -> None:
        self._make = make
        self._facts: Facts | None = None

    def __call__(self) -> Connection:
        try:
            connection = self._make()
        except Lost as error:  # after all the attempts that were to be made
            raise OSError(error.errno, error.strerror) from error
        self._facts = self._facts or connection.facts
        if other := _difference(self._facts, connection.facts):
            connection.close()
            raise OSError(errno.EIO, f"the server's export has changed: {other}")
        return connection


def _difference(before: Facts, now: Facts) -> str:
    """Return how an export that was opened again is another than it was; "" if it is not."""
    for name, old, new in zip(Facts._fields, before, now, strict=True):
        if old != new:
            return f"its {name.replace('_', ' ')} was {old} and is {new}"
    return ""


M = TypeVar("M")


def patiently(make: Callable[[], M], retries: int) -> M:
    """Return what *make* makes, and try *retries* times again, once a second, when it is `Lost`."""
    for _ in range(retries):
        try:
            return make()
        except Lost as error:
            log.info("nbd: %s; trying again", error.strerror)
            time.sleep(1)
    return make()


def _events(nbd: ModuleType, direction: int) -> int:
    """Return what to wait for on a socket in libnbd's *direction*, for poll(2)."""
    return (select.POLLIN if direction & nbd.AIO_DIRECTION_READ else 0) | (
        select.POLLOUT if direction & nbd.AIO_DIRECTION_WRITE else 0
    )


def notify(nbd: ModuleType, handle: Any, direction: int, ready: int) -> None:
    """Tell libnbd what poll(2) says of its socket; it may want only one of both."""
    if ready & ~select.POLLOUT and direction & nbd.AIO_DIRECTION_READ:
        handle.aio_notify_read()
    elif ready & ~select.POLLIN and direction & nbd.AIO_DIRECTION_WRITE:
        handle.aio_notify_write()


def connected(nbd: ModuleType, connect: Callable[[Any], None], export_name: str | None) -> Any:
    """Return a handle that is connected to an export; None is what *connect* says.

    Raises `Lost` if there is no connection, and OSError if the server refuses.
    """
    handle = nbd.NBD()
    handle.add_meta_context(BASE_ALLOCATION)
    handle.set_full_info(True)
    handle.set_pread_initialize(False)
    if export_name is not None:
        handle.set_export_name(export_name)
    connect_handle(nbd, connect, handle)
    if not handle.aio_is_ready():
        raise Lost("the server has ended the connection")
    _keep_alive(handle.aio_get_fd())
    return handle


def _keep_alive(fd: int) -> None:
    """Have the system look, on an idle connection by TCP, whether the host is still there."""
    with socket.socket(fileno=os.dup(fd)) as link:
        if link.family in (socket.AF_INET, socket.AF_INET6):
            link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _IDLE_SECONDS)
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _IDLE_SECONDS // 3)
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)


def connect_handle(nbd: ModuleType, connect: Callable[[Any], None], handle: Any) -> None:
    """Connect *handle*, and return when it is ready, or options can be negotiated."""
    try:
        connect(handle)
        _wait_while_connecting(nbd, handle)
    except nbd.Error as error:
        found = as_oserror(error)
        if "handshake: server " in str(error.string):  # it has said no
            raise found from error
        raise Lost(found.strerror or "") from error


def _wait_while_connecting(nbd: ModuleType, handle: Any) -> None:
    deadline = time.monotonic() + _PATIENCE
    while handle.aio_is_connecting():
        poller = select.poll()
        direction = handle.aio_get_direction()
        poller.register(handle.aio_get_fd(), _events(nbd, direction))
        ready = poller.poll(max(0, deadline - time.monotonic()) * 1000)
        if not ready:
            raise Lost(f"the server has not answered for {_PATIENCE:.0f} seconds")
        notify(nbd, handle, direction, ready[0][1])


def _extents(start: int, entries: list[int]) -> Iterator[Extent]:
    """Yield the extents from *start* on whose lengths and types are in turn in *entries*."""
    for length, kind in zip(entries[::2], entries[1::2], strict=True):
        yield Extent(start, length, kind & (HOLE | ZERO))
        start += length


def facts(nbd: ModuleType, handle: Any) -> Facts:
    """Return what the server of a connected handle has said of the export."""
    try:
        description = handle.get_export_description()
    except nbd.Error:  # there is none
        description = ""
    return Facts(
        size=handle.get_size(),
        is_read_only=handle.is_read_only(),
        can_flush=handle.can_flush(),
        can_fua=handle.can_fua(),
        can_trim=handle.can_trim(),
        can_zero=handle.can_zero(),
        can_fast_zero=handle.can_fast_zero(),
        can_cache=handle.can_cache(),
        can_multi_conn=handle.can_multi_conn(),
        can_extents=handle.can_meta_context(BASE_ALLOCATION),
        is_rotational=handle.is_rotational(),
        block_size=_block_size(nbd, handle),
        description=description,
    )


def _block_size(nbd: ModuleType, handle: Any) -> BlockSize:
    """Return the server's block sizes; where it says nothing, what the protocol says then."""
    kinds = (nbd.SIZE_MINIMUM, nbd.SIZE_PREFERRED, nbd.SIZE_MAXIMUM)
    minimum, preferred, maximum = (handle.get_block_size(kind) for kind in kinds)
    minimum = minimum or 1
    preferred = max(preferred or 4096, minimum, 512)
    return BlockSize(
        minimum, preferred, max(min(maximum or _MOST_AT_ONCE, _MOST_AT_ONCE), preferred)
    )

"""Connecting to an NBD server through libnbd, and what the server says about an export then."""

import contextlib
import errno
import os
import select
import socket
import threading
import time
from collections.abc import Callable
from itertools import repeat
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

from nbdfork.plugin import BlockSize, parse

from .._link.reconnecting import LinkLost
from .._link.retrying import attempt
from .._link.texts import shown
from .._link.timeout import Patience
from .library import as_oserror, is_refusal, why_lost, why_unreached

BASE_ALLOCATION = "base:allocation"

_DEFAULT_MAXIMUM = 32 * 1024 * 1024
"""The most that a server must be able to read or write at once if it does not say (bytes)."""

_KEEPALIVE_SECONDS = 30
"""How long a TCP connection may be silent before the system probes the other end."""

_MOST_STEPS = 2000
"""How many steps of libnbd a handshake may take; some 70 are usual."""


class Facts(NamedTuple):
    """What a server says about an export."""

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


M = TypeVar("M")


def with_retries(make: Callable[[], M], retries: int, patience: Patience) -> M:
    """Return what *make* returns; while it raises `LinkLost`, try up to *retries* times again.

    There is a second between two attempts.
    """
    return attempt(make, repeat(1.0, retries), "nbd", patience.pause)


def connected(
    nbd: ModuleType, connect: Callable[[Any], None], export_name: str | None, patience: Patience
) -> Any:
    """Return a handle that is connected to an export by *connect*.

    If *export_name* is None, *connect* has set the name.  Raises `LinkLost` if there is no
    connection, and OSError if the server refuses.
    """
    handle = nbd.NBD()
    handle.add_meta_context(BASE_ALLOCATION)
    handle.set_full_info(True)
    handle.set_pread_initialize(False)
    if export_name is not None:
        handle.set_export_name(export_name)
    connect_handle(nbd, connect, handle, patience)
    if not handle.aio_is_ready():
        raise LinkLost("the server closed the connection")
    _keep_alive(handle.aio_get_fd())
    return handle


def _keep_alive(fd: int) -> None:
    """Have the system probe, on an idle TCP connection, whether the host is still there."""
    with held(fd) as link:
        if link.family in (socket.AF_INET, socket.AF_INET6):
            link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_SECONDS)
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_SECONDS // 3)
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)


def connect_handle(
    nbd: ModuleType, connect: Callable[[Any], None], handle: Any, patience: Patience
) -> None:
    """Connect *handle*; return when it is ready for requests, or for negotiating options.

    Raises as `connected` does.
    """
    steps = 0

    def step(context: str, message: str) -> int:
        nonlocal steps
        steps += 1
        if steps > _MOST_STEPS:
            scissors.cut()
        return 0

    scissors = _Scissors()
    # The only thing that libnbd tells while it is at work; it keeps what it is sent in memory.
    handle.set_debug_callback(step)
    handle.set_debug(True)
    try:
        connect(handle)
        _work(nbd, handle, patience, scissors)
        handle.set_debug(False)
        handle.clear_debug_callback()
    except nbd.Error as error:
        if steps > _MOST_STEPS:
            raise LinkLost("the far end says nonsense: a handshake without an end") from error
        found = as_oserror(error)
        if is_refusal(error):
            raise found from error
        raise LinkLost(why_lost(error), why_unreached(error)) from error


def finish_option(nbd: ModuleType, handle: Any, patience: Patience) -> None:
    """Return when the option that is being negotiated on *handle* has been answered.

    Raises libnbd's error, `LinkLost` if it takes too long, and OSError if nobody waits for it.
    """
    _work(nbd, handle, patience, _Scissors())


def _work(nbd: ModuleType, handle: Any, patience: Patience, scissors: "_Scissors") -> None:
    too_long = LinkLost(
        f"the server has not answered for {patience.timeout:g} seconds", errno.ETIMEDOUT
    )
    deadline = time.monotonic() + patience.timeout
    # libnbd does not return as long as more comes, so another thread ends that.
    timer = threading.Timer(patience.timeout, scissors.cut)
    timer.daemon = True
    timer.start()
    try:
        while handle.aio_is_connecting():
            direction = handle.aio_get_direction()
            fd = handle.aio_get_fd()
            left = deadline - time.monotonic()
            ready = patience.wait(max(0.0, left), {fd: poll_events(nbd, direction)})
            if left <= 0 or not ready:
                raise too_long
            scissors.take(fd)
            notify(nbd, handle, direction, ready[fd])
    except nbd.Error:
        if time.monotonic() >= deadline:
            raise too_long from None
        raise
    finally:
        timer.cancel()
        timer.join()
        scissors.close()


class _Scissors:
    """Cuts the connection that libnbd makes, from any thread."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None

    def take(self, fd: int) -> None:
        """Let *fd* be what is cut.  The number may have been another socket's before."""
        self.close()
        self._socket = held(fd)

    def cut(self) -> None:
        """Cut it."""
        if self._socket is not None:
            cut(self._socket)

    def close(self) -> None:
        """Cut nothing any more."""
        taken, self._socket = self._socket, None
        if taken is not None:
            taken.close()


def held(fd: int) -> socket.socket:
    """Return the socket that libnbd has as *fd*, by another number, which libnbd does not close."""
    return socket.socket(fileno=os.dup(fd))


def cut(link: socket.socket) -> None:
    """End a connection: whoever sends or receives is told so."""
    with contextlib.suppress(OSError):  # it has ended already
        link.shutdown(socket.SHUT_RDWR)


def facts(nbd: ModuleType, handle: Any) -> Facts:
    """Return what the server told a connected handle about the export.  Raises OSError."""
    try:
        size = handle.get_size()
    except nbd.Error as error:
        # libnbd does not tell them apart.
        text = "the far end says nonsense: no size, or one of 2^64-1 bytes"
        raise OSError(errno.EIO, text) from error
    if not 0 <= size <= parse.MAX_SIZE:  # it is returned with a sign
        raise OSError(errno.EIO, f"the far end says nonsense: a size of {size % 2**64} bytes")
    return Facts(
        size=size,
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
        description=_description(nbd, handle),
    )


def _description(nbd: ModuleType, handle: Any) -> str:
    try:
        description: str = handle.get_export_description()
    except nbd.Error:  # it has none
        return ""
    except UnicodeDecodeError as error:
        return shown(error.object)
    return description if description.isprintable() else shown(description)


def _block_size(nbd: ModuleType, handle: Any) -> BlockSize:
    """Return the server's block sizes, or the protocol's defaults for those it does not tell."""
    kinds = (nbd.SIZE_MINIMUM, nbd.SIZE_PREFERRED, nbd.SIZE_MAXIMUM)
    minimum, preferred, maximum = (handle.get_block_size(kind) for kind in kinds)
    minimum = minimum or 1
    preferred = max(preferred or 4096, minimum, 512)
    return BlockSize(
        minimum, preferred, max(min(maximum or _DEFAULT_MAXIMUM, _DEFAULT_MAXIMUM), preferred)
    )


def poll_events(nbd: ModuleType, direction: int) -> int:
    """Return the events for poll(2) that libnbd waits for, according to its *direction*."""
    return (select.POLLIN if direction & nbd.AIO_DIRECTION_READ else 0) | (
        select.POLLOUT if direction & nbd.AIO_DIRECTION_WRITE else 0
    )


def notify(nbd: ModuleType, handle: Any, direction: int, ready: int) -> None:
    """Tell libnbd what poll(2) has found, *ready*, of the events that it waits for."""
    if ready & ~select.POLLOUT and direction & nbd.AIO_DIRECTION_READ:
        handle.aio_notify_read()
    elif ready & ~select.POLLIN and direction & nbd.AIO_DIRECTION_WRITE:
        handle.aio_notify_write()

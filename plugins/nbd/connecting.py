"""Connecting to an NBD server through libnbd, and what the server says about an export then."""

import os
import select
import socket
import time
from collections.abc import Callable
from itertools import repeat
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

from nbdfork.plugin import BlockSize

from .._link.reconnecting import LinkLost
from .._link.retrying import attempt
from .library import as_oserror

BASE_ALLOCATION = "base:allocation"

_DEFAULT_MAXIMUM = 32 * 1024 * 1024
"""The most that a server must be able to read or write at once if it does not say (bytes)."""

_KEEPALIVE_SECONDS = 30
"""How long a TCP connection may be silent before the system probes the other end."""

_CONNECT_SECONDS = 60.0
"""How long a server may take from the connection to the end of the handshake."""


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


def with_retries(make: Callable[[], M], retries: int) -> M:
    """Return what *make* returns; while it raises `LinkLost`, try up to *retries* times again.

    There is a second between two attempts.
    """
    return attempt(make, repeat(1.0, retries), "nbd")


def connected(nbd: ModuleType, connect: Callable[[Any], None], export_name: str | None) -> Any:
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
    connect_handle(nbd, connect, handle)
    if not handle.aio_is_ready():
        raise LinkLost("the server closed the connection")
    _keep_alive(handle.aio_get_fd())
    return handle


def _keep_alive(fd: int) -> None:
    """Have the system probe, on an idle TCP connection, whether the host is still there."""
    with socket.socket(fileno=os.dup(fd)) as link:
        if link.family in (socket.AF_INET, socket.AF_INET6):
            link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_SECONDS)
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_SECONDS // 3)
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)


def connect_handle(nbd: ModuleType, connect: Callable[[Any], None], handle: Any) -> None:
    """Connect *handle*; return when it is ready for requests, or for negotiating options.

    Raises as `connected` does.
    """
    try:
        connect(handle)
        _wait_while_connecting(nbd, handle)
    except nbd.Error as error:
        found = as_oserror(error)
        if "handshake: server " in str(error.string):  # the server answered, and refused
            raise found from error
        raise LinkLost(found.strerror or "") from error


def _wait_while_connecting(nbd: ModuleType, handle: Any) -> None:
    deadline = time.monotonic() + _CONNECT_SECONDS
    while handle.aio_is_connecting():
        poller = select.poll()
        direction = handle.aio_get_direction()
        poller.register(handle.aio_get_fd(), poll_events(nbd, direction))
        ready = poller.poll(max(0, deadline - time.monotonic()) * 1000)
        if not ready:
            raise LinkLost(f"the server has not answered for {_CONNECT_SECONDS:.0f} seconds")
        notify(nbd, handle, direction, ready[0][1])


def facts(nbd: ModuleType, handle: Any) -> Facts:
    """Return what the server told a connected handle about the export."""
    try:
        description = handle.get_export_description()
    except nbd.Error:  # it has none
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

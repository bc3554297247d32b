"""A client's view of another server's export: it passes on every request."""

import errno
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType

from nbdfork.plugin import (
    FAST_ZERO,
    FUA,
    MAY_TRIM,
    REQ_ONE,
    BlockSize,
    Export,
    Extent,
    Pipeline,
    Server,
    Support,
    client,
)

from .._link.guard import Guard
from .._link.reconnecting import KnownLosses, ReconnectingLink
from .pipeline import NbdPipeline
from .remote import RemoteExport

_MAX_RANGE = 1024 * 1024 * 1024
"""The longest range of one request, in bytes; the protocol has 32 bits for it."""


class NbdExport(Export):
    """One client's view, through *link*, which other clients use as well if it *is_shared*.

    Nobody writes if it is *read_only*.  Several threads may call its methods at the same time.
    """

    def __init__(
        self,
        nbd: ModuleType,
        link: ReconnectingLink[RemoteExport],
        is_shared: bool,
        read_only: bool,
        server: Server,
        timeout: float,
    ) -> None:
        self._nbd = nbd
        self._link = link
        self._is_shared = is_shared
        self._facts = link.current.facts
        self._is_read_only = read_only or self._facts.is_read_only
        self._known_losses = KnownLosses(link)
        self._client = client.departure()
        self._guard = Guard(
            server,
            self._client,
            lambda: link.current.give_up(self._client),
            lambda: link.current.look(timeout),
            timeout / 4,
        )

    # -- facts --------------------------------------------------------------------------

    def get_size(self) -> int:
        return self._facts.size

    def block_size(self) -> BlockSize:
        return self._facts.block_size

    def can_write(self) -> bool:
        return not self._is_read_only

    def can_flush(self) -> bool:
        return self._facts.can_flush

    def can_fua(self) -> Support:
        return Support.NATIVE if self._facts.can_fua else Support.NONE

    def can_trim(self) -> bool:
        return self._facts.can_trim

    def can_zero(self) -> bool:
        return self._facts.can_zero

    def can_fast_zero(self) -> bool:
        return self._facts.can_fast_zero

    def can_cache(self) -> Support:
        return Support.NATIVE if self._facts.can_cache else Support.NONE

    def can_extents(self) -> bool:
        return self._facts.can_extents

    def can_multi_conn(self) -> bool:
        # A flush covers what was written through the same link, and through no other: whoever
        # wrote may not have noticed yet that the server has lost it.  See `_link.reconnecting`.
        return self._is_shared or (self._is_read_only and self._facts.can_multi_conn)

    def is_rotational(self) -> bool:
        return self._facts.is_rotational

    def description(self) -> str:
        return self._facts.description

    # -- operations ---------------------------------------------------------------------

    def pread_into(self, data: memoryview, offset: int) -> None:
        for start, count in self._parts(len(data), self._facts.block_size.maximum):
            part = data[start : start + count]
            self._link.attempt(partial(RemoteExport.read, data=part, offset=offset + start))

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        change, sent = self._change(flags)
        for start, count in self._parts(len(data), self._facts.block_size.maximum):
            part = data[start : start + count]
            change(partial(RemoteExport.write, data=part, offset=offset + start, flags=sent))

    def flush(self) -> None:
        self._link.flush(RemoteExport.flush, self._known_losses)

    def trim(self, count: int, offset: int, flags: int) -> None:
        change, sent = self._change(flags)
        for start, part in self._parts(count, _MAX_RANGE):
            change(partial(RemoteExport.trim, count=part, offset=offset + start, flags=sent))

    def zero(self, count: int, offset: int, flags: int) -> None:
        if flags & FAST_ZERO and count > _MAX_RANGE:
            # It could be refused half-way, after a part of it has been zeroed.
            raise OSError(errno.EOPNOTSUPP, "too much for one request")
        change, sent = self._change(flags)
        if not flags & MAY_TRIM:
            sent |= self._nbd.CMD_FLAG_NO_HOLE
        if flags & FAST_ZERO:
            sent |= self._nbd.CMD_FLAG_FAST_ZERO
        for start, part in self._parts(count, _MAX_RANGE):
            change(partial(RemoteExport.zero, count=part, offset=offset + start, flags=sent))

    def cache(self, count: int, offset: int) -> None:
        for start, part in self._parts(count, _MAX_RANGE):
            self._link.attempt(partial(RemoteExport.cache, count=part, offset=offset + start))

    def extents(self, count: int, offset: int, flags: int) -> Iterator[Extent]:
        count = min(count, _MAX_RANGE)
        sent = self._nbd.CMD_FLAG_REQ_ONE if flags & REQ_ONE else 0
        return self._link.attempt(lambda export: export.extents(count, offset, sent))

    def pipeline(self) -> Pipeline | None:
        # A connection for all clients has no thread that could receive for all of them.
        return None if self._is_shared else NbdPipeline(self._nbd, self._link)

    def close(self) -> None:
        self._guard.close()
        if self._is_shared:
            self._link.current.forget(self._client)
        else:
            self._link.close()

    def _change(self, flags: int) -> tuple[Callable[[Callable[[RemoteExport], None]], None], int]:
        """Return how to make a request that changes data, and libnbd's flags for it."""
        if flags & FUA:
            return self._link.attempt, self._nbd.CMD_FLAG_FUA  # no later flush has to cover it
        return self._link.write, 0

    @staticmethod
    def _parts(count: int, most: int) -> Iterator[tuple[int, int]]:
        """Yield start and length of the parts of *count* bytes, none longer than *most*."""
        for start in range(0, count, most):
            yield start, min(most, count - start)

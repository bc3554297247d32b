"""The retry filter: open the disk again when a request has failed, and then try that again.

What clients were told of the disk must still be so: a disk that has become another one is an error.
"""

import errno
import logging
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from threading import Lock

from nbdfork.filters._around import AroundExport, Kind, Request, T
from nbdfork.filters._values import seconds
from nbdfork.filters.retry_request import MOST_EXTENTS
from nbdfork.plugin import (
    NOT_SUPPORTED,
    Export,
    Extent,
    Filter,
    Needs,
    Parameter,
    parse,
)

log = logging.getLogger(__name__)


class Retry(Filter):
    """open the disk again when requests fail"""

    retries = Parameter(parse.whole(0, 1000), default=5, metavar="N", help="how often to try again")
    retry_delay = Parameter(
        seconds, default=2.0, metavar="TIME", help="how long to wait before that"
    )
    retry_exponential = Parameter(
        parse.boolean, default=True, metavar="BOOL", help="wait twice as long each time"
    )
    retry_readonly = Parameter(
        parse.boolean, default=False, metavar="BOOL", help="open it read-only from then on"
    )

    def needs(self) -> Needs:
        return Needs()

    def open(self, export_name: str, read_only: bool) -> Export:
        """Open the disk below, and try again if that fails."""
        opening = Opening(self, export_name, read_only)
        return RetryExport(opening.opened(), opening)


class Opening:
    """How one client's disk is opened, the first time and again."""

    def __init__(self, filter: Retry, export_name: str, read_only: bool) -> None:
        self._filter = filter
        self._name = export_name
        self._read_only = read_only

    def opened(self) -> Export:
        """Open the disk for the first time."""
        return self.tried(lambda: self._filter.next.open(self._name, self._read_only), lambda: None)

    def again(self) -> Export:
        """Open it once more."""
        self._read_only = self._read_only or self._filter.retry_readonly
        return self._filter.next.open(self._name, self._read_only)

    def tried(self, do: Callable[[], T], renew: Callable[[], None]) -> T:
        """Return the result of *do*; when it has failed, wait, and call *renew* before it."""
        delay = self._filter.retry_delay
        left = self._filter.retries
        while True:
            try:
                return do()
            except OSError as error:
                if not left or error.errno in (*NOT_SUPPORTED, errno.ESHUTDOWN):
                    raise
                text = error.strerror or error
                log.warning("retry: %s; %d more times, the next in %g s", text, left, delay)
            left -= 1
            self._filter.server.wait(delay)
            if self._filter.retry_exponential:
                delay *= 2
            renew()


class RetryExport(AroundExport):
    """*next*, which is closed and opened again when a request fails."""

    def __init__(self, next: Export, opening: Opening) -> None:
        super().__init__(next)
        self._opening = opening
        self._is_open = True
        self._lock = Lock()  # of several requests at a time, one opens the disk
        self._facts = _facts(next)

    def can_resize(self) -> bool:
        return False  # a size that was changed would look like another disk

    def around(self, request: Request, do: Callable[[], T]) -> T:
        if request.kind is Kind.EXTENTS:
            return do()
        return self._tried(do)

    def _tried(self, do: Callable[[], T]) -> T:
        used = self.next

        def ready() -> T:
            nonlocal used
            with self._lock:
                if not self._is_open:
                    self._open()
                used = self.next
            return do()

        return self._opening.tried(ready, lambda: self._drop(used))

    def _drop(self, used: Export) -> None:
        """Close the disk, if it is the one that was *used* when a request failed."""
        with self._lock:
            if self._is_open and self.next is used:
                self._is_open = False
                self.next.close()

    def _open(self) -> None:
        found = self._opening.again()
        if _facts(found) != self._facts:
            found.close()
            raise OSError(errno.ESTALE, "what was opened again is not the same disk any more")
        self.next = found
        self._is_open = True

    def extents(self, count: int, offset: int, flags: int) -> Iterator[Extent]:
        return self._taken(lambda: self.next.extents(count, offset, flags))

    def context_extents(
        self, context: str, count: int, offset: int, flags: int
    ) -> Iterator[Extent]:
        return self._taken(lambda: self.next.context_extents(context, count, offset, flags))

    def _taken(self, ask: Callable[[], Iterable[Extent]]) -> Iterator[Extent]:
        return iter(self._tried(lambda: list(islice(ask(), MOST_EXTENTS))))

    def close(self) -> None:
        if self._is_open:
            self.next.close()


def _facts(export: Export) -> tuple[object, ...]:
    """Return what must not change: clients have been told, or requests rely on it."""
    return export.get_size(), export.block_size(), export.can_fua(), export.can_flush()

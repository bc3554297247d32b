"""The retry-request filter: try a request again that has failed."""

import logging
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from nbdfork.filters._around import AroundExport, Kind, Request, T
from nbdfork.filters._values import seconds
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

MOST_EXTENTS = 4096
"""So many extents are asked for before the first is passed on, because they may fail on the way."""


class RetryRequest(Filter):
    """try requests again that have failed"""

    retry_request_retries = Parameter(
        parse.whole(1, 1000), default=2, metavar="N", help="how often to try again"
    )
    retry_request_delay = Parameter(
        seconds, default=2.0, metavar="TIME", help="how long to wait before that"
    )
    retry_request_open = Parameter(
        parse.boolean, default=True, metavar="BOOL", help="try opening the disk again, too"
    )

    def needs(self) -> Needs:
        return Needs()

    def open(self, export_name: str, read_only: bool) -> Export:
        if not self.retry_request_open:
            return super().open(export_name, read_only)
        return self.tried("open", lambda: super(RetryRequest, self).open(export_name, read_only))

    def wrap(self, next: Export, export_name: str, read_only: bool) -> Export:
        return RetryingExport(next, self)

    def tried(self, what: str, do: Callable[[], T]) -> T:
        """Return the result of *do*, which may be called several times.  Raises its last error."""
        for left in reversed(range(self.retry_request_retries + 1)):
            try:
                return do()
            except OSError as error:
                # Not able is not failed: the server has another way.
                if not left or error.errno in NOT_SUPPORTED:
                    raise
                log.warning("retry-request: %s has failed: %s", what, error.strerror or error)
                self.server.wait(self.retry_request_delay)
        raise AssertionError  # the last time it has raised


class RetryingExport(AroundExport):
    """*next*, tried several times."""

    def __init__(self, next: Export, filter: RetryRequest) -> None:
        super().__init__(next)
        self._filter = filter

    def around(self, request: Request, do: Callable[[], T]) -> T:
        if request.kind is Kind.EXTENTS:
            return do()
        return self._filter.tried(request.kind.value, do)

    def extents(self, count: int, offset: int, flags: int) -> Iterator[Extent]:
        return self._taken(lambda: self.next.extents(count, offset, flags))

    def context_extents(
        self, context: str, count: int, offset: int, flags: int
    ) -> Iterator[Extent]:
        return self._taken(lambda: self.next.context_extents(context, count, offset, flags))

    def _taken(self, ask: Callable[[], Iterable[Extent]]) -> Iterator[Extent]:
        return iter(self._filter.tried("extents", lambda: list(islice(ask(), MOST_EXTENTS))))

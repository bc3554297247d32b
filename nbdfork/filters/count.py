"""The count filter: count what all clients read, write, zero and trim, and log it in the end."""

import logging
from collections.abc import Callable

from nbdfork.filters._around import AroundExport, Kind, Request, T
from nbdfork.plugin import Export, Filter, Needs, SharedCounter

log = logging.getLogger(__name__)

_WORDS = {
    Kind.READ: "read",
    Kind.WRITE: "written",
    Kind.ZERO: "zeroed",
    Kind.TRIM: "trimmed",
}


class Count(Filter):
    """count what is read and written"""

    def needs(self) -> Needs:
        return Needs()

    def get_ready(self) -> None:
        self._bytes = {kind: SharedCounter(name=str(kind)) for kind in _WORDS}

    def wrap(self, next: Export, export_name: str, read_only: bool) -> Export:
        return CountExport(next, self._bytes)

    def unload(self) -> None:
        counts = (f"{word} {self._bytes[kind].value}" for kind, word in _WORDS.items())
        log.debug("count bytes: %s", ", ".join(counts))


class CountExport(AroundExport):
    """*next*, with what succeeds counted."""

    def __init__(self, next: Export, counters: dict[Kind, SharedCounter]) -> None:
        super().__init__(next)
        self._counters = counters

    def around(self, request: Request, do: Callable[[], T]) -> T:
        result = do()
        if (counter := self._counters.get(request.kind)) is not None:
            counter.add(request.length)
        return result

"""The readahead filter: have cached what a client that reads in order will read next.

The disk below must have a cache, such as that of the cache filter, and bear several requests at a
time.
"""

from nbdfork.filters._prefetch import Prefetcher, is_possible
from nbdfork.plugin import Buffer, Export, Filter, FilterExport, Needs

_PIECE = 1024 * 1024
_LEAST = 1024 * 1024
_MOST = 32 * 1024 * 1024


class ReadAhead(Filter):
    """read ahead of clients that read in order"""

    def needs(self) -> Needs:
        return Needs()

    def wrap(self, next: Export, export_name: str, read_only: bool) -> Export:
        return ReadAheadExport(next) if is_possible(self, next, "readahead") else next


class ReadAheadExport(FilterExport):
    """*next*, of which more and more is cached while a client reads in order."""

    def __init__(self, next: Export) -> None:
        super().__init__(next)
        minimum = next.block_size().minimum
        self._minimum = minimum
        self._end = next.get_size()
        self._end -= self._end % minimum
        self._expected = 0  # where the next request begins if it is in order
        self._window = _LEAST
        self._place = 0  # what is before it is cached, or about to be
        self._target = 0  # up to where that is to go on
        self._prefetcher = Prefetcher(next, self._choose)

    def can_resize(self) -> bool:
        return self.next.can_resize()

    def pread(self, count: int, offset: int) -> Buffer:
        is_in_order = offset == self._expected
        self._expected = offset + count
        self._window = min(2 * self._window, _MOST) if is_in_order else _LEAST
        self._prefetcher.poke(lambda: self._aim(offset + count, is_in_order))
        self._prefetcher.wait_for(offset, offset + count)
        return self.next.pread(count, offset)

    def _aim(self, start: int, is_in_order: bool) -> None:
        """Let what follows *start* be cached, or nothing if nobody knows what comes next."""
        if not is_in_order:
            self._place = self._target = start - start % self._minimum
            return
        self._place = max(self._place, start - start % self._minimum)
        self._target = min(self._end, start + self._window)

    def _choose(self) -> tuple[int, int] | None:
        place, stop = self._place, min(self._target, self._place + _PIECE)
        if place >= stop:
            return None
        stop -= stop % self._minimum
        self._place = stop
        return (stop - place, place) if stop > place else None

    def close(self) -> None:
        self._prefetcher.close()
        self.next.close()

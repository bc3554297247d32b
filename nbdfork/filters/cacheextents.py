"""The cacheextents filter: ask about many extents at once, and answer the next questions by that.

Each client remembers what it was told last.  A change by any client, whichever worker serves it,
makes all of them forget.
"""

import bisect
from collections.abc import Callable, Iterator
from itertools import islice

from nbdfork.filters._around import AroundChanges, Request, T
from nbdfork.plugin import Export, Extent, Filter, Needs, SharedCounter

_MOST = 65536
"""So many extents are remembered."""

_AHEAD = 1024 * 1024 * 1024
"""As many bytes are asked about, if there are so many."""


class CacheExtents(Filter):
    """remember what the disk said of its holes"""

    def needs(self) -> Needs:
        return Needs()

    def get_ready(self) -> None:
        self._changes = SharedCounter(name="changes")

    def wrap(self, next: Export, export_name: str, read_only: bool) -> Export:
        return CacheExtentsExport(next, self._changes)


class CacheExtentsExport(AroundChanges):
    """*next*, with the last extents remembered until one of the *changes*."""

    def __init__(self, next: Export, changes: SharedCounter) -> None:
        super().__init__(next)
        self._changes = changes
        self._size = next.get_size()
        self._minimum = next.block_size().minimum
        self._known: tuple[list[int], list[Extent], int] = ([], [], -1)  # starts, extents, changes

    def can_resize(self) -> bool:
        return False  # where the end is has been asked once

    def around(self, request: Request, do: Callable[[], T]) -> T:
        # Before, so that nobody relies on what is about to change; and after, because somebody may
        # have asked meanwhile.
        self._changes.add()
        try:
            return do()
        finally:
            self._changes.add()

    def extents(self, count: int, offset: int, flags: int) -> Iterator[Extent]:
        starts, known, changes = self._known
        if changes != self._changes.value or not known or not self._covers(known, offset):
            changes = self._changes.value
            ahead = min(self._size - offset, max(count, _AHEAD))
            ahead -= ahead % self._minimum
            known = list(islice(self.next.extents(max(count, ahead), offset, 0), _MOST))
            starts = [extent.offset for extent in known]
            self._known = starts, known, changes
        yield from known[max(0, bisect.bisect_right(starts, offset) - 1) :]

    def _covers(self, known: list[Extent], offset: int) -> bool:
        return known[0].offset <= offset < known[-1].offset + known[-1].length

"""The protect filter: keep parts of the disk from being changed.

What is written there may be what is there already, so a client may write back what it has read.
"""

import errno
from collections.abc import Callable, Iterator

from nbdfork.filters._around import AroundChanges, Request, T
from nbdfork.filters._values import offset_number
from nbdfork.plugin import Export, Filter, Needs, Parameter

_MOST = 2**63
_PIECE = 1024 * 1024


def _ranges(text: str) -> tuple[tuple[int, int], ...]:
    """Parse START-END, or ~START-END for all else; return pairs of start, and end past it."""
    start_text, dash, end_text = text.removeprefix("~").partition("-")
    start = offset_number(start_text) if start_text else 0
    end = offset_number(end_text) + 1 if end_text else _MOST
    if not dash:
        raise ValueError("expected START-END, two offsets such as 0-0x1bd")
    if start >= end:
        raise ValueError("the range ends before it begins")
    return ((0, start), (end, _MOST)) if text.startswith("~") else ((start, end),)


class Protect(Filter):
    """keep parts of the disk from being changed"""

    protect = Parameter(
        _ranges, repeatable=True, metavar="[~]START-END", help="a part, with both of its ends"
    )

    def needs(self) -> Needs:
        return Needs()

    def wrap(self, next: Export, export_name: str, read_only: bool) -> Export:
        ranges = [part for parts in self.protect for part in parts if part[0] < part[1]]
        return ProtectedExport(next, sorted(ranges)) if ranges else next


class ProtectedExport(AroundChanges):
    """*next*, of which the *ranges* (start and end) cannot be changed."""

    def __init__(self, next: Export, ranges: list[tuple[int, int]]) -> None:
        super().__init__(next)
        self._ranges = ranges
        self._minimum, _, maximum = next.block_size()
        self._piece = min(_PIECE, maximum - maximum % self._minimum)

    def can_resize(self) -> bool:
        return False  # what is cut off is lost

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        for start, end in self._parts(len(data), offset):
            if self._read(start, end) != data[start - offset : end - offset]:
                raise _refusal(start)
        self.next.pwrite(data, offset, flags)

    def around(self, request: Request, do: Callable[[], T]) -> T:
        for start, end in self._parts(request.length, request.offset):
            for place in range(start, end, self._piece):
                if any(self._read(place, min(end, place + self._piece))):
                    raise _refusal(place)
        return do()

    def _parts(self, count: int, offset: int) -> Iterator[tuple[int, int]]:
        """Yield start and end of what is protected in a range."""
        for start, end in self._ranges:
            if offset < end and start < offset + count:
                yield max(start, offset), min(end, offset + count)

    def _read(self, start: int, end: int) -> memoryview:
        first = start - start % self._minimum
        last = -(-end // self._minimum) * self._minimum
        data = b"".join(
            self.next.pread(min(self._piece, last - place), place)
            for place in range(first, last, self._piece)
        )
        return memoryview(data)[start - first : end - first]


def _refusal(offset: int) -> OSError:
    return OSError(errno.EPERM, f"the disk is protected at byte {offset}")

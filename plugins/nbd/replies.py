"""What a server sends in reply to requests, before it is believed.

libnbd sees to it that a reply belongs to a request and stays inside of its range; not that it is
all of it, nor that it comes to an end.
"""

import errno
from collections.abc import Callable
from typing import Any

from nbdfork.plugin import HOLE, ZERO, Extent

from .connecting import BASE_ALLOCATION

MOST_EXTENTS = 64 * 1024
"""How many extents of one reply are looked at; the rest is asked for when somebody wants it."""


def nonsense(what: str) -> str:
    """Return the text for *what* no server may say."""
    return f"the far end says nonsense: {what}"


class Chunks:
    """The parts in which the *count* bytes from *start* on arrive.

    *break_off* ends the connection, and is told why.
    """

    def __init__(self, start: int, count: int, break_off: Callable[[str], None]) -> None:
        self._start = start
        self._count = count
        self._break_off = break_off
        self._received = 0
        self._parts: list[tuple[int, int]] = []

    def note(self, data: Any, offset: int, status: int, error: Any) -> int:
        """Note a part, for libnbd."""
        length = len(data)
        self._received += length
        self._parts.append((offset, length))
        if self._received > self._count or len(self._parts) > self._count:
            self._break_off(nonsense(f"more than the {self._count} bytes that were asked for"))
        return 0

    def check(self) -> None:
        """Raise OSError unless all bytes have come, each of them once."""
        if self._parts == [(self._start, self._count)]:
            return
        at = self._start
        for offset, length in sorted(self._parts):
            if offset != at:
                break
            at += length
        if at != self._start + self._count:
            text = f"a reply without byte {at} of the {self._count} bytes from {self._start} on"
            raise OSError(errno.EIO, nonsense(text))


class Told:
    """The extents that a server tells of the *count* bytes from *start* on.

    *break_off* ends the connection, and is told why.
    """

    def __init__(self, start: int, count: int, break_off: Callable[[str], None]) -> None:
        self._start = start
        self._end = start + count
        self._break_off = break_off
        self._chunks = 0
        self._wrong = ""
        self.extents: list[Extent] = []
        """Those within the range; the last one may go beyond it."""

    def check(self) -> None:
        """Raise OSError unless extents have been told, and as they should be."""
        if self._wrong or not self.extents:
            raise OSError(errno.EIO, self._wrong or nonsense("a reply without any extents"))

    def _refuse(self, what: str) -> None:
        self._wrong = nonsense(what)
        self._break_off(self._wrong)

    def note(self, context: str, offset: int, entries: list[int], error: Any) -> int:
        """Note a chunk of the reply, for libnbd: lengths and types by turns."""
        self._chunks += 1
        if self._chunks > 1:  # only one context was asked for
            self._refuse("more than one chunk of extents in a reply")
        elif context == BASE_ALLOCATION:
            self._take(entries)
        return 0

    def _take(self, entries: list[int]) -> None:
        at = self._start
        for index in range(0, min(len(entries), 2 * MOST_EXTENTS), 2):
            length, kind = entries[index], entries[index + 1]
            if not length:
                self._refuse("an extent of no length")
                return
            self.extents.append(Extent(at, length, kind & (HOLE | ZERO)))
            at += length
            if at >= self._end:
                return

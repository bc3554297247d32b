"""Ask an export for extents, and put them into the form that clients may rely on.

What a reply costs is in proportion to the extents in it, however large and however finely
fragmented the disk is: a reply has room for so many, no more than that are taken from the export,
and it is not asked for a range that is likely to have many more.  Nothing it said is kept for the
next request, because the disk may have changed by then.
"""

import errno
from bisect import bisect_right
from collections.abc import Callable, Iterable
from operator import itemgetter

from nbdfork.plugin import REQ_ONE, Extent

MOST_EXTENTS = 4096
"""No more of an export's extents are looked at for one reply: about ten milliseconds' work.  A
client that wants to know the rest asks again from where they end.  qemu-nbd stops at 2^17, nbdkit
at 2^20."""

_FIRST_SPAN = 16 * 1024 * 1024
_LEAST_SPAN = 64 * 1024  # a multiple of every minimum block size
_MOST_SPAN = 1 << 62
"""How many bytes of the disk an export is asked about at once."""

_GROWTH = 8
"""The factor by which that grows after an answer of few extents."""

_FEW = 16
"""An export that is asked for one extent, and makes more, is then asked about so many times the
length of the first."""


class ExtentReader:
    """Reads extents by calling a method of an export.

    Some methods list all extents of the range before any can be taken, however many that are.  So
    the range is adapted to how dense the last answers were.  *known_types* are the bits that a
    type may have, or -1 for any.
    """

    def __init__(
        self, method: Callable[[int, int, int], Iterable[Extent]], known_types: int = -1
    ) -> None:
        self._method = method
        self._unknown_types = ~known_types
        self._span = {0: _FIRST_SPAN, REQ_ONE: _FIRST_SPAN}

    def read(self, count: int, offset: int, flags: int) -> list[Extent]:
        """Return extents that begin at *offset*, follow each other and end within the range.

        Neighbours of one type are merged; there is only one with `REQ_ONE`, and in any case
        there may be fewer than the range has.  Raises OSError with EIO if none holds *offset*, or
        one is of an unknown type.
        """
        one = flags & REQ_ONE
        span = self._span[one]
        asked = min(count, span)
        answer = self._method(asked, offset, flags)
        found, seen, more = _take(answer, count, offset, 1 if one else MOST_EXTENTS)
        if self._unknown_types and any(extent.type & self._unknown_types for extent in found):
            raise OSError(errno.EIO, f"the plugin gave extents of unknown types: {found[:9]}")
        covered = found[-1].offset + found[-1].length - offset
        if more:
            self._span[one] = min(span, _span_of(covered * _FEW if one else covered))
        elif covered >= span and seen * _GROWTH <= MOST_EXTENTS:
            self._span[one] = min(span * _GROWTH, _MOST_SPAN)
        return found


def _take(
    answer: Iterable[Extent], count: int, offset: int, most: int
) -> tuple[list[Extent], int, bool]:
    """Return up to *most* extents of a range, from how many of *answer* they were made, and
    whether *answer* had more.

    An export may tell of more than it was asked about: all that is in the client's range counts.
    """
    found: list[Extent] = []
    seen = 0
    start, position, end = offset, offset, offset + count
    last: int | None = None
    for begin, length, kind in _from_offset(answer, offset):
        if begin + length <= position:
            continue
        if begin > position or begin >= end or length <= 0:
            break
        if kind != last:
            if last is not None:
                found.append(Extent(start, position - start, last))
                if len(found) == most:
                    return found, seen, True
            start, last = position, kind
        seen += 1
        position = min(begin + length, end)
        if position == end or seen == MOST_EXTENTS:
            break
    if last is None:
        raise OSError(errno.EIO, f"the plugin gave no extent that holds {offset}")
    found.append(Extent(start, position - start, last))
    return found, seen, seen == MOST_EXTENTS


def _from_offset(answer: Iterable[Extent], offset: int) -> Iterable[Extent]:
    """Return *answer*, from the extent that holds *offset* on: a list may be of the whole disk."""
    if isinstance(answer, list | tuple) and answer and answer[0][0] + answer[0][1] <= offset:
        first = max(bisect_right(answer, offset, key=itemgetter(0)) - 1, 0)
        return answer[first : first + MOST_EXTENTS + 1]
    return answer


def _span_of(count: int) -> int:
    """Return the least power of 2 that is *count* bytes or more."""
    return max(_LEAST_SPAN, 1 << (count - 1).bit_length())


def align(extents: list[Extent], block: int, end: int) -> list[Extent]:
    """Return *extents*, which begin at a multiple of *block*, so that they end at multiples, too.

    A block that is of several types gets what they have in common.  The last extent may end at
    *end*, the end of the disk.
    """
    found: list[Extent] = []
    position = extents[0].offset
    mixed: int | None = None  # what the parts of the block at `position` have in common
    for offset, length, kind in extents:
        limit = offset + length
        if mixed is not None:
            mixed &= kind
            if limit < position + block and limit != end:
                continue
            _append(found, position, min(block, limit - position), mixed)
            position, mixed = min(position + block, limit), None
        whole = limit - position if limit == end else (limit - position) // block * block
        if whole > 0:
            _append(found, position, whole, kind)
            position += whole
        if limit > position:
            mixed = kind
    if not found:
        _append(found, position, min(block, end - position), 0)
    return found[:MOST_EXTENTS]  # there may be a mixed block between any two


def _append(found: list[Extent], offset: int, length: int, kind: int) -> None:
    if found and found[-1].type == kind:
        offset, length = found[-1].offset, found[-1].length + length
        found.pop()
    found.append(Extent(offset, length, kind))

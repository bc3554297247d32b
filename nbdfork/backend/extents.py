"""Put the extents that an export gives into the form that clients may rely on."""

import errno
from collections.abc import Iterable

from nbdfork.plugin.export import Extent

MOST_EXTENTS = 1 << 16
"""More than so many are not gathered for one request: a client that wants to know the rest
asks again from where they end.  qemu-nbd stops at 2^17, nbdkit at 2^20."""


def clip(raw: Iterable[Extent], count: int, offset: int, most: int = MOST_EXTENTS) -> list[Extent]:
    """Return extents that begin at *offset*, follow each other and end within the range.

    Neighbours of one type are merged; there are *most* at the most.  Raises OSError with EIO
    if none holds *offset*.
    """
    found: list[Extent] = []
    start, position, end = offset, offset, offset + count
    last: int | None = None
    for begin, length, kind in raw:
        if begin + length <= position:
            continue
        if begin > position or begin >= end or length <= 0:
            break
        if kind != last:
            if last is not None:
                found.append(Extent(start, position - start, last))
                if len(found) == most:
                    return found
            start, last = position, kind
        position = min(begin + length, end)
        if position == end:
            break
    if last is None:
        raise OSError(errno.EIO, f"the plugin gave no extent that holds {offset}")
    found.append(Extent(start, position - start, last))
    return found


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
    return found


def _append(found: list[Extent], offset: int, length: int, kind: int) -> None:
    if found and found[-1].type == kind:
        offset, length = found[-1].offset, found[-1].length + length
        found.pop()
    found.append(Extent(offset, length, kind))

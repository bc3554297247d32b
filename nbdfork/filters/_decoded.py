"""What has been decoded, in a scratch file of bounded size that all workers share.

A disk is cut into pieces of the same size.  The file is a ring with room for a number of pieces:
each that is kept gets the next whole number, and is where that number modulo the room says, until
so many others have been kept.  So whether a piece is still there can be told by its number; a
reader looks at that before and after it reads, and needs no lock.  For each piece of a disk, a
table has its number, or says that it is nothing but zeroes, which take no room.
"""

import logging
import os
import time
from array import array
from collections.abc import Callable, Iterator
from itertools import groupby

from nbdfork.plugin import (
    HOLE,
    ZERO,
    Buffer,
    Extent,
    ScratchFile,
    SharedBuffer,
    SharedCounter,
    SharedLock,
)

log = logging.getLogger(__name__)

PIECE = 64 * 1024

_ZEROES = bytes(PIECE)
_ABSENT, _ZERO, _FIRST = 0, 1, 2  # what the table has of a piece; numbers begin with the last
_ENTRY = 8  # bytes
_BATCH = 1024 * 1024  # bytes that are kept in one step
_AT_ONCE = 1024  # pieces that are looked up in one step
_MOST = 2**31  # pieces of a disk that are shared: 128 TiB
_RECORDED = 2**22  # pieces that are remembered while a disk is decoded for the first time


class Decoded:
    """A scratch file for up to *most* bytes that have been decoded, and the table of its pieces.

    It takes at most half of what is free in its file system now.  What does not fit is not kept,
    and has to be decoded again.
    """

    def __init__(self, most: int) -> None:
        anew = f"of {time.monotonic_ns()}"  # each program fills its own
        self._file = ScratchFile(name=anew)
        self._table = ScratchFile(name=anew)
        status = os.statvfs(self._file.fd)
        self._room = min(most, status.f_bavail * status.f_frsize // 2) // PIECE
        self._next = SharedBuffer(8, name=anew).view().cast("q")
        self._next[0] = _FIRST
        self._keeping = SharedLock(name=anew)
        self._reserved = SharedCounter(name=anew)  # entries of the table
        self.is_usable = self._room > 0

    # -- disks --------------------------------------------------------------------------

    def reserve(self, size: int) -> int:
        """Return the place in the table for a disk of *size* bytes."""
        count = min(-(-size // PIECE), _MOST)
        return self._reserved.add(count) - count

    def set(self, place: int, entries: "array[int]") -> None:
        """Put *entries* into the table at *place*."""
        if self.is_usable and entries:
            try:
                _write(self._table.fd, memoryview(entries).cast("B"), place * _ENTRY)
            except OSError as error:
                self._give_up(error)

    # -- pieces -------------------------------------------------------------------------

    def keep(self, data: memoryview, room: int | None = None) -> "array[int]":
        """Keep the pieces that *data* have, the last of which may be shorter than others, and
        return their entries; up to *room* pieces get a number.
        """
        count = -(-len(data) // PIECE)
        if not self.is_usable:
            return array("Q", bytes(count * _ENTRY))
        room = self._room if room is None else min(room, self._room)
        entries = array("Q", (_ZERO if _is_zero(data, at) else _ABSENT for at in range(count)))
        at = 0
        while at < count and room:
            if entries[at] == _ZERO:
                at += 1
                continue
            end = at + 1
            while end < count and entries[end] != _ZERO and end - at < room:
                end += 1
            first = self._keep_run(data[at * PIECE : end * PIECE], end - at)
            if not first:
                break
            for number in range(at, end):
                entries[number] = first + number - at
            room -= end - at
            at = end
        return entries

    def _keep_run(self, data: memoryview, count: int) -> int:
        """Write *count* pieces, and return the number of the first, or 0 if that fails."""
        with self._keeping:
            first = self._next[0]
            self._next[0] = first + count  # now nobody reads what will be overwritten
            at = first % self._room
            before_end = (self._room - at) * PIECE
            try:
                _write(self._file.fd, data[:before_end], at * PIECE)
                _write(self._file.fd, data[before_end:], 0)
            except OSError as error:
                self._give_up(error)
                return 0
        return first

    def _give_up(self, error: OSError) -> None:
        self.is_usable = False
        text = "what has been decoded cannot be kept in %s, so it has to be decoded again: %s"
        log.warning(text, self._file.directory, error.strerror)

    def entries(self, place: int, count: int) -> "memoryview[int]":
        """Return some of the *count* entries at *place*; none if nothing is kept from there on."""
        found = os.pread(self._table.fd, min(count, _AT_ONCE) * _ENTRY, place * _ENTRY)
        return memoryview(found[: len(found) // _ENTRY * _ENTRY]).cast("Q")

    def read(self, place: int, count: int, offset: int) -> Buffer | None:
        """Return some of the *count* bytes from *offset* of the disk whose entries are at *place*,
        or None if the first of them are not there.
        """
        index, inside = divmod(offset, PIECE)
        entries = self.entries(place + index, -(-(inside + count) // PIECE))
        if not entries or entries[0] == _ABSENT:
            return None
        first = entries[0]
        if first == _ZERO:
            run = next((n for n, entry in enumerate(entries) if entry != _ZERO), len(entries))
            count = min(count, run * PIECE - inside)
            return memoryview(_ZEROES)[:count] if count <= PIECE else bytes(count)
        at = first % self._room
        run = 1
        while run < len(entries) and entries[run] == first + run and at + run < self._room:
            run += 1
        count = min(count, run * PIECE - inside)
        if first + self._room < self._next[0]:
            return None
        data = os.pread(self._file.fd, count, at * PIECE + inside)
        if first + self._room < self._next[0] or len(data) < count:
            return None
        return data


class Share:
    """What is kept of one disk of *size* bytes, whose entries are at *place* of the table."""

    def __init__(self, decoded: Decoded, place: int, size: int) -> None:
        self._decoded = decoded
        self._place = place
        self._size = min(size, _MOST * PIECE)

    def read(self, count: int, offset: int) -> Buffer | None:
        """Return some of the *count* bytes from *offset*, or None if the first are not kept."""
        count = min(count, self._size - offset)
        return self._decoded.read(self._place, count, offset) if count > 0 else None

    def knows_zeroes(self) -> bool:
        """Return whether `extents` may ever find any."""
        return self._decoded.is_usable

    def extents(self, count: int, offset: int) -> Iterator[Extent]:
        """Tell which parts of a range are known to be zeroes; all else is called data."""
        end = min(offset + count, self._size)
        while offset < end:
            first = offset // PIECE
            entries = self._decoded.entries(self._place + first, -(-end // PIECE) - first)
            for is_zero, run in groupby(entries, lambda entry: entry == _ZERO):
                first += len(list(run))
                stop = min(first * PIECE, end)
                yield Extent(offset, stop - offset, HOLE | ZERO if is_zero else 0)
                offset = stop
            if not entries:
                break
        if offset < end:
            yield Extent(offset, end - offset, 0)

    def keep(self, data: Buffer, offset: int) -> None:
        """Keep those pieces of the disk that the *data* from *offset* have as a whole."""
        end = min(offset + len(data), self._size)
        start = -(-offset // PIECE) * PIECE
        stop = end if end == self._size else end // PIECE * PIECE
        if start < stop:
            pieces = memoryview(data)[start - offset : stop - offset]
            self._decoded.set(self._place + start // PIECE, self._decoded.keep(pieces))


class Recorder:
    """Keeps what comes out while a disk is decoded from its beginning, when nobody knows its size.

    Of a disk that is too large for all to be kept, the beginning is.  *tick* is called for each
    part that comes.
    """

    def __init__(self, decoded: Decoded, tick: Callable[[], None] = lambda: None) -> None:
        self._decoded = decoded
        self._tick = tick
        self._entries = array("Q")
        self._parts: list[bytes] = []  # what is not yet kept
        self._size = 0  # bytes of these
        self._left = decoded._room

    def write(self, data: bytes) -> None:
        """Take the next part of the disk."""
        self._tick()
        self._parts.append(data)
        self._size += len(data)
        if self._size >= _BATCH:
            self._take(self._size // PIECE * PIECE)

    def _take(self, count: int) -> None:
        """Keep the first *count* bytes of the parts."""
        data = b"".join(self._parts)
        self._parts = [data[count:]]
        self._size -= count
        if len(self._entries) < _RECORDED:
            entries = self._decoded.keep(memoryview(data)[:count], self._left)
            self._left -= sum(entry >= _FIRST for entry in entries)
            self._entries += entries

    def publish(self, size: int) -> int:
        """Show all workers what has been kept of the disk, which has *size* bytes, and return the
        place of its entries.
        """
        self._take(self._size)
        place = self._decoded.reserve(size)
        self._decoded.set(place, self._entries[: -(-size // PIECE)])
        return place


def _is_zero(data: memoryview, at: int) -> bool:
    piece = data[at * PIECE : (at + 1) * PIECE]
    return not piece[0] and not piece[-1] and bytes(piece) == _ZEROES[: len(piece)]


def _write(fd: int, data: memoryview, offset: int) -> None:
    while data:
        done = os.pwrite(fd, data, offset)
        data, offset = data[done:], offset + done

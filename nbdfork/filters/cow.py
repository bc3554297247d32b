"""The cow filter: let clients write to a disk without changing it.

What clients write goes to an overlay, which all clients of an export share and which is gone when
the server ends.

A block in the state `DATA` is written in place, by any client at any time.  Every other change
needs the lock.  For a block to become `DATA`, the bytes around those to be written are copied from
below first, then the new ones are written, then the block is marked; a client that reads meanwhile
sees the block as it was.
"""

import errno
import os
from collections.abc import Iterable, Iterator

from nbdfork.filters import clipped
from nbdfork.filters._overlay import AT_ONCE, BELOW, Overlay, Overlays
from nbdfork.filters._values import power_of_2, when
from nbdfork.plugin import (
    HOLE,
    MAY_TRIM,
    REQ_ONE,
    ZERO,
    BlockSize,
    Buffer,
    Export,
    Extent,
    Filter,
    FilterExport,
    Needs,
    Parameter,
    Support,
    parse,
)

# The states of a block.
DATA = 1  # it is in the overlay
ZEROED = 2  # it reads as zeroes
TRIMMED = 3  # it reads as zeroes, and is a hole

_TYPES = {DATA: 0, ZEROED: ZERO, TRIMMED: HOLE | ZERO}
_PIECE = 1024 * 1024

_MOST_PREFERRED = 32 * 1024 * 1024  # of all block sizes that clients may be told to prefer


class Cow(Filter):
    """let clients write, but keep the disk as it is"""

    opens_read_only = True

    cow_block_size = Parameter(
        power_of_2(4096, 2**31, "from 4k to 2G"),
        default=65536,
        metavar="SIZE",
        help="the size of the overlay's blocks",
    )
    cow_on_cache = Parameter(
        parse.boolean, default=False, metavar="BOOL", help="keep what clients ask to cache, too"
    )
    cow_on_read = Parameter[bool | str](
        when,
        default=False,
        metavar="BOOL|/PATH",
        help="keep what clients read, too; with /PATH, while that exists",
    )

    def needs(self) -> Needs:
        return Needs()

    def get_ready(self) -> None:
        self._overlays = Overlays(self.cow_block_size, "cow")

    def wrap(self, next: Export, export_name: str, read_only: bool) -> Export:
        overlay = self._overlays.of(export_name, next.get_size())
        return CowExport(next, overlay, self.cow_on_cache, self.cow_on_read)


class CowExport(FilterExport):
    """*next*, which is never written, under the *overlay*."""

    def __init__(self, next: Export, overlay: Overlay, on_cache: bool, on_read: bool | str) -> None:
        super().__init__(next)
        self._overlay = overlay
        self._block = overlay.block_size
        self._on_cache = on_cache
        self._on_read = on_read
        self._holes_below = next.can_extents()
        self._cache_below = next.can_cache()
        size = next.get_size()
        minimum, _, maximum = next.block_size()
        if self._block % minimum:
            raise OSError(
                errno.EINVAL,
                f"cow-block-size={self._block}: the disk below needs at least {minimum}",
            )
        self._end = size - size % minimum  # no request can reach what is after that
        self._piece = min(_PIECE, maximum - maximum % minimum)

    # -- facts --------------------------------------------------------------------------------

    def can_write(self) -> bool:
        return True

    def can_flush(self) -> bool:
        return True

    def can_fua(self) -> Support:
        return Support.NATIVE

    def can_trim(self) -> bool:
        return True

    def can_zero(self) -> bool:
        return True

    def can_fast_zero(self) -> bool:
        return True

    def can_cache(self) -> Support:
        return Support.NATIVE

    def can_extents(self) -> bool:
        return True

    def can_multi_conn(self) -> bool:
        return True  # what one client writes all others see at once

    def block_size(self) -> BlockSize:
        below = self.next.block_size()
        if self._block > min(below.maximum, _MOST_PREFERRED):
            return below
        return below._replace(preferred=max(below.preferred, self._block))

    def contexts(self) -> Iterable[str]:
        return ()  # they would describe the disk below, without what has been written

    # -- operations ---------------------------------------------------------------------------

    def pread(self, count: int, offset: int) -> Buffer:
        if self._on_read and self._keeps_reads():
            self._keep(count, offset)
        parts = [self._read(*run) for run in self._overlay.runs(count, offset)]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        count = len(data)
        if all(state == DATA for state, _, _ in self._overlay.runs(count, offset)):
            self._overlay.write(data, offset)
            return
        start, end = self._overlay.around(count, offset, self._end)
        with self._overlay.lock:
            self._fill(offset - start, start)
            self._fill(end - offset - count, offset + count)
            self._overlay.write(data, offset)
            self._overlay.mark(offset, count, DATA)

    def flush(self) -> None:
        """Do nothing: an overlay that ends with the server has no need of stable storage."""

    def trim(self, count: int, offset: int, flags: int) -> None:
        self._clear(count, offset, TRIMMED)

    def zero(self, count: int, offset: int, flags: int) -> None:
        self._clear(count, offset, TRIMMED if flags & MAY_TRIM else ZEROED)

    def cache(self, count: int, offset: int) -> None:
        if self._on_cache:
            self._keep(count, offset)
            return
        for state, length, start in self._overlay.runs(count, offset):
            if state == DATA:
                self._overlay.cache(length, start)
            elif state == BELOW and self._cache_below is Support.NATIVE:
                self.next.cache(length, start)
            elif state == BELOW and self._cache_below is Support.EMULATE:
                for _ in self._pieces(state, length, start):
                    pass  # reading it is enough

    def extents(self, count: int, offset: int, flags: int) -> Iterator[Extent]:
        most = AT_ONCE * self._block
        for state, length, start in self._overlay.runs(min(count, most), offset):
            if state == BELOW and self._holes_below:
                end = start
                below = self.next.extents(length, start, flags)
                for extent in clipped(below, start, start + length):
                    yield extent
                    end = extent.offset + extent.length
                if end < start + length:
                    return  # it has told of less than it was asked about
            else:
                yield Extent(start, length, _TYPES.get(state, 0))
            if flags & REQ_ONE:
                return

    # -- blocks -------------------------------------------------------------------------------

    def _read(self, state: int, count: int, offset: int) -> Buffer:
        if state == BELOW:
            return self.next.pread(count, offset)
        if state == DATA:
            return self._overlay.read(count, offset)
        return bytes(count)

    def _pieces(self, state: int, count: int, offset: int) -> Iterator[tuple[int, Buffer]]:
        """Read a range in pieces: blocks may be larger than the disk can read at once."""
        for start in range(offset, offset + count, self._piece):
            yield start, self._read(state, min(self._piece, offset + count - start), start)

    def _fill(self, count: int, offset: int) -> None:
        """Copy to the overlay what a range reads as now.  The lock is held."""
        for state, length, start in self._overlay.runs(count, offset):
            if state != DATA:
                self._copy(state, length, start)

    def _copy(self, state: int, count: int, offset: int) -> None:
        for start, data in self._pieces(state, count, offset):
            self._overlay.write(memoryview(data), start)

    def _keep(self, count: int, offset: int) -> None:
        """Copy to the overlay those blocks of a range that are not in it."""
        if all(state != BELOW for state, _, _ in self._overlay.runs(count, offset)):
            return
        start, end = self._overlay.around(count, offset, self._end)
        with self._overlay.lock:
            for state, length, begin in self._overlay.runs(end - start, start):
                if state == BELOW:
                    self._copy(state, length, begin)
                    self._overlay.mark(begin, length, DATA)

    def _keeps_reads(self) -> bool:
        return self._on_read is True or os.path.exists(self._on_read)

    def _clear(self, count: int, offset: int, state: int) -> None:
        """Make a range read as zeroes: mark the whole blocks, and write the rest."""
        end = offset + count
        first = -(-offset // self._block) * self._block
        last = end if end == self._end else end - end % self._block
        if first >= last:
            self.write_zeroes(count, offset, 0)
            return
        self.write_zeroes(first - offset, offset, 0)
        self.write_zeroes(end - last, last, 0)
        step = AT_ONCE * self._block
        for start in range(first, last, step):
            self._clear_blocks(min(step, last - start), start, state)

    def _clear_blocks(self, count: int, offset: int, state: int) -> None:
        """Mark whole blocks, and release their space."""
        with self._overlay.lock:
            self._overlay.mark(offset, count, state)
            self._overlay.release(count, offset)

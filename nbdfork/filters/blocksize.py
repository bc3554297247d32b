"""The blocksize filter: make requests fit for a disk that wants whole blocks, or short requests.

What does not begin and end with a block is read with what is around it, and written back with that.
Meanwhile nobody else may write there, so the blocks are held, by whichever worker it is.
"""

import errno
from collections.abc import Callable, Iterable, Iterator

from nbdfork.filters import clipped
from nbdfork.filters._ranges import SharedRanges
from nbdfork.filters._values import power_of_2
from nbdfork.plugin import (
    FAST_ZERO,
    FUA,
    BlockSize,
    Buffer,
    ConfigError,
    Export,
    Extent,
    Filter,
    FilterExport,
    Needs,
    Parameter,
    parse,
)

_MOST_DATA = 64 * 1024 * 1024
_MOST_LENGTH = 2**32 - 1


def _most(text: str) -> int:
    value = parse.size(text)
    if not 1 <= value <= _MOST_LENGTH:
        raise ValueError("expected a size from 1 to 4G-1")
    return value


class BlockSizes(Filter):
    """make requests fit for the disk below"""

    minblock = Parameter(
        power_of_2(1, 65536, "from 1 to 64k"),
        metavar="SIZE",
        help="the blocks that the disk is asked for",
    )
    maxdata = Parameter(_most, metavar="SIZE", help="the most bytes to read or write at once")
    maxlen = Parameter(_most, metavar="SIZE", help="the most bytes to trim, zero or cache at once")

    def needs(self) -> Needs:
        return Needs()

    def config_complete(self) -> None:
        block = self.minblock or 1
        for key, value in (("maxdata", self.maxdata), ("maxlen", self.maxlen)):
            if value is not None and value % block:
                raise ConfigError(f"blocksize: {key}={value} is no multiple of minblock={block}")

    def get_ready(self) -> None:
        self._ranges = SharedRanges()

    def wrap(self, next: Export, export_name: str, read_only: bool) -> Export:
        minimum, _, maximum = next.block_size()
        block = self.minblock or minimum
        if block < minimum:
            raise OSError(
                errno.EINVAL, f"minblock={block}: the disk below has blocks of {minimum} bytes"
            )
        data = min(self.maxdata or _MOST_DATA, maximum)
        length = self.maxlen or _MOST_LENGTH
        return BlockSizeExport(
            next, block, data - data % block, length - length % block, self._ranges
        )


class BlockSizeExport(FilterExport):
    """*next* in whole blocks, *most_data* bytes at most, or *most* where there is no data."""

    def __init__(
        self, next: Export, block: int, most_data: int, most: int, ranges: SharedRanges
    ) -> None:
        super().__init__(next)
        if not most_data or not most:
            raise OSError(errno.EINVAL, f"the disk below cannot read blocks of {block} bytes")
        self._block = block
        self._most_data = most_data
        self._most = most
        self._ranges = ranges
        size = next.get_size()
        self._size = size - size % block

    def get_size(self) -> int:
        return self._size

    def block_size(self) -> BlockSize:
        preferred = max(self.next.block_size().preferred, self._block)
        return BlockSize(1, min(preferred, 32 * 1024 * 1024), _MOST_LENGTH)

    # -- reading ------------------------------------------------------------------------------

    def pread(self, count: int, offset: int) -> Buffer:
        start, end = self._around(count, offset)
        parts = [
            self.next.pread(length, place) for length, place in _pieces(start, end, self._most_data)
        ]
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        if end - start == count:
            return data
        return memoryview(data)[offset - start : offset - start + count]

    def view(self, count: int, offset: int) -> Buffer | None:
        if (count | offset) % self._block or count > self._most_data:
            return None
        return self.next.view(count, offset)

    def cache(self, count: int, offset: int) -> None:
        for length, place in _pieces(*self._around(count, offset), self._most):
            self.next.cache(length, place)

    def extents(self, count: int, offset: int, flags: int) -> Iterator[Extent]:
        return self._clipped(
            lambda length, place: self.next.extents(length, place, flags), count, offset
        )

    def context_extents(
        self, context: str, count: int, offset: int, flags: int
    ) -> Iterator[Extent]:
        return self._clipped(
            lambda length, place: self.next.context_extents(context, length, place, flags),
            count,
            offset,
        )

    def _clipped(
        self, ask: Callable[[int, int], Iterable[Extent]], count: int, offset: int
    ) -> Iterator[Extent]:
        """Yield what is known of the first piece of a range, as far as there is something."""
        start, end = self._around(count, offset)
        stop = min(end, start + self._most)
        return clipped(ask(stop - start, start), offset, min(stop, self._size))

    # -- writing ------------------------------------------------------------------------------

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        start, end = self._around(len(data), offset)
        if self._block == 1:
            self._write(data, offset, flags)
            return
        with self._ranges.held(start, end):
            if end - start > len(data):
                self._write_within(data, offset, flags)
            else:
                self._write(data, offset, flags)

    def _write_within(self, data: memoryview, offset: int, flags: int) -> None:
        """Write *data*, of which the ends are not those of blocks.  The blocks are held."""
        start, end = self._around(len(data), offset)
        stop = offset + len(data)
        head = bytes(self.next.pread(self._block, start))[: offset - start]
        tail = b""
        if end > stop:
            tail = bytes(self.next.pread(self._block, end - self._block))[stop - end :]
        self._write(memoryview(b"".join((head, data, tail))), start, flags)

    def _write(self, data: memoryview, offset: int, flags: int) -> None:
        for length, place in _pieces(offset, offset + len(data), self._most_data):
            self.next.pwrite(data[place - offset : place - offset + length], place, flags)

    def zero(self, count: int, offset: int, flags: int) -> None:
        self._zero(self.next.zero, self._most, count, offset, flags)

    def write_zeroes(self, count: int, offset: int, flags: int) -> None:
        if flags & FAST_ZERO:
            self.next.write_zeroes(count, offset, flags)  # which refuses
        self._zero(self.next.write_zeroes, self._most_data, count, offset, flags)

    def _zero(
        self,
        zero: Callable[[int, int, int], None],
        most: int,
        count: int,
        offset: int,
        flags: int,
    ) -> None:
        """Zero the whole blocks of a range first, as that may fail; then write the rest."""
        first, last = self._within(count, offset)
        if first >= last:
            if flags & FAST_ZERO:
                raise OSError(errno.EOPNOTSUPP, "a part of a block can only be written")
            self.pwrite(memoryview(bytes(count)), offset, flags & FUA)
            return
        if flags & FAST_ZERO and last - first < count:
            raise OSError(errno.EOPNOTSUPP, "a part of a block can only be written")
        with self._ranges.held(first, last):
            for length, place in _pieces(first, last, most):
                zero(length, place, flags)
        if offset < first:
            self.pwrite(memoryview(bytes(first - offset)), offset, flags & FUA)
        if last < offset + count:
            self.pwrite(memoryview(bytes(offset + count - last)), last, flags & FUA)

    def trim(self, count: int, offset: int, flags: int) -> None:
        """Trim the whole blocks; it is a hint, and parts of blocks are left as they are."""
        first, last = self._within(count, offset)
        for length, place in _pieces(first, last, self._most):
            self.next.trim(length, place, flags)

    # -- blocks -------------------------------------------------------------------------------

    def _around(self, count: int, offset: int) -> tuple[int, int]:
        """Return start and end of the blocks that a range touches."""
        end = offset + count
        return offset - offset % self._block, -(-end // self._block) * self._block

    def _within(self, count: int, offset: int) -> tuple[int, int]:
        """Return start and end of the blocks that are in a range as a whole."""
        end = offset + count
        return -(-offset // self._block) * self._block, end - end % self._block


def _pieces(start: int, end: int, most: int) -> Iterator[tuple[int, int]]:
    """Yield (length, offset) of the pieces of a range that have *most* bytes each, or fewer."""
    for place in range(start, end, most):
        yield min(most, end - place), place

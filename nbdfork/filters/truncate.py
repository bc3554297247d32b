"""The truncate filter: make the disk look shorter or longer than it is.

Nothing past the real end of the disk is ever asked for, or stored.
"""

import errno
from collections.abc import Iterator

from nbdfork.filters import clipped, not_fast
from nbdfork.filters._values import power_of_2
from nbdfork.plugin import (
    FAST_ZERO,
    HOLE,
    ZERO,
    Buffer,
    Export,
    Extent,
    FileRange,
    Filter,
    FilterExport,
    Needs,
    Parameter,
    parse,
)

_power_of_2 = power_of_2(1, 2**62, "such as 512, 4k or 1M")


class Truncate(Filter):
    """change the size of the disk"""

    truncate = Parameter(parse.size, metavar="SIZE", help="make the disk of this size")
    round_up = Parameter(_power_of_2, metavar="N", help="then round it up to a multiple of N")
    round_down = Parameter(_power_of_2, metavar="N", help="then round it down to a multiple of N")

    def needs(self) -> Needs:
        return Needs()

    def wrap(self, next: Export, export_name: str, read_only: bool) -> Export:
        return TruncateExport(next, self._new_size(next.get_size()))

    def _new_size(self, size: int) -> int:
        if self.truncate is not None:
            size = self.truncate
        if self.round_up is not None:
            size = -(-size // self.round_up) * self.round_up
        if self.round_down is not None:
            size -= size % self.round_down
        if size > parse.MAX_SIZE:
            raise OSError(errno.EFBIG, f"round-up={self.round_up}: the disk becomes too large")
        return size


class TruncateExport(FilterExport):
    """*next* as a disk of *size* bytes.

    What is past its real end reads as zeroes, and nothing else can be written there.
    """

    def __init__(self, next: Export, size: int) -> None:
        super().__init__(next)
        self._size = size
        self._real = next.get_size()
        self._fast_below = next.can_fast_zero()
        minimum = next.block_size().minimum
        if size > self._real and self._real % minimum:
            raise OSError(
                errno.EINVAL,
                f"a disk of {self._real} bytes in blocks of {minimum} cannot be made longer:"
                " its last block cannot be read",
            )

    def _inside(self, count: int, offset: int) -> int:
        """Return how many bytes of a range are before the real end."""
        return max(0, min(count, self._real - offset))

    def get_size(self) -> int:
        return self._size

    def pread(self, count: int, offset: int) -> Buffer:
        inside = self._inside(count, offset)
        if inside == count:
            return self.next.pread(count, offset)
        data = bytearray(count)
        if inside:
            data[:inside] = self.next.pread(inside, offset)
        return data

    def file_range(self) -> FileRange | None:
        below = self.next.file_range()
        return below and below._replace(size=min(below.size, self._size))

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        inside = self._inside(len(data), offset)
        if inside < len(data) and bytes(data[inside:]).lstrip(b"\0"):
            raise OSError(errno.ENOSPC, f"only zeroes can be written past byte {self._real}")
        if inside:
            self.next.pwrite(data[:inside], offset, flags)

    def trim(self, count: int, offset: int, flags: int) -> None:
        if inside := self._inside(count, offset):
            self.next.trim(inside, offset, flags)

    def can_fast_zero(self) -> bool:
        return True  # past the real end nothing needs to be done; before it, `zero` may refuse

    def zero(self, count: int, offset: int, flags: int) -> None:
        if inside := self._inside(count, offset):
            if flags & FAST_ZERO and not self._fast_below:
                raise not_fast()
            self.next.zero(inside, offset, flags)

    def write_zeroes(self, count: int, offset: int, flags: int) -> None:
        if inside := self._inside(count, offset):
            self.next.write_zeroes(inside, offset, flags)

    def cache(self, count: int, offset: int) -> None:
        if inside := self._inside(count, offset):
            self.next.cache(inside, offset)

    def extents(self, count: int, offset: int, flags: int) -> Iterator[Extent]:
        if inside := self._inside(count, offset):
            below = self.next.extents(inside, offset, flags)
            for extent in clipped(below, offset, offset + inside):
                yield extent
                offset = extent.offset + extent.length
        if offset >= self._real:
            yield Extent(offset, self._size - offset, HOLE | ZERO)

    def context_extents(
        self, context: str, count: int, offset: int, flags: int
    ) -> Iterator[Extent]:
        """Nothing is known of what is past the real end; that is the type 0 in every context."""
        if inside := self._inside(count, offset):
            below = self.next.context_extents(context, inside, offset, flags)
            for extent in clipped(below, offset, offset + inside):
                yield extent
                offset = extent.offset + extent.length
        if offset >= self._real:
            yield Extent(offset, self._size - offset, 0)

    def view(self, count: int, offset: int) -> Buffer | None:
        if self._inside(count, offset) < count:
            return None
        return self.next.view(count, offset)

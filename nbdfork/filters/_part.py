"""A part of a disk as a disk of its own, for the filters that only move offsets.

Large reads stay without a copy, and a small one costs one more call.
"""

import errno
from collections.abc import Iterable, Iterator

from nbdfork.plugin import Buffer, Export, Extent, FileRange, FilterExport


class PartExport(FilterExport):
    """*length* bytes of *next* from *offset*; *wanted* is what the user asked for, for messages.

    Raises OSError with EINVAL if they are not there, or do not begin with a block of the disk.
    """

    def __init__(self, next: Export, offset: int, length: int, wanted: str) -> None:
        super().__init__(next)
        self._offset = offset
        self._size = length
        size = next.get_size()
        if length < 0 or offset + length > size:
            raise OSError(errno.EINVAL, f"{wanted}: the disk has only {size} bytes")
        # Requests are checked for alignment within the part; they must be aligned on the disk, too.
        minimum = next.block_size().minimum
        if offset % minimum:
            raise OSError(errno.EINVAL, f"{wanted}: the disk needs a multiple of {minimum}")

    def get_size(self) -> int:
        return self._size

    def pread(self, count: int, offset: int) -> Buffer:
        return self.next.pread(count, offset + self._offset)

    def file_range(self) -> FileRange | None:
        below = self.next.file_range()
        return below and FileRange(below.fd, below.start + self._offset, self._size)

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        self.next.pwrite(data, offset + self._offset, flags)

    def trim(self, count: int, offset: int, flags: int) -> None:
        self.next.trim(count, offset + self._offset, flags)

    def zero(self, count: int, offset: int, flags: int) -> None:
        self.next.zero(count, offset + self._offset, flags)

    def write_zeroes(self, count: int, offset: int, flags: int) -> None:
        self.next.write_zeroes(count, offset + self._offset, flags)

    def cache(self, count: int, offset: int) -> None:
        self.next.cache(count, offset + self._offset)

    def extents(self, count: int, offset: int, flags: int) -> Iterator[Extent]:
        return self._moved(self.next.extents(count, offset + self._offset, flags))

    def context_extents(
        self, context: str, count: int, offset: int, flags: int
    ) -> Iterator[Extent]:
        return self._moved(self.next.context_extents(context, count, offset + self._offset, flags))

    def view(self, count: int, offset: int) -> Buffer | None:
        return self.next.view(count, offset + self._offset)

    def _moved(self, below: Iterable[Extent]) -> Iterator[Extent]:
        for start, length, kind in below:
            yield Extent(start - self._offset, length, kind)

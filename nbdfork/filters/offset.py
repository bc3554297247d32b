"""The offset filter: serve a part of the disk, as a disk that begins at 0."""

import errno
from collections.abc import Iterable, Iterator

from nbdfork.plugin import Buffer, Export, Extent, Filter, FilterExport, Needs, Parameter, parse


class Offset(Filter):
    """serve a part of the disk"""

    offset = Parameter(parse.size, default=0, metavar="OFFSET", help="where the part begins")
    range = Parameter(parse.size, metavar="LENGTH", help="how long it is; to the end if not given")

    def needs(self) -> Needs:
        return Needs()

    def wrap(self, next: Export, export_name: str, read_only: bool) -> Export:
        return OffsetExport(next, self.offset, self.range)


class OffsetExport(FilterExport):
    """*length* bytes of *next* from *offset*; all the rest of it if that is None."""

    def __init__(self, next: Export, offset: int, length: int | None) -> None:
        super().__init__(next)
        self._offset = offset
        size = next.get_size()
        self._size = size - offset if length is None else length
        if self._size < 0 or offset + self._size > size:
            wanted = f"offset={offset}" + ("" if length is None else f" range={length}")
            raise OSError(errno.EINVAL, f"{wanted}: the disk has only {size} bytes")
        # Requests are checked for alignment within the part; they must be aligned on the disk, too.
        minimum = next.block_size().minimum
        if offset % minimum:
            raise OSError(errno.EINVAL, f"offset={offset}: the disk needs a multiple of {minimum}")

    def get_size(self) -> int:
        return self._size

    def pread(self, count: int, offset: int) -> Buffer:
        return self.next.pread(count, offset + self._offset)

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

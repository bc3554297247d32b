"""A part of a disk whose content was computed and cannot be changed."""

import errno
from collections.abc import Iterator

from nbdfork.plugin import HOLE, ZERO, Export, Extent


class Fixed(Export):
    """A table or padding.  It may be written with the content that it has, but not changed."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def get_size(self) -> int:
        return len(self._content)

    def can_multi_conn(self) -> bool:
        return True

    def pread(self, count: int, offset: int) -> bytes:
        return self._content[offset : offset + count]

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        if data != self.pread(len(data), offset):
            raise OSError(errno.EIO, "this part of the disk is computed, and cannot be changed")

    def flush(self) -> None:
        """Do nothing: nothing ever changes."""

    def trim(self, count: int, offset: int, flags: int) -> None:
        """Do nothing: the content stays."""

    def zero(self, count: int, offset: int, flags: int) -> None:
        self.pwrite(memoryview(bytes(count)), offset, flags)

    def cache(self, count: int, offset: int) -> None:
        """Do nothing: it is in memory."""

    def extents(self, count: int, offset: int, flags: int) -> Iterator[Extent]:
        is_zero = self.pread(count, offset) == bytes(count)
        yield Extent(offset, count, HOLE | ZERO if is_zero else 0)

"""The parts of the disk, besides tables in memory: allocation tables, files, and unused space.

Parts have no state, so all clients share them.
"""

import errno
import os
import stat
from collections.abc import Iterator

from nbdfork.plugin import HOLE, REQ_ONE, ZERO, Export, Extent

from .fat32 import Table


class Part(Export):
    """A part that can only be read."""

    def __init__(self, size: int) -> None:
        self._size = size

    def get_size(self) -> int:
        return self._size

    def can_multi_conn(self) -> bool:
        return True

    def cache(self, count: int, offset: int) -> None:
        """Do nothing: the content is computed."""


class Zeroes(Part):
    """Unused space."""

    def pread(self, count: int, offset: int) -> bytes:
        return bytes(count)

    def extents(self, count: int, offset: int, flags: int) -> Iterator[Extent]:
        yield Extent(offset, count, HOLE | ZERO)


class Allocation(Part):
    """A file allocation table."""

    def __init__(self, table: Table, size: int) -> None:
        super().__init__(size)
        self._table = table

    def pread(self, count: int, offset: int) -> bytes:
        return self._table.read(count, offset)

    def extents(self, count: int, offset: int, flags: int) -> Iterator[Extent]:
        free = max(self._table.used_size - offset, 0)
        if free:
            yield Extent(offset, min(free, count), 0)
        if free < count and not (free and flags & REQ_ONE):
            yield Extent(offset + free, count - free, HOLE | ZERO)


class Content(Part):
    """The content of the file *path*, and zeroes up to the end of its last cluster.

    The file is opened for each read, because there may be more files than can be open.
    """

    def __init__(self, path: str, length: int, size: int) -> None:
        super().__init__(size)
        self._path = path
        self._length = length

    def pread(self, count: int, offset: int) -> bytes:
        wanted = max(min(count, self._length - offset), 0)
        return (self._read(wanted, offset) if wanted else b"").ljust(count, b"\0")

    def _read(self, count: int, offset: int) -> bytes:
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    raise self._changed("is no longer a regular file")
                data = os.pread(fd, count, offset)
            finally:
                os.close(fd)
        except FileNotFoundError as error:
            raise self._changed("is gone") from error
        if len(data) < count:
            raise self._changed("has become shorter")
        return data

    def _changed(self, what: str) -> OSError:
        return OSError(errno.EIO, f"{self._path} {what} since the server started")

    def extents(self, count: int, offset: int, flags: int) -> Iterator[Extent]:
        yield Extent(offset, count, 0)

"""The full plugin: a disk that reads as zeroes and has no space left for anything.

It is like a thin-provisioned disk whose storage has run out.
"""

import errno
import os
from collections.abc import Iterator
from typing import NoReturn

from nbdfork.plugin import HOLE, ZERO, Extent, Needs, Parameter, Plugin, parse


class Full(Plugin):
    """a disk that is full: every write fails"""

    size = Parameter(
        parse.size, required=True, magic=True, metavar="SIZE", help="the size of the disk"
    )

    def needs(self) -> Needs:
        return Needs()

    def get_size(self) -> int:
        return self.size

    def can_fast_zero(self) -> bool:
        return True  # it fails fast

    def can_multi_conn(self) -> bool:
        return True

    def pread(self, count: int, offset: int) -> bytes:
        return bytes(count)

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        _no_space()

    def trim(self, count: int, offset: int, flags: int) -> None:
        _no_space()

    def zero(self, count: int, offset: int, flags: int) -> None:
        _no_space()

    def cache(self, count: int, offset: int) -> None:
        """Do nothing: the content is computed."""

    def extents(self, count: int, offset: int, flags: int) -> Iterator[Extent]:
        yield Extent(offset, count, HOLE | ZERO)


def _no_space() -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

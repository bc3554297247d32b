"""A sparse disk with a metadata context of its own, and a part that cannot be read."""

import errno
from collections.abc import Iterator

from nbdfork.plugin import HOLE, ZERO, Export, Extent, PartialError, Plugin

SIZE = 1 << 20
PARTS = {0: b"A" * 4096, 65536: b"B" * 4096}
BAD = 0xF0000


class Sparse(Plugin):
    """a megabyte with two pages of data"""

    def open(self, export_name: str, read_only: bool) -> Export:
        return SparseExport()


class SparseExport(Export):
    def get_size(self) -> int:
        return SIZE

    def pread(self, count: int, offset: int) -> bytes:
        if offset + count > BAD:
            raise PartialError(errno.EIO, "the end of the disk is bad", max(0, BAD - offset))
        disk = bytearray(SIZE)
        for start, data in PARTS.items():
            disk[start : start + len(data)] = data
        return bytes(disk[offset : offset + count])

    def extents(self, count: int, offset: int, flags: int) -> Iterator[Extent]:
        yield Extent(0, 4096, 0)
        yield Extent(4096, 61440, HOLE | ZERO)
        yield Extent(65536, 4096, 0)
        yield Extent(69632, BAD - 69632, HOLE | ZERO)
        yield Extent(BAD, SIZE - BAD, 0)

    def contexts(self) -> list[str]:
        return ["x-test:age", "x-test:color"]

    def context_extents(
        self, context: str, count: int, offset: int, flags: int
    ) -> Iterator[Extent]:
        if context == "x-test:age":
            yield Extent(0, SIZE // 2, 7)
            yield Extent(SIZE // 2, SIZE // 2, 8)
        else:
            yield Extent(0, SIZE, 1 << 32)

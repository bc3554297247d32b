"""The null plugin: a disk that forgets what is written and reads as zeroes."""

from collections.abc import Iterator

from nbdfork.plugin import HOLE, ZERO, Extent, Needs, Parameter, Plugin, Support, parse


class Null(Plugin):
    """a disk that forgets what is written and reads as zeroes"""

    size = Parameter(parse.size, default=0, magic=True, metavar="SIZE", help="the size of the disk")

    def needs(self) -> Needs:
        return Needs()

    def get_size(self) -> int:
        return self.size

    def can_fua(self) -> Support:
        return Support.NATIVE

    def can_fast_zero(self) -> bool:
        return True

    def can_multi_conn(self) -> bool:
        return True

    def pread(self, count: int, offset: int) -> bytes:
        return bytes(count)

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        pass

    def flush(self) -> None:
        pass

    def trim(self, count: int, offset: int, flags: int) -> None:
        pass

    def zero(self, count: int, offset: int, flags: int) -> None:
        pass

    def cache(self, count: int, offset: int) -> None:
        pass

    def extents(self, count: int, offset: int, flags: int) -> Iterator[Extent]:
        yield Extent(offset, count, HOLE | ZERO)

"""An export that does something around each operation of the disk below, and changes nothing else.

This is what filters have in common that count, wait, forbid or try again.
"""

import enum
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

from nbdfork.filters import zero_or_write
from nbdfork.plugin import Buffer, Extent, FilterExport

T = TypeVar("T")


class Kind(enum.Enum):
    """What is done; the value is a word for it."""

    READ = "read"
    WRITE = "write"
    FLUSH = "flush"
    TRIM = "trim"
    ZERO = "zero"
    CACHE = "cache"
    EXTENTS = "extents"
    RESIZE = "resize"


class Request(NamedTuple):
    """*length* bytes from *offset*; 0 of both for what is about the whole disk."""

    kind: Kind
    length: int
    offset: int
    flags: int


class AroundChanges(FilterExport):
    """*next*, with `around` around every operation that changes it; by default it only does it.

    Requests to zero are seen over any disk, also over one that has them written below.
    """

    def around(self, request: Request, do: Callable[[], T]) -> T:
        """Call *do*, which carries out *request*, and return its result."""
        return do()

    def can_resize(self) -> bool:
        return self.next.can_resize()

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        request = Request(Kind.WRITE, len(data), offset, flags)
        self.around(request, lambda: self.next.pwrite(data, offset, flags))

    def trim(self, count: int, offset: int, flags: int) -> None:
        request = Request(Kind.TRIM, count, offset, flags)
        self.around(request, lambda: self.next.trim(count, offset, flags))

    def zero(self, count: int, offset: int, flags: int) -> None:
        request = Request(Kind.ZERO, count, offset, flags)
        self.around(request, lambda: zero_or_write(self.next, count, offset, flags))

    def write_zeroes(self, count: int, offset: int, flags: int) -> None:
        request = Request(Kind.ZERO, count, offset, flags)
        self.around(request, lambda: self.next.write_zeroes(count, offset, flags))

    def resize(self, size: int) -> None:
        self.around(Request(Kind.RESIZE, 0, 0, 0), lambda: self.next.resize(size))


class AroundExport(AroundChanges):
    """*next*, with `around` around every operation."""

    def pread(self, count: int, offset: int) -> Buffer:
        request = Request(Kind.READ, count, offset, 0)
        return self.around(request, lambda: self.next.pread(count, offset))

    def flush(self) -> None:
        self.around(Request(Kind.FLUSH, 0, 0, 0), lambda: self.next.flush())

    def cache(self, count: int, offset: int) -> None:
        request = Request(Kind.CACHE, count, offset, 0)
        self.around(request, lambda: self.next.cache(count, offset))

    def extents(self, count: int, offset: int, flags: int) -> Iterable[Extent]:
        request = Request(Kind.EXTENTS, count, offset, flags)
        return self.around(request, lambda: self.next.extents(count, offset, flags))

    def context_extents(
        self, context: str, count: int, offset: int, flags: int
    ) -> Iterable[Extent]:
        request = Request(Kind.EXTENTS, count, offset, flags)
        return self.around(
            request, lambda: self.next.context_extents(context, count, offset, flags)
        )

"""Exports, one after another, as one."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

from nbdfork.plugin import REQ_ONE, Export, Extent, Support


class Concatenation(Export):
    """Exports, one after another."""

    def __init__(self, parts: Sequence[Export]) -> None:
        self._parts = parts
        self._ends = list(accumulate(part.get_size() for part in parts))

    def _pieces(self, count: int, offset: int) -> Iterator[tuple[Export, int, int]]:
        """Split a range at the ends of parts: yield a part, and count and offset in it."""
        end = offset + count
        number = bisect_right(self._ends, offset)
        while offset < end:
            length = min(end, self._ends[number]) - offset
            if length:
                part = self._parts[number]
                yield part, length, offset - self._ends[number] + part.get_size()
            offset += length
            number += 1

    # -- facts --------------------------------------------------------------------------

    def get_size(self) -> int:
        return self._ends[-1]

    def can_write(self) -> bool:
        return all(part.can_write() for part in self._parts)

    def can_flush(self) -> bool:
        return all(part.can_flush() for part in self._parts)

    def can_fua(self) -> Support:
        return Support.NATIVE

    def can_fast_zero(self) -> bool:
        # A part might refuse to when the part before it has already been zeroed.
        return False

    def can_extents(self) -> bool:
        return all(part.can_extents() for part in self._parts)

    def can_multi_conn(self) -> bool:
        return all(part.can_multi_conn() for part in self._parts)

    def is_rotational(self) -> bool:
        return any(part.is_rotational() for part in self._parts)

    # -- operations ---------------------------------------------------------------------

    def pread(self, count: int, offset: int) -> bytes:
        return b"".join(part.pread(*piece) for part, *piece in self._pieces(count, offset))

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        for part, count, start in self._pieces(len(data), offset):
            part.pwrite(data[:count], start, flags)
            data = data[count:]

    def flush(self) -> None:
        for part in self._parts:
            part.flush()

    def trim(self, count: int, offset: int, flags: int) -> None:
        for part, length, start in self._pieces(count, offset):
            part.trim(length, start, flags)

    def zero(self, count: int, offset: int, flags: int) -> None:
        for part, length, start in self._pieces(count, offset):
            part.zero(length, start, flags)

    def cache(self, count: int, offset: int) -> None:
        for part, length, start in self._pieces(count, offset):
            part.cache(length, start)

    def extents(self, count: int, offset: int, flags: int) -> Iterator[Extent]:
        for part, length, start in self._pieces(count, offset):
            for extent in part.extents(length, start, flags):
                first = max(extent.offset, start)
                end = min(extent.offset + extent.length, start + length)
                yield Extent(offset + first - start, end - first, extent.type)
                if flags & REQ_ONE:
                    return
            offset += length

    def close(self) -> None:
        for part in self._parts:
            part.close()

"""The map filter: put parts of the disk to other places of it."""

import errno
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

from nbdfork.filters import clipped
from nbdfork.filters._values import offset_number
from nbdfork.plugin import (
    Buffer,
    Export,
    Extent,
    Filter,
    FilterExport,
    Needs,
    Parameter,
    parse,
)

_END = 2**63


def _mapping(text: str) -> tuple[int, int, int]:
    """Parse START-END:DEST; return start, the end past it, and how far it is moved."""
    part, colon, destination = text.partition(":")
    start_text, dash, end_text = part.partition("-")
    if not colon or not dash:
        raise ValueError("expected START-END:DEST, such as 0-511:512")
    start, end = offset_number(start_text), offset_number(end_text) + 1
    if start >= end:
        raise ValueError("the range ends before it begins")
    return start, end, offset_number(destination) - start


class Map(Filter):
    """put parts of the disk to other places"""

    map = Parameter(
        _mapping,
        repeatable=True,
        metavar="START-END:DEST",
        help="what clients see from START to END is at DEST below",
    )
    map_size = Parameter(
        parse.size, metavar="SIZE", help="the size of the disk; that of the disk below if not given"
    )

    def needs(self) -> Needs:
        return Needs()

    def wrap(self, next: Export, export_name: str, read_only: bool) -> Export:
        size = next.get_size() if self.map_size is None else self.map_size
        return MappedExport(next, size, list(_pieces(self.map)))


def _pieces(mappings: Iterable[tuple[int, int, int]]) -> Iterator[tuple[int, int, int]]:
    """Yield pieces (start, end, how far moved) without a gap; of two mappings the first counts."""
    mappings = tuple(mappings)
    edges = sorted({0, _END, *(edge for start, end, _ in mappings for edge in (start, end))})
    for start, end in pairwise(edges):
        moves = (move for first, last, move in mappings if first <= start < last)
        yield start, end, next(moves, 0)


class MappedExport(FilterExport):
    """*next*, in *pieces*, as a disk of *size* bytes."""

    def __init__(self, next: Export, size: int, pieces: list[tuple[int, int, int]]) -> None:
        super().__init__(next)
        self._size = size
        self._below = next.get_size()
        self._pieces = pieces
        minimum = next.block_size().minimum
        if any((start | move) % minimum for start, _, move in pieces):
            raise OSError(errno.EINVAL, f"map: the disk needs offsets in multiples of {minimum}")

    def get_size(self) -> int:
        return self._size

    def _parts(self, count: int, offset: int) -> Iterator[tuple[int, int]]:
        """Yield (count, offset below) of the parts of a range.  Raises OSError with EIO."""
        end = offset + count
        for start, stop, move in self._pieces:
            if start < end and offset < stop:
                first, last = max(start, offset), min(stop, end)
                if last + move > self._below:
                    raise OSError(errno.EIO, f"byte {first} is mapped past the end of the disk")
                yield last - first, first + move

    def _each(self, do: Callable[[int, int], None], count: int, offset: int) -> None:
        for length, place in list(self._parts(count, offset)):
            do(length, place)

    def pread(self, count: int, offset: int) -> Buffer:
        parts = [self.next.pread(*part) for part in list(self._parts(count, offset))]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def view(self, count: int, offset: int) -> Buffer | None:
        parts = list(self._parts(count, offset))
        return self.next.view(*parts[0]) if len(parts) == 1 else None

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        done = 0
        for length, place in list(self._parts(len(data), offset)):
            self.next.pwrite(data[done : done + length], place, flags)
            done += length

    def trim(self, count: int, offset: int, flags: int) -> None:
        self._each(lambda length, place: self.next.trim(length, place, flags), count, offset)

    def zero(self, count: int, offset: int, flags: int) -> None:
        self._each(lambda length, place: self.next.zero(length, place, flags), count, offset)

    def write_zeroes(self, count: int, offset: int, flags: int) -> None:
        self._each(
            lambda length, place: self.next.write_zeroes(length, place, flags), count, offset
        )

    def cache(self, count: int, offset: int) -> None:
        self._each(self.next.cache, count, offset)

    def extents(self, count: int, offset: int, flags: int) -> Iterator[Extent]:
        return self._moved(
            lambda length, place: self.next.extents(length, place, flags), count, offset
        )

    def context_extents(
        self, context: str, count: int, offset: int, flags: int
    ) -> Iterator[Extent]:
        return self._moved(
            lambda length, place: self.next.context_extents(context, length, place, flags),
            count,
            offset,
        )

    def _moved(
        self, ask: Callable[[int, int], Iterable[Extent]], count: int, offset: int
    ) -> Iterator[Extent]:
        for length, place in self._parts(count, offset):
            move = place - offset
            for extent in clipped(ask(length, place), place, place + length):
                yield Extent(extent.offset - move, extent.length, extent.type)
                offset = extent.offset - move + extent.length
            if offset < place - move + length:
                return  # it has told of less than it was asked about

"""The swab filter: swap the bytes of each word of the disk."""

import array
from collections.abc import Iterator

from nbdfork.filters import clipped
from nbdfork.plugin import (
    BlockSize,
    Buffer,
    Export,
    Extent,
    Filter,
    FilterExport,
    Needs,
    Parameter,
)

_CODES = {2: "H", 4: "I", 8: "Q"}


def _bits(text: str) -> int:
    if text not in ("8", "16", "32", "64"):
        raise ValueError("expected 8, 16, 32 or 64")
    return int(text)


class Swab(Filter):
    """swap the bytes of each word"""

    swab_bits = Parameter(
        _bits, default=16, metavar="8|16|32|64", help="how many bits a word has; 8 swaps nothing"
    )

    def needs(self) -> Needs:
        return Needs()

    def wrap(self, next: Export, export_name: str, read_only: bool) -> Export:
        return next if self.swab_bits == 8 else SwabExport(next, self.swab_bits // 8)


class SwabExport(FilterExport):
    """*next* with the bytes of each *word* in the other order; what is after the last is not shown.

    Zeroes stay zeroes, so nothing that does without data is changed.
    """

    def __init__(self, next: Export, word: int) -> None:
        super().__init__(next)
        self._code = _CODES[word]
        self._word = word
        size = next.get_size()
        self._size = size - size % word

    def get_size(self) -> int:
        return self._size

    def block_size(self) -> BlockSize:
        below = self.next.block_size()
        minimum = max(below.minimum, self._word)
        most = below.maximum
        return below._replace(
            minimum=minimum, maximum=most if most == 2**32 - 1 else most - most % minimum
        )

    def is_lenient(self) -> bool:
        return False  # a part of a word cannot be swapped

    def pread(self, count: int, offset: int) -> Buffer:
        return self._swapped(self.next.pread(count, offset))

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        self.next.pwrite(memoryview(self._swapped(data)).cast("B"), offset, flags)

    def write_zeroes(self, count: int, offset: int, flags: int) -> None:
        self.next.write_zeroes(count, offset, flags)

    def extents(self, count: int, offset: int, flags: int) -> Iterator[Extent]:
        return clipped(self.next.extents(count, offset, flags), offset, self._size)

    def context_extents(
        self, context: str, count: int, offset: int, flags: int
    ) -> Iterator[Extent]:
        below = self.next.context_extents(context, count, offset, flags)
        return clipped(below, offset, self._size)

    def _swapped(self, data: Buffer) -> bytes:
        words = array.array(self._code, bytes(data))
        words.byteswap()
        return words.tobytes()

"""The pattern plugin: a disk in which every 8 bytes are their own offset.

At offset 0x28 there is 00 00 00 00 00 00 00 28, so data that a client or a filter has put in the
wrong place is recognized.  The same may be told of larger blocks, and the top bits of each number
may tell one disk from another.
"""

import array
import errno
import secrets
import sys
from collections.abc import Iterable

from nbdfork.plugin import Needs, Parameter, Plugin, parse

WORD = 8


_RANDOM = -1


def _stride(text: str) -> int:
    value = parse.size(text)
    if value < WORD or value & (value - 1):
        raise ValueError("expected a power of 2 that is 8 or more")
    return value


def _upper(text: str) -> int:
    value = _RANDOM if text == "random" else parse.size(text)
    if value > 0xFFFF:
        raise ValueError("expected a number from 0 to 65535, or random")
    return value


class Pattern(Plugin):
    """a disk whose content is its offsets, as big-endian 64-bit integers"""

    size = Parameter(
        parse.size, required=True, magic=True, metavar="SIZE", help="the size of the disk"
    )

    stride = Parameter(
        _stride, default=WORD, metavar="SIZE", help="the size of a block that has its offset (8)"
    )
    upper = Parameter(
        _upper, default=0, metavar="N|random", help="a number for the top 16 bits of each offset"
    )

    def needs(self) -> Needs:
        return Needs()

    def get_ready(self) -> None:
        # Chosen before the fork, so that all workers have the same.
        upper = self.upper if self.upper != _RANDOM else 1 + secrets.randbelow(0xFFFF)
        self._upper = upper << 48

    def get_size(self) -> int:
        return self.size

    def can_multi_conn(self) -> bool:
        return True

    def pread(self, count: int, offset: int) -> memoryview:
        skip = offset % WORD
        words = array.array("Q", self._words(range(offset - skip, offset + count, WORD)))
        if sys.byteorder == "little":
            words.byteswap()
        return memoryview(words).cast("B")[skip : skip + count]

    def _words(self, places: range) -> Iterable[int]:
        if self.stride == WORD and not self._upper:
            return places
        last = self.stride - 1
        return (0 if place & last else place ^ self._upper for place in places)

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        """Succeed if nothing changes: a client that copies the disk to itself is tested."""
        if data != self.pread(len(data), offset):
            raise OSError(errno.EIO, "what is written is not what is read at this offset")

    def cache(self, count: int, offset: int) -> None:
        """Do nothing: the content is computed."""

"""The pattern plugin: a disk in which every 8 bytes are their own offset.

At offset 0x28 there is 00 00 00 00 00 00 00 28, so data that a client or a filter has put in the
wrong place is recognized.
"""

import array
import sys

from nbdfork.plugin import Needs, Parameter, Plugin, parse

WORD = 8


class Pattern(Plugin):
    """a disk whose content is its offsets, as big-endian 64-bit integers"""

    size = Parameter(
        parse.size, required=True, magic=True, metavar="SIZE", help="the size of the disk"
    )

    def needs(self) -> Needs:
        return Needs()

    def get_size(self) -> int:
        return self.size

    def can_multi_conn(self) -> bool:
        return True

    def pread(self, count: int, offset: int) -> memoryview:
        skip = offset % WORD
        words = array.array("Q", range(offset - skip, offset + count, WORD))
        if sys.byteorder == "little":
            words.byteswap()
        return memoryview(words).cast("B")[skip : skip + count]

    def cache(self, count: int, offset: int) -> None:
        """Do nothing: the content is computed."""

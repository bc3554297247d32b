"""How much a cache keeps, and which of its blocks were not used for long.

It is the clock algorithm: a block that is used is marked.  A hand goes round, takes the marks away,
and finds blocks that have had none since it was there last.  All workers share hand and marks.
"""

import os
from collections.abc import Iterator

from nbdfork.plugin import ScratchFile, SharedBuffer

_LOOK = 4096  # blocks whose marks are read at once


class Room:
    """Above *most* blocks room is made, until there are *least*.  The cache's lock protects it all,
    but for the marks, of which one more or less does no harm.
    """

    def __init__(self, most: int, least: int) -> None:
        self.most = most
        self.least = least
        self._numbers = SharedBuffer(24, name="room").view().cast("q")  # kept, throwing, hand
        self._marks = ScratchFile(name="marks").fd

    @property
    def used(self) -> int:
        """How many blocks are kept."""
        return self._numbers[0]

    @used.setter
    def used(self, count: int) -> None:
        self._numbers[0] = count

    @property
    def throwing(self) -> int:
        """A number that changes when blocks are thrown out, and is odd meanwhile."""
        return self._numbers[1]

    @throwing.setter
    def throwing(self, count: int) -> None:
        self._numbers[1] = count

    def note_use(self, first: int, last: int) -> None:
        """The blocks from *first* to *last*, which is past them, were used."""
        os.pwrite(self._marks, b"\1" * (last - first), first)

    def victims(self, start: int, blocks: int) -> Iterator[int]:
        """Yield blocks of a disk of so many, not used since the hand was there last, kept or not.

        They are counted from *start*, the number of its first block.  It goes round twice at most.
        """
        left = 2 * blocks
        while left > 0:
            hand = self._numbers[2] % blocks
            count = min(_LOOK, blocks - hand, left)
            marks = os.pread(self._marks, count, start + hand).ljust(count, b"\0")
            for number, mark in enumerate(marks, hand):
                self._numbers[2] = number + 1
                left -= 1
                if mark:
                    os.pwrite(self._marks, b"\0", start + number)
                else:
                    yield number

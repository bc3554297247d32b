"""Blocks over a disk that all workers share, each in one of a few states, whatever these mean.

They are in two sparse temporary files: the blocks, each at its offset on the disk, and one byte for
each block that says what state it is in.  Who changes a state holds the lock.
"""

import errno
import os
import re
from collections.abc import Iterator

from nbdfork.plugin import DescriptorExport, ScratchFile, SharedBuffer, SharedLock

BELOW = 0
"""The state of a block that is untouched: it is as the disk below has it."""

AT_ONCE = 1024 * 1024
"""How many blocks' states are in memory, or are changed under the lock, at one time.  A client with
extended headers may ask about all of a disk, of any size.
"""

_RUN = re.compile(b"\0+|\1+|\2+|\3+")


class Overlay:
    """What all clients share of the filter *name*."""

    def __init__(self, block_size: int, name: str) -> None:
        self.block_size = block_size
        self._name = name
        self._scratch = ScratchFile()
        self.data = DescriptorExport(self._scratch.fd, writable=True)
        self.lock = SharedLock()
        self._states = ScratchFile().fd
        self._size = SharedBuffer(9)  # of the disk, plus 1; 0 until there has been a client

    def settle_size(self, size: int) -> None:
        """Raise OSError unless *size* is what the size was for the first client."""
        with self.lock:
            known = int.from_bytes(self._size[0:9], "little") - 1
            if known < 0:
                self._size[0:9] = (size + 1).to_bytes(9, "little")
            elif known != size:
                raise OSError(
                    errno.EINVAL,
                    f"the overlay is of a disk of {known} bytes, and this one has {size}:"
                    f" {self._name} serves one disk only, of which the size must stay",
                )

    def write(self, data: memoryview, offset: int) -> None:
        """Write *data*.  An error says that it is the overlay's, not the disk's."""
        try:
            self.data.pwrite(data, offset, 0)
        except OSError as error:
            raise self._named(error) from error

    def release(self, count: int, offset: int) -> None:
        """Give back the space of whole blocks."""
        try:
            self.data.trim(count, offset, 0)
        except OSError as error:
            if error.errno != errno.EFBIG:  # beyond what a file can hold there is nothing
                raise

    def states(self, first: int, count: int) -> bytes:
        """Return the states of *count* blocks from the block *first* on."""
        return os.pread(self._states, count, first).ljust(count, b"\0")

    def runs(self, count: int, offset: int) -> Iterator[tuple[int, int, int]]:
        """Yield (state, count, offset) for each run of blocks in one state within a range."""
        start, end = offset, offset + count
        while start < end:
            first = start // self.block_size
            blocks = min(-(-end // self.block_size) - first, AT_ONCE)
            states = self.states(first, blocks)
            for run in _RUN.finditer(states):
                stop = min(end, (first + run.end()) * self.block_size)
                yield states[run.start()], stop - start, start
                start = stop

    def around(self, count: int, offset: int, size: int) -> tuple[int, int]:
        """Return start and end of the blocks that a range of a disk of *size* bytes touches."""
        end = -(-(offset + count) // self.block_size) * self.block_size
        return offset - offset % self.block_size, min(end, size)

    def mark(self, offset: int, count: int, state: int) -> None:
        """Set the state of all blocks in a range."""
        first = offset // self.block_size
        marks = bytes([state]) * (-(-(offset + count) // self.block_size) - first)
        try:
            while marks:
                written = os.pwrite(self._states, marks, first)
                marks, first = marks[written:], first + written
        except OSError as error:
            raise self._named(error) from error

    def _named(self, error: OSError) -> OSError:
        """Return *error* worded so that it cannot be mistaken for one of the disk below.

        The directory is named in the log, but not to clients.
        """
        return OSError(error.errno, f"the overlay: {error.strerror}", self._scratch.directory)

"""Blocks over a disk that all workers share, each in one of a few states, whatever these mean.

They are in two sparse temporary files: the blocks, each at its offset on the disk, and one byte for
each block that says what state it is in.  Who changes a state holds the lock.  Each export has its
part of these files.
"""

import errno
import os
import re
import struct
from collections.abc import Iterator
from hashlib import sha256

from nbdfork.plugin import Buffer, DescriptorExport, ScratchFile, SharedLock

BELOW = 0
"""The state of a block that is untouched: it is as the disk below has it."""

AT_ONCE = 1024 * 1024
"""How many blocks' states are in memory, or are changed under the lock, at one time.  A client with
extended headers may ask about all of a disk, of any size.
"""

MOST_EXPORTS = 65536
"""So many have an overlay: with some plugins, clients can make up any number of names."""

_PLACE = struct.Struct("=32sQQ")  # which export, where its overlay begins, how large it is

_RUN = re.compile(b"\0+|\1+|\2+|\3+")


class Overlays:
    """What all clients share of the filter *name*: the overlays of all exports, one after another.

    A third file has a record for each export that has had a client: where its overlay begins.
    """

    def __init__(self, block_size: int, name: str) -> None:
        self.block_size = block_size
        self.scratch = ScratchFile(name="data")
        self.data = DescriptorExport(self.scratch.fd, writable=True)
        self.lock = SharedLock(name="overlays")
        self.states = ScratchFile(name="states").fd
        self._places = ScratchFile(name="places").fd
        self._name = name

    def of(self, export_name: str, size: int) -> "Overlay":
        """Return the overlay of an export of *size* bytes.

        Raises OSError if that is not what its size was for the first client, or if there are too
        many exports.
        """
        digest = sha256(export_name.encode(errors="surrogatepass")).digest()
        with self.lock:
            table = os.pread(self._places, os.fstat(self._places).st_size, 0)
            end = 0
            for known, base, length in _PLACE.iter_unpack(table):
                if known == digest:
                    self._demand_same(length, size)
                    return Overlay(self, base)
                end = base + -(-length // self.block_size) * self.block_size
            if len(table) >= MOST_EXPORTS * _PLACE.size:
                fault = f"{self._name} has {MOST_EXPORTS} exports, and serves no more"
                raise OSError(errno.ENOSPC, fault)
            os.pwrite(self._places, _PLACE.pack(digest, end, size), len(table))
        return Overlay(self, end)

    def _demand_same(self, known: int, size: int) -> None:
        if known != size:
            raise OSError(
                errno.EINVAL,
                f"the overlay is of a disk of {known} bytes, and this one has {size}:"
                f" the size of a disk must stay below {self._name}",
            )


class Overlay:
    """That of one export: the part of *shared* that begins at *base*, which begins a block.

    Offsets are those of the export's disk.
    """

    def __init__(self, shared: Overlays, base: int) -> None:
        self._shared = shared
        self._base = base
        self.first = base // shared.block_size  # its first block among those of all exports
        self.block_size = shared.block_size
        self.lock = shared.lock

    def read(self, count: int, offset: int) -> Buffer:
        return self._shared.data.pread(count, self._base + offset)

    def write(self, data: memoryview, offset: int) -> None:
        """Write *data*.  An error says that it is the overlay's, not the disk's."""
        try:
            self._shared.data.pwrite(data, self._base + offset, 0)
        except OSError as error:
            raise self._named(error) from error

    def cache(self, count: int, offset: int) -> None:
        """Prepare for reading a range."""
        self._shared.data.cache(count, self._base + offset)

    def release(self, count: int, offset: int) -> None:
        """Give back the space of whole blocks."""
        try:
            self._shared.data.trim(count, self._base + offset, 0)
        except OSError as error:
            if error.errno != errno.EFBIG:  # beyond what a file can hold there is nothing
                raise

    def states(self, first: int, count: int) -> bytes:
        """Return the states of *count* blocks from the block *first* on."""
        return os.pread(self._shared.states, count, self.first + first).ljust(count, b"\0")

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
        place = self.first + first
        try:
            while marks:
                written = os.pwrite(self._shared.states, marks, place)
                marks, place = marks[written:], place + written
        except OSError as error:
            raise self._named(error) from error

    def _named(self, error: OSError) -> OSError:
        """Return *error* worded so that it cannot be mistaken for one of the disk below.

        The directory is named in the log, but not to clients.
        """
        directory = self._shared.scratch.directory
        return OSError(error.errno, f"the overlay: {error.strerror}", directory)

"""The compressed data below a filter: read like a file, and what was learnt of it.

To learn where in a compressed disk a byte stands may take a pass over all of it.  Workers share
what it found, so that only the first client of a disk has to wait for that.
"""

import hashlib
import io
import os
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from nbdfork.plugin import Export, ScratchFile, SharedCounter, SharedLock
from nbdfork.plugin.descriptor import DescriptorExport

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_RECORD = struct.Struct("<32sQ")  # the key, and the length of what follows
_SAMPLE = 4096
_AHEAD = 1024 * 1024
_LOCKS = 16  # of disks; those of several exports seldom share one


class Source(io.RawIOBase):
    """The disk *next* as a file for reading, for libraries that want one.

    *name* is for messages.  With *end* the file ends there.  A library may make an exception of
    its own of what a read failed with: the original is in `failure`.
    """

    def __init__(self, next: Export, name: str, end: int | None = None) -> None:
        self.next = next
        self.name = name  # io.RawIOBase leaves this to its subclasses
        self.failure: OSError | None = None
        minimum, _, maximum = next.block_size()
        size = next.get_size()
        self._align = minimum
        self._piece = maximum - maximum % minimum
        self.end = size - size % minimum if end is None else end
        self._position = 0
        self._window = (0, b"")  # an offset, and what is there

    def limited(self, end: int) -> "Source":
        """Return another file on the same disk that ends at *end*."""
        return Source(self.next, self.name, end)

    def pread(self, count: int, offset: int) -> bytes:
        """Return *count* bytes from *offset*, or fewer at the end.  Any thread may call this."""
        stop = min(offset + count, self.end)
        if stop <= offset:
            return b""
        start = offset - offset % self._align
        aligned = -(-stop // self._align) * self._align
        parts = [
            self.next.pread(min(self._piece, aligned - place), place)
            for place in range(start, aligned, self._piece)
        ]
        data = bytes(parts[0]) if len(parts) == 1 else b"".join(parts)
        return data[offset - start : stop - start] if aligned - start != stop - offset else data

    def pread_ahead(self, count: int, offset: int) -> bytes:
        """Return what `pread` does, and have at hand what comes next: it may be far away.

        One thread at a time may call this, or what files have.
        """
        start, data = self._window
        if offset < start or min(offset + count, self.end) > start + len(data):
            start, data = self._window = offset, self.pread(max(count, _AHEAD), offset)
        return data[offset - start : offset - start + count]

    def fingerprint(self) -> bytes:
        """Return what another disk, or this one after a change, will hardly share."""
        sample = self.pread(_SAMPLE, 0) + self.pread(_SAMPLE, max(0, self.end - _SAMPLE))
        return hashlib.sha256(f"{self.name} {self.end} ".encode() + sample).digest()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.end}
        self._position = max(0, base[whence] + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        view = memoryview(buffer).cast("B")
        try:
            data = self.pread_ahead(len(view), self._position)
        except OSError as error:
            self.failure = error
            raise
        view[: len(data)] = data
        self._position += len(data)
        return len(data)


class IndexStore:
    """What was learnt of compressed disks, for all workers: a log of records in a scratch file.

    The length of the log changes after a record is complete, so whoever reads needs no lock, and
    what a worker leaves behind that dies while it writes is written over by the next.  A disk
    that changes has a new fingerprint, and gets a new record.
    """

    def __init__(self) -> None:
        self._scratch = ScratchFile()
        self._log = DescriptorExport(self._scratch.fd, writable=True)
        self._end = SharedCounter()
        self._appending = SharedLock()
        self._learning = [SharedLock() for _ in range(_LOCKS)]

    def get(self, source: Source, learn: Callable[[], bytes]) -> bytes:
        """Return what is known of *source*; the first who asks has to *learn* it.

        Others who ask for the same wait meanwhile.  What *learn* raises is not kept.
        """
        key = source.fingerprint()
        if (found := self._find(key)) is None:
            with self._learning[key[0] % _LOCKS]:
                if (found := self._find(key)) is None:
                    found = learn()
                    with self._appending:
                        self._append(key, found)
        return found

    def _find(self, key: bytes) -> bytes | None:
        place, end = 0, self._end.value
        while place < end:
            known, length = _RECORD.unpack(self._log.pread(_RECORD.size, place))
            place += _RECORD.size
            if known == key:
                return self._log.pread(length, place)
            place += length
        return None

    def _append(self, key: bytes, data: bytes) -> None:
        place = self._end.value
        record = _RECORD.pack(key, len(data)) + data
        try:
            self._log.pwrite(memoryview(record), place, 0)
        except OSError as error:
            text = f"what was learnt of the data cannot be kept: {error.strerror}"
            raise OSError(error.errno, text, self._scratch.directory) from error
        self._end.add(len(record))

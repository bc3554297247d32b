"""The compressed data below a filter: how they are read, and where what was learnt of them is kept.

Finding out where in the compressed data a byte of the disk is may take a pass over all of them.
All workers share the result, so only the first client of a disk waits for it.
"""

import hashlib
import io
import os
import struct
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from nbdfork.plugin import DescriptorExport, Export, ScratchFile, SharedCounter, SharedLock

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_RECORD = struct.Struct("<32sQQ")  # the key, and the lengths of facts and bulk, which follow
_SAMPLE = 4096
_AHEAD = 1024 * 1024
_LOCKS = 16  # for disks: two different ones rarely have to share a lock


class Source(io.RawIOBase):
    """The disk *next* as a file for reading, for libraries that want one.

    *name* is for messages.  The file ends at *end*, if that is given.  A library may turn the error
    of a read into an exception of its own; the original is then in `failure`.
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
        """Return what `pread` does, but read ahead, because the source may be far away.

        Only one thread at a time may call this, or the methods of a file.
        """
        start, data = self._window
        if offset < start or min(offset + count, self.end) > start + len(data):
            start, data = self._window = offset, self.pread(max(count, _AHEAD), offset)
        return data[offset - start : offset - start + count]

    def reached(self) -> int:
        """Return about how far `pread_ahead` has come."""
        return self._window[0]

    def fingerprint(self) -> bytes:
        """Return a key that another disk, or this one after a change, is unlikely to have."""
        sample = self.pread(_SAMPLE, 0) + self.pread(_SAMPLE, max(0, self.end - _SAMPLE))
        return hashlib.sha256(os.fsencode(f"{self.name} {self.end} ") + sample).digest()

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


class Learnt(NamedTuple):
    """What was learnt of a disk: some *facts*, and the *bulk*, which is read in parts when it is
    needed, by a function of a count and an offset.
    """

    facts: bytes
    bulk: Callable[[int, int], bytes]


class IndexStore:
    """What was learnt of compressed disks: a log of records in a scratch file that workers share.

    The length of the log grows only after a record is complete.  So readers need no lock, and if a
    worker dies while it writes, the next one overwrites what it left.  A disk that has changed has
    a new fingerprint, and gets a new record.
    """

    def __init__(self) -> None:
        anew = f"of {time.monotonic_ns()}"  # each program fills its own
        self._scratch = ScratchFile(name=anew)
        self._log = DescriptorExport(self._scratch.fd, writable=True)
        self._end = SharedCounter(name=anew)
        self._appending = SharedLock(name=anew)
        self._learning = [SharedLock(name=anew) for _ in range(_LOCKS)]

    def get(self, source: Source, learn: Callable[[], tuple[bytes, list[bytes]]]) -> Learnt:
        """Return what is known of *source*; the first worker that asks calls *learn* to find out,
        which returns the facts and the parts of the bulk.

        Other workers that ask about the same disk wait meanwhile.  An error that *learn* raises is
        not remembered.
        """
        key = source.fingerprint()
        if (found := self._find(key)) is None:
            with self._learning[key[0] % _LOCKS]:
                if (found := self._find(key)) is None:
                    facts, bulk = learn()
                    with self._appending:
                        self._append(key, facts, bulk)
                    found = self._find(key)
        assert found is not None
        return found

    def _find(self, key: bytes) -> Learnt | None:
        place, end = 0, self._end.value
        while place < end:
            known, length, more = _RECORD.unpack(self._log.pread(_RECORD.size, place))
            place += _RECORD.size
            if known == key:
                bulk = partial(self._read, place + length)
                return Learnt(self._log.pread(length, place), bulk)
            place += length + more
        return None

    def _read(self, start: int, count: int, offset: int) -> bytes:
        return self._log.pread(count, start + offset)

    def _append(self, key: bytes, facts: bytes, bulk: list[bytes]) -> None:
        place = start = self._end.value
        try:
            for part in (_RECORD.pack(key, len(facts), sum(map(len, bulk))), facts, *bulk):
                self._log.pwrite(memoryview(part), place, 0)
                place += len(part)
        except OSError as error:
            text = f"what was learnt of the data cannot be kept: {error.strerror}"
            raise OSError(error.errno, text, self._scratch.directory) from error
        self._end.add(place - start)

"""Locks on ranges of numbers, for all workers and all their threads.

A number is locked as the byte at that offset of an empty file in memory.  Each holder opens the
file anew: a lock of this kind (F_OFD_SETLKW) belongs to an open file description.  So threads
exclude each other as processes do, and the lock of a process that dies is released.
"""

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from nbdfork.plugin import SharedBuffer

_FLOCK = struct.Struct("@hhqqi")  # l_type l_whence l_start l_len l_pid, of struct flock
_PADDING = bytes(-_FLOCK.size % 8)


class RangeLocks:
    """Locks that are made before workers are forked.  A thread must hold only one at a time."""

    def __init__(self) -> None:
        self._fd = SharedBuffer(0, name="ranges").fd

    @contextmanager
    def held(self, first: int, count: int = 1) -> Iterator[None]:
        """Hold the lock on *count* numbers from *first* on."""
        fd = os.open(f"/proc/self/fd/{self._fd}", os.O_RDWR | os.O_CLOEXEC)
        try:
            lock = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, first, count, 0) + _PADDING
            fcntl.fcntl(fd, fcntl.F_OFD_SETLKW, lock)
            yield
        finally:
            os.close(fd)

"""Locks on ranges of numbers, between all workers and all their threads.

What is locked are bytes, at those offsets, of a file in memory that has none.  Each holder opens
the file anew, because a lock of that kind (F_OFD_SETLKW) belongs to an open file: so threads
exclude each other as processes do, and whoever dies lets go.
"""

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

_FLOCK = struct.Struct("@hhqqi")  # l_type l_whence l_start l_len l_pid, of struct flock
_PADDING = bytes(-_FLOCK.size % 8)


class RangeLocks:
    """Make it before the workers are forked.  A thread must not ask for two at a time."""

    def __init__(self) -> None:
        self._fd = os.memfd_create("nbdfork-locks", os.MFD_CLOEXEC)

    @contextmanager
    def held(self, first: int, count: int = 1) -> Iterator[None]:
        """Hold the lock on *count* numbers from *first*."""
        fd = os.open(f"/proc/self/fd/{self._fd}", os.O_RDWR | os.O_CLOEXEC)
        try:
            lock = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, first, count, 0) + _PADDING
            fcntl.fcntl(fd, fcntl.F_OFD_SETLKW, lock)
            yield
        finally:
            os.close(fd)

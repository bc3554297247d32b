"""A disk that keeps what is written in memory, for all clients, until one of them flushes.

If the server is killed, what had not been flushed is lost, as with a disk that loses its power.
"""

import os

from nbdfork.plugin import (
    FUA,
    Export,
    Parameter,
    Plugin,
    SharedBuffer,
    SharedLock,
    Support,
    parse,
)


class Forgetful(Plugin):
    """a disk with a cache that a kill loses"""

    file = Parameter(parse.path, required=True, magic=True, metavar="FILE", help="what lasts")

    def get_ready(self) -> None:
        self._fd = os.open(self.file, os.O_RDWR | os.O_CLOEXEC)
        self._cache = SharedBuffer(os.fstat(self._fd).st_size)
        self._cache[:] = os.pread(self._fd, len(self._cache), 0)
        self._lock = SharedLock()

    def open(self, export_name: str, read_only: bool) -> Export:
        return ForgetfulExport(self._fd, self._cache, self._lock)


class ForgetfulExport(Export):
    def __init__(self, fd: int, cache: SharedBuffer, lock: SharedLock) -> None:
        self._fd = fd
        self._cache = cache
        self._lock = lock

    def get_size(self) -> int:
        return len(self._cache)

    def can_fua(self) -> Support:
        return Support.NATIVE

    def can_multi_conn(self) -> bool:
        return True

    def pread(self, count: int, offset: int) -> bytes:
        return self._cache[offset : offset + count]

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        self._cache[offset : offset + len(data)] = data
        if flags & FUA:
            os.pwrite(self._fd, data, offset)

    def flush(self) -> None:
        with self._lock:
            os.pwrite(self._fd, self._cache.view(), 0)

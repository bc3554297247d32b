"""An export of a file that leaves little of it in the memory of the system.

What was read is dropped at once.  What was written can only be dropped when it is on the disk, so
every few mebibytes are written to it and then dropped.
"""

import os
from typing import Any

from nbdfork.plugin import Buffer, DescriptorExport

MOST = 8 * 1024 * 1024
"""So many bytes are written before they are dropped."""


class SparingExport(DescriptorExport):
    """See the module; it is made like a `DescriptorExport`."""

    def __init__(self, fd: int, **settings: Any) -> None:
        super().__init__(fd, **settings)
        self._file = fd
        self._written = 0

    def pread(self, count: int, offset: int) -> bytes:
        data = super().pread(count, offset)
        os.posix_fadvise(self._file, offset, count, os.POSIX_FADV_DONTNEED)
        return data

    def view(self, count: int, offset: int) -> Buffer | None:
        return None  # its pages would stay as long as the client takes

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        super().pwrite(data, offset, flags)
        self._written += len(data)
        if self._written >= MOST:
            os.fdatasync(self._file)
            self._drop()

    def flush(self) -> None:
        super().flush()
        self._drop()

    def close(self) -> None:
        self._drop()
        super().close()

    def _drop(self) -> None:
        self._written = 0
        os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_DONTNEED)

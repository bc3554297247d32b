"""A file's page cache as memory that can be sent without a copy.

Two dangers are kept out here.  Touching what has been cut off from a mapped file kills the
process (SIGBUS), and so does an error of the disk; but only if the process itself touches it:
given to sendmsg(2), the same is a plain error.  So a view is only made to be sent, and only of
what is in memory already, where neither is likely: mincore(2) knows.  Nor does that let reading
a hole of a RAM disk fill it.
"""

import ctypes
import logging
import mmap
import os

log = logging.getLogger(__name__)

_MAP_NORESERVE = 0x4000  # asm-generic/mman.h; Python 3.11's mmap does not name it
_PAGE = mmap.PAGESIZE

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]


class Mapping:
    """The file *fd*, of *size* bytes, mapped."""

    def __init__(self, fd: int, size: int) -> None:
        self._fd = fd
        self._view: memoryview | None = None
        if not size or not _tells_residency(fd):
            return
        try:
            # Private, though nothing is ever written: only of writable memory ctypes will tell
            # the address.
            flags = mmap.MAP_PRIVATE | _MAP_NORESERVE
            memory = mmap.mmap(fd, size, flags, mmap.PROT_READ | mmap.PROT_WRITE)
        except (OSError, ValueError, OverflowError) as error:
            log.debug("the file is not mapped: %s", error)
            return
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        self._view = memoryview(memory).toreadonly()

    def resident(self, count: int, offset: int) -> memoryview | None:
        """Return a range to be sent and not looked at, if all of it is in memory."""
        if self._view is None or os.fstat(self._fd).st_size < offset + count:
            return None  # mincore may still count what a large folio holds past the end
        start = offset & -_PAGE
        length = offset + count - start
        pages = -(-length // _PAGE)
        known = ctypes.create_string_buffer(pages)
        if _libc.mincore(self._address + start, length, known) or known.raw.strip(b"\1"):
            return None
        return self._view[offset : offset + count]


def _tells_residency(fd: int) -> bool:
    """Return whether mincore tells the truth: it says yes to a user who cannot write the file."""
    return os.access(f"/proc/self/fd/{fd}", os.W_OK, effective_ids=True)

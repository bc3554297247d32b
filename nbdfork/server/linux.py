"""The Linux calls that the process wing needs and the standard library lacks."""

import ctypes
import mmap
import os
import signal

_PR_SET_PDEATHSIG = 1
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
_MAP_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_longlong,
]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def die_with_parent(signum: signal.Signals, parent: int) -> bool:
    """Have the kernel send *signum* to this process when *parent* dies; see prctl(2).

    Return False if *parent* is dead already.  The setting is lost when the user changes, so
    call this afterwards.
    """
    if _libc.prctl(_PR_SET_PDEATHSIG, int(signum), 0, 0, 0) != 0:
        raise _error("prctl")
    return os.getppid() == parent


def lock_memory() -> None:
    """Keep all memory that this process has, and will have, from being swapped out: mlockall(2).

    Pages that were never touched are left alone until they are.  Raises OSError.
    """
    if _libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) != 0:
        raise _error("mlockall")


class SharedMemory:
    """Some pages of a file, mapped and shared; see mmap(2).

    Unlike the standard library's `mmap`, it keeps no descriptor of the file: a process that has
    it, and nothing else of the file, cannot reach the other pages.  What is mapped of a file that
    was opened for reading can never be made writable.
    """

    def __init__(self, fd: int, offset: int, size: int, *, writable: bool) -> None:
        """Map *size* bytes from *offset*, both multiples of the size of a page."""
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        self._size = size
        self._address = _libc.mmap(None, size, protection, mmap.MAP_SHARED, fd, offset)
        if self._address == _MAP_FAILED:
            raise _error("mmap")
        # Only a writable buffer can be borrowed from an address; what is read-only stays so.
        whole = memoryview((ctypes.c_char * size).from_address(self._address)).cast("B")
        self.bytes = whole if writable else whole.toreadonly()

    def keep_from_children(self) -> None:
        """Let processes that are forked from now on go without these pages."""
        if _libc.madvise(self._address, self._size, mmap.MADV_DONTFORK) != 0:
            raise _error("madvise")

    def close(self) -> None:
        """Unmap the pages; whoever still looks at them would crash."""
        _libc.munmap(self._address, self._size)


def _error(call: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{call}: {os.strerror(number)}")

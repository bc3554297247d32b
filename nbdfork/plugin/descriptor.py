"""An export on an open file descriptor: a file, a block device, or shared memory (memfd).

It uses only calls that take an offset, because the file position of a descriptor made before
the fork is shared by all workers.  Linux calls that the standard library lacks are made here.
"""

import ctypes
import errno
import fcntl
import logging
import os
import stat
from collections.abc import Callable, Iterator, Sequence

from nbdfork.plugin.errors import PartialError
from nbdfork.plugin.export import (
    FAST_ZERO,
    FUA,
    HOLE,
    MAY_TRIM,
    REQ_ONE,
    ZERO,
    Export,
    Extent,
    FileRange,
    Support,
)
from nbdfork.plugin.lost import LostWrites, Watch
from nbdfork.plugin.mapping import Mapping
from nbdfork.types import Buffer

log = logging.getLogger(__name__)

# linux/falloc.h
_KEEP_SIZE = 0x01
_PUNCH_HOLE = 0x02
_ZERO_RANGE = 0x10

# linux/fs.h
_BLKSSZGET = 0x1268
_BLKGETSIZE64 = 0x80081272
_BLKDISCARD = 0x1277
_BLKROTATIONAL = 0x127E
_BLKZEROOUT = 0x127F

_UNSUPPORTED = frozenset({errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.ENODEV})

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def _fallocate(fd: int, mode: int, offset: int, count: int) -> None:
    while _libc.fallocate(fd, mode, offset, count) != 0:
        error = ctypes.get_errno()
        if error != errno.EINTR:
            raise OSError(error, f"fallocate: {os.strerror(error)}")


def _ioctl_range(fd: int, request: int, offset: int, count: int) -> None:
    fcntl.ioctl(fd, request, offset.to_bytes(8, "little") + count.to_bytes(8, "little"))


class DescriptorExport(Export):
    """Serve *fd*, which it owns from now on.

    If *resizable*, clients may change the size of a file.  *trace* logs how each trim and zero
    was carried out.  If there is *lost*, a flush that has failed for one client is not hidden from
    those that come later.
    """

    def __init__(
        self,
        fd: int,
        *,
        writable: bool,
        resizable: bool = False,
        trace: bool = False,
        lost: LostWrites | None = None,
    ) -> None:
        self._fd = fd
        self._writable = writable
        self._resizable = resizable
        self._trace = trace
        self._watch = Watch(lost, fd) if lost is not None and writable else None
        status = os.fstat(fd)
        self._is_block = stat.S_ISBLK(status.st_mode)
        self._size = self._ask_device(_BLKGETSIZE64, 8) if self._is_block else status.st_size
        self._sector = self._ask_device(_BLKSSZGET, 4) if self._is_block else 1
        self._mapping: Mapping | None = None  # made when first asked for: many need none
        self._refused: set[str] = set()  # ways to zero that the file system turned down

    def _ask_device(self, request: int, size: int) -> int:
        return int.from_bytes(fcntl.ioctl(self._fd, request, bytes(size)), "little")

    # -- facts --------------------------------------------------------------------------

    def get_size(self) -> int:
        return self._size

    def can_write(self) -> bool:
        return self._writable

    def can_fua(self) -> Support:
        return Support.NATIVE

    def can_fast_zero(self) -> bool:
        return True

    def can_multi_conn(self) -> bool:
        # All clients share the kernel's page cache, and fdatasync writes out all of it.
        return True

    def is_rotational(self) -> bool:
        return self._is_block and self._ask_device(_BLKROTATIONAL, 2) != 0

    def file_range(self) -> FileRange | None:
        own = type(self)
        for method in ("pread", "pwrite"):  # a subclass may do more than that
            if getattr(own, method) is not getattr(DescriptorExport, method):
                return None
        return FileRange(self._fd, 0, self._size)

    # -- operations ---------------------------------------------------------------------

    def pread(self, count: int, offset: int) -> bytes:
        data = os.pread(self._fd, count, offset)
        return data if len(data) == count else self._pread_rest(data, count, offset)

    def _pread_rest(self, data: bytes, count: int, offset: int) -> bytes:
        """Read on after a short read, which is what comes before an error, or the end."""
        while len(data) < count:
            try:
                more = os.pread(self._fd, count - len(data), offset + len(data))
            except OSError as error:
                number = error.errno or errno.EIO
                raise PartialError(number, os.strerror(number), len(data)) from error
            if not more:
                text = "the file has become shorter than it was when opened"
                raise PartialError(errno.EIO, text, len(data))
            data += more
        return data

    def view(self, count: int, offset: int) -> Buffer | None:
        if self._mapping is None:
            self._mapping = Mapping(self._fd, self._size)
        return self._mapping.resident(count, offset)

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        if not flags & FUA:
            written = os.pwrite(self._fd, data, offset)
            while written < len(data):
                written += os.pwrite(self._fd, data[written:], offset + written)
            return
        # RWF_DSYNC makes this write durable, and only this one: fdatasync would wait for all.
        try:
            while data:
                written = os.pwritev(self._fd, [data], offset, os.RWF_DSYNC)
                data = data[written:]
                offset += written
        except OSError as error:
            if self._watch is not None and error.errno == errno.EIO:  # not if it is only full
                self._watch.failed(error)
            raise
        if self._watch is not None:
            self._watch.check()

    def flush(self) -> None:
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            if self._watch is not None:
                self._watch.failed(error)
            raise
        if self._watch is not None:
            self._watch.check()

    def trim(self, count: int, offset: int, flags: int) -> None:
        start, end = self._whole_sectors(offset, count)
        if start < end:
            method = self._discard if self._is_block else self._punch_hole
            self._attempt("trim", [method], end - start, start)
        if flags & FUA:
            self.flush()

    def zero(self, count: int, offset: int, flags: int) -> None:
        methods = [self._zero_range]
        if not self._is_block:
            methods.append(self._punch_and_allocate)
        elif not flags & FAST_ZERO:
            methods.append(self._zero_out)
        if flags & MAY_TRIM:
            methods.insert(0, self._punch_hole)
        start, end = self._whole_sectors(offset, count)
        if start >= end or not self._attempt("zero", methods, end - start, start):
            raise OSError(errno.EOPNOTSUPP, "no way to zero this range but to write")
        for begin, length in ((offset, start - offset), (end, offset + count - end)):
            if length:  # a part of a sector, which only a device has
                self.pwrite(memoryview(bytes(length)), begin, 0)
        if flags & FUA:
            self.flush()

    def _whole_sectors(self, offset: int, count: int) -> tuple[int, int]:
        """Return start and end of the part of a range that a block device can zero."""
        sector = self._sector
        return -(-offset // sector) * sector, (offset + count) // sector * sector

    def can_resize(self) -> bool:
        return self._resizable and not self._is_block

    def resize(self, size: int) -> None:
        os.ftruncate(self._fd, size)
        self._size = size
        self._mapping = None

    def cache(self, count: int, offset: int) -> None:
        os.posix_fadvise(self._fd, offset, count, os.POSIX_FADV_WILLNEED)

    def can_extents(self) -> bool:
        return not self._is_block  # a device does not tell

    def extents(self, count: int, offset: int, flags: int) -> Iterator[Extent]:
        fd, end = self._fd, offset + count
        sought, kind = os.SEEK_DATA, HOLE | ZERO  # up to where there is data, there is a hole
        try:
            while offset < end:
                stop = os.lseek(fd, offset, sought)  # the position this moves is nobody's
                if stop > offset:
                    yield Extent(offset, stop - offset, kind)
                    if flags & REQ_ONE:
                        return
                    offset = stop
                if sought == os.SEEK_DATA:
                    sought, kind = os.SEEK_HOLE, 0
                else:
                    sought, kind = os.SEEK_DATA, HOLE | ZERO
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            self._check_not_shorter(error)
            yield Extent(offset, self._size - offset, HOLE | ZERO)

    def _check_not_shorter(self, error: OSError) -> None:
        """Raise OSError unless *error*, which says "no more data", means a hole up to the end."""
        if os.fstat(self._fd).st_size < self._size:
            text = "the file has become shorter than it was when opened"
            raise OSError(errno.EIO, text) from error

    def close(self) -> None:
        os.close(self._fd)

    # -- ways to trim and zero, best first ----------------------------------------------

    def _attempt(
        self, what: str, methods: Sequence[Callable[[int, int], None]], count: int, offset: int
    ) -> bool:
        """Try *methods* until one is supported; return False if none is."""
        for method in methods:
            name = method.__name__.strip("_")
            if name in self._refused:
                continue
            try:
                method(count, offset)
            except OSError as error:
                if error.errno not in _UNSUPPORTED:
                    raise
                self._refused.add(name)
                continue
            if self._trace:
                log.debug("%s of %d bytes at %d: %s", what, count, offset, name)
            return True
        if self._trace:
            log.debug("%s of %d bytes at %d: not supported", what, count, offset)
        return False

    def _punch_hole(self, count: int, offset: int) -> None:
        _fallocate(self._fd, _PUNCH_HOLE | _KEEP_SIZE, offset, count)

    def _zero_range(self, count: int, offset: int) -> None:
        _fallocate(self._fd, _ZERO_RANGE | _KEEP_SIZE, offset, count)

    def _punch_and_allocate(self, count: int, offset: int) -> None:
        self._punch_hole(count, offset)
        _fallocate(self._fd, _KEEP_SIZE, offset, count)

    def _discard(self, count: int, offset: int) -> None:
        _ioctl_range(self._fd, _BLKDISCARD, offset, count)

    def _zero_out(self, count: int, offset: int) -> None:
        _ioctl_range(self._fd, _BLKZEROOUT, offset, count)

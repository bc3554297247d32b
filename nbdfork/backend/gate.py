"""The one gate between a client and an export.

At open it asks the export for its facts, once, and freezes them; all but the size, which the client
may be allowed to change.  Afterwards every request passes through it: bounds, alignment, read-only
and what the export can do are checked here and nowhere else, and what it does not implement is
emulated here.  It knows nothing of bytes on a socket.
"""

import errno
import logging
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import partial
from typing import TypeVar

from nbdfork.backend import facts
from nbdfork.backend.client import calling
from nbdfork.backend.errors import Refused, cause
from nbdfork.backend.extents import ExtentReader, align
from nbdfork.plugin import (
    FAST_ZERO,
    FUA,
    HOLE,
    MAY_TRIM,
    NOT_SUPPORTED,
    REQ_ONE,
    ZERO,
    Export,
    Extent,
    PartialError,
    Support,
    parse,
)
from nbdfork.types import Buffer

log = logging.getLogger(__name__)

T = TypeVar("T")

ANY_SIZE = 2**32 - 1
"""The maximum of block sizes that stands for none."""

LARGE = 256 * 1024
"""Below this size it is cheaper to read than to find out whether there is a view, and to map its
pages; and nobody asks what memory that takes."""

_LOOK_AHEAD = 1024 * 1024 * 1024
"""How far beyond a request data is looked for, so that the next requests need not look.  There is
a limit because a tmpfs takes time in proportion to the length of what it finds."""

_MOST_PARTS = 64
"""A range of more parts than that is read as data: a reply of many small pieces saves nothing."""

_MOST_EMULATED = 4 * 1024 * 1024 * 1024
"""As much as a compact request can ask for.  Emulation takes time for each byte, and with extended
headers a client could ask for days of it."""

_MOST_LOCKED = 32 * 1024 * 1024
"""So many zeroes are written while other clients wait for the lock."""

_PIECE = 1024 * 1024


class Gate:
    """One client's export with its facts frozen.

    Operations raise `Refused` for what the client may not ask for, and let through the
    `OSError` of an export that failed.
    """

    def __init__(
        self,
        export: Export,
        read_only: bool,
        lock: AbstractContextManager[object] | None = None,
        *,
        seeks_holes: bool = True,
    ) -> None:
        """Ask *export* for its facts; if there is a *lock*, hold it in every operation.

        *seeks_holes*: a large read is preceded by a look for holes.  A disk that waits for another
        one would wait twice, and then for each part in turn.  Raises OSError with EINVAL for facts
        that make no sense.
        """
        self.size = export.get_size()
        facts.check_size(self.size)
        self.block_size = export.block_size()
        facts.check_block_size(self.block_size)
        self.can_write = not read_only and export.can_write()
        self.can_flush = export.can_flush()
        self.fua = export.can_fua() if self.can_write else Support.NONE
        self.fua_flag = FUA if self.fua is Support.NATIVE else 0
        self.can_trim = self.can_write and export.can_trim()
        zero = export.can_zero()
        self._zeroes_itself = bool(zero)
        self.can_zero = self.can_write and zero is not Support.NONE
        self.can_fast_zero = self.can_zero and export.can_fast_zero()
        self.cache_support = export.can_cache()
        self.can_multi_conn = export.can_multi_conn()
        self.is_rotational = export.is_rotational()
        self.description = export.description()
        self.can_resize = self.can_write and export.can_resize()
        self.can_extents = export.can_extents()
        self.contexts = tuple(export.contexts())
        facts.check_contexts(self.contexts)
        self._seeks_holes = seeks_holes and self.can_extents
        self.known_data = (0, 0)  # start and end of a part that was data when last looked at
        is_lenient = export.is_lenient()
        self.misaligned = 0 if is_lenient else self.block_size.minimum - 1
        self.max_payload = ANY_SIZE if is_lenient else self.block_size.maximum
        self._piece = min(_PIECE, self.block_size.maximum & -self.block_size.minimum)
        self._lock = lock
        is_seen = lock is not None or log.isEnabledFor(logging.DEBUG)
        self.file = None if is_seen else facts.file_range(export, self.size)
        self._pread = self._bind(export.pread)
        self._pwrite = self._bind(export.pwrite)
        self._flush = self._bind(export.flush)
        self._trim = self._bind(export.trim)
        self._zero = self._bind(export.zero)
        self._write_zeroes = self._bind(export.write_zeroes)
        self._cache = self._bind(export.cache)
        self._extents = self._bind_extents(export.extents, "extents", HOLE | ZERO)
        self._context_extents = {
            name: self._bind_extents(partial(export.context_extents, name), f"extents of {name}")
            for name in self.contexts
        }
        self._view = self._bind(export.view)
        self._resize = self._bind(export.resize)
        self._close = self._bind(export.close)
        self.on_large_read: Callable[[int], object] = lambda count: None
        """Is told of `LARGE` numbers of bytes before they are read; may raise OSError instead."""
        self.open_pipeline = export.pipeline if lock is None else None

    def forgo_views(self) -> None:
        """Return data only as memory that can be read: encryption reads what is sent."""
        self._view = lambda count, offset: None

    # -- operations ---------------------------------------------------------------------

    def pread(self, count: int, offset: int) -> Buffer:
        """Return *count* bytes from *offset*."""
        if offset + count > self.size or (offset | count) & self.misaligned:
            self._refuse_range(count, offset, errno.EINVAL)
        if not count:
            return b""
        if count >= LARGE:
            if (view := self._view(count, offset)) is not None:
                return view
            self.on_large_read(count)
        data = self._pread(count, offset)
        if len(data) != count:
            raise OSError(errno.EIO, f"the plugin returned {len(data)} bytes for {count}")
        return data

    def read_again(self, count: int, offset: int) -> Buffer:
        """Return the end of a range that `pread` gave as a view, which could not be sent."""
        skipped = offset & self.misaligned
        count += skipped
        data = self._pread(count, offset - skipped)
        if len(data) != count:
            raise OSError(errno.EIO, f"the plugin returned {len(data)} bytes for {count}")
        return memoryview(data)[skipped:]

    def pwrite(self, data: memoryview, offset: int, fua: bool) -> None:
        """Write *data* at *offset*; with *fua*, to stable storage."""
        self._check_write(len(data), offset, errno.ENOSPC)
        if len(data):
            self._pwrite(data, offset, self.fua_flag if fua else 0)
            if fua:
                self._finish_fua()

    def flush(self) -> None:
        """Bring all that was written to stable storage."""
        if not self.can_flush:
            raise Refused(errno.EINVAL, "this export cannot flush")
        self._flush()

    def trim(self, count: int, offset: int, fua: bool) -> None:
        """Discard a range."""
        self._check_write(count, offset, errno.EINVAL)
        if not self.can_trim:
            raise Refused(errno.EINVAL, "this export cannot trim")
        if count:
            self.known_data = (0, 0)
            self._trim(count, offset, self.fua_flag if fua else 0)
            if fua:
                self._finish_fua()

    def zero(self, count: int, offset: int, may_trim: bool, fast: bool, fua: bool) -> None:
        """Make a range read as zeroes.

        With *fast*, raises OSError with EOPNOTSUPP if that is no faster than writing them.
        """
        self._check_write(count, offset, errno.ENOSPC)
        if not self.can_zero:
            raise Refused(errno.EINVAL, "this export cannot zero")
        self.known_data = (0, 0)
        flags = (MAY_TRIM if may_trim else 0) | (FAST_ZERO if fast else 0)
        try:
            if count:
                self._zero_or_write(count, offset, flags | (self.fua_flag if fua else 0))
        except OSError as error:
            if not fast or error.errno not in NOT_SUPPORTED:
                raise
            text = "zeroing this range is no faster than writing"
            raise Refused(errno.EOPNOTSUPP, text) from error
        if fua:
            self._finish_fua()

    def cache(self, count: int, offset: int) -> None:
        """Bring a range nearer."""
        if offset + count > self.size or (offset | count) & self.misaligned:
            self._refuse_range(count, offset, errno.EINVAL)
        if self.cache_support is Support.NONE:
            raise Refused(errno.EINVAL, "this export cannot cache")
        if self.cache_support is Support.NATIVE:
            self._cache(count, offset)
            return
        self._refuse_endless(count)
        for start in range(offset, offset + count, self._piece):
            self._pread(min(self._piece, offset + count - start), start)

    def extents(self, count: int, offset: int, flags: int) -> list[Extent]:
        """Return extents that follow each other from *offset* on and end within the range.

        They may end before it does: see `ExtentReader`, which reads them.
        """
        self._check_status(count, offset)
        if not self.can_extents:
            return [Extent(offset, count, 0)]
        found: list[Extent] = self._extents(count, offset, flags)
        if self.misaligned:
            found = align(found, self.misaligned + 1, self.size)
        return found[:1] if flags & REQ_ONE else found

    def status(self, context: str, count: int, offset: int, flags: int) -> list[Extent]:
        """Return what the export says of a range in one of its `contexts`; see `extents`."""
        self._check_status(count, offset)
        return self._context_extents[context](count, offset, flags)

    def pread_sparse(self, count: int, offset: int) -> list[tuple[Extent, Buffer | None]]:
        """Return the parts of a range, each with its data, or None if it reads as zeroes.

        A hole may come as data: what was data when last looked at is not looked at again.
        """
        start, end = self.known_data
        if (start <= offset and offset + count <= end) or not self._seeks_holes:
            return [(Extent(offset, count, 0), self.pread(count, offset))]
        if offset + count > self.size or (offset | count) & self.misaligned:
            self._refuse_range(count, offset, errno.EINVAL)
        try:
            found = self._parts(count, offset)
        except OSError as error:  # which is no reason for the read to fail
            log.debug("extents of %d bytes at %d: %s", count, offset, error)
            found = [Extent(offset, count, 0)]
        return [
            (part, None if part.type & ZERO else self._read_part(part, offset)) for part in found
        ]

    def _read_part(self, part: Extent, offset: int) -> Buffer:
        """Read a part of what is read from *offset*."""
        try:
            return self.pread(part.length, part.offset)
        except PartialError as error:
            done = part.offset - offset + error.done
            raise PartialError(error.errno or errno.EIO, error.strerror or "", done) from error

    def _parts(self, count: int, offset: int) -> list[Extent]:
        ahead = min(self.size - offset, max(count, _LOOK_AHEAD))
        first = self.extents(ahead & ~self.misaligned, offset, REQ_ONE)[0]
        if not first.type & ZERO:
            self._note_data(offset, offset + first.length)
        if first.length >= count:
            return [Extent(offset, count, first.type)]
        found = self.extents(count, offset, 0)
        if len(found) > _MOST_PARTS or found[-1].offset + found[-1].length < offset + count:
            return [Extent(offset, count, 0)]
        return found

    def _note_data(self, start: int, end: int) -> None:
        """Remember that there is data from *start* to *end*, together with what is known next to
        it: in a file without holes, reads at random soon need not look any more.
        """
        known_start, known_end = self.known_data
        if start <= known_end and known_start <= end:
            start, end = min(start, known_start), max(end, known_end)
        self.known_data = (start, end)

    def resize(self, size: int) -> None:
        """Make the disk of *size* bytes, for this client at once, for others when they open it."""
        if not self.can_write:
            raise Refused(errno.EPERM, "this export is read-only")
        if not self.can_resize:
            raise Refused(errno.EINVAL, "this export cannot be resized")
        if size > parse.MAX_SIZE or size & self.misaligned:
            raise Refused(errno.EINVAL, f"no disk of this kind can have {size} bytes")
        self._resize(size)
        self.size = size
        self.file = None
        self.known_data = (0, 0)

    def close(self) -> None:
        """The client has gone.  Errors are logged: nobody is left to be told."""
        try:
            with calling():
                self._close()
        except OSError as error:
            log.error("closing the export failed: %s", cause(error))
        except Exception:
            log.exception("closing the export failed")

    # -- checks and emulation -----------------------------------------------------------

    def _check_status(self, count: int, offset: int) -> None:
        if offset + count > self.size or (offset | count) & self.misaligned:
            self._refuse_range(count, offset, errno.EINVAL)
        if not count:
            raise Refused(errno.EINVAL, "nothing can be said of an empty range")

    def _check_write(self, count: int, offset: int, past_end: int) -> None:
        if not self.can_write:
            raise Refused(errno.EPERM, "this export is read-only")
        if offset + count > self.size or (offset | count) & self.misaligned:
            self._refuse_range(count, offset, past_end)

    def _refuse_endless(self, count: int) -> None:
        """Refuse what would take too long to emulate."""
        if count > _MOST_EMULATED:
            raise Refused(errno.EINVAL, f"more than {_MOST_EMULATED} bytes in one request")

    def _refuse_range(self, count: int, offset: int, past_end: int) -> None:
        if offset + count > self.size:
            raise Refused(
                past_end, f"{count} bytes at {offset} are past the end of {self.size} bytes"
            )
        minimum = self.block_size.minimum
        raise Refused(errno.EINVAL, f"{count} bytes at {offset} are not aligned to {minimum} bytes")

    def _finish_fua(self) -> None:
        if self.fua is not Support.NATIVE:
            self._flush()

    def _zero_or_write(self, count: int, offset: int, flags: int) -> None:
        """Let the export zero the range, or have zeroes written if it says it is not able to."""
        if self._zeroes_itself:
            try:
                self._zero(count, offset, flags)
            except OSError as error:
                if error.errno not in NOT_SUPPORTED or flags & FAST_ZERO:
                    raise
            else:
                return
        if not flags & FAST_ZERO:
            self._refuse_endless(count)
        end = offset + count
        step = count if self._lock is None else _MOST_LOCKED
        for start in range(offset, end, step):
            self._write_zeroes(min(step, end - start), start, flags)

    # -- what is called with every operation ---------------------------------------------

    def _bind(self, method: Callable[..., T]) -> Callable[..., T]:
        """Return *method*, wrapped if it is to be logged or to hold the lock."""
        return _locked(_traced(method, method.__name__), self._lock)

    def _bind_extents(
        self, method: Callable[..., Iterable[Extent]], name: str, known_types: int = -1
    ) -> Callable[[int, int, int], list[Extent]]:
        """Return what reads extents by *method*: the lock is held until all are taken, and what is
        logged is what the export is asked.
        """
        return _locked(ExtentReader(_traced(method, name), known_types).read, self._lock)


def _locked(
    method: Callable[..., T], lock: AbstractContextManager[object] | None
) -> Callable[..., T]:
    if lock is None:
        return method

    def locked(*arguments: object) -> T:
        with lock:
            return method(*arguments)

    return locked


def _traced(method: Callable[..., T], name: str) -> Callable[..., T]:
    if not log.isEnabledFor(logging.DEBUG):
        return method

    def traced(*arguments: object) -> T:
        shown = [
            f"{len(argument)} bytes" if isinstance(argument, memoryview) else str(argument)
            for argument in arguments
        ]
        log.debug("%s(%s)", name, ", ".join(shown))
        return method(*arguments)

    return traced

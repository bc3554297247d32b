"""The contract, a client's side: `Export`, one client's view of a disk.

Methods that read or change the disk report failure by raising `OSError`; the client gets the
nearest NBD error.  The server checks bounds, read-only and flags before it calls, so an export
never needs to.  What an export does not override is emulated, or not offered to clients.
"""

import enum
import errno
from collections.abc import Iterable
from functools import cached_property
from typing import NamedTuple

from nbdfork.plugin.pipeline import Pipeline
from nbdfork.types import Buffer

# The flags have the values of nbdkit's NBDKIT_FLAG_*.

MAY_TRIM = 1 << 0
"""Flag of `Export.zero`: the range may become a hole; without it, it must stay allocated."""

FUA = 1 << 1
"""Flag: do not return before the data written is on stable storage."""

REQ_ONE = 1 << 2
"""Flag of `Export.extents`: the first extent is enough."""

FAST_ZERO = 1 << 3
"""Flag of `Export.zero`: raise OSError(EOPNOTSUPP), with nothing changed, unless zeroing is
faster than writing."""

HOLE = 1 << 0
"""Type of an extent: not allocated."""

ZERO = 1 << 1
"""Type of an extent: reads as zeroes."""


_ZEROES = memoryview(bytes(1024 * 1024))


class Support(enum.Enum):
    """How an optional operation is carried out; only `NATIVE` is true."""

    NONE = "none"
    EMULATE = "emulate"
    NATIVE = "native"

    def __bool__(self) -> bool:
        return self is Support.NATIVE


class BlockSize(NamedTuple):
    """Block size constraints in bytes (protocol document, "Block size constraints").

    *minimum* is a power of 2 up to 64 KiB; a request that is not a multiple of it is refused.
    *preferred* is a power of 2 from 512 to 32 MiB.  *maximum* is the largest READ or WRITE: a
    multiple of the minimum, or 2^32-1 for any.
    """

    minimum: int = 1
    preferred: int = 4096
    maximum: int = 32 * 1024 * 1024


class ExportInfo(NamedTuple):
    """An entry of the list of exports that clients are shown; with None, of the default export."""

    name: str | None = None
    description: str = ""


class Extent(NamedTuple):
    """A range of the disk of one type: 0 for data, or `HOLE`, `ZERO`, or both."""

    offset: int
    length: int
    type: int


class FileRange(NamedTuple):
    """*size* bytes from *start* of an open file."""

    fd: int
    start: int
    size: int


class Export:
    """One client's view of a disk.

    The facts (`get_size`, `can_*`, `block_size` ...) are asked once, when the client connects.
    """

    def get_size(self) -> int:
        """Return the size of the disk in bytes, at most 2^63-1."""
        raise self._missing("get_size")

    def pread(self, count: int, offset: int) -> Buffer:
        """Return exactly *count* bytes from *offset*.

        Any buffer will do, and is sent without a copy if it is large.  Override this or
        `pread_into`, whichever comes easier.
        """
        data = bytearray(count)
        self.pread_into(memoryview(data), offset)
        return data

    def pread_into(self, data: memoryview, offset: int) -> None:
        """Fill *data* with the bytes from *offset*."""
        raise self._missing("pread (or pread_into)")

    def view(self, count: int, offset: int) -> Buffer | None:
        """Return a large range as memory that is only to be sent, or None: use `pread`.

        Nobody may look into it, for it may be a mapped file, and what has been cut off from that
        cannot be touched.  The system, which sends it, can try and fail.
        """
        return None

    def file_range(self) -> FileRange | None:
        """Return the range of an open file that the disk is, byte for byte, or None if it is
        anything else.

        Requests may then be carried out there, by pread(2) and pwrite(2), instead of by `pread` and
        `pwrite`; these are called for what has flags, and again for what has failed.  It is asked
        when the client connects, and the file stays open until `close`.
        """
        return None

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        """Write all of *data* at *offset*.  *data* is only good until this returns.

        *flags*: `FUA`, if `can_fua` is native.
        """
        raise self._missing("pwrite")

    def flush(self) -> None:
        """Return when everything written so far is on stable storage."""
        raise self._missing("flush")

    def trim(self, count: int, offset: int, flags: int) -> None:
        """Discard *count* bytes from *offset*: a hint.  *flags*: as for `pwrite`."""
        raise self._missing("trim")

    def zero(self, count: int, offset: int, flags: int) -> None:
        """Make *count* bytes from *offset* read as zeroes.

        *flags*: `MAY_TRIM`, `FAST_ZERO`, and `FUA` if `can_fua` is native.  OSError with
        EOPNOTSUPP, raised before anything is changed, makes the server call `write_zeroes` instead.
        """
        raise self._missing("zero")

    def write_zeroes(self, count: int, offset: int, flags: int) -> None:
        """Make a range read as zeroes by writing them: what is done where `zero` does not work.

        Only a filter that wants to see requests to zero over any disk has a reason to override
        it.  *flags*: as for `zero`.  Raises OSError with EOPNOTSUPP for `FAST_ZERO`.
        """
        if flags & FAST_ZERO:
            raise OSError(errno.EOPNOTSUPP, "zeroing is no faster than writing")
        end = offset + count
        while offset < end:
            zeroes = _ZEROES[: min(self._most_zeroes, end - offset)]
            self.pwrite(zeroes, offset, flags & FUA)
            offset += len(zeroes)

    @cached_property
    def _most_zeroes(self) -> int:
        """How many zeroes are written at once; the block sizes are asked for only once."""
        minimum, _, maximum = self.block_size()
        return min(len(_ZEROES), maximum - maximum % minimum)

    def cache(self, count: int, offset: int) -> None:
        """Bring *count* bytes from *offset* nearer: a hint."""
        raise self._missing("cache")

    def extents(self, count: int, offset: int, flags: int) -> Iterable[Extent]:
        """Tell which parts of a range are data, holes, or zeroes.

        The extents follow each other without a gap, the first one holds *offset*; they may reach
        beyond the range, or end before it.  They are taken one by one, and no more than there is
        room for, so it is best to yield them.  *flags*: `REQ_ONE`.
        """
        raise self._missing("extents")

    def resize(self, size: int) -> None:
        """Make the disk of *size* bytes; what is added reads as zeroes."""
        raise self._missing("resize")

    def contexts(self) -> Iterable[str]:
        """Return the metadata contexts, beyond base:allocation, that clients may ask about.

        A name is "x-NAMESPACE:NAME", or of a namespace registered with the protocol.
        """
        return ()

    def context_extents(
        self, context: str, count: int, offset: int, flags: int
    ) -> Iterable[Extent]:
        """Tell what a metadata context says of a range, as `extents` does.

        The extents' types are what the context defines: numbers below 2^32, or 2^64 for clients
        with extended headers.
        """
        raise self._missing("context_extents")

    def pipeline(self) -> Pipeline | None:
        """Return how one thread can have many reads and writes under way, or None.

        It is asked for once, when a client has opened the export, and only if several of its
        requests may be carried out at once.
        """
        return None

    def close(self) -> None:
        """The client has gone."""

    # -- facts, with defaults derived from what is overridden ---------------------------

    def can_write(self) -> bool:
        """Whether the disk can be written."""
        return self._overrides("pwrite")

    def can_flush(self) -> bool:
        """Whether `flush` works."""
        return self._overrides("flush")

    def can_fua(self) -> Support:
        """How `FUA` is honoured; emulation is a flush after the operation."""
        return Support.EMULATE if self.can_flush() else Support.NONE

    def can_trim(self) -> bool:
        """Whether `trim` works."""
        return self._overrides("trim")

    def can_zero(self) -> bool | Support:
        """Whether `zero` works; if not, zeroes are written.  With `Support.NONE` clients are not
        even told that they can ask for it.
        """
        return self._overrides("zero")

    def can_fast_zero(self) -> bool:
        """Whether clients may ask for `FAST_ZERO`.

        Without a `zero` of its own the disk answers every such request quickly, with "not
        supported", which is what a client wants to know.
        """
        return not self.can_zero()

    def can_cache(self) -> Support:
        """How CACHE is carried out; emulation reads the range and drops it."""
        return Support.NATIVE if self._overrides("cache") else Support.NONE

    def can_extents(self) -> bool:
        """Whether `extents` works; if not, all is data."""
        return self._overrides("extents")

    def can_resize(self) -> bool:
        """Whether clients may change the size of the disk (an experiment of the protocol)."""
        return False

    def can_multi_conn(self) -> bool:
        """Whether a flush by one client covers what others have had acknowledged, and every
        client sees it at once (protocol document, CAN_MULTI_CONN).
        """
        return False

    def is_rotational(self) -> bool:
        """Whether seeking is slow: a hint."""
        return False

    def block_size(self) -> BlockSize:
        """Return the block size constraints."""
        return BlockSize()

    def is_lenient(self) -> bool:
        """Whether requests that do not keep to `block_size` are passed on; if not, they are
        refused.
        """
        return False

    def description(self) -> str:
        """Return a line about this export for people, or ""."""
        return ""

    def _missing(self, method: str) -> NotImplementedError:
        """Return the error of a method that was called though there is none: a bug."""
        return NotImplementedError(f"{type(self).__name__} does not implement {method}")

    def _overrides(self, method: str) -> bool:
        return getattr(type(self), method) is not getattr(Export, method)

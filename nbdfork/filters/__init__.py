"""The filters that come with nbdfork, one file a filter; and here, what several of them need."""

import errno
from collections.abc import Callable, Iterable, Iterator

from nbdfork.plugin import FAST_ZERO, FUA, Export, Extent
from nbdfork.plugin.errors import NOT_SUPPORTED

_ZEROES = memoryview(bytes(1024 * 1024))


def clipped(extents: Iterable[Extent], start: int, end: int) -> Iterator[Extent]:
    """Yield what *extents* say of the range from *start* to *end*, up to the first gap."""
    for offset, length, kind in extents:
        if start >= end or offset > start:
            return
        stop = min(offset + length, end)
        if stop > start:
            yield Extent(start, stop - start, kind)
            start = stop


def write_zeroes(next: Export, count: int, offset: int, flags: int) -> None:
    """Make a range of *next* read as zeroes by writing them."""
    end = offset + count
    while offset < end:
        piece = _ZEROES[: end - offset]
        next.pwrite(piece, offset, flags)
        offset += len(piece)


def zeroer(next: Export) -> Callable[[int, int, int], None]:
    """Return a `zero` for *next*, which must be writable, that writes what cannot be zeroed.

    The gate would do this as well, but above all filters: one that is to see a request to zero
    as just that has to have it done below itself.
    """
    native = next.can_zero()

    def zero(count: int, offset: int, flags: int) -> None:
        if native:
            try:
                next.zero(count, offset, flags)
            except OSError as error:
                if error.errno not in NOT_SUPPORTED or flags & FAST_ZERO:
                    raise
            else:
                return
        elif flags & FAST_ZERO:
            raise not_fast()
        write_zeroes(next, count, offset, flags & FUA)

    return zero


def not_fast() -> OSError:
    """Return the error that refuses a `FAST_ZERO`."""
    return OSError(errno.EOPNOTSUPP, "zeroing is no faster than writing")

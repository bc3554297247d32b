"""The filters that come with nbdfork, one file each; here is what several of them share.

Like any filter they know the public contract, and of the rest of nbdfork nothing.
"""

import errno
from collections.abc import Iterable, Iterator

from nbdfork.plugin import FAST_ZERO, NOT_SUPPORTED, Export, Extent


def clipped(extents: Iterable[Extent], start: int, end: int) -> Iterator[Extent]:
    """Yield the part of *extents* from *start* to *end*, up to the first gap."""
    for offset, length, kind in extents:
        if start >= end or offset > start:
            return
        stop = min(offset + length, end)
        if stop > start:
            yield Extent(start, stop - start, kind)
            start = stop


def zero_or_write(next: Export, count: int, offset: int, flags: int) -> None:
    """Make a range of *next*, which can zero, read as zeroes: by writing where it is not able to.

    The server would do this too, but above all filters: a filter that is to see one request to
    zero as one request has to do it here, below itself.
    """
    try:
        next.zero(count, offset, flags)
    except OSError as error:
        if error.errno not in NOT_SUPPORTED or flags & FAST_ZERO:
            raise
        next.write_zeroes(count, offset, flags)


def not_fast() -> OSError:
    """Return the error that refuses a `FAST_ZERO`."""
    return OSError(errno.EOPNOTSUPP, "zeroing is no faster than writing")

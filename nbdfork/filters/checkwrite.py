"""The checkwrite filter: let writes succeed only if they change nothing, to test what copies disks.

The disk is opened read-only and never written.  What reads as zeroes may be a hole or not.
"""

import errno
import logging
from collections.abc import Iterator, Mapping

from nbdfork.filters import clipped
from nbdfork.plugin import (
    ZERO,
    Export,
    Filter,
    FilterExport,
    Needs,
    Support,
)

log = logging.getLogger(__name__)

_PIECE = 1024 * 1024
_SHOWN = 16


class CheckWrite(Filter):
    """let writes succeed only if they change nothing"""

    opens_read_only = True

    debug_flags: Mapping[str, str] = {"showdiffs": "log where what is written differs"}

    def needs(self) -> Needs:
        return Needs()

    def wrap(self, next: Export, export_name: str, read_only: bool) -> Export:
        return CheckWriteExport(next, shows=bool(self.debug["showdiffs"]))


class CheckWriteExport(FilterExport):
    """*next*, to which everything may be written that is there already."""

    def __init__(self, next: Export, *, shows: bool) -> None:
        super().__init__(next)
        self._shows = shows
        self._knows_holes = next.can_extents()
        minimum, _, maximum = next.block_size()
        self._piece = min(_PIECE, maximum - maximum % minimum)

    # -- facts --------------------------------------------------------------------------------

    def can_write(self) -> bool:
        return True

    def can_flush(self) -> bool:
        return True

    def can_fua(self) -> Support:
        return Support.NATIVE

    def can_trim(self) -> bool:
        return True

    def can_zero(self) -> bool:
        return True

    def can_fast_zero(self) -> bool:
        return True

    def can_multi_conn(self) -> bool:
        return True

    # -- operations ---------------------------------------------------------------------------

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        for start in range(0, len(data), self._piece):
            piece = data[start : start + self._piece]
            found = self.next.pread(len(piece), offset + start)
            if piece != found:
                raise self._different(bytes(piece), bytes(found), offset + start)

    def flush(self) -> None:
        """Do nothing: nothing has been written."""

    def trim(self, count: int, offset: int, flags: int) -> None:
        self.zero(count, offset, flags)

    def zero(self, count: int, offset: int, flags: int) -> None:
        for start, length in self._data(count, offset):
            for place in range(start, start + length, self._piece):
                piece = min(self._piece, start + length - place)
                self.pwrite(memoryview(bytes(piece)), place, flags)

    def _data(self, count: int, offset: int) -> Iterator[tuple[int, int]]:
        """Yield the parts of a range that may be something other than zeroes."""
        end = offset + count
        while offset < end and self._knows_holes:
            start = offset
            for part in clipped(self.next.extents(end - offset, offset, 0), offset, end):
                if not part.type & ZERO:
                    yield part.offset, part.length
                offset = part.offset + part.length
            if offset == start:
                break  # it has told of nothing
        if offset < end:
            yield offset, end - offset

    def _different(self, written: bytes, found: bytes, offset: int) -> OSError:
        place = next(
            i for i, (one, two) in enumerate(zip(written, found, strict=True)) if one != two
        )
        if self._shows:
            log.debug(
                "checkwrite: at %d there is %s, and not %s",
                offset + place,
                found[place : place + _SHOWN].hex(" "),
                written[place : place + _SHOWN].hex(" "),
            )
        return OSError(
            errno.EIO, f"what is written differs from what is there, at byte {offset + place}"
        )

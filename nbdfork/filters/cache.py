"""The cache filter: keep blocks of a slow disk in a temporary file, for all clients.

All workers share the blocks, and what is known of them.  A block is `CLEAN` if it is as below, or
`DIRTY` if it still has to be written there, which a flush by any client does.  Every change is made
with the lock held, piece by piece.

Readers do not take it.  Whoever throws blocks out counts that before and after, so who has read
meanwhile sees it, and reads again.
"""

import errno
import os
from collections.abc import Iterator, Mapping

from nbdfork.filters import clipped
from nbdfork.filters._overlay import AT_ONCE, BELOW, Overlay, Overlays
from nbdfork.filters._room import Room
from nbdfork.filters._values import power_of_2, when
from nbdfork.plugin import (
    FUA,
    BlockSize,
    Buffer,
    ConfigError,
    Export,
    Extent,
    Filter,
    FilterExport,
    Needs,
    Parameter,
    SharedBuffer,
    Support,
    parse,
)

# The states of a block, beside BELOW.
CLEAN = 1
DIRTY = 2

_PIECE = 1024 * 1024
_LEAST_BLOCK = 65536
_MOST_PREFERRED = 32 * 1024 * 1024


class Cache(Filter):
    """keep blocks of a slow disk"""

    mode = Parameter(
        parse.choice("writeback", "writethrough", "unsafe"),
        default="writeback",
        key="cache",
        metavar="writeback|writethrough|unsafe",
        help="when what is written goes to the disk",
    )
    cache_min_block_size = Parameter(
        power_of_2(4096, 2**30, "from 4k to 1G"),
        default=_LEAST_BLOCK,
        metavar="SIZE",
        help="the size of blocks",
    )
    cache_max_size = Parameter(
        parse.size, metavar="SIZE", help="how much is kept; any amount if not given"
    )
    cache_high_threshold = Parameter(
        parse.whole(1, 100), default=95, metavar="PERCENT", help="at how much of it room is made"
    )
    cache_low_threshold = Parameter(
        parse.whole(1, 100), default=80, metavar="PERCENT", help="how much of it is left then"
    )
    cache_on_read = Parameter[bool | str](
        when,
        default=False,
        metavar="BOOL|/PATH",
        help="keep what clients read; with /PATH, while that exists",
    )

    def needs(self) -> Needs:
        return Needs()

    def config_complete(self) -> None:
        if self.cache_low_threshold >= self.cache_high_threshold:
            raise ConfigError(
                f"cache: cache-low-threshold={self.cache_low_threshold} must be less than"
                f" cache-high-threshold={self.cache_high_threshold}"
            )
        size, block = self.cache_max_size, self.cache_min_block_size
        if size is not None and size * self.cache_low_threshold // 100 < block:
            raise ConfigError(
                f"cache: cache-max-size={size} has no room for a block of {block} bytes"
            )

    def get_ready(self) -> None:
        self.changes = (
            SharedBuffer(8, name="changes").view().cast("Q")
        )  # of what is on the disk, by any client
        self._overlays = Overlays(self.cache_min_block_size, "cache")
        self.room: Room | None = None
        if self.cache_max_size is not None:
            most = self.cache_max_size * self.cache_high_threshold // 100
            least = self.cache_max_size * self.cache_low_threshold // 100
            block = self.cache_min_block_size
            self.room = Room(most // block, least // block)

    def wrap(self, next: Export, export_name: str, read_only: bool) -> Export:
        overlay = self._overlays.of(export_name, next.get_size())
        return CacheExport(next, self, overlay, writable=next.can_write() and not read_only)


class CacheExport(FilterExport):
    """*next* under its part of the cache of *filter*."""

    def __init__(self, next: Export, filter: Cache, overlay: Overlay, *, writable: bool) -> None:
        super().__init__(next)
        self._overlay = overlay
        self._block = overlay.block_size
        self._room = filter.room
        self._changes = filter.changes
        self._mode = filter.mode
        self._on_read = filter.cache_on_read
        self._is_writable = writable
        self._flushes = next.can_flush()
        self._fua_below = next.can_fua() is Support.NATIVE
        self._shares_flush = next.can_multi_conn()
        size = next.get_size()
        minimum, _, maximum = next.block_size()
        if self._block % minimum:
            raise OSError(
                errno.EINVAL,
                f"cache-min-block-size={self._block}: the disk below needs at least {minimum}",
            )
        self._end = size - size % minimum  # no request can reach what is after that
        self._piece = min(_PIECE, maximum - maximum % minimum)
        self._knows_holes = next.can_extents()
        blocks = max(1, self._piece // self._block)
        if self._room:
            blocks = max(1, min(blocks, self._room.most - self._room.least))
        self._step = blocks * self._block  # what is done with the lock held at one time

    # -- facts --------------------------------------------------------------------------------

    def can_cache(self) -> Support:
        return Support.NATIVE

    def can_zero(self) -> bool:
        return False  # zeroes are written, and go to the cache

    def can_fast_zero(self) -> bool:
        return True  # it tells at once that it is none

    def can_flush(self) -> bool:
        return self._mode == "unsafe" or self.next.can_flush()

    def can_fua(self) -> Support:
        return Support.NATIVE if self._mode == "unsafe" else self.next.can_fua()

    def can_multi_conn(self) -> bool:
        return True  # all clients have one cache, and a flush is one of all of it

    def block_size(self) -> BlockSize:
        below = self.next.block_size()
        if self._block > min(below.maximum, _MOST_PREFERRED):
            return below
        return below._replace(preferred=max(below.preferred, self._block))

    # -- reading ------------------------------------------------------------------------------

    def pread(self, count: int, offset: int) -> Buffer:
        if self._on_read and (self._on_read is True or os.path.exists(self._on_read)):
            self._keep(count, offset)
        if self._room is None:
            return self._parts(count, offset)
        state = self._room.throwing
        data = self._parts(count, offset)
        if state & 1 or self._room.throwing != state:
            with self._overlay.lock:
                self._room.throwing += self._room.throwing & 1  # of a worker that was killed
                data = self._parts(count, offset)
        self._note_use(offset // self._block, -(-(offset + count) // self._block))
        return data

    def _parts(self, count: int, offset: int) -> Buffer:
        parts = [self._read(*run) for run in self._overlay.runs(count, offset)]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _read(self, state: int, count: int, offset: int) -> Buffer:
        if state == BELOW:
            return self.next.pread(count, offset)
        return self._overlay.read(count, offset)

    def cache(self, count: int, offset: int) -> None:
        self._keep(count, offset)

    def _keep(self, count: int, offset: int) -> None:
        """Keep those blocks of a range that are not kept, as many at a time as can be read."""
        if all(state != BELOW for state, _, _ in self._overlay.runs(count, offset)):
            return
        start, end = self._overlay.around(count, offset, self._end)
        for place in range(start, end, self._step):
            length = min(self._step, end - place)
            changes = self._changes[0]
            fetched = {
                run: self._fetch(*run[1:])
                for run in self._overlay.runs(length, place)
                if run[0] == BELOW
            }  # without the lock, as the disk may be slow
            with self._overlay.lock:
                self._make_room(-(-length // self._block))
                self._fill(length, place, fetched if self._changes[0] == changes else {})

    def _fetch(self, count: int, offset: int) -> list[Buffer]:
        """Return what is on the disk, in pieces that it can be read in."""
        end = offset + count
        places = range(offset, end, self._piece)
        return [self.next.pread(min(self._piece, end - place), place) for place in places]

    def _fill(
        self, count: int, offset: int, fetched: Mapping[tuple[int, int, int], list[Buffer]]
    ) -> None:
        """Copy to the cache what is not in it, but for what is *fetched*.  The lock is held."""
        for run in list(self._overlay.runs(count, offset)):
            state, length, start = run
            if state == BELOW:
                place = start
                for data in fetched.get(run) or self._fetch(length, start):
                    self._overlay.write(memoryview(data), place)
                    place += len(data)
                self._mark(start, length, CLEAN)

    def _mark(self, offset: int, count: int, state: int) -> None:
        """Say of blocks that they are kept.  The lock is held."""
        if self._room:
            first, last = offset // self._block, -(-(offset + count) // self._block)
            known = self._overlay.states(first, last - first).count(BELOW)
            self._room.used += known
            self._note_use(first, last)
        self._overlay.mark(offset, count, state)

    def extents(self, count: int, offset: int, flags: int) -> Iterator[Extent]:
        """What is dirty is data, and all else is as below."""
        most = AT_ONCE * self._block
        for state, length, start in self._overlay.runs(min(count, most), offset):
            if state == DIRTY or not self._knows_holes:
                yield Extent(start, length, 0)
                continue
            end = start
            below = self.next.extents(length, start, flags)
            for extent in clipped(below, start, start + length):
                yield extent
                end = extent.offset + extent.length
            if end < start + length:
                return  # it has told of less than it was asked about

    # -- writing ------------------------------------------------------------------------------

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        if self._mode == "writethrough" or (flags & FUA and self._mode != "unsafe"):
            self._write_through(data, offset, flags)
            return
        done = 0
        while done < len(data):
            place = offset + done
            piece = data[done : done + self._step - place % self._block]
            with self._overlay.lock:
                self._make_room(-(-(place % self._block + len(piece)) // self._block))
                self._changes[0] += 1
                self._write_back(piece, place)
            done += len(piece)

    def _write_back(self, data: memoryview, offset: int) -> None:
        """Write to the cache, with what is around it in its blocks.  The lock is held."""
        count = len(data)
        start, end = self._overlay.around(count, offset, self._end)
        if start < offset:
            self._fill(min(self._block, end - start), start, {})
        if offset + count < end:
            last = (end - 1) // self._block * self._block
            self._fill(end - last, last, {})
        self._overlay.write(data, offset)
        self._mark(offset, count, DIRTY)

    def _write_through(self, data: memoryview, offset: int, flags: int) -> None:
        """Write to the disk, and to those blocks that are kept; a block that is dirty stays so."""
        with self._overlay.lock:
            self._changes[0] += 1
            self.next.pwrite(data, offset, flags if self._fua_below else flags & ~FUA)
            for state, length, start in self._overlay.runs(len(data), offset):
                if state != BELOW:
                    self._overlay.write(data[start - offset : start - offset + length], start)
        if flags & FUA and not self._fua_below:
            self.next.flush()

    def trim(self, count: int, offset: int, flags: int) -> None:
        """Forget whole blocks, and trim those; parts of blocks are left as they are."""
        end = offset + count
        first = -(-offset // self._block) * self._block
        last = end if end == self._end else end - end % self._block
        step = AT_ONCE * self._block
        for start in range(first, last, step):
            with self._overlay.lock:
                self._changes[0] += 1
                self._throw_out(start // self._block, -(-min(last, start + step) // self._block))
                self.next.trim(min(step, last - start), start, flags)

    def flush(self) -> None:
        """Write all that is dirty to the disk, whoever has written it, and flush that."""
        if self._mode == "unsafe":
            return
        if self._is_writable:
            step = AT_ONCE * self._block
            for start in range(0, self._end, step):
                for state, length, place in self._overlay.runs(min(step, self._end - start), start):
                    if state == DIRTY:
                        self._write_down(length, place)
        if self._flushes:
            self.next.flush()

    def _write_down(self, count: int, offset: int) -> None:
        """Write to the disk what is dirty in a range of whole blocks."""
        for place in range(offset, offset + count, self._step):
            with self._overlay.lock:
                self._clean(min(self._step, offset + count - place), place)

    def _clean(self, count: int, offset: int) -> None:
        """Write to the disk what is dirty in a range.  The lock is held."""
        for state, length, start in list(self._overlay.runs(count, offset)):
            if state == DIRTY:
                for place in range(start, start + length, self._piece):
                    piece = min(self._piece, start + length - place)
                    data = memoryview(self._overlay.read(piece, place))
                    self.next.pwrite(data, place, 0)
                self._overlay.mark(start, length, CLEAN)

    # -- room: each export makes its own ------------------------------------------------------

    def _make_room(self, wanted: int) -> None:
        """Throw out blocks that were not used for long, if there is no room for so many more.

        The lock is held.
        """
        room = self._room
        if room is None or room.used + wanted <= room.most:
            return
        target = max(0, room.least - wanted)
        written = False
        room.throwing += 1 + (room.throwing & 1)  # odd, whatever a killed worker has left
        for block in room.victims(self._overlay.first, -(-self._end // self._block)):
            if room.used <= target:
                break
            state = self._overlay.states(block, 1)[0]
            if state == DIRTY:
                if not self._is_writable:
                    continue
                start = block * self._block
                self._clean(min(self._block, self._end - start), start)
                written = True
            if state != BELOW:
                self._throw_out(block, block + 1)
        room.throwing += room.throwing & 1
        if written and self._flushes and not self._shares_flush and self._mode != "unsafe":
            self.next.flush()  # nobody else's flush would be about what this client has written

    def _note_use(self, first: int, last: int) -> None:
        if self._room:
            self._room.note_use(self._overlay.first + first, self._overlay.first + last)

    def _throw_out(self, first: int, last: int) -> None:
        """Forget blocks.  The lock is held."""
        if self._room:
            kept = last - first - self._overlay.states(first, last - first).count(BELOW)
            self._room.used -= kept
        start, count = first * self._block, (last - first) * self._block
        self._overlay.mark(start, count, BELOW)
        self._overlay.release(min(count, self._end - start), start)

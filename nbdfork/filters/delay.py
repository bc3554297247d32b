"""The delay filter: wait before requests are passed on, to make the disk slow.

Nothing else about the disk changes.  A client that has left, or a server that ends, is not made to
wait: the request fails.
"""

import os
import time
from collections.abc import Iterable

from nbdfork.filters import not_fast, zero_or_write
from nbdfork.filters._values import seconds
from nbdfork.plugin import (
    FAST_ZERO,
    Buffer,
    ConfigError,
    Export,
    Extent,
    Filter,
    FilterExport,
    Needs,
    Parameter,
    parse,
)


def _delay(what: str) -> "Parameter[float | None]":
    return Parameter(seconds, metavar="TIME", help=f"delay {what}")


class Delay(Filter):
    """delay requests"""

    rdelay = _delay("reads")
    delay_read = _delay("reads: the same as rdelay")
    wdelay = _delay("writes, zeroes and trims, if they have no delay of their own")
    delay_write = _delay("writes")
    delay_zero = _delay("zeroes")
    delay_trim = _delay("trims")
    delay_extents = _delay("requests for extents")
    delay_cache = _delay("requests to cache")
    delay_open = _delay("clients when they open the disk")
    delay_close = _delay("the end of a connection")
    delay_fast_zero = Parameter(
        parse.boolean,
        default=True,
        metavar="BOOL",
        help="delay fast zeroes, too; if false, refuse them at once",
    )
    delay_trigger = Parameter(
        parse.path, metavar="FILENAME", help="delay nothing as long as this file does not exist"
    )

    def needs(self) -> Needs:
        if self.delay_trigger is None:
            return Needs()
        return Needs(read=frozenset({os.path.dirname(self.delay_trigger)}))

    def is_on(self) -> bool:
        """Return whether there are delays now."""
        return self.delay_trigger is None or os.path.exists(self.delay_trigger)

    def config_complete(self) -> None:
        if self.rdelay is not None and self.delay_read is not None:
            raise ConfigError("delay: rdelay= and delay-read= are the same: give one of them")

    def waits(self) -> bool:
        return self._delays_requests()

    def _delays_requests(self) -> bool:
        """Whether there is a delay after the disk is opened."""
        reads = (self.rdelay, self.delay_read, self.delay_extents, self.delay_cache)
        writes = (self.wdelay, self.delay_write, self.delay_zero, self.delay_trim)
        return any((*reads, *writes, self.delay_close))

    def open(self, export_name: str, read_only: bool) -> Export:
        self.sleep(self.delay_open or 0)
        return super().open(export_name, read_only)

    def wrap(self, next: Export, export_name: str, read_only: bool) -> Export:
        return DelayExport(next, self) if self._delays_requests() else next

    def sleep(self, time: float) -> None:
        """Wait for so long.  Raises OSError if nobody waits for the end of it any more."""
        if time and self.is_on():
            self.server.wait(time)


class DelayExport(FilterExport):
    """*next*, but each operation begins late."""

    def __init__(self, next: Export, delays: Delay) -> None:
        super().__init__(next)
        self._sleep, self._is_on = delays.sleep, delays.is_on
        self._read = _first_given(delays.rdelay, delays.delay_read)
        self._write = _first_given(delays.delay_write, delays.wdelay)
        self._zero = _first_given(delays.delay_zero, delays.wdelay)
        self._trim = _first_given(delays.delay_trim, delays.wdelay)
        self._extents = delays.delay_extents or 0
        self._cache = delays.delay_cache or 0
        self._close = delays.delay_close or 0
        self._refuse_fast = self._zero > 0 and not delays.delay_fast_zero

    def can_resize(self) -> bool:
        return self.next.can_resize()

    def can_fast_zero(self) -> bool:
        return self._refuse_fast or self.next.can_fast_zero()

    def pread(self, count: int, offset: int) -> Buffer:
        self._sleep(self._read)
        return self.next.pread(count, offset)

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        self._sleep(self._write)
        self.next.pwrite(data, offset, flags)

    def trim(self, count: int, offset: int, flags: int) -> None:
        self._sleep(self._trim)
        self.next.trim(count, offset, flags)

    def zero(self, count: int, offset: int, flags: int) -> None:
        self._delay_zero(flags)
        zero_or_write(self.next, count, offset, flags)

    def write_zeroes(self, count: int, offset: int, flags: int) -> None:
        self._delay_zero(flags)
        self.next.write_zeroes(count, offset, flags)

    def _delay_zero(self, flags: int) -> None:
        if self._refuse_fast and flags & FAST_ZERO:
            raise not_fast()
        self._sleep(self._zero)

    def cache(self, count: int, offset: int) -> None:
        self._sleep(self._cache)
        self.next.cache(count, offset)

    def extents(self, count: int, offset: int, flags: int) -> Iterable[Extent]:
        self._sleep(self._extents)
        return self.next.extents(count, offset, flags)

    def context_extents(
        self, context: str, count: int, offset: int, flags: int
    ) -> Iterable[Extent]:
        self._sleep(self._extents)
        return self.next.context_extents(context, count, offset, flags)

    def close(self) -> None:
        if self._close:
            time.sleep(self._close if self._is_on() else 0)  # for nobody who could leave
        self.next.close()


def _first_given(*delays: float | None) -> float:
    return next((delay for delay in delays if delay is not None), 0)

"""The rate filter: limit how much is read and written a second, by each client and by all together.

Reading and writing are counted apart.
"""

import os
import re
import time

from nbdfork.filters._bucket import SharedBucket
from nbdfork.plugin import (
    Buffer,
    Export,
    Filter,
    FilterExport,
    Needs,
    Parameter,
    Server,
    parse,
)

_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_LOOK_EVERY = 1.0  # seconds; files that change the rate are not looked at more often


def _bits(text: str) -> float:
    match = re.fullmatch(r"([0-9]+)([kmgt]?)", text.strip(), re.ASCII | re.IGNORECASE)
    if match is None:
        raise ValueError("expected bits a second, as in 50K or 1M")
    return float(int(match[1]) * _UNITS[match[2].lower()])


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)?", text, re.ASCII) or not 0 < float(text) <= 3600:
        raise ValueError("expected seconds, more than 0 and up to 3600")
    return float(text)


class Rate(Filter):
    """limit how much is read and written a second"""

    rate = Parameter(_bits, metavar="BITS", help="of all clients together, in bits a second")
    connection_rate = Parameter(_bits, metavar="BITS", help="of each client, in bits a second")
    rate_file = Parameter(
        parse.path, metavar="FILENAME", help="a file that the rate of all is read from"
    )
    connection_rate_file = Parameter(
        parse.path, metavar="FILENAME", help="a file that the rate of each is read from"
    )
    burstiness = Parameter(
        _seconds, default=2.0, metavar="SECONDS", help="for how long one may make up for a pause"
    )

    def needs(self) -> Needs:
        # A file may be replaced by another one of its name.
        paths = filter(None, (self.rate_file, self.connection_rate_file))
        return Needs(read=frozenset(map(os.path.dirname, paths)))

    def waits(self) -> bool:
        return self._limits()

    def _limits(self) -> bool:
        return bool(
            self.rate or self.connection_rate or self.rate_file or self.connection_rate_file
        )

    def get_ready(self) -> None:
        self._all = [SharedBucket(self.rate or 0.0, self.burstiness) for _ in range(2)]

    def wrap(self, next: Export, export_name: str, read_only: bool) -> Export:
        if not self._limits():
            return next
        own = [SharedBucket(self.connection_rate or 0.0, self.burstiness) for _ in range(2)]
        controls = [
            Control(path, buckets)
            for path, buckets in ((self.rate_file, self._all), (self.connection_rate_file, own))
            if path is not None
        ]
        return RateExport(next, list(zip(self._all, own, strict=True)), controls, self.server)


class Control:
    """A file with the rate of *buckets*, which is looked at now and then."""

    def __init__(self, path: str, buckets: list[SharedBucket]) -> None:
        self._path = path
        self._buckets = buckets
        self._next_look = 0.0

    def look(self) -> None:
        """Read the file, if it is time.  What is no rate, or is not there, changes nothing."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + _LOOK_EVERY
        try:
            with open(self._path, "rb") as file:
                rate = _bits(file.read(100).decode("ascii"))
        except (OSError, ValueError):
            return
        for bucket in self._buckets:
            if bucket.rate != rate:
                bucket.rate = rate


class RateExport(FilterExport):
    """*next*, read and written as fast as *buckets* allow: those for reading, those for writing."""

    def __init__(
        self,
        next: Export,
        buckets: list[tuple[SharedBucket, SharedBucket]],
        controls: list[Control],
        server: Server,
    ) -> None:
        super().__init__(next)
        self._reading, self._writing = buckets
        self._controls = controls
        self._server = server

    def can_resize(self) -> bool:
        return self.next.can_resize()

    def pread(self, count: int, offset: int) -> Buffer:
        self._wait(self._reading, count)
        return self.next.pread(count, offset)

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        self._wait(self._writing, len(data))
        self.next.pwrite(data, offset, flags)

    def write_zeroes(self, count: int, offset: int, flags: int) -> None:
        self.next.write_zeroes(count, offset, flags)  # which no client has sent

    def _wait(self, buckets: tuple[SharedBucket, SharedBucket], count: int) -> None:
        """Wait until *count* bytes may pass.  Raises OSError if nobody waits for them any more."""
        for control in self._controls:
            control.look()
        for bucket in buckets:
            seconds = bucket.draw(8 * count)
            if seconds:
                try:
                    self._server.wait(seconds)
                except OSError:
                    bucket.put_back(8 * count)
                    raise

"""The scan filter: have the whole disk cached, from its beginning on, while a client is there.

Where the scan has come to is shared: a client that comes later goes on with it.
"""

from nbdfork.filters._prefetch import Prefetcher, is_possible
from nbdfork.filters._values import power_of_2
from nbdfork.plugin import (
    Buffer,
    Export,
    Filter,
    FilterExport,
    Needs,
    Parameter,
    SharedBuffer,
    SharedLock,
    parse,
)


class Scan(Filter):
    """have the whole disk cached"""

    scan_ahead = Parameter(
        parse.boolean, default=True, metavar="BOOL", help="go on after what a client reads"
    )
    scan_clock = Parameter(
        parse.boolean, default=True, metavar="BOOL", help="go on where it was for another client"
    )
    scan_forever = Parameter(
        parse.boolean, default=False, metavar="BOOL", help="begin again at the end"
    )
    scan_size = Parameter(
        power_of_2(512, 32 * 1024 * 1024, "from 512 to 32M"),
        default=2 * 1024 * 1024,
        metavar="SIZE",
        help="how much is cached at once",
    )

    def needs(self) -> Needs:
        return Needs()

    def get_ready(self) -> None:
        self.place = SharedBuffer(8, name="place").view().cast("Q")
        self.lock = SharedLock(name="place")

    def wrap(self, next: Export, export_name: str, read_only: bool) -> Export:
        if export_name != self.next.default_export(read_only):
            return next
        return ScanExport(next, self) if is_possible(self, next, "scan") else next


class ScanExport(FilterExport):
    """*next*, which is cached from its beginning on."""

    def __init__(self, next: Export, scan: Scan) -> None:
        super().__init__(next)
        self._scan = scan
        minimum = next.block_size().minimum
        self._piece = max(scan.scan_size, minimum)
        self._end = next.get_size()
        self._end -= self._end % minimum
        if not scan.scan_clock:
            with scan.lock:
                scan.place[0] = 0
        self._prefetcher = Prefetcher(next, self._choose)
        self._prefetcher.poke(lambda: None)

    def can_resize(self) -> bool:
        return self.next.can_resize()

    def pread(self, count: int, offset: int) -> Buffer:
        if self._scan.scan_ahead:
            self._skip(offset + count)
        if self._scan.scan_forever:
            self._prefetcher.poke(lambda: None)
        return self.next.pread(count, offset)

    def _skip(self, end: int) -> None:
        """Go on after *end*, if that is farther than where the scan has come to."""
        place = end - end % self._piece
        if self._scan.place[0] < place:
            with self._scan.lock:
                self._scan.place[0] = max(self._scan.place[0], place)

    def _choose(self) -> tuple[int, int] | None:
        with self._scan.lock:
            place = self._scan.place[0]
            if place >= self._end:
                if not self._scan.scan_forever or not self._end:
                    return None
                self._scan.place[0] = 0  # but not before somebody reads, or this would never rest
                return None
            count = min(self._piece, self._end - place)
            self._scan.place[0] = place + count
        return count, place

    def close(self) -> None:
        self._prefetcher.close()
        self.next.close()

"""A disk whose reads wait for each other: none returns before so many have come as it was told.

The first block can always be read; its first byte is how many reads there were at once.
"""

import threading

from nbdfork.plugin import Export, Parameter, Plugin, parse

LAST_SECONDS = 0.001
"""How long a write waits for the next one: it may be the last."""


class Together(Plugin):
    """a disk that is only read by several requests at once"""

    readers = Parameter(parse.whole(1, 100), default=1, metavar="N", help="how many reads it takes")

    exits = Parameter(parse.boolean, default=False, metavar="BOOL", help="end at the first read")

    def waits(self) -> bool:
        return True

    def open(self, export_name: str, read_only: bool) -> Export:
        return TogetherExport(self.readers, self.exits)


class TogetherExport(Export):
    def __init__(self, needs: int, exits: bool) -> None:
        self._exits = exits
        self._barrier = threading.Barrier(needs)
        self._lock = threading.Lock()
        self._under_way = 0
        self._arrival = threading.Condition()
        self._arrivals = 0
        self._data = bytearray(1 << 20)

    def get_size(self) -> int:
        return len(self._data)

    def pread(self, count: int, offset: int) -> bytes:
        if offset >= 512:
            self._wait_for_others()
        return bytes(self._data[offset : offset + count])

    def _wait_for_others(self) -> None:
        if self._exits:
            raise SystemExit("no more")
        with self._lock:
            self._under_way += 1
            self._data[0] = max(self._data[0], self._under_way)
        self._barrier.wait(30)
        self._barrier.wait(30)  # one that is too many is counted before any of these is gone
        with self._lock:
            self._under_way -= 1

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        with self._arrival:  # of the next one, which may have nothing to do with this one's data
            self._arrivals += 1
            self._arrival.notify_all()
            mine = self._arrivals
            self._arrival.wait_for(lambda: self._arrivals > mine, LAST_SECONDS)
        self._data[offset : offset + len(data)] = data

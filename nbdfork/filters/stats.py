"""The stats filter: write down in the end how many requests there were, how large, and how fast.

All workers add to the same numbers.  When the server ends, they go to a file.
"""

import os
import time
from collections.abc import Callable, Iterator

from nbdfork.filters._around import AroundExport, Kind, Request, T
from nbdfork.plugin import (
    ConfigError,
    Export,
    Filter,
    Needs,
    Parameter,
    SharedBuffer,
    SharedLock,
    parse,
)

_KINDS = (Kind.READ, Kind.WRITE, Kind.TRIM, Kind.ZERO, Kind.EXTENTS, Kind.CACHE, Kind.FLUSH)
_BITS = 65  # of a size or an offset, and one for 0
_HEAD = 3  # requests, bytes, nanoseconds
_EACH = _HEAD + 2 * _BITS + _BITS * _BITS


class Stats(Filter):
    """write down how requests were"""

    statsfile = Parameter(parse.path, required=True, metavar="FILE", help="where it is written")
    statsappend = Parameter(parse.boolean, default=False, metavar="BOOL", help="append to the file")
    statsthreshold = Parameter(
        parse.whole(0, 100),
        default=95,
        metavar="PERCENT",
        help="how many of the requests are listed by size; 0: none",
    )

    def needs(self) -> Needs:
        return Needs()

    def get_ready(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        flags |= os.O_APPEND if self.statsappend else os.O_TRUNC
        try:
            self._file = os.open(self.statsfile, flags, 0o666)
        except OSError as error:
            raise ConfigError(f"stats: statsfile={self.statsfile}: {error.strerror}") from error
        self._table = Table()
        self._start = time.monotonic()

    def wrap(self, next: Export, export_name: str, read_only: bool) -> Export:
        return StatsExport(next, self._table)

    def unload(self) -> None:
        seconds = time.monotonic() - self._start
        text = "\n".join(self._table.report(seconds, self.statsthreshold)) + "\n"
        data = memoryview(text.encode())
        while data:
            data = data[os.write(self._file, data) :]


class Table:
    """The numbers, of all workers together."""

    def __init__(self) -> None:
        self._numbers = SharedBuffer(8 * _EACH * len(_KINDS), name="stats").view().cast("Q")
        self._lock = SharedLock(name="stats")

    def add(self, kind: Kind, length: int, offset: int, nanoseconds: int) -> None:
        """Count a request that has taken so long."""
        size = length.bit_length()
        aligned = (offset & -offset).bit_length() - 1 if offset else _BITS - 1
        base = _KINDS.index(kind) * _EACH
        numbers = self._numbers
        with self._lock:
            numbers[base] += 1
            numbers[base + 1] += length
            numbers[base + 2] += nanoseconds
            if length:
                numbers[base + _HEAD + size] += 1
                numbers[base + _HEAD + _BITS + size] += length
                numbers[base + _HEAD + 2 * _BITS + size * _BITS + aligned] += 1

    def report(self, seconds: float, threshold: int) -> Iterator[str]:
        """Yield lines about *seconds*; the most frequent sizes come first."""
        bases = [number * _EACH for number in range(len(_KINDS))]
        totals = [self._numbers[base : base + _HEAD] for base in bases]
        count, length = (sum(total[column] for total in totals) for column in range(2))
        yield (f"total: {count} ops, {seconds:.6f} s, {_size(length)}, {_size(length / seconds)}/s")
        for kind, (ops, done, spent) in zip(_KINDS, totals, strict=True):
            if ops:
                taken = spent / 1e9
                yield (
                    f"{kind.value}: {ops} ops, {taken:.6f} s, {_size(done)},"
                    f" {_size(done / taken if taken else 0)}/s op, {_size(done / seconds)}/s total"
                )
                if threshold and done:
                    yield from self._breakdown(_KINDS.index(kind) * _EACH, ops, threshold)

    def _breakdown(self, base: int, ops: int, threshold: int) -> Iterator[str]:
        yield "  Request size and alignment breakdown:"
        numbers = self._numbers
        sizes = sorted(range(_BITS), key=lambda bits: -numbers[base + _HEAD + bits])
        seen = 0
        for place, bits in enumerate(sizes):
            count = numbers[base + _HEAD + bits]
            if not count:
                return
            if seen * 100 >= ops * threshold:
                rest = sum(numbers[base + _HEAD + other] for other in sizes[place:])
                length = sum(numbers[base + _HEAD + _BITS + other] for other in sizes[place:])
                yield f"    other sizes: {_percent(rest, ops)} ({rest} reqs, {_size(length)} total)"
                return
            seen += count
            total = _size(numbers[base + _HEAD + _BITS + bits])
            yield f"    {bits - 1:2} bits: {_percent(count, ops)} ({count} reqs, {total} total)"
            yield from self._alignments(base + _HEAD + 2 * _BITS + bits * _BITS, count, threshold)

    def _alignments(self, base: int, count: int, threshold: int) -> Iterator[str]:
        """Yield how many requests are aligned to at least so many bits, while that changes."""
        left = count
        for bits in range(_BITS):
            here = self._numbers[base + bits]
            if here:
                yield f"        {bits:2} bit aligned: {_percent(left, count)} ({left})"
            left -= here
            if left * 100 <= count * (100 - threshold):
                return


class StatsExport(AroundExport):
    """*next*, with every request counted in *table*."""

    def __init__(self, next: Export, table: Table) -> None:
        super().__init__(next)
        self._table = table

    def around(self, request: Request, do: Callable[[], T]) -> T:
        kind, length, offset, _ = request
        if kind not in _KINDS:
            return do()
        start = time.perf_counter_ns()
        result = do()
        self._table.add(kind, length, offset, time.perf_counter_ns() - start)
        return result


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:5.1f}%"


def _size(number: float) -> str:
    """Return a number of bytes with a unit."""
    for unit in ("bytes", "KiB", "MiB"):
        if number < 1024:
            return f"{int(number)} bytes" if unit == "bytes" else f"{number:.2f} {unit}"
        number /= 1024
    return f"{number:.2f} GiB"

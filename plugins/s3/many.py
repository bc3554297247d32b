"""A disk made of many objects of the same size; missing ones read as zeroes.

Objects can only be written as a whole.  A write of a part reads the rest first, and meanwhile holds
a lock on the number of the object, as does everything that changes an object; so all clients of a
server may write.  A write is sent to the store at once, and is safe when the store has answered.
"""

import errno
import itertools
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from nbdfork.plugin import (
    FAST_ZERO,
    HOLE,
    REQ_ONE,
    ZERO,
    BlockSize,
    Buffer,
    Export,
    Extent,
    Support,
)

from .locks import RangeLocks
from .meaning import NoSuchObject
from .store import Store

_MAX_REMEMBERED = 1 << 20
"""The most objects to remember as existing; they take tens of megabytes."""

_HELPERS = 8
"""How many threads read the parts of requests that reach over several objects."""

_MOST_FOREIGN = 100
"""So many pages of a listing without any object of the disk are not worth to go on."""

_MAX_PREFERRED = 32 * 1024 * 1024  # protocol document, "Block size constraints"


class Objects(Export):
    """One client's view of the objects PREFIX/0000000000000000 (hexadecimal) and following.

    Raises OSError if there is no such bucket, or no access to it, or the objects have another size.
    """

    def __init__(
        self, store: Store, prefix: str, size: int, object_size: int, locks: RangeLocks
    ) -> None:
        self._store = store
        self._prefix = prefix
        self._size = size
        self._object_size = object_size
        self._locks = locks
        self._zeroes = bytes(object_size)
        self._name = re.compile(re.escape(prefix) + "/([0-9a-f]{16})")
        self._existing: set[int] = set()  # objects that were there when last seen
        self._helpers = ThreadPoolExecutor(_HELPERS)  # threads are made when they are needed
        next(self._listed(0), None)

    # -- facts --------------------------------------------------------------------------

    def get_size(self) -> int:
        return self._size

    def block_size(self) -> BlockSize:
        size = self._object_size
        fits = size & (size - 1) == 0 and size <= _MAX_PREFERRED
        return BlockSize(preferred=size if fits else BlockSize().preferred)

    def can_multi_conn(self) -> bool:
        return True  # nothing is cached, and the store shows the latest data to everybody

    def can_fua(self) -> Support:
        return Support.NATIVE

    def can_fast_zero(self) -> bool:
        return True

    def close(self) -> None:
        self._store.close()
        self._helpers.shutdown()

    # -- reading ------------------------------------------------------------------------

    def pread(self, count: int, offset: int) -> Buffer:
        parts = list(self._parts(count, offset))
        if len(parts) == 1:
            return self._read(*parts[0])
        helped = self._helpers.map(lambda part: self._read(*part), parts[1:])
        return b"".join([self._read(*parts[0]), *helped])

    def _read(self, number: int, start: int, end: int) -> Buffer:
        """Return the bytes of an object from *start* to *end*."""
        try:
            data = self._store.get(self._key(number), start, end, self._object_size)
        except NoSuchObject:
            self._existing.discard(number)
            return self._zeroes[start:end]
        self._remember([number])
        return data

    def extents(self, count: int, offset: int, flags: int) -> Iterator[Extent]:
        first, end = offset // self._object_size, -(-(offset + count) // self._object_size)
        if flags & REQ_ONE and first in self._existing:
            # There is no need to ask the store: reporting a hole as data is allowed.
            known = itertools.takewhile(self._existing.__contains__, range(first, end))
            yield self._extent(first, first + sum(1 for _ in known), 0)
            return
        at = first
        for numbers in self._listed(first):
            for start, stop in _runs(numbers):
                if start > at:
                    yield self._extent(at, min(start, end), HOLE | ZERO)
                if start >= end:
                    return
                yield self._extent(start, stop, 0)
                at = stop
            if flags & REQ_ONE and at > first:
                return  # one page of the listing is enough
        if at < end:
            yield self._extent(at, end, HOLE | ZERO)

    def _extent(self, start: int, stop: int, kind: int) -> Extent:
        return Extent(start * self._object_size, (stop - start) * self._object_size, kind)

    def _listed(self, first: int) -> Iterator[list[int]]:
        """Yield the numbers of existing objects, from *first* on, a list for each page."""
        after = self._key(first - 1) if first else None
        last = self._key(-(-self._size // self._object_size))
        foreign = 0
        for page in self._store.pages(self._prefix, after):
            numbers = []
            for key, size in page:
                if match := self._name.fullmatch(key):
                    number = int(match[1], 16)
                    if size != self._object_size:
                        raise self._store.wrong_size(key, size, self._object_size)
                    numbers.append(number)
            foreign = 0 if numbers else foreign + 1
            if foreign > _MOST_FOREIGN:
                text = f"{self._store.shown(self._prefix)}/: too many keys of other objects"
                raise OSError(errno.EIO, text)
            self._remember(numbers)
            yield numbers
            if page and page[-1][0] > last:
                return

    # -- writing ------------------------------------------------------------------------

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        done = 0
        for number, start, end in self._parts(len(data), offset):
            part = data[done : done + end - start]
            with self._locks.held(number):
                self._write(number, start, part)
            done += end - start

    def _write(self, number: int, start: int, part: memoryview) -> None:
        """Write *part* into an object, at *start*, while the lock is held."""
        whole = len(part) == self._object_size
        zero = part.tobytes() == self._zeroes[: len(part)]
        if whole and zero:
            self._delete([number])
            return
        if whole:
            content: Buffer = part
        else:
            content = bytearray(self._read(number, 0, self._object_size))
            if zero and content == self._zeroes:
                return  # it does not exist, or might as well not
            content[start : start + len(part)] = part
            if zero and content == self._zeroes:
                self._delete([number])
                return
        self._store.put(self._key(number), content)
        self._remember([number])

    def flush(self) -> None:
        """Do nothing: what the store has acknowledged is safe."""

    def trim(self, count: int, offset: int, flags: int) -> None:
        first, end = self._whole(count, offset)
        if first < end:
            self._delete_range(first, end)

    def zero(self, count: int, offset: int, flags: int) -> None:
        first, end = self._whole(count, offset)
        if first >= end and flags & FAST_ZERO:
            raise OSError(errno.EOPNOTSUPP, "a part of an object is zeroed by writing")
        for number, start, stop in self._edges(count, offset):
            with self._locks.held(number):
                self._write(number, start, memoryview(self._zeroes)[start:stop])
        if first < end:
            self._delete_range(first, end)

    def _delete_range(self, first: int, end: int) -> None:
        """Delete the objects from *first* up to *end*; of several, only those that exist."""
        with self._locks.held(first, end - first):
            if end - first == 1:
                self._delete([first])
                return
            for numbers in self._listed(first):
                if doomed := [number for number in numbers if number < end]:
                    self._delete(doomed)
                if doomed != numbers:
                    return

    def _delete(self, numbers: list[int]) -> None:
        self._store.delete([self._key(number) for number in numbers])
        self._existing.difference_update(numbers)

    # -- objects ------------------------------------------------------------------------

    def _key(self, number: int) -> str:
        return f"{self._prefix}/{number:016x}"

    def _parts(self, count: int, offset: int) -> Iterator[tuple[int, int, int]]:
        """Yield (number, start, end) for the part of each object that is in a range."""
        end = offset + count
        while offset < end:
            number, start = divmod(offset, self._object_size)
            stop = min(self._object_size, start + end - offset)
            yield number, start, stop
            offset += stop - start

    def _whole(self, count: int, offset: int) -> tuple[int, int]:
        """Return the first object that is completely in a range, and the one after the last.

        The last object of the disk may reach past its end, which does not matter.
        """
        end = offset + count
        stop = -(-end // self._object_size) if end == self._size else end // self._object_size
        return -(-offset // self._object_size), stop

    def _edges(self, count: int, offset: int) -> Iterator[tuple[int, int, int]]:
        """Yield (number, start, end) for the objects of which only a part is in a range."""
        first, end = self._whole(count, offset)
        if first >= end:
            yield from self._parts(count, offset)
            return
        start, stop = first * self._object_size, end * self._object_size
        yield from self._parts(start - offset, offset)
        yield from self._parts(offset + count - stop, stop)  # nothing, if that is past the end

    def _remember(self, numbers: list[int]) -> None:
        if len(self._existing) > _MAX_REMEMBERED:
            self._existing.clear()
        self._existing.update(numbers)


def _runs(numbers: list[int]) -> Iterator[tuple[int, int]]:
    """Yield (first, last + 1) for each run of consecutive numbers."""
    for _, run in itertools.groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        found = [number for _, number in run]
        yield found[0], found[-1] + 1

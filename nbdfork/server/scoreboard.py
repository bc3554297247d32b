"""The scoreboard: what each worker is doing, in memory that all processes of a server share.

One mapping, in this order: a header with a version; a byte of state a slot; a byte of orders a
slot; the slots, all of one fixed size, and after the last one the totals of those that are gone.
It is a memfd, so that a process which does not inherit the mapping can be given it.

A slot is written by its worker alone, except that the supervisor claims it before the fork, gives
orders, and frees it when the worker has been reaped.  It is read without a lock: states, orders and
counters are single stores, and texts are only ever shown to people.
"""

import enum
import mmap
import os
import time
from struct import Struct
from typing import NamedTuple

VERSION = 1
"""Of the layout; whoever maps a scoreboard that it did not make compares it first."""

_MAGIC = b"NBDFSLOT"
_HEADER = Struct("=8sIII")  # magic, version, number of slots, size of a slot
_HEADER_SIZE = 64

_IDENTITY = Struct("=IId")  # pid, generation, since
_COUNTERS = Struct("=5Q")
_LATENCIES = 12
_LATENCY = Struct(f"={_LATENCIES}Q")
_PEER_SIZE, _EXPORT_SIZE, _REASON_SIZE = 64, 256, 296

_COUNTERS_AT = _IDENTITY.size
_LATENCY_AT = _COUNTERS_AT + _COUNTERS.size
_PEER_AT = _LATENCY_AT + _LATENCY.size
_EXPORT_AT = _PEER_AT + _PEER_SIZE
_REASON_AT = _EXPORT_AT + _EXPORT_SIZE
_SLOT_SIZE = _REASON_AT + _REASON_SIZE
_CACHE_LINE = 64
assert _SLOT_SIZE % _CACHE_LINE == 0, "workers would write to each other's cache lines"

_FIRST_BUCKET_BITS = 14
LATENCY_BOUNDS = tuple(1 << (_FIRST_BUCKET_BITS + 2 * n) for n in range(_LATENCIES - 1))
"""The upper bounds of the latency histogram's buckets, in nanoseconds: from 16 us on, each four
times the one before.  The last bucket has no bound."""


class State(enum.IntEnum):
    """What the owner of a slot is doing."""

    FREE = 0
    STARTING = 1
    IDLE = 2
    SERVING = 3
    FAILED = 4
    RESERVED = 5
    """Belongs to a worker that serves several clients at once, and is between two of them."""


class Counters(NamedTuple):
    """What has been done, in numbers; bytes are those of READ and WRITE requests that succeeded."""

    clients: int = 0
    requests: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    errors: int = 0


class Entry(NamedTuple):
    """What a slot says.

    *since*: when its state, peer or export last changed, in seconds since the epoch.  *peer* and
    *export*: who is served what.  *reason*: why the worker failed to start.  *latency*: how many
    requests took up to each of `LATENCY_BOUNDS`.
    """

    state: State
    pid: int
    generation: int
    since: float
    peer: str
    export: str
    reason: str
    counters: Counters
    latency: tuple[int, ...]

    @property
    def client(self) -> str:
        """Who is served what, for people; empty without a client."""
        return f"{self.peer} export {self.export!r}" if self.export else self.peer


class Scoreboard:
    """A fixed number of slots."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._orders_at = _HEADER_SIZE + slots
        self._slots_at = -(-(self._orders_at + slots) // _CACHE_LINE) * _CACHE_LINE
        size = self._slots_at + (slots + 1) * _SLOT_SIZE
        self.fd = os.memfd_create("nbdfork-scoreboard", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, size)
        self._map = mmap.mmap(self.fd, size)
        _HEADER.pack_into(self._map, 0, _MAGIC, VERSION, slots, _SLOT_SIZE)

    # -- in the supervisor --------------------------------------------------------------

    def claim(self, generation: int, count: int = 1) -> range | None:
        """Claim *count* slots in a row for a worker about to be forked; None if there are not
        that many.  The first is the worker's own, the others are for clients at the same time.
        """
        at = self._map.find(bytes([State.FREE]) * count, _HEADER_SIZE, self._orders_at)
        if at < 0:
            return None
        claimed = range(at - _HEADER_SIZE, at - _HEADER_SIZE + count)
        for index in claimed:
            offset = self._offset(index)
            self._map[offset : offset + _SLOT_SIZE] = bytes(_SLOT_SIZE)
            _IDENTITY.pack_into(self._map, offset, 0, generation, time.time())
            self._map[self._orders_at + index] = False
            self._map[_HEADER_SIZE + index] = State.RESERVED
        self._map[at] = State.STARTING
        return claimed

    def free(self, claimed: range) -> None:
        """The worker of these slots has been reaped; what it has done goes to the totals."""
        for index in claimed:
            self._add_counts(index, self._slots)
            self._map[_HEADER_SIZE + index] = State.FREE

    def retire(self, index: int) -> None:
        """Order the worker of a slot to end when it has no client."""
        self._map[self._orders_at + index] = True

    # -- in any process -----------------------------------------------------------------

    def state(self, index: int) -> State:
        """Return the state of a slot."""
        return State(self._map[_HEADER_SIZE + index])

    def states(self) -> bytes:
        """Return the states of all slots, a byte each."""
        return self._map[_HEADER_SIZE : self._orders_at]

    def entry(self, index: int) -> Entry:
        """Return all that a slot says."""
        offset = self._offset(index)
        pid, generation, since = _IDENTITY.unpack_from(self._map, offset)
        return Entry(
            self.state(index),
            pid,
            generation,
            since,
            self._text(offset + _PEER_AT, _PEER_SIZE),
            self._text(offset + _EXPORT_AT, _EXPORT_SIZE),
            self._text(offset + _REASON_AT, _REASON_SIZE),
            Counters(*_COUNTERS.unpack_from(self._map, offset + _COUNTERS_AT)),
            _LATENCY.unpack_from(self._map, offset + _LATENCY_AT),
        )

    def totals(self) -> tuple[Counters, tuple[int, ...]]:
        """Return the counters and latencies of all workers together, with those that are gone."""
        counters, latency = Counters(), (0,) * _LATENCIES
        for index in range(self._slots + 1):
            if index < self._slots and self._map[_HEADER_SIZE + index] == State.FREE:
                continue
            offset = self._offset(index)
            more = _COUNTERS.unpack_from(self._map, offset + _COUNTERS_AT)
            counters = Counters(*map(sum, zip(counters, more, strict=True)))
            more = _LATENCY.unpack_from(self._map, offset + _LATENCY_AT)
            latency = tuple(map(sum, zip(latency, more, strict=True)))
        return counters, latency

    # -- in the worker ------------------------------------------------------------------

    def slot(self, index: int) -> "Slot":
        """Return the means to write to a slot."""
        return Slot(self, index)

    # -- the layout ---------------------------------------------------------------------

    def _offset(self, index: int) -> int:
        return self._slots_at + index * _SLOT_SIZE

    def _text(self, offset: int, size: int) -> str:
        return self._map[offset : offset + size].rstrip(b"\0").decode(errors="ignore")

    def _numbers(self, index: int) -> memoryview:
        """Return the counters of a slot, and its latencies after them, as numbers."""
        offset = self._offset(index)
        return memoryview(self._map)[offset + _COUNTERS_AT : offset + _PEER_AT].cast("Q")

    def _add_counts(self, index: int, into: int) -> None:
        """Move what a slot has counted into another one."""
        source, target = self._numbers(index), self._numbers(into)
        for place, number in enumerate(source):
            target[place] += number
            source[place] = 0


class Slot:
    """A worker's slot, or that of one of its clients, as its owner writes it."""

    def __init__(self, board: Scoreboard, index: int) -> None:
        self._board = board
        self._index = index
        self._map = board._map
        self._offset = board._offset(index)
        self._numbers = board._numbers(index)

    def set(self, state: State, peer: str = "", reason: str = "") -> None:
        """The owner is now in *state*, serving *peer* or having failed for *reason*."""
        offset, generation = self._offset, self.entry().generation
        _IDENTITY.pack_into(self._map, offset, os.getpid(), generation, time.time())
        self._set_text(_PEER_AT, _PEER_SIZE, peer)
        self._set_text(_EXPORT_AT, _EXPORT_SIZE, "")
        self._set_text(_REASON_AT, _REASON_SIZE, reason)
        self._map[_HEADER_SIZE + self._index] = state

    def begin(self, peer: str) -> None:
        """A client has come."""
        self.set(State.SERVING, peer)
        self._numbers[0] += 1  # Counters.clients

    def set_export(self, name: str) -> None:
        """The client has chosen the export *name*."""
        self._set_text(_EXPORT_AT, _EXPORT_SIZE, name)

    def count(
        self, requests: int, bytes_read: int, bytes_written: int, errors: int, nanoseconds: int
    ) -> None:
        """Add a batch of requests that were received together and took *nanoseconds*."""
        numbers = self._numbers
        numbers[1] += requests
        if bytes_read:
            numbers[2] += bytes_read
        if bytes_written:
            numbers[3] += bytes_written
        if errors:
            numbers[4] += errors
        bucket = ((nanoseconds >> _FIRST_BUCKET_BITS).bit_length() + 1) >> 1
        numbers[5 + (bucket if bucket < _LATENCIES else _LATENCIES - 1)] += requests

    def merge_into(self, other: "Slot") -> None:
        """Move what was counted here to *other*."""
        self._board._add_counts(self._index, other._index)

    def is_retired(self) -> bool:
        """Return whether the supervisor has ordered the worker to end."""
        return bool(self._map[self._board._orders_at + self._index])

    def entry(self) -> Entry:
        """Return what the slot says."""
        return self._board.entry(self._index)

    def _set_text(self, at: int, size: int, text: str) -> None:
        """Write *text*, cut off if it is long; what is not Unicode in it is shown by escapes."""
        data = text.encode(errors="backslashreplace")[:size]
        start = self._offset + at
        self._map[start : start + size] = data.ljust(size, b"\0")

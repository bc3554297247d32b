"""A slot of the scoreboard: its layout, and how its owner writes it.

See `scoreboard`.  Each number, state and order is a single store.
"""

import enum
import mmap
import os
import threading
import time
from collections.abc import Callable
from struct import Struct
from typing import NamedTuple, Protocol
from zlib import adler32, crc32

from nbdfork.server.linux import SharedMemory

VERSION = 3
"""Of the layout; whoever maps a scoreboard that it did not make compares it first."""

SLOT_SIZE = mmap.PAGESIZE

STATE_AT = 0
ORDER_AT = 1
IDENTITY_AT = 8
IDENTITY = Struct("=IId")  # pid, generation, since
NUMBERS_AT = 64  # as unsigned 64-bit numbers, from here to the texts
_COUNTERS = Struct("=4Q")  # clients, bytes read, bytes written, errors
_READ, _WRITTEN, _ERRORS = 1, 2, 3  # their places among the numbers
LATENCIES = 12
_LATENCY = Struct(f"={LATENCIES}Q")
_LATENCY_AT = NUMBERS_AT + _COUNTERS.size
_BUSY_AT = _LATENCY_AT + _LATENCY.size
_FIRST_BUCKET = 4
BUSY = _FIRST_BUCKET + LATENCIES
_FIRST = BUSY + 1  # how many requests there had been before this client's
PARTY = BUSY + 2
_CLOSING = BUSY + 3
DISK = BUSY + 4  # a number for the export, by which its clients are counted
HELD = BUSY + 5  # bytes, by the data of large requests
TEXTS_AT = 256
_PEER_SIZE, _EXPORT_SIZE, _REASON_SIZE = 64, 256, 1024
_PEER_AT = TEXTS_AT
_EXPORT_AT = _PEER_AT + _PEER_SIZE
_REASON_AT = _EXPORT_AT + _EXPORT_SIZE

MOST = (1 << 64) - 1
MOST_HELD = 1 << 28  # by one client; its worker has gone mad if it says more
_FIRST_BUCKET_BITS = 14
LATENCY_BOUNDS = tuple(1 << (_FIRST_BUCKET_BITS + 2 * n) for n in range(LATENCIES - 1))
"""The upper bounds of the latency histogram's buckets, in nanoseconds: from 16 us on, each four
times the one before.  The last bucket has no bound."""


class State(enum.IntEnum):
    """What the owner of a slot is doing."""

    FREE = 0
    STARTING = 1
    IDLE = 2
    SERVING = 3
    FAILED = 4
    """Could not start."""

    ENDED = 5
    """Has nothing more to do, and ends of its own accord."""


STATES: dict[int, State] = {state.value: state for state in State}


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
    *export*: who is served what.  *reason*: why the worker failed.  *latency*: how many requests
    took up to each of `LATENCY_BOUNDS`.  *busy_since*: when the oldest request, or other call to
    the plugin, that is being carried out began, in nanoseconds of the monotonic clock; 0 if none.
    *is_silent*: the client has not sent a request yet, or none that was answered.  *is_closing*:
    its connection is over, and what the plugin still does is for the disk.
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
    busy_since: int
    is_silent: bool
    is_closing: bool

    def has_been_busy(self, seconds: float) -> bool:
        """Return whether the plugin has been at work for the client, and not only for the disk, for
        so many *seconds*.
        """
        spent = time.monotonic_ns() - self.busy_since
        return bool(self.busy_since) and not self.is_closing and spent >= seconds * 1e9

    @property
    def client(self) -> str:
        """Who is served what, for people; empty without a client."""
        return f"{self.peer} export {self.export!r}" if self.export else self.peer


class Counting(Protocol):
    """What a slot asks of the scoreboard."""

    def count_disk(self, number: int) -> int:
        """Return how many clients have the export of that *number*."""


class Slot:
    """A worker's slot, or that of one of its clients, as its owner writes it."""

    def __init__(
        self,
        memory: SharedMemory,
        place: int,
        board: Counting | None = None,
        has_room: Callable[[], bool] = lambda: True,
    ) -> None:
        """Take the slot at *place* in what `Scoreboard.share` of *board* has returned.

        *has_room* says whether the requests of all slots hold no more than they may.
        """
        self._board = board
        self._bytes = memory.bytes[place * SLOT_SIZE :][:SLOT_SIZE]
        self._numbers = self._bytes[NUMBERS_AT:TEXTS_AT].cast("Q")
        self._has_room = has_room
        self._holding = threading.Lock()
        self.on_closing: Callable[[], object] = lambda: None
        self.is_detached = False

    def detach(self) -> None:
        """From now on write where nobody reads: the slot is free for another."""
        self.is_detached = True
        self._bytes = memoryview(bytearray(SLOT_SIZE))
        self._numbers = self._bytes[NUMBERS_AT:TEXTS_AT].cast("Q")

    def set(self, state: State, peer: str = "", reason: str = "") -> None:
        """The owner is now in *state*, serving *peer* or having failed for *reason*."""
        _, generation, _ = IDENTITY.unpack_from(self._bytes, IDENTITY_AT)
        IDENTITY.pack_into(self._bytes, IDENTITY_AT, os.getpid(), generation, time.time())
        self._set_text(_PEER_AT, _PEER_SIZE, peer)
        self._set_text(_EXPORT_AT, _EXPORT_SIZE, "")
        self._set_text(_REASON_AT, _REASON_SIZE, reason)
        if state is not State.SERVING:
            self._numbers[PARTY] = self._numbers[DISK] = self._numbers[HELD] = 0
        self._bytes[STATE_AT] = state

    def begin(self, peer: str) -> None:
        """A client has come."""
        self.set(State.SERVING, peer)
        self._numbers[_FIRST] = self.entry().counters.requests & MOST
        self._numbers[_CLOSING] = 0
        self._numbers[0] += 1  # Counters.clients

    @property
    def peer(self) -> str:
        """Who the client is, for people."""
        return _text(self._bytes, _PEER_AT, _PEER_SIZE) or "on standard input"

    def set_party(self, party: int) -> None:
        """The client belongs to *party* (`Peer.party`); 0: there is none."""
        self._numbers[PARTY] = party

    def set_export(self, name: str) -> None:
        """The client has chosen the export *name*."""
        self._set_text(_EXPORT_AT, _EXPORT_SIZE, name)

    def take(self, export: str, most: int) -> bool:
        """Take a place among the *most* clients of *export*; return False if there is none."""
        data = export.encode(errors="surrogateescape")
        number = crc32(data) << 32 | adler32(data)
        self._numbers[DISK] = number  # first: two that come at the same time see each other
        if self._board is None or self._board.count_disk(number) <= most:
            return True
        self._numbers[DISK] = 0
        return False

    def set_closing(self) -> None:
        """The connection is over: what the plugin does now is for its disk, not for the client."""
        self._numbers[_CLOSING] = 1
        with self._holding:
            self._numbers[HELD] = 0
        self.on_closing()

    def hold(self, count: int) -> bool:
        """Large requests of the client hold *count* bytes more; return False, and count nothing, if
        that is more than there may be.
        """
        with self._holding:
            self._numbers[HELD] += count
        if self._has_room():
            return True
        self.let_go(count)
        return False

    def let_go(self, count: int) -> None:
        """Large requests of the client hold *count* bytes less."""
        with self._holding:  # what is not there was given up with the connection
            self._numbers[HELD] = max(0, self._numbers[HELD] - count)

    def set_busy(self, since: int) -> None:
        """The plugin has been at work since then (`Entry.busy_since`), or is not (0)."""
        self._numbers[BUSY] = since

    def count(
        self, requests: int, bytes_read: int, bytes_written: int, errors: int, nanoseconds: int
    ) -> None:
        """Add a batch of requests that were received together and took *nanoseconds*.  The plugin
        is not busy any more.
        """
        numbers = self._numbers
        numbers[BUSY] = 0
        if bytes_read:
            numbers[_READ] += bytes_read
        if bytes_written:
            numbers[_WRITTEN] += bytes_written
        if errors:
            numbers[_ERRORS] += errors
        bucket = ((nanoseconds >> _FIRST_BUCKET_BITS).bit_length() + 1) >> 1
        numbers[_FIRST_BUCKET + (bucket if bucket < LATENCIES else LATENCIES - 1)] += requests

    def merge_into(self, other: "Slot") -> None:
        """Move what was counted here to *other*."""
        for place in range(BUSY):
            other._numbers[place] += self._numbers[place]
            self._numbers[place] = 0

    def is_retired(self) -> bool:
        """Return whether the supervisor has ordered the worker to end."""
        return bool(self._bytes[ORDER_AT])

    def entry(self) -> Entry:
        """Return what the slot says."""
        return read_entry(self._bytes)

    def _set_text(self, at: int, size: int, text: str) -> None:
        """Write *text*, cut off if it is long; what is not Unicode in it is shown by escapes."""
        data = text.encode(errors="backslashreplace")[:size]
        self._bytes[at : at + size] = data.ljust(size, b"\0")


def read_entry(slot: memoryview) -> Entry:
    """Return what is in the bytes of a slot."""
    pid, generation, since = IDENTITY.unpack_from(slot, IDENTITY_AT)
    clients, *others = _COUNTERS.unpack_from(slot, NUMBERS_AT)
    latency = _LATENCY.unpack_from(slot, _LATENCY_AT)
    counters = Counters(clients, sum(latency), *others)  # what is not stored twice costs nothing
    busy_since, first, _, closing = Struct("=4Q").unpack_from(slot, _BUSY_AT)
    return Entry(
        STATES.get(slot[STATE_AT], State.SERVING),
        pid,
        generation,
        since,
        _text(slot, _PEER_AT, _PEER_SIZE),
        _text(slot, _EXPORT_AT, _EXPORT_SIZE),
        _text(slot, _REASON_AT, _REASON_SIZE),
        counters,
        latency,
        busy_since,
        counters.requests == first,
        bool(closing),
    )


def _text(slot: memoryview, at: int, size: int) -> str:
    return bytes(slot[at : at + size]).rstrip(b"\0").decode(errors="ignore")

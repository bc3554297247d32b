"""The scoreboard: what each worker is doing, in memory that all processes of a server share.

A page for the header, and a page for each slot, in a memfd that another process can be given.
A slot is written by its worker alone, except that the supervisor resets it before the fork and
gives orders in it.  A worker can read all slots and write its own: whatever it does, the slots of
others stay as they are, and which slots are taken is nothing that can be read from here, for the
supervisor keeps that to itself.

It is read without a lock: states, orders and counters are single stores, and texts are only ever
shown to people.  What is read may be nonsense, if a worker has gone mad.
"""

import enum
import mmap
import os
import threading
import time
from collections.abc import Callable
from struct import Struct
from typing import NamedTuple
from zlib import adler32, crc32

from nbdfork.server.linux import SharedMemory

VERSION = 3
"""Of the layout; whoever maps a scoreboard that it did not make compares it first."""

_MAGIC = b"NBDFSLOT"
_HEADER = Struct("=8sIIII")  # magic, version, slots, size of a slot, slots that were ever taken
_SLOT_SIZE = mmap.PAGESIZE

_STATE_AT = 0
_ORDER_AT = 1
_IDENTITY_AT = 8
_IDENTITY = Struct("=IId")  # pid, generation, since
_NUMBERS_AT = 64  # as unsigned 64-bit numbers, from here to the texts
_COUNTERS = Struct("=4Q")  # clients, bytes read, bytes written, errors
_READ, _WRITTEN, _ERRORS = 1, 2, 3  # their places among the numbers
_LATENCIES = 12
_LATENCY = Struct(f"={_LATENCIES}Q")
_LATENCY_AT = _NUMBERS_AT + _COUNTERS.size
_BUSY_AT = _LATENCY_AT + _LATENCY.size
_FIRST_BUCKET = 4
_BUSY = _FIRST_BUCKET + _LATENCIES
_FIRST = _BUSY + 1  # how many requests there had been before this client's
_PARTY = _BUSY + 2
_CLOSING = _BUSY + 3
_DISK = _BUSY + 4  # a number for the export, by which its clients are counted
_HELD = _BUSY + 5  # bytes, by the data of large requests
_TEXTS_AT = 256
_PEER_SIZE, _EXPORT_SIZE, _REASON_SIZE = 64, 256, 1024
_PEER_AT = _TEXTS_AT
_EXPORT_AT = _PEER_AT + _PEER_SIZE
_REASON_AT = _EXPORT_AT + _EXPORT_SIZE

_MOST = (1 << 64) - 1
_MOST_HELD = 1 << 28  # by one client; its worker has gone mad if it says more
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
    """Could not start."""

    ENDED = 5
    """Has nothing more to do, and ends of its own accord."""


_STATES: dict[int, State] = {state.value: state for state in State}


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


class Scoreboard:
    """A fixed number of slots."""

    def __init__(self, slots: int) -> None:
        self._taken = bytearray(slots)  # what is claimed, where no worker can write
        size = (1 + slots + 1) * _SLOT_SIZE  # the header, the slots, and those that are gone
        self.fd = os.memfd_create("nbdfork-scoreboard", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, size)
        self._memory = SharedMemory(self.fd, 0, size, writable=True)
        self._memory.keep_from_children()
        _HEADER.pack_into(self._memory.bytes, 0, _MAGIC, VERSION, slots, _SLOT_SIZE, 0)
        reading = os.open(f"/proc/self/fd/{self.fd}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.bytes = SharedMemory(reading, 0, size, writable=False).bytes
        finally:
            os.close(reading)

    # -- in the supervisor --------------------------------------------------------------

    def claim(self, generation: int, count: int = 1) -> range | None:
        """Claim *count* slots in a row for a worker about to be forked; None if there are not
        that many.  The first is the worker's own, the others are for clients at the same time.
        """
        first = self._taken.find(bytes(count))
        if first < 0:
            return None
        claimed = range(first, first + count)
        self._taken[first : claimed.stop] = b"\1" * count
        for index in claimed:
            slot = self._writable(index)
            slot[:] = bytes(_SLOT_SIZE)
            _IDENTITY.pack_into(slot, _IDENTITY_AT, 0, generation, time.time())
        self._writable(first)[_STATE_AT] = State.STARTING
        used = max(self.used, claimed.stop)
        _HEADER.pack_into(
            self._memory.bytes, 0, _MAGIC, VERSION, len(self._taken), _SLOT_SIZE, used
        )
        return claimed

    def free(self, claimed: range) -> None:
        """The worker of these slots has been reaped; what it has done goes to the totals."""
        gone = self._writable(len(self._taken))[_NUMBERS_AT:_TEXTS_AT].cast("Q")
        for index in claimed:
            numbers = self._writable(index)[_NUMBERS_AT:_TEXTS_AT].cast("Q")
            for place in range(_BUSY):
                gone[place] = (gone[place] + numbers[place]) & _MOST
            self._writable(index)[:_TEXTS_AT] = bytes(_TEXTS_AT)  # State.FREE, and nobody's client
            self._taken[index] = False

    def retire(self, index: int) -> None:
        """Order the worker of a slot to end when it has no client."""
        self._writable(index)[_ORDER_AT] = True

    def share(self, slots: range) -> SharedMemory:
        """Return the memory of *slots* alone, for the worker that is to write to them."""
        size = len(slots) * _SLOT_SIZE
        return SharedMemory(self.fd, self._offset(slots[0]), size, writable=True)

    # -- in any process -----------------------------------------------------------------

    def state(self, index: int) -> State:
        """Return the state of a slot; what is no state is taken for that of one that serves."""
        return _STATES.get(self.bytes[self._offset(index)], State.SERVING)

    def entry(self, index: int) -> Entry:
        """Return all that a slot says."""
        return _entry(self.bytes[self._offset(index) :][:_SLOT_SIZE])

    def clients(self, slots: range) -> str:
        """Return who is served by the owner of *slots*, for people; empty if nobody is."""
        serving = [index for index in slots if self.state(index) is State.SERVING]
        return "; ".join(filter(None, (self.entry(index).client for index in serving)))

    def count_party(self, party: int) -> int:
        """Return how many clients of a party there are (`Peer.party`)."""
        return self._column(_PARTY).count(party)

    def held(self) -> int:
        """Return how many bytes the large requests of all clients hold."""
        return sum(min(held, _MOST_HELD) for held in self._column(_HELD) if held)

    def _column(self, place: int) -> list[int]:
        """Return one of the numbers of all slots that were ever taken."""
        first = (_NUMBERS_AT + 8 * place) // 8
        used = self.bytes[self._offset(0) : self._offset(self.used)]
        return used.cast("Q")[first :: _SLOT_SIZE // 8].tolist()

    def count_disk(self, number: int) -> int:
        """Return how many clients have the export of that *number*."""
        return self._column(_DISK).count(number)

    @property
    def used(self) -> int:
        """The number of slots that were ever taken: those after them need not be looked at."""
        return int(_HEADER.unpack_from(self.bytes)[-1])

    def totals(self) -> tuple[Counters, tuple[int, ...]]:
        """Return what all workers have done together, those that are gone included: the counters,
        and the latency.
        """
        counters, latency = Counters(), (0,) * _LATENCIES
        slots = _HEADER.unpack_from(self.bytes)[2]
        entries = [self.entry(index) for index in range(self.used)]
        present = [entry for entry in entries if entry.state is not State.FREE]
        for entry in (*present, self.entry(slots)):
            counters = Counters(*map(sum, zip(counters, entry.counters, strict=True)))
            latency = tuple(map(sum, zip(latency, entry.latency, strict=True)))
        return counters, latency

    def _writable(self, index: int) -> memoryview:
        return self._memory.bytes[self._offset(index) :][:_SLOT_SIZE]

    def _offset(self, index: int) -> int:
        return (1 + index) * _SLOT_SIZE


class Slot:
    """A worker's slot, or that of one of its clients, as its owner writes it."""

    def __init__(
        self,
        memory: SharedMemory,
        place: int,
        board: Scoreboard | None = None,
        has_room: Callable[[], bool] = lambda: True,
    ) -> None:
        """Take the slot at *place* in what `Scoreboard.share` of *board* has returned.

        *has_room* says whether the requests of all slots hold no more than they may.
        """
        self._board = board
        self._bytes = memory.bytes[place * _SLOT_SIZE :][:_SLOT_SIZE]
        self._numbers = self._bytes[_NUMBERS_AT:_TEXTS_AT].cast("Q")
        self._has_room = has_room
        self._holding = threading.Lock()
        self.on_closing: Callable[[], object] = lambda: None
        self.is_detached = False

    def detach(self) -> None:
        """From now on write where nobody reads: the slot is free for another."""
        self.is_detached = True
        self._bytes = memoryview(bytearray(_SLOT_SIZE))
        self._numbers = self._bytes[_NUMBERS_AT:_TEXTS_AT].cast("Q")

    def set(self, state: State, peer: str = "", reason: str = "") -> None:
        """The owner is now in *state*, serving *peer* or having failed for *reason*."""
        _, generation, _ = _IDENTITY.unpack_from(self._bytes, _IDENTITY_AT)
        _IDENTITY.pack_into(self._bytes, _IDENTITY_AT, os.getpid(), generation, time.time())
        self._set_text(_PEER_AT, _PEER_SIZE, peer)
        self._set_text(_EXPORT_AT, _EXPORT_SIZE, "")
        self._set_text(_REASON_AT, _REASON_SIZE, reason)
        if state is not State.SERVING:
            self._numbers[_PARTY] = self._numbers[_DISK] = self._numbers[_HELD] = 0
        self._bytes[_STATE_AT] = state

    def begin(self, peer: str) -> None:
        """A client has come."""
        self.set(State.SERVING, peer)
        self._numbers[_FIRST] = self.entry().counters.requests & _MOST
        self._numbers[_CLOSING] = 0
        self._numbers[0] += 1  # Counters.clients

    @property
    def peer(self) -> str:
        """Who the client is, for people."""
        return _text(self._bytes, _PEER_AT, _PEER_SIZE) or "on standard input"

    def set_party(self, party: int) -> None:
        """The client belongs to *party* (`Peer.party`); 0: there is none."""
        self._numbers[_PARTY] = party

    def set_export(self, name: str) -> None:
        """The client has chosen the export *name*."""
        self._set_text(_EXPORT_AT, _EXPORT_SIZE, name)

    def take(self, export: str, most: int) -> bool:
        """Take a place among the *most* clients of *export*; return False if there is none."""
        data = export.encode(errors="surrogateescape")
        number = crc32(data) << 32 | adler32(data)
        self._numbers[_DISK] = number  # first: two that come at the same time see each other
        if self._board is None or self._board.count_disk(number) <= most:
            return True
        self._numbers[_DISK] = 0
        return False

    def set_closing(self) -> None:
        """The connection is over: what the plugin does now is for its disk, not for the client."""
        self._numbers[_CLOSING] = 1
        with self._holding:
            self._numbers[_HELD] = 0
        self.on_closing()

    def hold(self, count: int) -> bool:
        """Large requests of the client hold *count* bytes more; return False, and count nothing, if
        that is more than there may be.
        """
        with self._holding:
            self._numbers[_HELD] += count
        if self._has_room():
            return True
        self.let_go(count)
        return False

    def let_go(self, count: int) -> None:
        """Large requests of the client hold *count* bytes less."""
        with self._holding:  # what is not there was given up with the connection
            self._numbers[_HELD] = max(0, self._numbers[_HELD] - count)

    def set_busy(self, since: int) -> None:
        """The plugin has been at work since then (`Entry.busy_since`), or is not (0)."""
        self._numbers[_BUSY] = since

    def count(
        self, requests: int, bytes_read: int, bytes_written: int, errors: int, nanoseconds: int
    ) -> None:
        """Add a batch of requests that were received together and took *nanoseconds*.  The plugin
        is not busy any more.
        """
        numbers = self._numbers
        numbers[_BUSY] = 0
        if bytes_read:
            numbers[_READ] += bytes_read
        if bytes_written:
            numbers[_WRITTEN] += bytes_written
        if errors:
            numbers[_ERRORS] += errors
        bucket = ((nanoseconds >> _FIRST_BUCKET_BITS).bit_length() + 1) >> 1
        numbers[_FIRST_BUCKET + (bucket if bucket < _LATENCIES else _LATENCIES - 1)] += requests

    def merge_into(self, other: "Slot") -> None:
        """Move what was counted here to *other*."""
        for place in range(_BUSY):
            other._numbers[place] += self._numbers[place]
            self._numbers[place] = 0

    def is_retired(self) -> bool:
        """Return whether the supervisor has ordered the worker to end."""
        return bool(self._bytes[_ORDER_AT])

    def entry(self) -> Entry:
        """Return what the slot says."""
        return _entry(self._bytes)

    def _set_text(self, at: int, size: int, text: str) -> None:
        """Write *text*, cut off if it is long; what is not Unicode in it is shown by escapes."""
        data = text.encode(errors="backslashreplace")[:size]
        self._bytes[at : at + size] = data.ljust(size, b"\0")


def _entry(slot: memoryview) -> Entry:
    pid, generation, since = _IDENTITY.unpack_from(slot, _IDENTITY_AT)
    clients, *others = _COUNTERS.unpack_from(slot, _NUMBERS_AT)
    latency = _LATENCY.unpack_from(slot, _LATENCY_AT)
    counters = Counters(clients, sum(latency), *others)  # what is not stored twice costs nothing
    busy_since, first, _, closing = Struct("=4Q").unpack_from(slot, _BUSY_AT)
    return Entry(
        _STATES.get(slot[_STATE_AT], State.SERVING),
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

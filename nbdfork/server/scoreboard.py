"""The scoreboard: what each worker is doing, in memory that all processes of a server share.

A page for the header, and a page for each slot, in a memfd that another process can be given.
A slot is written by its worker alone, except that the supervisor resets it before the fork and
gives orders in it.  A worker can read all slots and write its own: whatever it does, the slots of
others stay as they are, and which slots are taken is nothing that can be read from here, for the
supervisor keeps that to itself.

It is read without a lock: states, orders and counters are single stores, and texts are only ever
shown to people.  What is read may be nonsense, if a worker has gone mad.
"""

import os
import time
from collections.abc import Iterable
from struct import Struct

from nbdfork.server.errors import StartupError
from nbdfork.server.linux import SharedMemory
from nbdfork.server.slots import (
    BUSY,
    DISK,
    HELD,
    IDENTITY,
    IDENTITY_AT,
    LATENCIES,
    MOST,
    MOST_HELD,
    NUMBERS_AT,
    ORDER_AT,
    PARTY,
    SLOT_SIZE,
    STATE_AT,
    STATES,
    TEXTS_AT,
    VERSION,
    Counters,
    Entry,
    State,
    read_entry,
)

_MAGIC = b"NBDFSLOT"
_HEADER = Struct("=8sIIII")  # magic, version, slots, size of a slot, slots that were ever taken


class Scoreboard:
    """A number of slots, which grows only when another program takes it over."""

    def __init__(self, slots: int, fd: int | None = None) -> None:
        """*fd*: that of another scoreboard, of no more slots, which goes on in this one."""
        self._taken = bytearray(slots)  # what is claimed, where no worker can write
        size = (1 + slots + 1) * SLOT_SIZE  # the header, the slots, and those that are gone
        if fd is None:
            fd = os.memfd_create("nbdfork-scoreboard", os.MFD_CLOEXEC)
        self.fd = fd
        os.ftruncate(self.fd, size)
        self._memory = SharedMemory(self.fd, 0, size, writable=True)
        self._memory.keep_from_children()
        _, _, before, _, used = _HEADER.unpack_from(self._memory.bytes)
        if before and before != slots:  # the totals stand behind the last slot
            self._writable(slots)[:] = self._writable(before)
            self._writable(before)[:] = bytes(SLOT_SIZE)
        _HEADER.pack_into(self._memory.bytes, 0, _MAGIC, VERSION, slots, SLOT_SIZE, used)
        reading = os.open(f"/proc/self/fd/{self.fd}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.bytes = SharedMemory(reading, 0, size, writable=False).bytes
        finally:
            os.close(reading)

    # -- in the supervisor --------------------------------------------------------------

    @classmethod
    def take_over(cls, fd: int, slots: int, claimed: Iterable[range]) -> "Scoreboard":
        """Return the scoreboard on *fd*, with *slots* at least; those *claimed* stay so.

        Raises `StartupError` if it has another layout.
        """
        magic, version, before, size, _ = _HEADER.unpack(os.pread(fd, _HEADER.size, 0))
        if (magic, version, size) != (_MAGIC, VERSION, SLOT_SIZE):
            raise StartupError("the scoreboard of the server that runs is another: restart it")
        board = cls(max(slots, before), os.dup(fd))
        for one in claimed:
            board._taken[one.start : one.stop] = b"\1" * len(one)
        for index in range(board.used):
            if not board._taken[index] and board.state(index) is not State.FREE:
                board.free(range(index, index + 1))
        return board

    @property
    def slots(self) -> int:
        """How many there are."""
        return len(self._taken)

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
            slot[:] = bytes(SLOT_SIZE)
            IDENTITY.pack_into(slot, IDENTITY_AT, 0, generation, time.time())
        self._writable(first)[STATE_AT] = State.STARTING
        used = max(self.used, claimed.stop)
        _HEADER.pack_into(self._memory.bytes, 0, _MAGIC, VERSION, len(self._taken), SLOT_SIZE, used)
        return claimed

    def free(self, claimed: range) -> None:
        """The worker of these slots has been reaped; what it has done goes to the totals."""
        gone = self._writable(len(self._taken))[NUMBERS_AT:TEXTS_AT].cast("Q")
        for index in claimed:
            numbers = self._writable(index)[NUMBERS_AT:TEXTS_AT].cast("Q")
            for place in range(BUSY):
                gone[place] = (gone[place] + numbers[place]) & MOST
            self._writable(index)[:TEXTS_AT] = bytes(TEXTS_AT)  # State.FREE, and nobody's client
            self._taken[index] = False

    def retire(self, index: int) -> None:
        """Order the worker of a slot to end when it has no client."""
        self._writable(index)[ORDER_AT] = True

    def share(self, slots: range) -> SharedMemory:
        """Return the memory of *slots* alone, for the worker that is to write to them."""
        size = len(slots) * SLOT_SIZE
        return SharedMemory(self.fd, self._offset(slots[0]), size, writable=True)

    # -- in any process -----------------------------------------------------------------

    def state(self, index: int) -> State:
        """Return the state of a slot; what is no state is taken for that of one that serves."""
        return STATES.get(self.bytes[self._offset(index)], State.SERVING)

    def entry(self, index: int) -> Entry:
        """Return all that a slot says."""
        return read_entry(self.bytes[self._offset(index) :][:SLOT_SIZE])

    def clients(self, slots: range) -> str:
        """Return who is served by the owner of *slots*, for people; empty if nobody is."""
        serving = [index for index in slots if self.state(index) is State.SERVING]
        return "; ".join(filter(None, (self.entry(index).client for index in serving)))

    def count_party(self, party: int) -> int:
        """Return how many clients of a party there are (`Peer.party`)."""
        return self._column(PARTY).count(party)

    def held(self) -> int:
        """Return how many bytes the large requests of all clients hold."""
        return sum(min(held, MOST_HELD) for held in self._column(HELD) if held)

    def _column(self, place: int) -> list[int]:
        """Return one of the numbers of all slots that were ever taken."""
        first = (NUMBERS_AT + 8 * place) // 8
        used = self.bytes[self._offset(0) : self._offset(self.used)]
        return used.cast("Q")[first :: SLOT_SIZE // 8].tolist()

    def count_disk(self, number: int) -> int:
        """Return how many clients have the export of that *number*."""
        return self._column(DISK).count(number)

    @property
    def used(self) -> int:
        """The number of slots that were ever taken: those after them need not be looked at."""
        return int(_HEADER.unpack_from(self.bytes)[-1])

    def totals(self) -> tuple[Counters, tuple[int, ...]]:
        """Return what all workers have done together, those that are gone included: the counters,
        and the latency.
        """
        counters, latency = Counters(), (0,) * LATENCIES
        slots = _HEADER.unpack_from(self.bytes)[2]
        entries = [self.entry(index) for index in range(self.used)]
        present = [entry for entry in entries if entry.state is not State.FREE]
        for entry in (*present, self.entry(slots)):
            counters = Counters(*map(sum, zip(counters, entry.counters, strict=True)))
            latency = tuple(map(sum, zip(latency, entry.latency, strict=True)))
        return counters, latency

    def _writable(self, index: int) -> memoryview:
        return self._memory.bytes[self._offset(index) :][:SLOT_SIZE]

    def _offset(self, index: int) -> int:
        return (1 + index) * SLOT_SIZE

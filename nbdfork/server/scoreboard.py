"""The scoreboard: what each worker is doing, in memory that all of them share.

One fixed-size slot a worker, in an anonymous shared mapping.  A slot is written by its worker,
except that the supervisor claims it before the fork and frees it after the reaping.  Slots are
read without a lock: a state is one byte, and a note is only ever shown to people.
"""

import enum
import mmap
from struct import Struct

NOTE_SIZE = 240
_SLOT = Struct(f"=B?{NOTE_SIZE}s")
_SERVED = 1


class State(enum.IntEnum):
    """What a worker is doing."""

    FREE = 0
    STARTING = 1
    IDLE = 2
    SERVING = 3
    FAILED = 4


class Scoreboard:
    """A fixed number of slots."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._map = mmap.mmap(-1, slots * _SLOT.size)

    # -- in the supervisor --------------------------------------------------------------

    def claim(self) -> int | None:
        """Claim a free slot for a worker about to be forked; None if all are taken."""
        slot = self._states().find(State.FREE)
        if slot < 0:
            return None
        _SLOT.pack_into(self._map, slot * _SLOT.size, State.STARTING, False, b"")
        return slot

    def free(self, slot: int) -> None:
        """The worker of *slot* has been reaped."""
        self._map[slot * _SLOT.size] = State.FREE

    def state(self, slot: int) -> State:
        """Return what the worker of *slot* is doing."""
        return State(self._map[slot * _SLOT.size])

    def has_served(self, slot: int) -> bool:
        """Return whether the worker of *slot* has had a client."""
        return self._map[slot * _SLOT.size + _SERVED] != 0

    def note(self, slot: int) -> str:
        """Return who the worker of *slot* serves, or why it failed to start."""
        offset = slot * _SLOT.size + 2
        return self._map[offset : offset + NOTE_SIZE].rstrip(b"\0").decode(errors="replace")

    def count(self, *states: State) -> int:
        """Return how many slots are in one of *states*."""
        found = self._states()
        return sum(found.count(state) for state in states)

    def _states(self) -> bytes:
        return self._map[:: _SLOT.size]

    # -- in the worker ------------------------------------------------------------------

    def set(self, slot: int, state: State, note: str = "") -> None:
        """The worker of *slot* is now in *state*."""
        served = state is State.SERVING or self.has_served(slot)
        _SLOT.pack_into(self._map, slot * _SLOT.size, state, served, note.encode()[:NOTE_SIZE])

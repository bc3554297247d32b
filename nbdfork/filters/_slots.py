"""A list of slots that clients of all workers hold, and that outlives its holders.

A slot is a byte of a file that its holder has locked: when a worker dies, the kernel gives back
what it held, so nobody has to find out.
"""

import fcntl
import os
import struct
from threading import Lock

from nbdfork.plugin import SharedBuffer

_FLOCK = struct.Struct("@hhqqi0q")  # type, whence, start, length, pid


class SharedSlots:
    """*count* slots; made before the workers are forked, like all that they share."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._fd = SharedBuffer(0, name="slots").fd
        self._renew()
        os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._lock = Lock()
        self._own: set[int] = set()  # locks belong to a process, and so they do not tell its own

    def take(self) -> int | None:
        """Take a slot, and return its number; None if others hold them all."""
        with self._lock:
            place = 0
            while place < self.count:
                if place in self._own:
                    place += 1
                elif held := self._next_held(place, 1):
                    place = sum(held)
                elif self._try(place):
                    self._own.add(place)
                    return place
            return None

    def give(self, number: int) -> None:
        """Give back a slot that this process has taken."""
        with self._lock:
            self._own.discard(number)
            fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, number)

    def held(self) -> int:
        """Return how many slots are held now, by whomever."""
        with self._lock:
            total, place = len(self._own), 0
            while found := self._next_held(place, self.count - place):
                start, length = found
                total += length
                if (place := start + length) >= self.count:
                    break
            return total

    def _next_held(self, start: int, length: int) -> tuple[int, int] | None:
        """Return the first slots in a range that one other process holds: number and count."""
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
        kind, _, place, count, _ = _FLOCK.unpack(fcntl.fcntl(self._fd, fcntl.F_GETLK, asked))
        return None if kind == fcntl.F_UNLCK else (place, count)

    def _try(self, number: int) -> bool:
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except OSError:
            return False  # somebody was faster
        return True

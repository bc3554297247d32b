"""A token bucket that all workers draw from: so many tokens a second, and a store of some seconds.

It is one number in shared memory: the moment at which the bucket will be full again, less what it
holds.  Who draws more than there is, is told how long to wait; nobody waits with the lock held.
"""

import time

from nbdfork.plugin import SharedBuffer, SharedLock


class SharedBucket:
    """A bucket that fills with `rate` tokens a second, 0 for any number; *burst*: seconds of them.

    It is full at first.  Made before the workers are forked.
    """

    def __init__(self, rate: float, burst: float) -> None:
        self._burst = burst
        anew = f"of {time.monotonic_ns()}"  # each program begins with full ones
        self._state = SharedBuffer(16, name=anew).view().cast("d")  # when it is even; the rate
        self._state[1] = rate
        self._lock = SharedLock(name=anew)

    @property
    def rate(self) -> float:
        """How many tokens it gets a second."""
        return self._state[1]

    @rate.setter
    def rate(self, rate: float) -> None:
        self._state[1] = rate

    def draw(self, tokens: float) -> float:
        """Draw *tokens*, and return for how many seconds to wait until they are there."""
        with self._lock:
            rate = self._state[1]
            if not rate:
                return 0.0
            now = time.monotonic()
            self._state[0] = max(self._state[0], now - self._burst) + tokens / rate
            return max(0.0, self._state[0] - now)

    def put_back(self, tokens: float) -> None:
        """Put back what was drawn and not used."""
        with self._lock:
            if rate := self._state[1]:
                self._state[0] -= tokens / rate

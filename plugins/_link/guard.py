"""The end of a wait for a far end for which nobody waits any more, or that is silent.

A thread waits for it while a client is served, so that requests need not look for it themselves.
"""

import math
import os
import select
import threading
import time
from collections.abc import Callable

from nbdfork.plugin import Server

LAST_SECONDS = 2.0
"""How long requests may still take when this process has been told to end."""


class Guard:
    """Calls *give_up* once when the client has left, or some time after *server* was told to end.

    *departure* is a descriptor that hangs up when the client leaves, or -1.  *give_up* is called in
    a thread, must not block, and makes requests that are under way fail.  *look* is called there
    as well, all *pause* seconds, to see whether the far end is silent; it must not block, either.
    """

    def __init__(
        self,
        server: Server,
        departure: int,
        give_up: Callable[[], None],
        look: Callable[[], None] | None = None,
        pause: float = math.inf,
    ) -> None:
        self._departure = departure
        self._ending = server.ending
        self._give_up = give_up
        self._look = look
        self._pause = pause
        self._is_over = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._watch, name="guard", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Watch no more: the client is no longer served."""
        if self._is_over >= 0:
            os.eventfd_write(self._is_over, 1)
            self._thread.join()
            os.close(self._is_over)
            self._is_over = -1

    def _watch(self) -> None:
        poll = select.poll()
        poll.register(self._is_over, select.POLLIN)
        if self._departure >= 0:
            poll.register(self._departure, 0)
        if self._ending >= 0:
            poll.register(self._ending, select.POLLIN)
        last_moment = math.inf
        while True:
            left = min(last_moment - time.monotonic(), self._pause)
            come = {fd for fd, _ in poll.poll(None if left == math.inf else max(0.0, left) * 1000)}
            if self._is_over in come:
                return
            if self._ending in come:
                poll.unregister(self._ending)
                last_moment = time.monotonic() + LAST_SECONDS
            elif self._departure in come or time.monotonic() >= last_moment:
                self._give_up()
                return
            elif self._look is not None:
                self._look()

"""Threads that wait for replies on one connection take turns at receiving them.

One thread receives, whichever thread a reply is for, until it has its own; then it passes the turn
to one that still waits.  So a thread with the only request under way receives its reply itself, and
no time is lost by changing threads.
"""

import threading
from collections.abc import Callable


class PendingReply:
    """The reply that one thread waits for."""

    def __init__(self) -> None:
        self.done = False
        self._has_turn = False
        self._signal = threading.Lock()
        self._signal.acquire()


class Turns:
    """Whose turn it is to receive on one connection, and which threads wait."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken = False
        self._waiting: dict[PendingReply, None] = {}  # an ordered set: first come, first served

    def wait(self, reply: PendingReply, receive: Callable[[], None]) -> None:
        """Return when *reply* is done.

        *receive* waits for replies and calls `finish` for each one that came.  Only one thread
        calls it at a time, and it must not raise: when no more can come, it finishes all replies.
        """
        with self._lock:
            if reply.done:
                return
            reply._has_turn = not self._taken
            self._taken = True
            if not reply._has_turn:
                self._waiting[reply] = None
        if not reply._has_turn:
            reply._signal.acquire()  # until the reply is done, or it is our turn
            if not reply._has_turn:
                return
        try:
            while not reply.done:
                receive()
        finally:
            self.pass_on()

    def take(self) -> None:
        """Take the turn for as long as it pleases the caller, who receives by other means.

        Nobody may wait yet.
        """
        with self._lock:
            assert not self._taken
            self._taken = True

    def pass_on(self) -> None:
        """Let the next thread that waits receive, or whoever comes."""
        with self._lock:
            following = next(iter(self._waiting), None)
            if following is None:
                self._taken = False
                return
            del self._waiting[following]
            following._has_turn = True
        following._signal.release()

    def finish(self, reply: PendingReply) -> None:
        """Mark *reply* as done.  Any thread may call this."""
        with self._lock:
            reply.done = True
            if reply not in self._waiting:
                return
            del self._waiting[reply]
        reply._signal.release()

"""Threads that wait for answers on one connection take turns at receiving them.

One of them receives, whatever comes and for whom it may be, until its own answer is there; then
it passes the turn on to one that still waits.  So a client with a single request under way
receives its answer itself, and pays for no change of threads.
"""

import threading
from collections.abc import Callable


class Answer:
    """What a thread waits for."""

    def __init__(self) -> None:
        self.done = False
        self._has_turn = False
        self._signal = threading.Lock()
        self._signal.acquire()


class Turns:
    """Who receives, and who waits, on one connection."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken = False
        self._waiting: dict[Answer, None] = {}  # in the order of their coming

    def wait(self, answer: Answer, receive: Callable[[], None]) -> None:
        """Return when *answer* is done.

        *receive* waits for answers and says `finish` for each that came.  It is called by one
        thread at a time, and must not raise: when no more can come, it finishes all there are.
        """
        with self._lock:
            if answer.done:
                return
            answer._has_turn = not self._taken
            self._taken = True
            if not answer._has_turn:
                self._waiting[answer] = None
        if not answer._has_turn:
            answer._signal.acquire()  # until it is done, or it is our turn
            if not answer._has_turn:
                return
        try:
            while not answer.done:
                receive()
        finally:
            self._pass_on()

    def _pass_on(self) -> None:
        with self._lock:
            following = next(iter(self._waiting), None)
            if following is None:
                self._taken = False
                return
            del self._waiting[following]
            following._has_turn = True
        following._signal.release()

    def finish(self, answer: Answer) -> None:
        """*answer* is there; any thread may say so."""
        with self._lock:
            answer.done = True
            if answer not in self._waiting:
                return
            del self._waiting[answer]
        answer._signal.release()

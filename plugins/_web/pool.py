"""Libcurl handles that the threads of one client share."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from .transfer import Transfer

H = TypeVar("H", bound=Transfer)


class Pool(Generic[H]):
    """Up to *limit* handles, made by *make* when needed, for all threads of a client.

    The handle that was given back last is taken first, so a client that makes one request at a time
    uses one connection.
    """

    def __init__(self, make: Callable[[], H], limit: int) -> None:
        self._make = make
        self._limit = limit
        self._idle: list[H] = []  # append() and pop() of a list are atomic
        self._made: list[H] = []
        self._waiting = 0
        self._changed = threading.Condition()
        self._is_abandoned = False

    def take(self) -> H:
        """Return a handle that no other thread uses; wait until there is one."""
        try:
            return self._idle.pop()
        except IndexError:
            return self._make_or_wait()

    def give(self, handle: H) -> None:
        """Take *handle* back."""
        self._idle.append(handle)
        if self._waiting:
            with self._changed:
                self._changed.notify()

    def _make_or_wait(self) -> H:
        with self._changed:
            if len(self._made) < self._limit:
                handle = self._make()
                self._made.append(handle)
                if self._is_abandoned:
                    handle.abandon()
                return handle
            # A thread that gives back a handle from now on sees this; one that did so before has
            # put it into the list already.
            self._waiting += 1
            try:
                while True:
                    try:
                        return self._idle.pop()
                    except IndexError:  # another thread may have taken it
                        self._changed.wait()
            finally:
                self._waiting -= 1

    def abandon(self) -> None:
        """Make all requests fail, those under way and later ones."""
        with self._changed:
            self._is_abandoned = True
            for handle in self._made:
                handle.abandon()

    def close(self) -> None:
        """Close all handles, none of which may be in use."""
        while self._idle:
            self._idle.pop().close()

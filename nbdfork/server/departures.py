"""Clients that leave while a plugin is at work for them.

For each worker the supervisor makes an epoll set, a `Line`, and shares it with the worker, which
puts its client's connection there.  So the kernel tells the supervisor of a hang-up, whatever the
worker does meanwhile; a worker that works pays nothing for it, and the supervisor never has the
connection.  Who takes what for granted of whom is decided by those that look.
"""

import enum
import logging
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import suppress
from typing import Generic, Protocol, TypeVar

log = logging.getLogger(__name__)

GRACE_SECONDS = 1.0
"""How long a plugin may go on with what it does for a client that has left."""

_ONCE = select.EPOLLIN | select.EPOLLONESHOT


class Sign(enum.IntEnum):
    """What is known of a client."""

    HERE = 0

    SENDS_NO_MORE = 1
    """It has left, or has closed one direction and still waits for answers: over a network these
    look the same."""

    GONE = 2
    """Nothing can be sent to it any more."""


class Connection(Protocol):
    """A client's connection; one on a pair of pipes has the second one in *sink*."""

    def fileno(self) -> int: ...


class Line:
    """Tells of one client at a time, in any process that has it."""

    def __init__(self, fd: int = -1) -> None:
        """*fd* is that of a line that was handed over, unless it is -1, for a new one.

        Raises OSError if there are no more descriptors.
        """
        self._epoll = select.epoll() if fd < 0 else select.epoll.fromfd(os.dup(fd))

    def fileno(self) -> int:
        return self._epoll.fileno()

    def watch(self, client: Connection) -> None:
        """From now on tell of *client*."""
        events = 0  # but for errors and hang-ups, which are always told
        if isinstance(client, socket.socket) and client.family != socket.AF_UNIX:
            events = select.EPOLLRDHUP  # all that a network may ever tell
        with suppress(OSError):  # it is a file, which cannot leave; or it has left already
            self._epoll.register(getattr(client, "sink", client), events)

    def unwatch(self, client: Connection) -> None:
        """Tell of it no more; to be called before it is closed."""
        with suppress(OSError, ValueError):
            self._epoll.unregister(getattr(client, "sink", client))

    def look(self) -> Sign:
        """Return what is known of the client, if there is one."""
        found = 0
        for _, events in self._epoll.poll(0):
            found |= events
        if found & (select.EPOLLHUP | select.EPOLLERR):
            return Sign.GONE
        return Sign.SENDS_NO_MORE if found else Sign.HERE

    def close(self) -> None:
        """Give back the descriptor of this process."""
        self._epoll.close()


K = TypeVar("K", bound=Hashable)


class Departures(Generic[K]):
    """Of several lines, each known by a key, those whose clients have left some time ago."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._lines: dict[K, Line] = {}
        self._keys: dict[int, K] = {}  # by the lines' descriptors
        self._since: dict[K, float] = {}  # of those who seem to have left
        self._next_look: dict[K, float] = {}
        self._is_short = False

    def fileno(self) -> int:
        """Return a descriptor that is readable when `hear` has something to hear."""
        return self._epoll.fileno()

    def descriptor(self, key: K) -> int:
        """Return the descriptor of a line; -1 if there is none of this key."""
        return self._lines[key].fileno() if key in self._lines else -1

    def add(self, key: K, fd: int = -1) -> Line | None:
        """Return a new line, or that of *fd*; None if there are no descriptors for it."""
        try:
            line = Line(fd)
            self._epoll.register(line, _ONCE)
        except OSError as error:
            if not self._is_short:
                log.warning("clients that leave while a plugin works are not noticed: %s", error)
            self._is_short = True
            return None
        self._lines[key] = line
        self._keys[line.fileno()] = key
        return line

    def rename(self, key: K, to: K) -> None:
        """Know a line by another key."""
        if key in self._lines:
            line = self._lines[to] = self._lines.pop(key)
            self._keys[line.fileno()] = to

    def remove(self, key: K) -> None:
        """Close a line, if there is one of this key."""
        line = self._lines.pop(key, None)
        self._since.pop(key, None)
        self._next_look.pop(key, None)
        if line is not None:
            del self._keys[line.fileno()]
            line.close()

    def hear(self) -> None:
        """Take note of the clients that have left just now."""
        now = time.monotonic()
        for fd, _ in self._epoll.poll(0):
            key = self._keys[fd]
            self._since[key] = now
            self._next_look[key] = now + GRACE_SECONDS

    def pause(self) -> float | None:
        """Return in how many seconds to look; None if there is nothing to look for."""
        if not self._next_look:
            return None
        return max(0.0, min(self._next_look.values()) - time.monotonic())

    def look(self) -> Iterator[tuple[K, float, Sign]]:
        """Yield those who are known to have left, since when, and the sign of it: after
        `GRACE_SECONDS`, and every so many from then on, until nobody is there who has left.
        """
        now = time.monotonic()
        for key, moment in list(self._next_look.items()):
            if moment > now:
                continue
            sign = self._lines[key].look()
            self._next_look[key] = now + GRACE_SECONDS
            since = self._since[key]
            if sign is Sign.HERE:  # it is not served any more, and there may be another
                del self._next_look[key], self._since[key]
                self._epoll.modify(self._lines[key], _ONCE)
            yield key, since, sign

    def close(self, but: K | None = None) -> None:
        """Give back the descriptors that this process has, *but* for one line."""
        for key, line in self._lines.items():
            if key != but:
                line.close()
        self._epoll.close()


def on_departure(client: Connection, act: Callable[[], None]) -> None:
    """In a thread of its own, call *act* while *client* has left for good and is not closed."""
    departures: Departures[None] = Departures()
    line = departures.add(None)
    if line is None:
        return
    line.watch(client)

    def look() -> None:
        poll = select.poll()
        poll.register(departures, select.POLLIN)
        while True:
            pause = departures.pause()
            poll.poll(None if pause is None else pause * 1000)
            departures.hear()
            if any(sign is Sign.GONE for _, _, sign in departures.look()):
                act()

    threading.Thread(target=look, daemon=True).start()

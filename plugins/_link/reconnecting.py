"""A link to the far end that is made again when it is lost, and the writes that are lost with it.

Requests that were under way are made again on the new link: reads, and writes of the same data to
the same place, can be repeated.  Writes that were acknowledged earlier cannot.  If the far end has
been down, those that had not been flushed are gone, so the next flush of every client of this link
fails: nobody knows which client's flush was meant to cover which writes.  A client that comes
before anybody has been told is told as well, for whoever wrote may have left.

What was written through other links is not known here, and a link that nobody uses is not watched.
So a flush covers only the writes through the same link, and a plugin must not let the clients of
different links believe more than that (`Export.can_multi_conn`).
"""

import errno
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from .retrying import TransientError, attempt


class LinkLost(TransientError):
    """The link is gone; the request may or may not have been carried out."""

    def __init__(self, text: str, number: int = errno.EIO) -> None:
        super().__init__(number, text)


class Link(ABC):
    """A connection that counts the writes it has acknowledged.  A subclass makes the requests."""

    def __init__(self) -> None:
        self._counting = threading.Lock()
        self._writes = 0
        self._flushed = 0  # how many of the writes are covered by a flush that succeeded
        self._is_replaced = False

    @abstractmethod
    def is_lost(self) -> bool:
        """Return whether nothing more can be received."""

    @abstractmethod
    def close(self) -> None:
        """Close it.  Threads that still use it must find it lost."""

    def counted_write(self, request: Callable[[], None]) -> bool:
        """Make a request that changes what is at the far end.

        Return False if another link has replaced this one meanwhile.
        """
        request()
        return self.count_write()

    def count_write(self) -> bool:
        """Count a request that has changed what is at the far end; return as `counted_write`."""
        with self._counting:
            self._writes += 1
            return not self._is_replaced

    def counted_flush(self, request: Callable[[], None]) -> None:
        """Make a request that flushes."""
        with self._counting:
            before = self._writes
        request()
        with self._counting:
            self._flushed = max(self._flushed, before)

    def replace(self) -> bool:
        """Note that another link replaces this one; return whether it has unflushed writes."""
        with self._counting:
            self._is_replaced = True
            return self._writes > self._flushed


L = TypeVar("L", bound=Link)
T = TypeVar("T")


class ReconnectingLink(Generic[L]):
    """The link to *shown*, made by *make* now, and again whenever it is lost.

    *pauses*: the seconds to wait before each further attempt at a request that failed because the
    link was lost; *wait* waits, and raises if nobody waits for the result.  After twice the time
    *timeout*, in seconds, no further attempt begins.  `losses` counts how often writes may have
    been lost, and `told` of how many of these losses some client has been told.  Raises OSError if
    the first link cannot be made.
    """

    def __init__(
        self,
        make: Callable[[], L],
        pauses: Sequence[float],
        shown: str,
        wait: Callable[[float], object],
        timeout: float,
    ) -> None:
        self._make = make
        self._pauses = pauses
        self._shown = shown
        self._wait = wait
        self._timeout = timeout
        self.losses = 0
        self.told = 0
        self.prepare: Callable[[L], object] = lambda link: None
        """Is called with each further link before anybody uses it."""
        self._counting = threading.Lock()
        self._reconnecting = threading.Lock()
        self._failure: OSError | None = None
        self._failed_at = 0.0
        try:
            self.current = make()
        except OSError as error:
            raise self.named(error) from error

    def named(self, error: OSError) -> OSError:
        """Return *error* with the name of the far end in its text."""
        return OSError(error.errno, f"{self._shown}: {error.strerror}")

    def attempt(self, request: Callable[[L], T]) -> T:
        """Make a request, again on a new link if need be.  Raises OSError."""

        def once() -> T:
            link = self.current
            return request(self._reconnected(link) if link.is_lost() else link)

        try:
            return attempt(once, self._pauses, self._shown, self._wait, 2 * self._timeout)
        except OSError as error:
            raise self.named(error) from error

    def write(self, request: Callable[[L], None]) -> None:
        """Make a request that changes what is at the far end.  Raises OSError."""

        def write(link: L) -> None:
            if not link.counted_write(lambda: request(link)):
                self.count_loss()

        self.attempt(write)

    def flush(self, request: Callable[[L], None], known: "KnownLosses") -> None:
        """Make a request that flushes, for the client that knows of the losses *known*.

        Raises OSError if it fails, and also if there are losses that the client does not know of.
        """
        before = known.count
        self.attempt(lambda link: link.counted_flush(lambda: request(link)))
        with self._counting:
            known.count = self.losses
            self.told = max(self.told, known.count)
        if known.count != before:
            text = (
                "the connection was lost after writes that had not been flushed; if the far end has"
                " been down, they are lost"
            )
            raise self.named(OSError(errno.EIO, text))

    def close(self) -> None:
        """Close the link; nobody needs it any more."""
        self.current.close()

    def _reconnected(self, lost: L) -> L:
        """Return a link that replaces *lost*.

        One thread makes it.  If that thread fails, those that waited for it fail with it.
        """
        asked_at = time.monotonic()
        with self._reconnecting:
            if self.current is not lost:
                return self.current
            if self._failure is not None and self._failed_at > asked_at:
                raise self._failure
            try:
                link = self._make()
            except OSError as error:
                self._failure, self._failed_at = error, time.monotonic()
                raise
            if lost.replace():
                self.count_loss()
            self.prepare(link)
            self.current = link
        lost.close()
        return link

    def count_loss(self) -> None:
        """Note that writes may have been lost that no flush has covered."""
        with self._counting:
            self.losses += 1


class KnownLosses:
    """How many of the losses of *link* one client knows of.

    Those that others were told of before it came do not concern it.
    """

    def __init__(self, link: ReconnectingLink[L]) -> None:
        self.count = link.told

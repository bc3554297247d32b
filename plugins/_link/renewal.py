"""A link to the far end that is made anew when it is lost, and what may be lost with it.

Requests that were under way are made again on the new link: reads, and writes of the same data to
the same place, may be repeated.  What cannot be repeated are writes that had been acknowledged
before, and not flushed: if the far end has been down they are gone, and so the next flush fails,
of each client: it is not known whose flush was to cover which writes.
"""

import errno
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from nbdfork.plugin import SharedCounter

log = logging.getLogger(__name__)


class Lost(OSError):
    """The link is gone; the request may or may not have been carried out."""

    def __init__(self, text: str) -> None:
        super().__init__(errno.EIO, text)


class Link:
    """A connection, and how many writes it has acknowledged."""

    def __init__(self) -> None:
        self._counting = threading.Lock()
        self._writes = 0
        self._flushed = 0  # how many of them were made before a flush that has succeeded
        self._is_given_up = False

    def is_lost(self) -> bool:
        """Return whether nothing more can come."""
        raise NotImplementedError

    def close(self) -> None:
        """End it.  Threads that still use it must see it lost."""
        raise NotImplementedError

    def write(self, request: Callable[[], None]) -> bool:
        """Make a request that changes what is at the far end.

        Return False if another link has taken the place of this one meanwhile.
        """
        request()
        with self._counting:
            self._writes += 1
            return not self._is_given_up

    def flush(self, request: Callable[[], None]) -> None:
        """Make a request that flushes."""
        with self._counting:
            before = self._writes
        request()
        with self._counting:
            self._flushed = max(self._flushed, before)

    def give_up(self) -> bool:
        """Return whether there are writes that no flush covers, as another link takes its place."""
        with self._counting:
            self._is_given_up = True
            return self._writes > self._flushed


class Told:
    """How many of the *losses* a client knows of, who has come now."""

    def __init__(self, losses: SharedCounter) -> None:
        self.losses = losses.value


L = TypeVar("L", bound=Link)
T = TypeVar("T")


class Renewal(Generic[L]):
    """The link to *shown*, made by *make*, at once and whenever it is lost.

    *pauses*: how long to wait after each attempt of a request that failed for want of a link, in
    seconds; None, the last one, is not to try again.  *losses*: how often, of all workers' links,
    writes may have been lost.
    """

    def __init__(
        self,
        make: Callable[[], L],
        pauses: Sequence[float | None],
        shown: str,
        losses: SharedCounter,
    ) -> None:
        self._make = make
        self._pauses = pauses
        self._shown = shown
        self.losses = losses
        self._renewing = threading.Lock()
        self._failure: OSError | None = None
        self._failed_at = 0.0
        try:
            self.link = make()
        except OSError as error:
            raise self.named(error) from error

    def named(self, error: OSError) -> OSError:
        """Return *error* with the far end's name in its text."""
        return OSError(error.errno, f"{self._shown}: {error.strerror}")

    def attempt(self, request: Callable[[L], T]) -> T:
        """Make a request, again on a new link if need be.  Raises OSError."""
        for pause in self._pauses:
            try:
                link = self.link
                return request(self._renewed(link) if link.is_lost() else link)
            except Lost as error:
                if pause is None:
                    raise self.named(error) from error
                log.info("%s: %s; trying again in %s s", self._shown, error.strerror, pause)
            except OSError as error:
                raise self.named(error) from error
            time.sleep(pause)
        raise AssertionError("the last pause is None")

    def write(self, request: Callable[[L], None]) -> None:
        """Make a request that changes what is at the far end."""

        def write(link: L) -> None:
            if not link.write(lambda: request(link)):
                self.losses.add()

        self.attempt(write)

    def flush(self, request: Callable[[L], None], told: Told) -> None:
        """Make a request that flushes, for the client who has been *told* of losses.

        Raises OSError, too, if there are others.
        """
        before = told.losses
        self.attempt(lambda link: link.flush(lambda: request(link)))
        told.losses = self.losses.value
        if told.losses != before:
            text = (
                "the connection was lost after writes that had not been flushed; if the far end has"
                " been down, they are lost"
            )
            raise self.named(OSError(errno.EIO, text))

    def close(self) -> None:
        """Nobody needs the link any more."""
        self.link.close()

    def _renewed(self, lost: L) -> L:
        """Return a new link.  One thread makes it; if it cannot, the others need not try."""
        asked_at = time.monotonic()
        with self._renewing:
            if self.link is not lost:
                return self.link
            if self._failure is not None and self._failed_at > asked_at:
                raise self._failure
            try:
                link = self._make()
            except OSError as error:
                self._failure, self._failed_at = error, time.monotonic()
                raise
            if lost.give_up():
                self.losses.add()
            self.link = link
        lost.close()
        return link

"""A client's view of the file: ranges of it, read-only.

After a read, the file is checked to be the same as when the client connected.  A request that fails
for a transient reason is tried again a few times, with a new file system.
"""

import errno
import threading
from asyncio import CancelledError
from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeVar

from nbdfork.plugin import Export, Server

from .._link.retrying import TransientError, attempt
from .._link.within import within
from .recipe import Recipe
from .remote import RemoteFile

T = TypeVar("T")

_PAUSES = (0.1, 0.3, 1.0, 2.0)
"""Seconds to wait before each further attempt at a request that failed."""

_PAUSES_AT_OPEN = (0.1, 0.3)
"""The same while a client connects, and waits for the result."""


class FileExport(Export):
    """One client's view of a file.  Raises OSError if it cannot be read.

    *check*: check after each read that the file is still the same.  Each call of the file system is
    given up after *timeout* seconds; after that, no further attempt begins, nor when nobody waits
    for the result.  Several threads may call the methods at the same time.
    """

    def __init__(self, recipe: Recipe, server: Server, *, check: bool, timeout: float) -> None:
        self._recipe = recipe
        self._server = server
        self._timeout = timeout
        self._file: RemoteFile | None = None
        self._reopening = threading.Lock()
        try:
            self._facts = self._attempt(_PAUSES_AT_OPEN, RemoteFile.facts)
            if self._facts.size is None:
                raise self._error(errno.EIO, "the file system does not tell the file's size")
            if not self._facts.partial:
                raise self._error(errno.EOPNOTSUPP, "only the whole file can be read, and no parts")
        except BaseException:
            self.close()
            raise
        self._size = self._facts.size
        self._check = _SharedCheck(self._look) if check else None

    def get_size(self) -> int:
        return self._size

    def can_multi_conn(self) -> bool:
        return True

    def pread(self, count: int, offset: int) -> bytes:
        try:
            data = self._attempt(_PAUSES, lambda file: file.read(offset, offset + count))
        except OSError as error:
            if change := self._change():
                raise change from error
            raise
        if self._check is not None:
            self._check.pass_or_raise()
        if len(data) != count:
            what = "the whole file" if len(data) == self._size else f"{len(data)} bytes"
            text = f"{what} came, where {count} bytes at {offset} were asked for"
            raise self._error(errno.EIO, text)
        return data

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _look(self) -> None:
        """Raise OSError if the file is no longer the one that was opened."""
        if change := self._changed(_PAUSES):
            raise change

    def _change(self) -> OSError | None:
        """Return an error about a change of the file, if that is why a read failed."""
        try:
            return self._changed(()) if self._check is not None else None
        except OSError:
            return None  # the error of the read itself says enough

    def _changed(self, pauses: Iterable[float]) -> OSError | None:
        difference = self._facts.difference(self._attempt(pauses, RemoteFile.facts))
        if not difference:
            return None
        return self._error(errno.EIO, f"the file has changed: {difference}")

    def _error(self, number: int, text: str) -> OSError:
        return OSError(number, f"{self._recipe.shown}: {text}")

    # -- attempts -----------------------------------------------------------------------

    def _attempt(self, pauses: Iterable[float], request: Callable[[RemoteFile], T]) -> T:
        """Make a request, and again after each pause while it fails transiently."""

        def once() -> T:
            file = None
            try:
                file = self._opened()
                return request(file)
            except (Exception, CancelledError) as error:  # whatever their libraries raise
                failure = self._recipe.failure(error)
                if isinstance(failure, TransientError):
                    self._give_up(file)
                raise failure from error

        return attempt(once, pauses, "fsspec", self._server.wait, self._timeout)

    def _opened(self) -> RemoteFile:
        file = self._file
        if file is None:
            with self._reopening:
                if self._file is None:
                    make = partial(RemoteFile, self._recipe, self._timeout)
                    self._file = within(self._timeout, make)
                file = self._file
        return file

    def _give_up(self, failed: RemoteFile | None) -> None:
        """Let the next request open the file anew, in place of the *failed* one."""
        with self._reopening:
            if failed is self._file:
                self._file = None
                self._recipe.forget()
        if failed is not None:
            failed.close()


class _SharedCheck:
    """A check that one thread makes for all that wait for one.

    A thread needs a check that began after its own read had ended, whichever thread makes it.
    """

    def __init__(self, check: Callable[[], None]) -> None:
        self._make = check
        self._one_at_a_time = threading.Lock()
        self._begun = 0  # the number of the last check that began, and below, that passed
        self._passed = 0

    def pass_or_raise(self) -> None:
        """Return when a check that began after this call has passed.  Raises as the check does."""
        before = self._begun
        with self._one_at_a_time:
            if self._passed > before:
                return
            self._begun += 1
            number = self._begun
            self._make()
            self._passed = number

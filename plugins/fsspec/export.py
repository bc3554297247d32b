"""A client's view of the file: ranges of it, read-only.

A read is believed when the file is found to be the same after it as when the client came.  A
failure that may pass is tried again a few times, with a new connection.
"""

import errno
import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

from nbdfork.plugin import Export

from .connection import Connection
from .recipe import FarError, Recipe

log = logging.getLogger(__name__)

T = TypeVar("T")

_PAUSES = (0.1, 0.3, 1.0, 2.0, None)
"""How long to wait after each attempt that failed, in seconds; after the last there is none."""

_PAUSES_AT_OPEN = (0.1, 0.3, None)
"""The same when a client comes, who is waiting to be told."""


class FileExport(Export):
    """One client's view of a file.  Making it raises OSError if it cannot be read.

    *check*: ask after each read whether the file is the same.  Several threads may call its
    methods at once.
    """

    def __init__(self, recipe: Recipe, *, check: bool) -> None:
        self._recipe = recipe
        self._connection: Connection | None = None
        self._renewal = threading.Lock()
        try:
            self._facts = self._attempt(_PAUSES_AT_OPEN, Connection.facts)
            if self._facts.size is None:
                raise self._error(errno.EIO, "the file system does not tell the file's size")
            if not self._facts.partial:
                raise self._error(errno.EOPNOTSUPP, "only the whole file can be had, and no parts")
        except BaseException:
            self.close()
            raise
        self._size = self._facts.size
        self._check = _SharedCheck(self._look) if check and self._facts.version else None

    def get_size(self) -> int:
        return self._size

    def can_multi_conn(self) -> bool:
        return True

    def pread(self, count: int, offset: int) -> bytes:
        try:
            data = self._attempt(_PAUSES, lambda far: far.read(offset, offset + count))
        except FarError as error:
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
        if self._connection is not None:
            self._connection.close()

    def _look(self) -> None:
        """Raise OSError if the file is not the one that was opened."""
        if change := self._changed(_PAUSES):
            raise change

    def _change(self) -> FarError | None:
        """Return the error that tells of a change, if that is why a read has failed."""
        try:
            return self._changed((None,)) if self._check is not None else None
        except FarError:
            return None  # the read's own error tells as much

    def _changed(self, pauses: Iterable[float | None]) -> FarError | None:
        difference = self._facts.difference(self._attempt(pauses, Connection.facts))
        if not difference:
            return None
        return self._error(errno.EIO, f"the file has changed: {difference}")

    def _error(self, number: int, text: str) -> FarError:
        return FarError(number, f"{self._recipe.shown}: {text}")

    # -- attempts -----------------------------------------------------------------------

    def _attempt(self, pauses: Iterable[float | None], request: Callable[[Connection], T]) -> T:
        """Make a request, and again after each pause while its failure may pass."""
        for pause in pauses:
            connection = None
            try:
                connection = self._connected()
                return request(connection)
            except Exception as error:  # file systems raise whatever their libraries do
                failure = self._recipe.failure(error)
                if pause is None or failure.lasts:
                    raise failure from error
                log.info("fsspec: %s; trying again in %s s", failure.strerror, pause)
                self._give_up(connection)
            time.sleep(pause)
        raise AssertionError("the last pause is None")

    def _connected(self) -> Connection:
        connection = self._connection
        if connection is None:
            with self._renewal:
                if self._connection is None:
                    self._connection = Connection(self._recipe)
                connection = self._connection
        return connection

    def _give_up(self, failed: Connection | None) -> None:
        """Have the next request make a new connection instead of the *failed* one."""
        with self._renewal:
            if failed is self._connection:
                self._connection = None
                self._recipe.forget()
        if failed is not None:
            failed.close()


class _SharedCheck:
    """A check that threads make for each other: one that began after a thread's read had ended
    says of that read what it needs to know.
    """

    def __init__(self, check: Callable[[], None]) -> None:
        self._make = check
        self._one_at_a_time = threading.Lock()
        self._begun = 0  # checks are numbered
        self._passed = 0

    def pass_or_raise(self) -> None:
        """Return when a check has passed that began after this was called."""
        before = self._begun
        with self._one_at_a_time:
            if self._passed > before:
                return
            self._begun += 1
            number = self._begun
            self._make()
            self._passed = number

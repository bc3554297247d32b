"""A client's view of the file: its reads and writes as requests to the server.

Every reply is checked: it must be the part that was asked for, of the file that was opened.  A
request that fails for a transient reason is tried again a few times.  That is safe, because reads,
and writes of the same data to the same place, can be repeated.
"""

import errno
import logging
import threading
from collections.abc import Callable, Iterable
from functools import partial
from typing import Concatenate, NamedTuple, ParamSpec, TypeVar

import pycurl

from nbdfork.plugin import Export, Server, client

from .._link.guard import Guard
from .._link.retrying import TransientError, attempt
from .._web.expected import ExpectedReply
from .._web.pool import Pool
from .._web.reply import Facts, Reply
from .handle import Handle, Place, Recipe
from .probe import probe

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

_PAUSES = (0.1, 0.3, 1.0, 2.0)
"""Seconds to wait before each further attempt at a request that failed."""

_PAUSES_AT_OPEN = (0.1, 0.3)
"""The same while a client connects, and waits for the result."""


class Terms(NamedTuple):
    """What a client gets: up to so many connections, and attempts for so many seconds.

    *is_http*: the replies have headers to check.
    """

    connections: int
    seconds: float
    is_http: bool
    can_write: bool


class CurlExport(Export):
    """One client's view of a file, through handles made by *recipe*.

    Several threads may call its methods at the same time.  When the client leaves, or *server* has
    been told to end, requests that are under way fail.  Raises OSError if the file cannot be
    served.
    """

    def __init__(self, recipe: Recipe, terms: Terms, server: Server) -> None:
        self._recipe = recipe
        self._terms = terms
        self._server = server
        self._shown = recipe.shown
        self._is_http = terms.is_http
        self._share = _cookie_share() if recipe.keeps_cookies() else None
        self._place = Place(recipe.url)
        self._pool = Pool(partial(Handle, recipe, self._place, self._share), terms.connections)
        self._expected: ExpectedReply | None = None
        self._checking = threading.Lock()  # held to change what is known of the file
        self._first_write = threading.Lock()
        self._takes_partial_put = False
        self._is_written = False
        self._guard = Guard(server, client.departure(), self._pool.abandon)
        try:
            if self._share is not None:
                self._attempt((), Handle.load_cookies)
            self._facts = self._attempt(_PAUSES_AT_OPEN, probe, recipe.shown, self._is_http)
        except BaseException:
            self.close()
            raise

    def get_size(self) -> int:
        return self._facts.size

    def can_write(self) -> bool:
        return self._terms.can_write

    def can_multi_conn(self) -> bool:
        return not self._terms.can_write

    def pread(self, count: int, offset: int) -> bytes:
        return self._attempt(_PAUSES, self._read, count, offset)

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        if self._takes_partial_put:
            self._write(data, offset)
            return
        with self._first_write:
            self._write(data, offset)
            self._check_partial_put(len(data))

    def close(self) -> None:
        self._guard.close()
        self._pool.close()
        if self._share is not None:
            self._share.close()

    def _attempt(
        self,
        pauses: Iterable[float],
        request: Callable[Concatenate[Handle, P], T],
        *arguments: P.args,
        **keywords: P.kwargs,
    ) -> T:
        """Make a request with a handle, and again after each pause while it fails transiently."""

        def once() -> T:
            handle = self._pool.take()
            try:
                return request(handle, *arguments, **keywords)
            finally:
                self._pool.give(handle)

        return attempt(once, pauses, "curl", self._server.wait, self._terms.seconds)

    # -- reading ------------------------------------------------------------------------

    def _read(self, handle: Handle, count: int, offset: int) -> bytes:
        try:
            return self._read_once(handle, count, offset)
        except OSError as error:
            if handle.aim is None:
                raise
            log.info("curl: %s; the redirect is looked up again", error.strerror)
        self._place.target = None
        return self._read_once(handle, count, offset)

    def _read_once(self, handle: Handle, count: int, offset: int) -> bytes:
        data = handle.get(count, offset)
        if self._is_http:
            expected = self._expected
            if expected is None or not expected.matches(handle.headers, count, offset):
                self._check(handle, count, offset)
        if len(data) != count:
            text = (
                f"{self._shown}: the reply is not the {count} bytes at {offset} that were asked for"
            )
            raise TransientError(errno.EIO, text) if self._is_http else OSError(errno.EIO, text)
        return data

    def _check(self, handle: Handle, count: int, offset: int) -> None:
        """Raise OSError unless the reply is this part of the file that was opened."""
        reply = Reply(handle.headers)
        reply.check(self._shown)
        part = reply.content_range()
        size = self._facts.size
        if reply.status == 200:
            # A server may answer so when it is asked for the range that is the whole file.
            if (offset, count) != (0, size):
                raise self._error("the server sends the whole file when asked for a part of it")
        elif reply.status == 416 and part is not None and part[2] is not None:
            if part[2] != size:
                self._compare(Facts(part[2]))
            raise reply.failure(self._shown)
        elif reply.status != 206:
            raise reply.failure(self._shown)
        elif part is None:
            raise self._error("the server does not say which part it sent (Content-Range)")
        elif part[:2] != (offset, count):
            raise self._error(
                f"the server sent {part[1]} bytes at {part[0]}, not {count} at {offset}"
            )
        else:
            size = size if part[2] is None else part[2]
        self._compare(reply.facts(size))
        if handle.aim is None:
            handle.remember_redirects()
        self._expected = ExpectedReply.from_headers(handle.headers, count, offset)

    def _compare(self, told: Facts) -> None:
        """Raise OSError if the file that these facts are told of is not the one that was opened."""
        with self._checking:
            if difference := self._facts.difference(told):
                raise self._error(f"the file has changed: {difference}")
            if not self._is_written:
                self._facts = self._facts.completed(told)

    def _error(self, text: str) -> OSError:
        return OSError(errno.EIO, f"{self._shown}: {text}")

    # -- writing ------------------------------------------------------------------------

    def _write(self, data: memoryview, offset: int) -> None:
        # From now on this client changes the file, so only its size is checked.
        with self._checking:
            self._is_written = True
            self._facts = Facts(self._facts.size)
            self._expected = None
        self._attempt(_PAUSES, self._put, data, offset)

    def _put(self, handle: Handle, data: memoryview, offset: int) -> None:
        handle.put(data, offset, self._facts.size)
        reply = Reply(handle.headers)
        if reply.status not in (200, 201, 204):
            raise reply.failure(self._shown)

    def _check_partial_put(self, count: int) -> None:
        """Raise OSError if a write of *count* bytes has replaced the whole file.

        A server that does not know partial PUT does that, and must not be sent more.
        """
        size = self._facts.size
        now = self._attempt(_PAUSES, probe, self._shown, True).size
        if now != size:
            raise self._error(
                f"the server took {count} bytes for the whole file, which was {size} bytes and is"
                f" {now}; it does not know partial PUT: use -r"
            )
        self._takes_partial_put = count != size


def _cookie_share() -> pycurl.CurlShare:
    share = pycurl.CurlShare()
    share.setopt(pycurl.SH_SHARE, pycurl.LOCK_DATA_COOKIE)
    return share

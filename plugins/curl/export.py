"""A client's view of the file: its reads and writes as requests to the server.

Every reply is checked: it must be the part that was asked for, of the file that was opened.  A
request that fails for a transient reason is tried again a few times.  That is safe, because reads,
and writes of the same data to the same place, can be repeated.
"""

import errno
import threading
from collections.abc import Callable, Iterable
from functools import partial
from typing import Concatenate, NamedTuple, ParamSpec, TypeVar

import pycurl

from nbdfork.plugin import Export

from .._link.retrying import TransientError, attempt
from .handle import Handle, Pool, Recipe
from .probe import probe
from .reply import Facts, Reply

P = ParamSpec("P")
T = TypeVar("T")

_PAUSES = (0.1, 0.3, 1.0, 2.0)
"""Seconds to wait before each further attempt at a request that failed."""

_PAUSES_AT_OPEN = (0.1, 0.3)
"""The same while a client connects, and waits for the result."""


class CurlExport(Export):
    """One client's view of a file, through up to *connections* handles made by *recipe*.

    *is_http*: the replies have headers to check.  Several threads may call its methods at the same
    time.  Raises OSError if the file cannot be served.
    """

    def __init__(self, recipe: Recipe, connections: int, *, is_http: bool, read_only: bool) -> None:
        self._recipe = recipe
        self._shown = recipe.shown
        self._is_http = is_http
        self._can_write = is_http and not read_only
        self._share = _cookie_share() if recipe.keeps_cookies() else None
        self._pool = Pool(partial(Handle, recipe, self._share), connections)
        self._expected: _ExpectedReply | None = None
        self._first_write = threading.Lock()
        self._takes_partial_put = False
        try:
            if self._share is not None:
                self._attempt((), Handle.load_cookies)
            self._facts = self._attempt(_PAUSES_AT_OPEN, probe, recipe.shown, is_http)
        except BaseException:
            self.close()
            raise

    def get_size(self) -> int:
        return self._facts.size

    def can_write(self) -> bool:
        return self._can_write

    def can_multi_conn(self) -> bool:
        return not self._can_write

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

        return attempt(once, pauses, "curl")

    # -- reading ------------------------------------------------------------------------

    def _read(self, handle: Handle, count: int, offset: int) -> bytes:
        data = handle.get(count, offset)
        if self._is_http:
            expected = self._expected
            if expected is None or not expected.matches(handle.headers, count, offset):
                self._check(handle.headers, count, offset)
        if len(data) != count:
            text = (
                f"{self._shown}: the reply is not the {count} bytes at {offset} that were asked for"
            )
            raise TransientError(errno.EIO, text) if self._is_http else OSError(errno.EIO, text)
        return data

    def _check(self, headers: list[bytes], count: int, offset: int) -> None:
        """Raise OSError unless *headers* describe this part of the file that was opened."""
        reply = Reply(headers)
        part = reply.content_range()
        size = self._facts.size
        if reply.status == 200:
            # A server may answer so when it is asked for the range that is the whole file.
            if (offset, count) != (0, size):
                raise self._error("the server sends the whole file when asked for a part of it")
        elif reply.status == 416 and part is not None and part[2] is not None:
            size = part[2]
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
        if difference := self._facts.difference(reply.facts(size)):
            raise self._error(f"the file has changed: {difference}")
        if reply.status == 416:
            raise reply.failure(self._shown)
        self._expected = _ExpectedReply.from_headers(headers, count, offset, self._facts)

    def _error(self, text: str) -> OSError:
        return OSError(errno.EIO, f"{self._shown}: {text}")

    # -- writing ------------------------------------------------------------------------

    def _write(self, data: memoryview, offset: int) -> None:
        # From now on this client changes the file, so only its size is checked.
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


class _ExpectedReply(NamedTuple):
    """What the next reply should look like, so that it can be recognized without parsing it.

    *before* and *after* are the parts of the Content-Range line around its numbers; *version* is
    the line that identifies the version of the file.
    """

    before: bytes
    after: bytes
    version: bytes | None

    @classmethod
    def from_headers(
        cls, headers: list[bytes], count: int, offset: int, facts: Facts
    ) -> "_ExpectedReply | None":
        """Return what to expect after *headers*, or None if they have no Content-Range."""
        lines = {line.partition(b":")[0].lower(): line for line in headers}
        numbers = b"%d-%d" % (offset, offset + count - 1)
        before, found, after = lines.get(b"content-range", b"").partition(numbers)
        if not found:
            return None
        if facts.etag and b"etag" in lines:
            return cls(before, after, lines[b"etag"])
        if facts.modified and b"last-modified" in lines:
            return cls(before, after, lines[b"last-modified"])
        return cls(before, after, None)

    def matches(self, headers: list[bytes], count: int, offset: int) -> bool:
        """Return whether *headers* are one reply, with this part of the same file."""
        part = b"%b%d-%d%b" % (self.before, offset, offset + count - 1, self.after)
        return (
            b" 206" in headers[0]
            and part in headers
            and (self.version is None or self.version in headers)
        )


def _cookie_share() -> pycurl.CurlShare:
    share = pycurl.CurlShare()
    share.setopt(pycurl.SH_SHARE, pycurl.LOCK_DATA_COOKIE)
    return share

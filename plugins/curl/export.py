"""A client's view of the file: its reads and writes as requests to the far end.

Whatever comes back is checked before it is believed: that it is the part asked for, of the file
that was opened.  A failure that may pass is tried again a few times, which is safe: reads, and
writes of the same data to the same place, may be repeated.
"""

import errno
import logging
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Concatenate, NamedTuple, ParamSpec, TypeVar

import pycurl

from nbdfork.plugin import Export

from .handle import Handle, Pool, Recipe
from .probe import probe
from .reply import Facts, Passing, Reply

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

_PAUSES = (0.1, 0.3, 1.0, 2.0, None)
"""How long to wait after each attempt that failed, in seconds; after the last there is none."""

_PAUSES_AT_OPEN = (0.1, 0.3, None)
"""The same when a client comes, who is waiting to be told."""


class CurlExport(Export):
    """One client's view of a file, through up to *connections* handles made by *recipe*.

    *is_http*: the replies have headers to check.  Its methods may be called by several threads
    at once.  Making it raises OSError if the file cannot be served.
    """

    def __init__(self, recipe: Recipe, connections: int, *, is_http: bool, read_only: bool) -> None:
        self._recipe = recipe
        self._shown = recipe.shown
        self._is_http = is_http
        self._can_write = is_http and not read_only
        self._share = _cookie_share() if recipe.keeps_cookies() else None
        self._pool = Pool(partial(Handle, recipe, self._share), connections)
        self._familiar: _Familiar | None = None
        self._first_write = threading.Lock()
        self._parts_are_taken = False
        try:
            if self._share is not None:
                self._attempt((None,), Handle.load_cookies)
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
        if self._parts_are_taken:
            self._write(data, offset)
            return
        with self._first_write:
            self._write(data, offset)
            self._see_whether_parts_are_taken(len(data))

    def close(self) -> None:
        self._pool.close()
        if self._share is not None:
            self._share.close()

    def _attempt(
        self,
        pauses: Iterable[float | None],
        request: Callable[Concatenate[Handle, P], T],
        *arguments: P.args,
        **keywords: P.kwargs,
    ) -> T:
        """Make a request with a handle, and again after each pause while its failure may pass.

        Every read comes this way: it is one function, because calls are not free.
        """
        for pause in pauses:
            handle = self._pool.take()
            try:
                return request(handle, *arguments, **keywords)
            except Passing as error:
                if pause is None:
                    raise
                log.info("curl: %s; trying again in %s s", error.strerror, pause)
            finally:
                self._pool.give(handle)
            time.sleep(pause)
        raise AssertionError("the last pause is None")

    # -- reading ------------------------------------------------------------------------

    def _read(self, handle: Handle, count: int, offset: int) -> bytes:
        data = handle.get(count, offset)
        if self._is_http:
            familiar = self._familiar
            if familiar is None or not familiar.are(handle.headers, count, offset):
                self._check(handle.headers, count, offset)
        if len(data) != count:
            text = (
                f"{self._shown}: {count} bytes at {offset} were asked for, and other than that came"
            )
            raise Passing(errno.EIO, text) if self._is_http else OSError(errno.EIO, text)
        return data

    def _check(self, headers: list[bytes], count: int, offset: int) -> None:
        """Raise OSError unless *headers* are those of this part of the file that was opened."""
        reply = Reply(headers)
        part = reply.content_range()
        size = self._facts.size
        if reply.status == 200:
            # Nothing forbids to answer so a request for all there is.
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
        self._familiar = _Familiar.from_headers(headers, count, offset, self._facts)

    def _error(self, text: str) -> OSError:
        return OSError(errno.EIO, f"{self._shown}: {text}")

    # -- writing ------------------------------------------------------------------------

    def _write(self, data: memoryview, offset: int) -> None:
        # From now on it is this client who changes the file: only its size is to stay the same.
        self._facts = Facts(self._facts.size)
        self._familiar = None
        self._attempt(_PAUSES, self._put, data, offset)

    def _put(self, handle: Handle, data: memoryview, offset: int) -> None:
        handle.put(data, offset, self._facts.size)
        reply = Reply(handle.headers)
        if reply.status not in (200, 201, 204):
            raise reply.failure(self._shown)

    def _see_whether_parts_are_taken(self, count: int) -> None:
        """Look at the file after a write of *count* bytes: a server that does not know of parts
        has replaced it by those, and must not be given more.
        """
        size = self._facts.size
        now = self._attempt(_PAUSES, probe, self._shown, True).size
        if now != size:
            raise self._error(
                f"the server took {count} bytes for the whole file, which was {size} bytes and is"
                f" {now}; it does not know partial PUT: use -r"
            )
        self._parts_are_taken = count != size


class _Familiar(NamedTuple):
    """How a good reply looked, so that the next one can be recognized without taking it apart:
    the Content-Range line before and after its numbers, and the line that tells versions apart.
    """

    before: bytes
    after: bytes
    version: bytes | None

    @classmethod
    def from_headers(
        cls, headers: list[bytes], count: int, offset: int, facts: Facts
    ) -> "_Familiar | None":
        """Return what is familiar of these headers, or None if they have no Content-Range."""
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

    def are(self, headers: list[bytes], count: int, offset: int) -> bool:
        """Return whether *headers* are of a single reply, and of this part of the same file."""
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

"""libcurl handles, each with a connection to the server, and the pool that threads share.

One thread at a time uses a handle, which keeps its connection from request to request.  A handle is
configured when it is made; a read sets only the range.  This file does not interpret replies.
"""

import errno
import io
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass

import pycurl

from .header_script import HeaderScript
from .options import Option
from .reply import failure
from .trace import Trace

_MAX_IGNORED = 1024 * 1024
"""How many bytes of content are read of a reply whose content is not needed."""


@dataclass(frozen=True)
class Recipe:
    """How handles are made, according to the plugin's parameters.

    *shown* is the URL without secrets, for messages.  With a *cookiefile*, which may be "", or a
    *cookiejar*, the handles keep and share cookies.  They begin with those in the files, and save
    them in the jar.
    """

    shown: str
    options: tuple[Option, ...]
    headers: tuple[str, ...] = ()
    header_script: HeaderScript | None = None
    cookie_script: HeaderScript | None = None
    cookiefile: str | None = None
    cookiejar: str | None = None
    verbose: bool = False

    def keeps_cookies(self) -> bool:
        """Return whether the handles keep cookies."""
        return self.cookiefile is not None or self.cookiejar is not None


class Handle:
    """One libcurl handle made by *recipe*, with the cookies of *share*."""

    def __init__(self, recipe: Recipe, share: pycurl.CurlShare | None = None) -> None:
        self.headers: list[bytes] = []
        """The header lines of the last request's replies, redirects included."""
        self._recipe = recipe
        self._chunks: list[bytes] = []
        self._room = 0
        self._has_jar = False
        self._cookies: tuple[str, ...] = ()
        self._trace = Trace()
        self._curl = curl = pycurl.Curl()
        for option in recipe.options:
            option.set_on(curl)
        if recipe.verbose:
            curl.setopt(pycurl.VERBOSE, 1)
            curl.setopt(pycurl.DEBUGFUNCTION, self._trace)
        if share is not None:
            curl.setopt(pycurl.SHARE, share)
            curl.setopt(pycurl.COOKIEFILE, "")  # reads no file, but turns cookies on
        curl.setopt(pycurl.HEADERFUNCTION, self.headers.append)
        curl.setopt(pycurl.WRITEFUNCTION, self._take)
        self._setopt = curl.setopt
        self._perform = curl.perform
        self._set_headers(recipe.headers)
        self._is_fixed = recipe.header_script is None and recipe.cookie_script is None

    def load_cookies(self) -> None:
        """Load the recipe's cookies with the first request, and save them in the jar at the end.

        Only the first handle may do so: a later one would replace newer cookies by old ones.
        """
        if self._recipe.cookiefile is not None:
            self._setopt(pycurl.COOKIEFILE, os.fsencode(self._recipe.cookiefile))
        if self._recipe.cookiejar is not None:
            self._setopt(pycurl.COOKIEFILE, os.fsencode(self._recipe.cookiejar))
            self._setopt(pycurl.COOKIEJAR, os.fsencode(self._recipe.cookiejar))
            self._has_jar = True

    def get(self, count: int, offset: int) -> bytes:
        """Ask for *count* bytes from *offset*, and return what the server sent, whatever it is.

        Raises OSError if the request failed.
        """
        if not self._is_fixed:
            self._refresh()
        self._setopt(pycurl.RANGE, f"{offset}-{offset + count - 1}")
        self._transfer(count)
        chunks = self._chunks
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        return data

    def head(self) -> int:
        """Ask for the file without its content; return the size in the reply, or -1."""
        self._refresh()
        self._curl.unsetopt(pycurl.RANGE)
        self._setopt(pycurl.NOBODY, 1)
        try:
            self._transfer(_MAX_IGNORED)  # with FTP, libcurl makes up headers
        finally:
            self._setopt(pycurl.HTTPGET, 1)  # this also ends NOBODY
        return int(self._curl.getinfo(pycurl.CONTENT_LENGTH_DOWNLOAD_T))

    def put(self, data: memoryview, offset: int, size: int) -> None:
        """Send *data* as a part of a file of *size* bytes (RFC 9110, 14.5).

        Raises OSError, also if a redirect turned the request into a GET (303 See Other).
        """
        stream = io.BytesIO(data)
        self._refresh()
        part = f"Content-Range: bytes {offset}-{offset + len(data) - 1}/{size}"
        self._setopt(pycurl.HTTPHEADER, _lines((*self._headers, part, "Expect:")))
        self._setopt(pycurl.UPLOAD, 1)
        self._setopt(pycurl.INFILESIZE_LARGE, len(data))
        self._setopt(pycurl.READFUNCTION, stream.read)
        # Needed when the data has to be sent a second time.
        self._setopt(pycurl.SEEKFUNCTION, lambda *position: stream.seek(*position) and None)
        try:
            self._transfer(_MAX_IGNORED)
            if self._curl.getinfo(pycurl.EFFECTIVE_METHOD) != "PUT":
                text = "the server redirects the write to where nothing can be written (303)"
                raise OSError(errno.EIO, f"{self._recipe.shown}: {text}")
        finally:
            self._setopt(pycurl.HTTPGET, 1)  # this also ends UPLOAD
            self._set_headers(self._headers)

    def close(self) -> None:
        """Close the connection."""
        if self._has_jar:  # now, because pycurl separates the handle from shared cookies first
            self._setopt(pycurl.COOKIELIST, "FLUSH")
        self._curl.close()

    def _transfer(self, room: int) -> None:
        """Make the request.  Content of more than *room* bytes ends it and is discarded."""
        self.headers.clear()
        self._chunks.clear()
        self._room = room
        try:
            self._perform()
        except pycurl.error as error:
            self._chunks.clear()
            if self._room >= 0 or error.args[0] != pycurl.E_WRITE_ERROR:
                raise failure(error, self._recipe.shown) from error

    def _take(self, chunk: bytes) -> int | None:
        """Keep a piece of the content (CURLOPT_WRITEFUNCTION)."""
        self._room -= len(chunk)
        if self._room < 0:
            return -1
        self._chunks.append(chunk)
        return None

    # -- headers and cookies that change ------------------------------------------------

    def _refresh(self) -> None:
        """Use the headers and cookies that the scripts print now."""
        if self._recipe.header_script is not None:
            headers = self._recipe.header_script.lines()
            if headers is not self._headers:
                self._set_headers(headers)
        if self._recipe.cookie_script is not None:
            cookies = self._recipe.cookie_script.lines()
            if cookies is not self._cookies:
                self._cookies = cookies
                self._setopt(pycurl.COOKIE, os.fsencode(cookies[0]) if cookies else None)

    def _set_headers(self, headers: tuple[str, ...]) -> None:
        self._headers = headers
        self._trace.hide(headers)
        if headers:
            self._setopt(pycurl.HTTPHEADER, _lines(headers))
        else:
            self._curl.unsetopt(pycurl.HTTPHEADER)


class Pool:
    """Up to *limit* handles, made by *make* when needed, for all threads of a client.

    The handle that was given back last is taken first, so a client that makes one request at a time
    uses one connection.
    """

    def __init__(self, make: Callable[[], Handle], limit: int) -> None:
        self._make = make
        self._limit = limit
        self._idle: list[Handle] = []  # append() and pop() of a list are atomic
        self._made = 0
        self._waiting = 0
        self._changed = threading.Condition()

    def take(self) -> Handle:
        """Return a handle that no other thread uses; wait until there is one."""
        try:
            return self._idle.pop()
        except IndexError:
            return self._make_or_wait()

    def give(self, handle: Handle) -> None:
        """Take *handle* back."""
        self._idle.append(handle)
        if self._waiting:
            with self._changed:
                self._changed.notify()

    def _make_or_wait(self) -> Handle:
        with self._changed:
            if self._made < self._limit:
                handle = self._make()
                self._made += 1
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

    def close(self) -> None:
        """Close all handles, none of which may be in use."""
        while self._idle:
            self._idle.pop().close()


def _lines(headers: tuple[str, ...]) -> list[bytes]:
    return [os.fsencode(line) for line in headers]

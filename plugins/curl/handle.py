"""A connection to the far end: one libcurl handle, used by one thread at a time, and their pool.

A handle keeps its connection from request to request.  It is configured when it is made; a read
sets the range and nothing else.  What a reply means is not known here.
"""

import errno
import io
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass

import pycurl

from .options import Option
from .reply import failure
from .script import Script
from .trace import Trace

_LONGEST_ANSWER = 1024 * 1024
"""How much is taken, in bytes, of the content of a reply where none is asked for."""


@dataclass(frozen=True)
class Recipe:
    """How handles are made: all that comes of the plugin's parameters.

    *shown* is the URL as messages may show it.  With a *cookiefile*, be it "", or a *cookiejar*,
    the handles keep cookies, together: they begin with those in the files, and leave them in the
    jar.
    """

    shown: str
    options: tuple[Option, ...]
    headers: tuple[str, ...] = ()
    header_script: Script | None = None
    cookie_script: Script | None = None
    cookiefile: str | None = None
    cookiejar: str | None = None
    verbose: bool = False

    def keeps_cookies(self) -> bool:
        """Return whether the handles keep cookies."""
        return self.cookiefile is not None or self.cookiejar is not None


class Handle:
    """One libcurl handle made by *recipe*; its cookies are those of *share*."""

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
            curl.setopt(pycurl.COOKIEFILE, "")  # no file, but only so they are looked at
        curl.setopt(pycurl.HEADERFUNCTION, self.headers.append)
        curl.setopt(pycurl.WRITEFUNCTION, self._take)
        self._setopt = curl.setopt
        self._perform = curl.perform
        self._set_headers(recipe.headers)
        self._is_fixed = recipe.header_script is None and recipe.cookie_script is None

    def load_cookies(self) -> None:
        """Find the recipe's cookies before the first request, and save them in the jar at the end.

        Only the first handle does: another would put old cookies in the place of newer ones.
        """
        if self._recipe.cookiefile is not None:
            self._setopt(pycurl.COOKIEFILE, os.fsencode(self._recipe.cookiefile))
        if self._recipe.cookiejar is not None:
            self._setopt(pycurl.COOKIEFILE, os.fsencode(self._recipe.cookiejar))
            self._setopt(pycurl.COOKIEJAR, os.fsencode(self._recipe.cookiejar))
            self._has_jar = True

    def get(self, count: int, offset: int) -> bytes:
        """Ask for *count* bytes from *offset*, and return what came: other than that, if the
        far end did not send that.  Raises OSError if it sent nothing that makes sense.
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
            self._transfer(_LONGEST_ANSWER)  # of FTP, headers made up by libcurl
        finally:
            self._setopt(pycurl.HTTPGET, 1)  # also puts an end to NOBODY
        return int(self._curl.getinfo(pycurl.CONTENT_LENGTH_DOWNLOAD_T))

    def put(self, data: memoryview, offset: int, size: int) -> None:
        """Send *data* to become a part of a file of *size* bytes (RFC 9110, 14.5).

        Raises OSError with EIO if it was not there that a redirect led (303 See Other).
        """
        stream = io.BytesIO(data)
        self._refresh()
        part = f"Content-Range: bytes {offset}-{offset + len(data) - 1}/{size}"
        self._setopt(pycurl.HTTPHEADER, _lines((*self._headers, part, "Expect:")))
        self._setopt(pycurl.UPLOAD, 1)
        self._setopt(pycurl.INFILESIZE_LARGE, len(data))
        self._setopt(pycurl.READFUNCTION, stream.read)
        # For when the data has been sent, but must be sent again.
        self._setopt(pycurl.SEEKFUNCTION, lambda *position: stream.seek(*position) and None)
        try:
            self._transfer(_LONGEST_ANSWER)
            if self._curl.getinfo(pycurl.EFFECTIVE_METHOD) != "PUT":
                text = "the server redirects what is written to where nothing can be (303)"
                raise OSError(errno.EIO, f"{self._recipe.shown}: {text}")
        finally:
            self._setopt(pycurl.HTTPGET, 1)  # also puts an end to UPLOAD
            self._set_headers(self._headers)

    def close(self) -> None:
        """End the connection."""
        if self._has_jar:  # before pycurl takes the shared cookies away from the handle
            self._setopt(pycurl.COOKIELIST, "FLUSH")
        self._curl.close()

    def _transfer(self, room: int) -> None:
        """Make the request.  What comes beyond *room* bytes ends it, and then none is kept."""
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
        """Keep what came (CURLOPT_WRITEFUNCTION)."""
        self._room -= len(chunk)
        if self._room < 0:
            return -1
        self._chunks.append(chunk)
        return None

    # -- headers and cookies that change ------------------------------------------------

    def _refresh(self) -> None:
        """Use what the scripts print by now."""
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
    """Up to *limit* handles, made by *make* when they are needed; threads share it.

    The one given back last is taken first: a client that asks for one thing at a time has one
    connection.
    """

    def __init__(self, make: Callable[[], Handle], limit: int) -> None:
        self._make = make
        self._limit = limit
        self._idle: list[Handle] = []  # a list's methods need no lock
        self._made = 0
        self._waiting = 0
        self._changed = threading.Condition()

    def take(self) -> Handle:
        """Return a handle that nobody else has; wait until there is one."""
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
            self._waiting += 1  # who gives one back from now on sees this, and we what came before
            try:
                while True:
                    try:
                        return self._idle.pop()
                    except IndexError:  # it may have gone to another thread
                        self._changed.wait()
            finally:
                self._waiting -= 1

    def close(self) -> None:
        """Close all handles; none is in use any more."""
        while self._idle:
            self._idle.pop().close()


def _lines(headers: tuple[str, ...]) -> list[bytes]:
    return [os.fsencode(line) for line in headers]

"""The requests for one file, by a libcurl handle that is configured when it is made.

A read sets only the range.  Where the file is, all handles of a client know together: a redirect
that was followed once is not asked for again, until what it leads to fails.  Replies are not
interpreted here.
"""

import errno
import io
import os
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

import pycurl

from .._web.transfer import MAX_IGNORED, Option, Transfer
from .header_script import HeaderScript

_FOR_THE_SERVER_ONLY = ("authorization", "cookie")
"""Headers that are not sent to another server, as libcurl has it where it follows a redirect."""


@dataclass(frozen=True)
class Recipe:
    """How handles are made, according to the plugin's parameters.

    *url* may have secrets, *shown* is the same for messages.  With a *cookiefile*, which may be "",
    or a *cookiejar*, the handles keep and share cookies.  They begin with those in the files, and
    save them in the jar.
    """

    url: str
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


class Place:
    """Where the file of *url* is, as far as redirects have told; for all handles of a client."""

    def __init__(self, url: str) -> None:
        self._origin = _origin(url)
        self._can_be_left = "@" not in url  # a user in the URL belongs to it
        self.target: str | None = None
        """The URL that the redirects have led to; None: begin with the one that was given."""

    def learn(self, target: str) -> None:
        """A request was answered from *target*."""
        if self._can_be_left:
            self.target = target

    def is_elsewhere(self, target: str | None) -> bool:
        """Return whether *target* is on another server than the URL that was given."""
        return target is not None and _origin(target) != self._origin


class Handle(Transfer):
    """One libcurl handle made by *recipe* for the file at *place*, with the cookies of *share*."""

    def __init__(self, recipe: Recipe, place: Place, share: pycurl.CurlShare | None = None) -> None:
        super().__init__(recipe.options, recipe.shown, trust="cainfo=", verbose=recipe.verbose)
        self._recipe = recipe
        self._place = place
        self.aim: str | None = None
        """The target of redirects that requests are sent to, or None."""
        self._is_elsewhere = False
        self._has_jar = False
        self._cookies: tuple[str, ...] = ()
        self.setopt(pycurl.URL, os.fsencode(recipe.url))
        if share is not None:
            self.setopt(pycurl.SHARE, share)
            self.setopt(pycurl.COOKIEFILE, "")  # reads no file, but turns cookies on
        self._set_headers(recipe.headers)
        self._is_fixed = recipe.header_script is None and recipe.cookie_script is None

    def load_cookies(self) -> None:
        """Load the recipe's cookies with the first request, and save them in the jar at the end.

        Only the first handle may do so: a later one would replace newer cookies by old ones.
        """
        if self._recipe.cookiefile is not None:
            self.setopt(pycurl.COOKIEFILE, os.fsencode(self._recipe.cookiefile))
        if self._recipe.cookiejar is not None:
            self.setopt(pycurl.COOKIEFILE, os.fsencode(self._recipe.cookiejar))
            self.setopt(pycurl.COOKIEJAR, os.fsencode(self._recipe.cookiejar))
            self._has_jar = True

    def get(self, count: int, offset: int) -> bytes:
        """Ask for *count* bytes from *offset*, and return what the server sent, whatever it is.

        Raises OSError if the request failed.
        """
        if self.aim is not self._place.target:
            self._take_aim(self._place.target)
        if not self._is_fixed:
            self._refresh()
        self.setopt(pycurl.RANGE, f"{offset}-{offset + count - 1}")
        return self.perform(count)

    def head(self) -> int:
        """Ask for the file without its content; return the size in the reply, or -1."""
        self._take_aim(None)
        self._refresh()
        self.curl.unsetopt(pycurl.RANGE)
        self.setopt(pycurl.NOBODY, 1)
        try:
            self.perform(MAX_IGNORED)  # with FTP, libcurl makes up headers
        finally:
            self.setopt(pycurl.HTTPGET, 1)  # this also ends NOBODY
        return int(self.curl.getinfo(pycurl.CONTENT_LENGTH_DOWNLOAD_T))

    def put(self, data: memoryview, offset: int, size: int) -> None:
        """Send *data* as a part of a file of *size* bytes (RFC 9110, 14.5).

        Raises OSError, also if a redirect turned the request into a GET (303 See Other).
        """
        stream = io.BytesIO(data)
        self._take_aim(None)
        self._refresh()
        part = f"Content-Range: bytes {offset}-{offset + len(data) - 1}/{size}"
        self.setopt(pycurl.HTTPHEADER, _lines((*self._headers, part, "Expect:")))
        self.setopt(pycurl.UPLOAD, 1)
        self.setopt(pycurl.INFILESIZE_LARGE, len(data))
        self.setopt(pycurl.READFUNCTION, stream.read)
        # Needed when the data has to be sent a second time.
        self.setopt(pycurl.SEEKFUNCTION, lambda *position: stream.seek(*position) and None)
        try:
            self.perform(MAX_IGNORED)
            if self.curl.getinfo(pycurl.EFFECTIVE_METHOD) != "PUT":
                text = "the server redirects the write to where nothing can be written (303)"
                raise OSError(errno.EIO, f"{self._recipe.shown}: {text}")
        finally:
            self.setopt(pycurl.HTTPGET, 1)  # this also ends UPLOAD
            self._set_headers(self._headers)

    def remember_redirects(self) -> None:
        """Let the next reads go where redirects have led the last request, if there were any."""
        if self.curl.getinfo(pycurl.REDIRECT_COUNT):
            self._place.learn(self.curl.getinfo(pycurl.EFFECTIVE_URL))

    def close(self) -> None:
        if self._has_jar:  # now, because pycurl separates the handle from shared cookies first
            self.setopt(pycurl.COOKIELIST, "FLUSH")
        super().close()

    # -- where requests go --------------------------------------------------------------

    def _take_aim(self, target: str | None) -> None:
        """Send requests to *target*, or to the URL that was given; secrets only go to the latter's
        server.
        """
        if target == self.aim:
            return
        self.aim = target
        self.setopt(pycurl.URL, os.fsencode(target or self._recipe.url))
        was_elsewhere, self._is_elsewhere = self._is_elsewhere, self._place.is_elsewhere(target)
        if self._is_elsewhere == was_elsewhere:
            return
        for option in self._recipe.options:
            if option.number in (pycurl.USERNAME, pycurl.PASSWORD, pycurl.COOKIE):
                option._replace(value=None if self._is_elsewhere else option.value).set_on(
                    self.curl
                )
        self._cookies = ()
        self._set_headers(self._headers)

    # -- headers and cookies that change ------------------------------------------------

    def _refresh(self) -> None:
        """Use the headers and cookies that the scripts print now."""
        if self._recipe.header_script is not None:
            headers = self._recipe.header_script.lines()
            if headers is not self._headers:
                self._set_headers(headers)
        if self._recipe.cookie_script is not None:
            cookies = () if self._is_elsewhere else self._recipe.cookie_script.lines()
            if cookies is not self._cookies:
                self._cookies = cookies
                self.setopt(pycurl.COOKIE, os.fsencode(cookies[0]) if cookies else None)

    def _set_headers(self, headers: tuple[str, ...]) -> None:
        self._headers = headers
        self.trace.hide(headers)
        if self._is_elsewhere:
            headers = tuple(line for line in headers if _name(line) not in _FOR_THE_SERVER_ONLY)
        if headers:
            self.setopt(pycurl.HTTPHEADER, _lines(headers))
        else:
            self.curl.unsetopt(pycurl.HTTPHEADER)


def _lines(headers: tuple[str, ...]) -> list[bytes]:
    return [os.fsencode(line) for line in headers]


def _name(line: str) -> str:
    return re.split("[:;]", line, maxsplit=1)[0].strip().lower()


def _origin(url: str) -> tuple[str, str]:
    """Return the scheme and the server of *url*."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    return parts.scheme.lower(), parts.netloc.rpartition("@")[2].lower()

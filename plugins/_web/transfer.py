"""One libcurl handle, with a connection that it keeps: a request at a time, and bounds for replies.

libcurl itself bounds the headers of a reply (300 KiB); how much content there may be is said with
each request.  This file does not interpret replies.
"""

import errno
import logging
import os
import socket
import threading
from collections.abc import Iterable
from typing import Any, NamedTuple

import pycurl

from .reply import failure
from .trace import Trace

log = logging.getLogger(__name__)

MAX_IGNORED = 1024 * 1024
"""How many bytes of content are read of a reply whose content is not needed."""

_BUFFER_SIZE = 512 * 1024
"""The most bytes that libcurl passes on at a time (CURL_MAX_READ_SIZE is 10 MiB)."""

_LEAST_SPEED = 100
"""Bytes a second: a far end that sends fewer for the whole of a timeout counts as silent."""

_MAX_REDIRECTS = 10


class Option(NamedTuple):
    """An option of libcurl, its value (None: unset it), and the parameter that asks for it."""

    number: int
    value: Any
    key: str = ""

    def set_on(self, curl: pycurl.Curl) -> None:
        """Set it.  Raises pycurl.error, or TypeError or ValueError for what pycurl refuses."""
        if self.value is None:
            curl.unsetopt(self.number)
        else:
            curl.setopt(self.number, self.value)


def always(silence: float) -> list[Option]:
    """Return the options of every handle; it gives up a far end after seconds of *silence*."""
    return [
        Option(pycurl.NOSIGNAL, 1),  # there are threads
        Option(pycurl.USERAGENT, ""),  # not pycurl's own
        Option(pycurl.BUFFERSIZE, _BUFFER_SIZE),
        Option(pycurl.MAXREDIRS, _MAX_REDIRECTS),
        Option(pycurl.CONNECTTIMEOUT_MS, max(1, round(silence * 1000))),  # with the TLS handshake
        Option(pycurl.LOW_SPEED_LIMIT, _LEAST_SPEED),
        Option(pycurl.LOW_SPEED_TIME, max(1, round(silence))),
    ]


class Transfer:
    """One libcurl handle with *options*; *shown* is what it reaches, for messages.

    *trust* is what names the certificates to trust.  With *verbose*, what libcurl does is logged.
    One thread at a time may use it, but any thread may `abandon` it.
    """

    def __init__(
        self, options: Iterable[Option], shown: str, *, trust: str, verbose: bool = False
    ) -> None:
        self.headers: list[bytes] = []
        """The header lines of the last request's replies, redirects included."""
        self.shown = shown
        self._trust = trust
        self.trace = Trace()
        self._chunks: list[bytes] = []
        self._room = 0
        self._guarding = threading.Lock()
        self._sockets: set[int] = set()
        self._is_abandoned = False
        self.curl = curl = pycurl.Curl()
        for option in options:
            option.set_on(curl)
        if verbose:
            curl.setopt(pycurl.VERBOSE, 1)
            curl.setopt(pycurl.DEBUGFUNCTION, self.trace)
        curl.setopt(pycurl.SOCKOPTFUNCTION, self._connecting)
        curl.setopt(pycurl.CLOSESOCKETFUNCTION, self._closing)
        curl.setopt(pycurl.HEADERFUNCTION, self.headers.append)
        curl.setopt(pycurl.WRITEFUNCTION, self._take)
        self.setopt = curl.setopt
        self._perform = curl.perform

    def perform(self, room: int) -> bytes:
        """Make the request, and return the content of the reply, whatever that is.

        Content of more than *room* bytes ends the request; then none of it is returned.  Raises
        OSError if there was no reply, or not all of it.
        """
        self.headers.clear()
        chunks = self._chunks
        chunks.clear()
        self._room = room
        try:
            self._perform()
        except pycurl.error as error:
            chunks.clear()
            if self._is_abandoned:
                raise OSError(errno.ESHUTDOWN, f"{self.shown}: nobody waits any more") from error
            if self._room >= 0 or error.args[0] != pycurl.E_WRITE_ERROR:
                system = self.curl.getinfo(pycurl.OS_ERRNO)
                raise failure(error, self.shown, self._trust, system) from error
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        return data

    def abandon(self) -> None:
        """Make the request that is under way fail, and all later ones."""
        with self._guarding:
            self._is_abandoned = True
            for fd in self._sockets:
                _shut_down(fd)

    def close(self) -> None:
        """Close the connection."""
        self.curl.close()

    def _take(self, chunk: bytes) -> int | None:
        """Keep a piece of the content (CURLOPT_WRITEFUNCTION)."""
        self._room -= len(chunk)
        if self._room < 0:
            return -1
        self._chunks.append(chunk)
        return None

    def _connecting(self, fd: int, purpose: int) -> int:
        """A socket will be connected (CURLOPT_SOCKOPTFUNCTION)."""
        with self._guarding:
            if self._is_abandoned:
                return pycurl.SOCKOPT_ERROR
            self._sockets.add(fd)
        return pycurl.SOCKOPT_OK

    def _closing(self, fd: int) -> int:
        """A socket is to be closed (CURLOPT_CLOSESOCKETFUNCTION)."""
        with self._guarding:
            self._sockets.discard(fd)
            os.close(fd)
        return 0


def _shut_down(fd: int) -> None:
    try:
        with socket.socket(fileno=os.dup(fd)) as copy:
            copy.shutdown(socket.SHUT_RDWR)
    except OSError as error:  # it is not connected any more
        log.debug("shutting a connection down: %s", error)

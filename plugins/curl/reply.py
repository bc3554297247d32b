"""What a server's replies and libcurl's errors mean: facts of the file, and kinds of failure.

This file sends nothing.  It decides which failures are transient, so that trying again may help.
"""

import errno
import http
import re
from collections.abc import Iterable
from typing import NamedTuple

import pycurl

from .._link.retrying import TransientError

_TRANSIENT_STATUS = frozenset({408, 429, 500, 502, 503, 504})

_TRANSIENT_CODES = frozenset(
    {
        pycurl.E_COULDNT_RESOLVE_HOST,
        pycurl.E_COULDNT_RESOLVE_PROXY,
        pycurl.E_COULDNT_CONNECT,
        pycurl.E_PARTIAL_FILE,
        pycurl.E_GOT_NOTHING,
        pycurl.E_SEND_ERROR,
        pycurl.E_RECV_ERROR,
        pycurl.E_HTTP2,
        92,  # CURLE_HTTP2_STREAM, which pycurl has no name for
        95,  # CURLE_HTTP3
        96,  # CURLE_QUIC_CONNECT_ERROR
        pycurl.E_SSL_CONNECT_ERROR,
        pycurl.E_FTP_WEIRD_SERVER_REPLY,
        pycurl.E_FTP_ACCEPT_FAILED,
        pycurl.E_FTP_CANT_RECONNECT,
        pycurl.E_SSH,
        pycurl.E_FAILED_INIT,  # sshd drops some of many simultaneous connections (MaxStartups)
        pycurl.E_AGAIN,
    }
)

_ERRNO_OF_CODE = {
    pycurl.E_REMOTE_FILE_NOT_FOUND: errno.ENOENT,
    pycurl.E_FILE_COULDNT_READ_FILE: errno.ENOENT,
    pycurl.E_REMOTE_ACCESS_DENIED: errno.EACCES,
    pycurl.E_LOGIN_DENIED: errno.EACCES,
    pycurl.E_PEER_FAILED_VERIFICATION: errno.EACCES,
    pycurl.E_OPERATION_TIMEDOUT: errno.ETIMEDOUT,
}

_ERRNO_OF_STATUS = {
    401: errno.EACCES,
    403: errno.EACCES,
    404: errno.ENOENT,
    405: errno.EACCES,
    407: errno.EACCES,
    410: errno.ENOENT,
}

_HINTS = {
    401: "; give user= and password=",
    407: "; give proxy-user= and proxy-password=",
}

_CONTENT_RANGE = re.compile(
    r"bytes (?:([0-9]{1,19})-([0-9]{1,19})|\*)/([0-9]{1,19}|\*)", re.IGNORECASE
)
_SCHEME = re.compile("(?:([A-Za-z][A-Za-z0-9+.-]*):(?=/))?/*")
"""What comes before user and host; without a slash, libcurl takes no word for a scheme."""


class Facts(NamedTuple):
    """What a reply tells about the file: its size in bytes, and what identifies its version."""

    size: int
    etag: str | None = None
    modified: str | None = None

    def difference(self, other: "Facts") -> str:
        """Return how *other* shows that the file has changed, or "" if it has not."""
        if other.size != self.size:
            return f"its size was {self.size} bytes and is {other.size}"
        for what, before, now in (
            ("ETag", self.etag, other.etag),
            ("Last-Modified", self.modified, other.modified),
        ):
            if before and now:
                return "" if before == now else f"its {what} was {before} and is {now}"
        return ""


class Reply:
    """The last reply in *lines*, the headers of one transfer (RFC 9110).

    Replies before it are redirects, a proxy's, or interim ones.
    """

    def __init__(self, lines: Iterable[bytes]) -> None:
        self.status = 0
        self._fields: dict[str, str] = {}
        for line in lines:
            text = line.decode("latin-1").strip()
            if text.startswith("HTTP/"):
                words = text.split(None, 2)
                is_status = len(words) > 1 and len(words[1]) == 3 and words[1].isdecimal()
                self.status = int(words[1]) if is_status else 0
                self._fields = {}
            else:
                name, _, value = text.partition(":")
                self._fields[name.lower()] = value.strip()

    def field(self, name: str) -> str | None:
        """Return the value of the header *name* (in lower case), or None."""
        return self._fields.get(name)

    def offers_ranges(self) -> bool:
        """Whether it says that parts of the file can be requested."""
        return (self.field("accept-ranges") or "").lower() == "bytes"

    def refuses_ranges(self) -> bool:
        """Whether it says that only the whole file can be requested."""
        return (self.field("accept-ranges") or "").lower() == "none"

    def content_range(self) -> tuple[int, int, int | None] | None:
        """Return offset and count of the part that was sent, and the file's size if it is told.

        Return None if the header is missing or malformed.  The count is 0 in a refusal (416).
        """
        match = _CONTENT_RANGE.fullmatch(self.field("content-range") or "")
        if match is None:
            return None
        size = None if match[3] == "*" else int(match[3])
        if match[1] is None:
            return 0, 0, size
        return int(match[1]), int(match[2]) - int(match[1]) + 1, size

    def facts(self, size: int) -> Facts:
        """Return what the reply tells about a file of *size* bytes."""
        return Facts(size, self.field("etag"), self.field("last-modified"))

    def failure(self, shown: str) -> OSError:
        """Return the error that the status means for a request for *shown*."""
        status = self.status
        try:
            text = f"{status} {http.HTTPStatus(status).phrase}"
        except ValueError:
            text = str(status)
        if 300 <= status < 400:
            where = shown_url(self.field("location") or "nowhere")
            text += f", a redirect to {where}, is not followed"
        text = f"{shown}: the server says {text}{_HINTS.get(status, '')}"
        if status in _TRANSIENT_STATUS:
            return TransientError(errno.EIO, text)
        return OSError(_ERRNO_OF_STATUS.get(status, errno.EIO), text)


def failure(error: pycurl.error, shown: str) -> OSError:
    """Return the error that libcurl's *error* means for a request for *shown*."""
    code = error.args[0]
    assert isinstance(code, int)  # what perform() raises has a code and a text
    text = f"{shown}: {error.args[-1] or pycurl.easy_strerror(code)}"
    if code == pycurl.E_PEER_FAILED_VERIFICATION:
        text += " (cainfo= names the certificates to trust)"
    if code in _TRANSIENT_CODES:
        return TransientError(errno.EIO, text)
    return OSError(_ERRNO_OF_CODE.get(code, errno.EIO), text)


def shown_url(url: str) -> str:
    """Return *url* without user, password and query, which may be secret."""
    match = _SCHEME.match(url)
    assert match is not None  # it matches the empty string, too
    host, slash, path = re.split("[?#]", url[match.end() :], maxsplit=1)[0].partition("/")
    return f"{match[0]}{host.rpartition('@')[2]}{slash}{path}"


def scheme_of(url: str) -> str:
    """Return the scheme of *url* in lower case; "" if it has none, as "user:password@host/path"."""
    match = _SCHEME.match(url)
    assert match is not None
    return (match[1] or "").lower()

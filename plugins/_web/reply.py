"""What a server's replies and libcurl's errors mean: facts of the file, and kinds of failure.

This file sends nothing.  It decides which failures are transient, so that trying again may help.
"""

import errno
import http
import re
from collections.abc import Iterable
from typing import NamedTuple

import pycurl

from nbdfork.plugin import parse

from .._link.retrying import TransientError
from .._link.texts import shown as shown_text

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
    pycurl.E_COULDNT_RESOLVE_HOST: errno.EHOSTUNREACH,
    pycurl.E_COULDNT_RESOLVE_PROXY: errno.EHOSTUNREACH,
}

_ERRNO_OF_CONNECTING = frozenset(
    {
        errno.ECONNREFUSED,
        errno.EACCES,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.ENOENT,  # of a Unix domain socket
        errno.ETIMEDOUT,
    }
)
"""What the system may say of a connection that cannot be made."""

_NONSENSE_CODES = frozenset(
    {
        pycurl.E_UNSUPPORTED_PROTOCOL,  # of a redirect: the plugin's own URL has been checked
        pycurl.E_FILESIZE_EXCEEDED,
        pycurl.E_TOO_MANY_REDIRECTS,
        pycurl.E_BAD_CONTENT_ENCODING,
        100,  # CURLE_TOO_LARGE, which pycurl has no name for
    }
)
"""A server that answers so will do it again."""

_ERRNO_OF_STATUS = {
    408: errno.ETIMEDOUT,
    504: errno.ETIMEDOUT,
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

_SINGLE = frozenset(
    {"content-encoding", "content-length", "content-range", "etag", "last-modified"}
)
"""Headers of which there is one, or none of them can be believed."""

_STATUS_LINE = re.compile(rb"HTTP/[0-9](?:\.[0-9])? ([0-9]{3})(?:[ \r\n]|$)")
_NUMBER = re.compile("[0-9]{1,19}", re.ASCII)
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
        """Return how *other* shows that the file has changed, or "" if it has not.

        What is known of the version must be told again: what is left out may be different.
        """
        if other.size != self.size:
            return f"its size was {self.size} bytes and is {other.size}"
        for what, before, now in (
            ("ETag", self.etag, other.etag),
            ("Last-Modified", self.modified, other.modified),
        ):
            if before and before != now:
                is_now = f"is {shown_text(now)}" if now else "is not told any more"
                return f"its {what} was {shown_text(before)} and {is_now}"
        return ""

    def completed(self, other: "Facts") -> "Facts":
        """Return these facts, with those of *other* that were not known."""
        return Facts(self.size, self.etag or other.etag, self.modified or other.modified)


class Reply:
    """The last reply in *lines*, the headers of one transfer (RFC 9110).

    Replies before it are redirects, a proxy's, or interim ones.
    """

    def __init__(self, lines: Iterable[bytes]) -> None:
        self.status = 0
        self.nonsense = ""
        """What in the headers cannot be true, or ""."""
        self._fields: dict[str, str] = {}
        begins = True  # a status line is only one where a reply begins
        for line in lines:
            if begins:
                self._begin(line)
            elif line.strip():
                self._add(line)
            begins = not line.strip()

    def _begin(self, line: bytes) -> None:
        match = _STATUS_LINE.match(line)
        self.status = int(match[1]) if match else 0
        self.nonsense = "" if match else f"a status line {shown_text(line)}"
        self._fields = {}

    def _add(self, line: bytes) -> None:
        name, _, value = line.decode("latin-1").partition(":")
        name, value = name.strip().lower(), value.strip()
        if name in _SINGLE and self._fields.get(name, value) != value:
            both = f"{shown_text(self._fields[name])} and {shown_text(value)}"
            self.nonsense = f"{name} {both} at once"
        self._fields[name] = value

    def check(self, shown: str) -> None:
        """Raise OSError if the reply for *shown* makes no sense, or is in an encoding.

        Nobody has asked for an encoding, and parts of encoded content are not parts of the file.
        """
        encoding = self.field("content-encoding") or "identity"
        if encoding.lower() != "identity" and not self.nonsense:
            self.nonsense = f"the file encoded ({shown_text(encoding)}) when asked for it as it is"
        length = self.field("content-length")
        if length is not None and not (_NUMBER.fullmatch(length) and int(length) <= parse.MAX_SIZE):
            self.nonsense = self.nonsense or f"Content-Length: {shown_text(length)}"
        part = self.field("content-range")
        if part is not None and self.content_range() is None and not self.nonsense:
            self.nonsense = f"Content-Range: {shown_text(part)}"
        if self.nonsense:
            raise nonsense(shown, self.nonsense)

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
        first, last = (0, -1) if match[1] is None else (int(match[1]), int(match[2]))
        if last + 1 < first or max(last, size or 0) > parse.MAX_SIZE:
            return None
        return first, last - first + 1, size

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
            where = shown_text(shown_url(self.field("location") or "nowhere"))
            text += f", a redirect to {where}, is not followed"
        text = f"{shown}: the server says {text}{_HINTS.get(status, '')}"
        if status in _TRANSIENT_STATUS:
            return TransientError(_ERRNO_OF_STATUS.get(status, errno.EIO), text)
        return OSError(_ERRNO_OF_STATUS.get(status, errno.EIO), text)


def nonsense(shown: str, what: str) -> OSError:
    """Return the error for a reply for *shown* that says *what*, which cannot be true."""
    return OSError(errno.EIO, f"{shown}: the far end says nonsense: {what}")


def failure(error: pycurl.error, shown: str, trust: str, system: int) -> OSError:
    """Return the error that libcurl's *error* means for a request for *shown*.

    *trust* is what names the certificates to trust.  *system* is the errno that libcurl had from
    the system.
    """
    code = error.args[0]
    assert isinstance(code, int)  # what perform() raises has a code and a text
    text = shown_text(without_secrets(str(error.args[-1] or pycurl.easy_strerror(code))))
    is_weird = code == pycurl.E_FTP_WEIRD_SERVER_REPLY and not shown.startswith("ftp")
    if is_weird or code in _NONSENSE_CODES:
        return nonsense(shown, text)
    if code == pycurl.E_PEER_FAILED_VERIFICATION:
        text += f" ({trust} names the certificates to trust)"
    number = _ERRNO_OF_CODE.get(code, errno.EIO)
    if code == pycurl.E_COULDNT_CONNECT and system in _ERRNO_OF_CONNECTING:
        number = system
    kind = TransientError if code in _TRANSIENT_CODES else OSError
    return kind(number, f"{shown}: {text}")


_USER_IN_URL = re.compile(r"(?<=://)[^/\s]+@")
_QUERY = re.compile(r"\?[^\s'\"]+")


def without_secrets(text: str) -> str:
    """Return *text* without users, passwords and queries of the URLs in it."""
    return _QUERY.sub("?(not shown)", _USER_IN_URL.sub("", text))


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

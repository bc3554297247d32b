"""What a script gets from `import nbdkit`: the functions and constants of nbdkit's Python API.

`script` puts this module into `sys.modules` under the name nbdkit.  The names without an underscore
are exactly those of nbdkit 1.48.  What belongs to one client's request is kept for each thread,
because clients may be served in threads.
"""

import datetime as _datetime
import logging as _logging
import operator as _operator
import os as _os
import re as _re
import socket as _socket
import threading as _threading
from collections.abc import Callable as _Callable
from collections.abc import Iterator as _Iterator
from typing import TypeVar as _TypeVar

from nbdfork.plugin import Buffer as _Buffer
from nbdfork.plugin import ConfigError as _ConfigError
from nbdfork.plugin import Server as _ServerHandle
from nbdfork.plugin import client as _client
from nbdfork.plugin import parse as _parse
from nbdfork.plugin import read_password as _read_password

THREAD_MODEL_SERIALIZE_CONNECTIONS = 0
THREAD_MODEL_SERIALIZE_ALL_REQUESTS = 1
THREAD_MODEL_SERIALIZE_REQUESTS = 2
THREAD_MODEL_PARALLEL = 3

FLAG_MAY_TRIM = 1 << 0
FLAG_FUA = 1 << 1
FLAG_REQ_ONE = 1 << 2
FLAG_FAST_ZERO = 1 << 3

FUA_NONE = 0
FUA_EMULATE = 1
FUA_NATIVE = 2

CACHE_NONE = 0
CACHE_EMULATE = 1
CACHE_NATIVE = 2

EXTENT_HOLE = 1 << 0
EXTENT_ZERO = 1 << 1

_log = _logging.getLogger("nbdfork.script")
_SIZE = _re.compile(r"\s*\+?[0-9][0-9A-Za-z]*", _re.ASCII)
_LABEL_SIZE = 4096
_PER_LINE = 16
_SO_PEERSEC = 31
_MOST_SECONDS = 2**31 - 1


class _Request(_threading.local):
    """What the callback that runs in this thread has set, and can ask for."""

    error: int = 0
    export_name: str | None = None


class _Loaded:
    """The server of the script that was loaded last."""

    server = _ServerHandle()


_T = _TypeVar("_T")

_request = _Request()


def debug(msg: str, /) -> None:
    """Print a debug message"""
    if not isinstance(msg, str):
        raise TypeError(f"debug() argument 1 must be str, not {type(msg).__name__}")
    _log.debug("%s", msg)


def export_name() -> str:
    """Return the optional export name negotiated with the client"""
    if _request.export_name is None:
        raise RuntimeError("nbdkit.export_name failed: no client has chosen an export here")
    return _request.export_name


def set_error(err: int, /) -> None:
    """Store an errno value prior to throwing an exception"""
    _request.error = _operator.index(err)


def debug_hexdump(buf: _Buffer, prefix: str | None = None, start: int = 0, /) -> None:
    """Display buffer in hexdump format"""
    data = memoryview(buf).cast("B")
    for first, end in _lines(start, len(data)):
        debug(_dumped(prefix, "", data, None, start, first, end))


def debug_hexdiff(
    buf1: _Buffer, buf2: _Buffer, prefix: str | None = None, start: int = 0, /
) -> None:
    """Display differences between two buffers of equal length"""
    one, other = memoryview(buf1).cast("B"), memoryview(buf2).cast("B")
    if len(one) != len(other):
        raise ValueError("nbdkit.debug_hexdiff: buffers must have equal length")
    for first, end in _lines(start, len(one)):
        if one[first:end] == other[first:end]:
            debug(_dumped(prefix, " ", one, None, start, first, end))
        else:
            debug(_dumped(prefix, "-", one, None, start, first, end))
            debug(_dumped(prefix, "+", other, one, start, first, end))


def _lines(start: int, length: int) -> _Iterator[tuple[int, int]]:
    """Yield the first byte and the end of each line of a dump: lines begin at multiples of 16."""
    first = 0
    while first < length:
        end = min(length, first + _PER_LINE - (start + first) % _PER_LINE)
        yield first, end
        first = end


def _dumped(
    prefix: str | None,
    sign: str,
    data: memoryview,
    other: memoryview | None,
    start: int,
    first: int,
    end: int,
) -> str:
    """Return a line of a dump, without what is the same in *other*."""
    codes, text = ["  "] * _PER_LINE, [" "] * _PER_LINE
    for index in range(first, end):
        value = data[index]
        if other is None or value != other[index]:
            column = (start + index) % _PER_LINE
            codes[column] = f"{value:02x}"
            text[column] = chr(value) if 32 <= value < 127 else "."
    line = (start + first) // _PER_LINE * _PER_LINE
    half = _PER_LINE // 2
    shown = f"{' '.join(codes[:half])}  {' '.join(codes[half:])}"
    return f"{prefix or ''}{sign}{line:08x}: {shown}  |{''.join(text)}|"


def disconnect(force: bool, /) -> None:
    """Request disconnection from current client"""
    _Loaded.server.disconnect(force=bool(force))


def is_tls() -> bool:
    """Return True if the client completed TLS authentication"""
    return _client.is_tls()


def name() -> str | None:
    """Return the name of the nbdkit instance"""
    return _Loaded.server.name


def nanosleep(sec: int, nsec: int, /) -> None:
    """Sleep for seconds and nanoseconds"""
    seconds, nanoseconds = _operator.index(sec), _operator.index(nsec)
    if not (0 <= seconds <= _MOST_SECONDS and 0 <= nanoseconds <= 10**9):
        raise RuntimeError(f"nbdkit.nanosleep failed: {sec} s and {nsec} ns are no time to sleep")
    _Loaded.server.wait(seconds + nanoseconds / 1e9)


def parse_bool(text: str, /) -> bool:
    """Parse human-readable boolean strings"""
    return _parsed("boolean", _parse.boolean, text)


def parse_delay(what: str, text: str, /) -> tuple[int, int]:
    """Parse delay and sleep strings into (sec, nsec) pair"""
    nanoseconds = round(_parsed("delay", _parse.delay, text, what) * 10**9)
    return divmod(nanoseconds, 10**9)


def parse_probability(what: str, text: str, /) -> float:
    """Parse probability strings into floating point number"""
    return _parsed("probability", _parse.probability, text, what)


def _parsed(kind: str, parse: _Callable[[str], _T], text: str, what: str = "") -> _T:
    if not isinstance(text, str):
        raise TypeError(f"parse_{kind}: a string is expected, not {type(text).__name__}")
    try:
        return parse(text)
    except ValueError as error:
        begin = f"{what}: " if what else ""
        message = f"{begin}Unable to parse string as {kind}: {text!r}: {error}"
        raise ValueError(message) from None


def peer_pid() -> int:
    """Return the client process ID for Unix domain sockets"""
    return _peer("pid").pid


def peer_uid() -> int:
    """Return the client user ID for Unix domain sockets"""
    return _peer("uid").uid


def peer_gid() -> int:
    """Return the client group ID for Unix domain sockets"""
    return _peer("gid").gid


def _peer(what: str) -> _client.Credentials:
    found = _client.credentials()
    if found is None:
        raise RuntimeError(f"Unable to get client {what}: it is not on a Unix domain socket")
    return found


def peer_security_context() -> str:
    """Return the client security context"""
    peer = _client.current()
    message = "Unable to get client security context"
    if peer is None:
        raise RuntimeError(f"{message}: there is no client here")
    try:
        label = peer.getsockopt(_socket.SOL_SOCKET, _SO_PEERSEC, _LABEL_SIZE)
    except OSError as error:
        raise RuntimeError(f"{message}: {error}") from error
    return _os.fsdecode(label.rstrip(b"\0"))


def peer_tls_dn() -> str:
    """Return the client TLS Distinguished Name"""
    protection = _client.protection()
    return protection.subject if protection else ""


def peer_tls_issuer_dn() -> str:
    """Return the client certificate issuer's TLS Distinguished Name"""
    protection = _client.protection()
    return protection.issuer if protection else ""


def read_password(value: str, /) -> bytes:
    """Read a password from a config parameter"""
    try:
        return _os.fsencode(_read_password("password", value))
    except _ConfigError as error:
        raise ValueError(f"Unable to parse parameter as a password: {error}") from None


def stdio_safe() -> bool:
    """Return True if it is safe to interact with stdin and stdout"""
    return not _Loaded.server.single


def timestamp() -> str:
    """Generate a timestamp for log messages"""
    now = _datetime.datetime.now(_datetime.UTC)
    return now.strftime("%Y-%m-%d %H:%M:%S.%f")


def parse_size(text: str, /) -> int:
    """Parse human-readable size strings into bytes"""
    if not isinstance(text, str):
        raise TypeError(f"parse_size() argument 1 must be str, not {type(text).__name__}")
    if not _SIZE.fullmatch(text):
        raise ValueError(f"Unable to parse string as size: {text!r}")
    try:
        return _parse.size(text.lstrip())
    except ValueError as error:
        raise ValueError(f"Unable to parse string as size: {text!r}: {error}") from None


def shutdown() -> None:
    """Request asynchronous shutdown"""
    _Loaded.server.stop()

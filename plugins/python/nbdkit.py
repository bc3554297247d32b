"""What a script gets from `import nbdkit`: the functions and constants of nbdkit's Python API.

`script` puts this module into `sys.modules` under the name nbdkit.  The names without an underscore
are exactly those of nbdkit 1.32.  What belongs to one client's request is kept for each thread,
because clients may be served in threads.
"""

import logging as _logging
import operator as _operator
import re as _re
import threading as _threading

from nbdfork.plugin import Server as _ServerHandle
from nbdfork.plugin import parse as _parse

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
_SIZE = _re.compile(r"\s*\+?[0-9]+[A-Za-z]?", _re.ASCII)


class _Request(_threading.local):
    """What the callback that runs in this thread has set, and can ask for."""

    error: int = 0
    export_name: str | None = None


class _Loaded:
    """The server of the script that was loaded last."""

    server = _ServerHandle()


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


def parse_size(text: str, /) -> int:
    """Parse human-readable size strings into bytes"""
    if not isinstance(text, str):
        raise TypeError(f"parse_size() argument 1 must be str, not {type(text).__name__}")
    if not _SIZE.fullmatch(text):
        raise ValueError(f"Unable to parse string as size: {text!r}")
    try:
        return _parse.size(text.lstrip().removeprefix("+"))
    except ValueError as error:
        raise ValueError(f"Unable to parse string as size: {text!r}: {error}") from None


def shutdown() -> None:
    """Request asynchronous shutdown"""
    _Loaded.server.stop()

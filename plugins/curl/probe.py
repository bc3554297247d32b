"""Finding out, when a client connects, the file's size and version.

Also whether the server sends parts of a file, without which it cannot be a disk.
"""

import errno

from nbdfork.plugin import parse

from .._web.reply import Facts, Reply, nonsense
from .handle import Handle


def probe(handle: Handle, shown: str, is_http: bool) -> Facts:
    """Ask for the facts of the file, whose name in messages is *shown*.

    Raises OSError if there is no such file, or it cannot be read in parts.
    """
    facts = (_by_head(handle, shown) or _by_get(handle, shown)) if is_http else _made_up(handle)
    if facts.size < 0:
        raise _no_size(shown)
    if facts.size > parse.MAX_SIZE:
        raise nonsense(shown, f"a size of {facts.size} bytes")
    return facts


def _made_up(handle: Handle) -> Facts:
    """Return what libcurl tells in the form of a reply to HEAD, for protocols that have none."""
    return Facts(handle.head())


def _by_head(handle: Handle, shown: str) -> Facts | None:
    """Return what a reply to HEAD tells, or None if that is not enough; many servers lack HEAD."""
    size = handle.head()
    reply = Reply(handle.headers)
    if reply.status != 200:
        return None
    reply.check(shown)
    if reply.refuses_ranges():
        raise _no_parts(shown)
    if size < 0 or not reply.offers_ranges():
        return None
    handle.remember_redirects()
    return reply.facts(size)


def _by_get(handle: Handle, shown: str) -> Facts:
    """Read the first byte, and return what the reply tells besides."""
    data = handle.get(1, 0)
    reply = Reply(handle.headers)
    reply.check(shown)
    part = reply.content_range()
    if reply.status == 200:
        if reply.field("content-length") == "0":
            return reply.facts(0)
        raise _no_parts(shown)
    if reply.status not in (206, 416) or (reply.status == 416 and part is None):
        raise reply.failure(shown)
    size = -1 if part is None or part[2] is None else part[2]
    if size < 0:
        raise _no_size(shown)
    if reply.status == 416 and size > 0:
        raise reply.failure(shown)
    if reply.status == 206 and (part is None or part[:2] != (0, 1) or len(data) != 1):
        raise OSError(errno.EIO, f"{shown}: the reply is not the 1 byte at 0 that was asked for")
    handle.remember_redirects()
    return reply.facts(size)


def _no_size(shown: str) -> OSError:
    return OSError(errno.EIO, f"{shown}: the server does not tell the file's size")


def _no_parts(shown: str) -> OSError:
    text = "the server only sends the whole file, and no parts of it (ranges)"
    return OSError(errno.EOPNOTSUPP, f"{shown}: {text}")

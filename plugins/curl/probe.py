"""Finding out, when a client connects, the file's size and version.

Also whether the server sends parts of a file, without which it cannot be a disk.
"""

import errno

from .handle import Handle
from .reply import Facts, Reply


def probe(handle: Handle, shown: str, is_http: bool) -> Facts:
    """Ask for the facts of the file, whose name in messages is *shown*.

    Raises OSError if there is no such file, or it cannot be read in parts.
    """
    if is_http:
        return _by_head(handle, shown) or _by_get(handle, shown)
    size = handle.head()
    if size < 0:
        raise OSError(errno.EIO, f"{shown}: the server does not tell the file's size")
    return Facts(size)


def _by_head(handle: Handle, shown: str) -> Facts | None:
    """Return what a reply to HEAD tells, or None if that is not enough; many servers lack HEAD."""
    size = handle.head()
    reply = Reply(handle.headers)
    if reply.status != 200:
        return None
    if reply.refuses_ranges():
        raise _no_parts(shown)
    return reply.facts(size) if size >= 0 and reply.offers_ranges() else None


def _by_get(handle: Handle, shown: str) -> Facts:
    """Read the first byte, and return what the reply tells besides."""
    handle.get(1, 0)
    reply = Reply(handle.headers)
    part = reply.content_range()
    if reply.status == 200:
        if reply.field("content-length") == "0":
            return reply.facts(0)
        raise _no_parts(shown)
    if reply.status not in (206, 416) or (reply.status == 416 and part is None):
        raise reply.failure(shown)
    if part is None or part[2] is None:
        raise OSError(errno.EIO, f"{shown}: the server does not tell the file's size")
    if reply.status == 416 and part[2] != 0:
        raise reply.failure(shown)
    return reply.facts(part[2])


def _no_parts(shown: str) -> OSError:
    text = "the server only sends the whole file, and no parts of it (ranges)"
    return OSError(errno.EOPNOTSUPP, f"{shown}: {text}")

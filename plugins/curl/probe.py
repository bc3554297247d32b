"""Finding out, when a client comes, what the far end has: the file's size, and its version.

And whether parts of it can be had, without which it is no disk.
"""

import errno

from .handle import Handle
from .reply import Facts, Reply


def probe(handle: Handle, shown: str, is_http: bool) -> Facts:
    """Ask for the facts of the file, by *handle*; *shown* is its name for messages.

    Raises OSError if there is none, or it cannot be read in parts.
    """
    if is_http:
        return _by_head(handle, shown) or _by_get(handle, shown)
    size = handle.head()
    if size < 0:
        raise OSError(errno.EIO, f"{shown}: the server does not tell the file's size")
    return Facts(size)


def _by_head(handle: Handle, shown: str) -> Facts | None:
    """Return what HEAD tells, if it is enough; many a server does not know HEAD."""
    size = handle.head()
    reply = Reply(handle.headers)
    if reply.status != 200:
        return None
    if reply.refuses_ranges():
        raise _no_parts(shown)
    return reply.facts(size) if size >= 0 and reply.takes_ranges() else None


def _by_get(handle: Handle, shown: str) -> Facts:
    """Read the first byte, and see what else is told with it."""
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
    return OSError(
        errno.EOPNOTSUPP,
        f"{shown}: the server has only the whole file to give, and no parts of it (ranges)",
    )

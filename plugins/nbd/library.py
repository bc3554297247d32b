"""libnbd's Python module, which is not on PyPI: distributions have it."""

import errno
import re
from types import ModuleType
from typing import Any

from .._link.packages import distributed
from .._link.texts import shown


def library() -> ModuleType:
    """Return the module.  Raises `ConfigError` if it is not installed."""
    return distributed("nbd", package="python3-libnbd", plugin="nbd")


_REFUSALS = {
    "server policy prevents": errno.EACCES,
    "server requires TLS": errno.EACCES,
    "server has no export": errno.ENOENT,
}
"""What the server means by some of its refusals."""

_NO_SERVER = ("server did not send", "server is not either")
"""Parts of what libnbd says of those that are no NBD servers at all."""

_UNREACHED = frozenset(
    (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT, errno.EACCES)
)
"""Why there is no connection, where that says more to people than EIO."""

_OWN_NUMBERS = frozenset((0, errno.EPROTO, errno.EINVAL, errno.ERANGE, errno.ENOMEM))
"""What libnbd has instead of the number of a system call that failed."""


def as_oserror(error: Any) -> OSError:
    """Return libnbd's *error* as an OSError, with its text in one line."""
    text = str(error.string)
    number = next((n for part, n in _REFUSALS.items() if part in text), error.errnum)
    return OSError(number or errno.EIO, shown(re.sub(r"^nbd_\w+: (handshake: )?", "", text)))


def is_refusal(error: Any) -> bool:
    """Return whether libnbd's *error* is that the server has answered, and refuses."""
    text = str(error.string)
    return "handshake: server " in text and not any(part in text for part in _NO_SERVER)


def why_lost(error: Any) -> str:
    """Return why a connection is lost that ended with libnbd's *error*."""
    text = as_oserror(error).strerror or ""
    if error.errnum in _OWN_NUMBERS and "disconnected" not in text:
        return f"the far end says nonsense: {text}"
    return text


def why_unreached(error: Any) -> int:
    """Return the number that says why there is no connection, after libnbd's *error*."""
    return error.errnum if error.errnum in _UNREACHED else errno.EIO

"""The errors of the plugin wing, by consequence.

`ConfigError`: the process refuses to start.  `OSError`: one request, or one open, fails and
the client gets its errno.  Anything else is a bug of the plugin: the client gets EIO.
"""

import errno

NOT_SUPPORTED = frozenset({errno.EOPNOTSUPP, errno.ENOTSUP})
"""What an export raises to say that it cannot do this in a way of its own."""


def cause(error: Exception) -> str:
    """Return what *error* says, for the log: with the file's name, and without the number."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    if type(error).__str__ is not OSError.__str__:
        return str(error)  # it has a way of its own, and more to say than to a client
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror


class ConfigError(Exception):
    """The server cannot run as it was asked to; the message tells the user why, and the fix."""


class PartialError(OSError):
    """An operation failed after its first *done* bytes, which are good.

    A client that asked for structured replies is told where.
    """

    def __init__(self, number: int, text: str, done: int) -> None:
        super().__init__(number, text)
        self.done = done


class Refused(OSError):
    """The gate turned a request down before any plugin saw it: the client's mistake."""

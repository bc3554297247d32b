"""The errors that a plugin raises, by consequence.

`ConfigError`: the process refuses to start.  `OSError`: one request, or one open, fails, and the
client gets its errno and its text.  Anything else is a bug of the plugin: the client gets EIO, and
is not told what it was.
"""

import errno

NOT_SUPPORTED = frozenset({errno.EOPNOTSUPP, errno.ENOTSUP})
"""The errnos that an export raises to say that it has no way of its own to do this."""


class ConfigError(Exception):
    """The server cannot run as it was asked to; the message tells the user why, and the fix."""


class PartialError(OSError):
    """An operation failed after its first *done* bytes, which are good.

    A client that asked for structured replies is told where.
    """

    def __init__(self, number: int, text: str, done: int) -> None:
        super().__init__(number, text)
        self.done = done

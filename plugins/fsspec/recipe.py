"""How to open the file, and how to write about it without secrets."""

import copy
import errno
import re
from typing import Any, NamedTuple

from .._link.retrying import TransientError
from .._link.texts import shown

LINK = "::"
"""What separates the parts of a URL that is a chain, from top to bottom."""

_USER_IN_URL = re.compile(r"(?<=://)[^/@\s]+@")
_QUERY = re.compile(r"\?[^\s'\":]*")

_MIN_SECRET = 4
"""Shorter secrets are not replaced in messages, which would become unreadable."""

_ERRNO_OF_CLASS = {
    FileNotFoundError: errno.ENOENT,
    IsADirectoryError: errno.EISDIR,
    PermissionError: errno.EACCES,
    TimeoutError: errno.ETIMEDOUT,
    NotImplementedError: errno.EOPNOTSUPP,
}
"""File systems raise these, mostly without an errno."""

_ERRNO_OF_NAME = {
    "AuthenticationException": errno.EACCES,  # paramiko
    "BadHostKeyException": errno.EACCES,
    "error_perm": errno.EACCES,  # ftplib, whose file system knows which files are not there
}
"""Classes of libraries that may not be installed."""

_ERRNO_OF_STATUS = {401: errno.EACCES, 403: errno.EACCES, 404: errno.ENOENT, 410: errno.ENOENT}

_TELLING = frozenset((errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT))
"""Numbers of the system that say more to people than EIO."""

_LASTING = frozenset({errno.EACCES, errno.EISDIR, errno.ENOENT, errno.EOPNOTSUPP})
_LASTING_CLASSES = (TypeError, ValueError)  # for wrong options


class Nonsense(ValueError):
    """A file system says what cannot be true."""


class Recipe(NamedTuple):
    """How to make a file system, and the file's name in it.

    *parts* are those of the URL, one or a chain, and *protocols* are theirs.  The first parts may
    have no path, as caches do; *named* is the index of the first one that has.
    """

    parts: tuple[str, ...]
    protocols: tuple[str, ...]
    named: int
    options: dict[str, Any]
    secrets: tuple[str, ...]

    def make(self, first: int = 0) -> tuple[Any, str]:
        """Return a new file system, and the path of the file in it.

        *first*: the index of the part of the chain to begin with.
        """
        import fsspec

        options = self.options
        if first:
            below = self.protocols[first + 1 :]
            options = options.get(self.protocols[first], {}) | {
                name: options[name] for name in below if name in options
            }
        # A copy, because the library changes what it is given.
        file_system, path = fsspec.url_to_fs(
            LINK.join(self.parts[first:]), **copy.deepcopy(options)
        )
        return file_system, path

    def forget(self) -> None:
        """Let the library make new file systems, instead of taking the ones that it has made."""
        import fsspec

        for protocol in self.protocols:
            fsspec.get_filesystem_class(protocol).clear_instance_cache()

    @property
    def shown(self) -> str:
        """The URL, for messages."""
        return self.clean(LINK.join(self.parts))

    def clean(self, text: str) -> str:
        """Return *text* in one line, without secrets."""
        for secret in self.secrets:
            if len(secret) >= _MIN_SECRET:
                text = text.replace(secret, "***")
        return shown(_QUERY.sub("", _USER_IN_URL.sub("", text)))

    def failure(self, error: BaseException) -> OSError:
        """Return the error that *error*, of whatever class, means.

        It is a `TransientError` unless trying again is of no use.
        """
        error = _underlying(error)
        text = getattr(error, "strerror", None) or str(error)
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
        number = _number(error)
        if number == errno.ENOENT:
            text = "there is no such file"
        elif isinstance(error, Nonsense):
            text = f"the far end says nonsense: {error}"
        is_lasting = number in _LASTING or isinstance(error, _LASTING_CLASSES)
        text = f"{self.shown}: {self.clean(text)}"
        kind = OSError if is_lasting else TransientError
        return kind(number, text)


def _underlying(error: BaseException) -> BaseException:
    """Return the cause of a FileNotFoundError: perhaps the file system could not be asked."""
    cause = error.__cause__
    if cause is None or not isinstance(error, FileNotFoundError):
        return error
    return cause if isinstance(cause, OSError) or hasattr(cause, "status") else error


def _number(error: BaseException) -> int:
    """Return the errno that says what went wrong."""
    if isinstance(error, OSError) and error.errno in _TELLING:
        return error.errno
    for kind, number in _ERRNO_OF_CLASS.items():
        if isinstance(error, kind):
            return number
    for base in type(error).__mro__:
        if base.__name__ in _ERRNO_OF_NAME:
            return _ERRNO_OF_NAME[base.__name__]
    return _ERRNO_OF_STATUS.get(getattr(error, "status", 0), errno.EIO)

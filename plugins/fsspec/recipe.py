"""How to reach the file, and how to speak of it without telling secrets."""

import copy
import errno
import re
from typing import Any, NamedTuple

LINK = "::"
"""What is between the parts of a URL that is a chain, from the top to the bottom."""

_USER_IN_URL = re.compile(r"(?<=://)[^/@\s]+@")
_QUERY = re.compile(r"\?[^\s'\":]*")

_LEAST_SECRET = 4
"""A secret shorter than that is not looked for in messages, which would be unreadable."""

_ERRNO_OF_CLASS = {
    FileNotFoundError: errno.ENOENT,
    IsADirectoryError: errno.EISDIR,
    PermissionError: errno.EACCES,
    TimeoutError: errno.ETIMEDOUT,
    NotImplementedError: errno.EOPNOTSUPP,
}
"""File systems raise these, most of them with no errno."""

_ERRNO_OF_NAME = {
    "AuthenticationException": errno.EACCES,  # paramiko
    "BadHostKeyException": errno.EACCES,
    "error_perm": errno.EACCES,  # ftplib, whose file system knows which files are not there
}
"""Classes of libraries that may not be there."""

_ERRNO_OF_STATUS = {401: errno.EACCES, 403: errno.EACCES, 404: errno.ENOENT, 410: errno.ENOENT}

_LASTING = frozenset({errno.EACCES, errno.EISDIR, errno.ENOENT, errno.EOPNOTSUPP})
_LASTING_CLASSES = (TypeError, ValueError)  # options that are wrong


class FarError(OSError):
    """The far end failed; *lasts*: to try again is of no use.

    The errno is one that the protocol has.
    """

    def __init__(self, number: int, text: str, lasts: bool = True) -> None:
        super().__init__(number, text)
        self.lasts = lasts


class Recipe(NamedTuple):
    """How to make a file system, and the file's name in it.

    *parts* of the URL, one or a chain, each of one of the *protocols*; the first ones may be
    without a path, as caches are: *named* is the number of the first that has one.
    """

    parts: tuple[str, ...]
    protocols: tuple[str, ...]
    named: int
    options: dict[str, Any]
    secrets: tuple[str, ...]

    def make(self, first: int = 0) -> tuple[Any, str]:
        """Return a new file system, and the path of the file in it.

        *first*: from which part of the chain on.
        """
        import fsspec

        options = self.options
        if first:
            below = self.protocols[first + 1 :]
            options = options.get(self.protocols[first], {}) | {
                name: options[name] for name in below if name in options
            }
        # The library changes what it is given.
        file_system, path = fsspec.url_to_fs(
            LINK.join(self.parts[first:]), **copy.deepcopy(options)
        )
        return file_system, path

    def forget(self) -> None:
        """Have the library make new file systems, and not take those it knows already."""
        import fsspec

        for protocol in self.protocols:
            fsspec.get_filesystem_class(protocol).clear_instance_cache()

    @property
    def shown(self) -> str:
        """The URL, for messages."""
        return self.clean(LINK.join(self.parts))

    def clean(self, text: str) -> str:
        """Return *text* without secrets, in a line."""
        for secret in self.secrets:
            if len(secret) >= _LEAST_SECRET:
                text = text.replace(secret, "***")
        return " ".join(_QUERY.sub("", _USER_IN_URL.sub("", text)).split())

    def failure(self, error: BaseException) -> FarError:
        """Return the error that *error*, of whatever class, stands for."""
        error = _underlying(error)
        text = getattr(error, "strerror", None) or str(error)
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
        number = _number(error)
        if number == errno.ENOENT:
            text = "there is no such file"
        lasts = number in _LASTING or isinstance(error, _LASTING_CLASSES)
        text = f"{self.shown}: {self.clean(text)}"
        return FarError(errno.EPERM if number == errno.EACCES else errno.EIO, text, lasts)


def _underlying(error: BaseException) -> BaseException:
    """Return why a file is said not to be there: it may be that nobody could be asked."""
    cause = error.__cause__
    if cause is None or not isinstance(error, FileNotFoundError):
        return error
    return cause if isinstance(cause, OSError) or hasattr(cause, "status") else error


def _number(error: BaseException) -> int:
    for kind, number in _ERRNO_OF_CLASS.items():
        if isinstance(error, kind):
            return number
    for base in type(error).__mro__:
        if base.__name__ in _ERRNO_OF_NAME:
            return _ERRNO_OF_NAME[base.__name__]
    return _ERRNO_OF_STATUS.get(getattr(error, "status", 0), errno.EIO)

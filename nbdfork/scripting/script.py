"""A script as the process that serves sees it: its callbacks, and what goes wrong in them.

Who runs the script is not known here: a helper, or an interpreter in this process.  What it does
have in common is `Caller`.
"""

import errno
import re
from typing import Protocol, TypedDict, Unpack

from nbdfork.plugin import Buffer


class CallbackFailed(Exception):
    """A callback ended with an error: `code` is an errno, `text` what the script said."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class RequestFields(TypedDict, total=False):
    """What a request may have besides its payload; what is not given is 0."""

    handle: int
    flags: int
    count: int
    offset: int


class Caller(Protocol):
    """What calls the callbacks of a script.  The methods raise `CallbackFailed`."""

    def call(
        self, operation: str, payload: bytes | memoryview = b"", **numbers: Unpack[RequestFields]
    ) -> tuple[int, bytes]:
        """Carry out one of `frames.OPERATIONS`, and return value and payload of the answer."""
        ...

    def pread(self, handle: int, count: int, offset: int) -> Buffer:
        """Read *count* bytes of the disk from *offset*."""
        ...


class ScriptError(OSError):
    """A callback failed.  The client gets errno and text, the log learns where it was, too.

    That is part of the text: Lua and Ruby begin with "PATH:N: ", Perl ends with "at PATH line N."
    """

    def __init__(self, path: str, callback: str, code: int, text: str) -> None:
        place = re.escape(path)
        super().__init__(code, re.sub(rf"^{place}:\d+: | at {place} line \d+\.?$", "", text))
        self._where = "" if path in text else f"{path}: "
        self._callback = callback
        self._text = text

    def __str__(self) -> str:
        return f"{self._where}{self._callback}: {self._text}"


class Script:
    """The script at *path* that *caller* runs.  All methods raise OSError."""

    is_gone = False
    """Whether it can be called no more."""

    def __init__(self, caller: Caller, path: str, callbacks: frozenset[str]) -> None:
        self.callbacks = callbacks
        self._caller = caller
        self._path = path

    def call(
        self, callback: str, payload: bytes | memoryview = b"", **numbers: Unpack[RequestFields]
    ) -> tuple[int, bytes]:
        """Call a callback; return value and payload of the answer."""
        try:
            return self._caller.call(callback, payload, **numbers)
        except CallbackFailed as error:
            raise ScriptError(self._path, callback, error.code, error.text) from None

    def pread(self, handle: int, count: int, offset: int) -> Buffer:
        """Read from the disk of *handle*."""
        try:
            return self._caller.pread(handle, count, offset)
        except CallbackFailed as error:
            raise ScriptError(self._path, "pread", error.code, error.text) from None

    def error(self, callback: str, text: str) -> ScriptError:
        """Return the error for a callback that has answered nonsense."""
        return ScriptError(self._path, callback, errno.EIO, text)

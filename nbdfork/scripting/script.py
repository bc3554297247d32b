"""A script as seen by the process that serves it: its callbacks, and the errors they end with.

This does not know what runs the script, a helper or an interpreter inside this process: to it,
that is a `Caller`.
"""

import errno
import re
from typing import Protocol, TypedDict, Unpack

from nbdfork.plugin import Buffer

MAX_ANSWER = 1 << 24
"""The longest answer of a callback, in bytes, unless it is data that was asked for."""

MAX_TEXT = 4096
"""So many characters of what a script says are told of an error."""


def too_long(length: int) -> str:
    """Return the text for an answer of *length* bytes."""
    return f"the answer has {length} bytes; {MAX_ANSWER} are the most"


def cut(text: str) -> str:
    """Return what can be told of *text*."""
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]} [...]"


class CallbackFailed(Exception):
    """A callback failed: *code* is an errno, *text* is what the script says about it."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class RequestFields(TypedDict, total=False):
    """The numbers that a request may carry besides its payload; those left out are 0."""

    handle: int
    flags: int
    count: int
    offset: int


class Caller(Protocol):
    """Whatever calls a script's callbacks.  The methods raise `CallbackFailed`."""

    def call(
        self, operation: str, payload: bytes | memoryview = b"", **fields: Unpack[RequestFields]
    ) -> tuple[int, bytes]:
        """Carry out one of `frames.OPERATIONS`; return the value and the payload of the reply."""
        ...

    def pread(self, handle: int, count: int, offset: int) -> Buffer:
        """Read *count* bytes of the disk from *offset*."""
        ...


class ScriptError(OSError):
    """A callback failed.  The client gets errno and text; the log also says where it failed.

    The place is part of the script's own text: Lua and Ruby put "PATH:N: " in front of it, Perl
    ends it with "at PATH line N."
    """

    def __init__(self, path: str, callback: str, code: int, text: str) -> None:
        text = cut(text)
        place = re.escape(path)
        super().__init__(code, re.sub(rf"^{place}:\d+: | at {place} line \d+\.?$", "", text))
        self._where = "" if path in text else f"{path}: "
        self._callback = callback
        self._text = text

    def __str__(self) -> str:
        return f"{self._where}{self._callback}: {self._text}"


class Script:
    """The script at *path*, run by *caller*.  All methods raise OSError."""

    is_gone = False
    """Whether it can no longer be called."""

    def __init__(self, caller: Caller, path: str, callbacks: frozenset[str]) -> None:
        self.callbacks = callbacks
        self._caller = caller
        self._path = path

    def call(
        self, callback: str, payload: bytes | memoryview = b"", **fields: Unpack[RequestFields]
    ) -> tuple[int, bytes]:
        """Call a callback, and return the value and the payload of its reply."""
        try:
            value, answer = self._caller.call(callback, payload, **fields)
        except CallbackFailed as error:
            raise ScriptError(self._path, callback, error.code, error.text) from None
        if len(answer) > MAX_ANSWER:
            raise self.error(callback, too_long(len(answer)))
        return value, answer

    def pread(self, handle: int, count: int, offset: int) -> Buffer:
        """Read from the disk of *handle*."""
        try:
            return self._caller.pread(handle, count, offset)
        except CallbackFailed as error:
            raise ScriptError(self._path, "pread", error.code, error.text) from None

    def error(self, callback: str, text: str) -> ScriptError:
        """Return the error for a callback whose answer makes no sense."""
        return ScriptError(self._path, callback, errno.EIO, text)
